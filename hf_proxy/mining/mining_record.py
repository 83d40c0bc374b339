"""What the files beside the shards of a mined set hold, as far as they are read again."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from hf_proxy.records.record import Count, Number, Record, Text, checked, read_json

REMEDY = "name the output_dir of `hf-proxy contrast mine`, or mine it anew"


class SettingsRecord(Record):
    """Of `MiningSettings` what a reader of the set needs."""

    batch_size: Annotated[Count, Field(ge=1)]
    divergence_beta: Number
    plausibility_alpha: Number
    # what an older version did not know, and did
    select: Text = "kl"
    target: Text = "contrast"
    mixture_weight: Number | None = None
    only_correct: bool = False

    @property
    def kept_from(self) -> float | None:
        """The KL, in nats, from which steps were kept; None where another rule chose them."""
        return self.divergence_beta if self.select == "kl" else None

    def describe(self) -> str:
        """The rules of steps and targets, in a sentence."""
        kept = f"KL of at least {self.divergence_beta:g} nats" if self.select == "kl" else "all"
        if self.select not in ("kl", "all"):
            kept = f"{self.select}, as many as have a KL of at least {self.divergence_beta:g} nats"
        weight = f", {self.mixture_weight:g} of it contrast" if self.target == "mixture" else ""
        right = "; trajectories with the right answer only" if self.only_correct else ""
        return f"Steps: {kept}. Targets: {self.target}{weight}{right}."


class MiningRecord(Record):
    """`mining.json`: what decided the rows."""

    settings: SettingsRecord
    num_prompts: Count
    template: str
    template_hash: Text
    tokenizer: Text
    expert: Annotated[list[Any], Field(min_length=1)]

    @property
    def num_batches(self) -> int:
        """How many shards make the set."""
        return -(-self.num_prompts // self.settings.batch_size)


class Facts(Record):
    """What the miner was told about models and data."""

    expert: Text | None = None
    amateur: Text | None = None
    prompts: Text | None = None


class ProvenanceRecord(Record):
    """`provenance.json` of a mined set."""

    settings: SettingsRecord
    facts: Facts


class StatisticsRecord(Record):
    """`statistics.json`: counts, and shares and means of all that was counted."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Count | Number | None]

    num_rows: Count
    num_steps: Count
    num_kept: Count


def read_facts(folder: Path) -> tuple[dict[str, Any], ProvenanceRecord, dict[str, Any]]:
    """What stands beside the rows of a mined set.

    Returns:
        provenance as it stands, the same as a record, and the statistics.

    Raises:
        InputError: one of the files cannot be read, or is not what it should be.
    """
    path = folder / "provenance.json"
    stamp = read_json(path, remedy=REMEDY)
    record = checked(ProvenanceRecord, stamp, source=path, remedy=REMEDY)
    return stamp, record, read_statistics(folder / "statistics.json")


def read_statistics(path: Path) -> dict[str, Any]:
    """`statistics.json`, in the order in which it was written.

    Raises:
        InputError: it cannot be read, or something in it is no number.
    """
    content = read_json(path, remedy=REMEDY)
    checked(StatisticsRecord, content, source=path, remedy=REMEDY)
    return content
