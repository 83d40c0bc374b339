"""Folders that `hf-proxy train` tuned models in: what they learnt from, and how it went."""

import math
from collections.abc import Mapping

from hf_proxy.report.blocks import Block, Table, number, percent, short_name
from hf_proxy.report.result_records import TunedRecord

KEPT_ACCURACY = "kept accuracy, first and last logged"


def tuned_block(tuned: Mapping[str, TunedRecord]) -> Block:
    """Base, source of the soft targets, their rules, and what was learnt of them.

    Args:
        tuned: folder to what it says; of one the facts stand under each other, of several side by
            side.
    """
    block = Block("" if len(tuned) == 1 else "how they were tuned")
    facts = {folder: _facts(one) for folder, one in tuned.items()}
    names = [
        name
        for name in dict.fromkeys(name for own in facts.values() for name in own)
        if any(own[name] != "-" for own in facts.values())
    ]
    if len(tuned) == 1:
        (own,) = facts.values()
        cells = [[name, own[name]] for name in names]
        block.tables.append(Table("How it was tuned", ("what", "of this model"), cells))
    else:
        cells = [[folder, *(own[name] for name in names)] for folder, own in facts.items()]
        block.tables.append(Table("How the models were tuned", ("folder", *names), cells))
    if KEPT_ACCURACY in names:
        block.sentences.append(
            "Kept accuracy is the share of the kept steps at which the model's first token is the "
            "target's; what it reaches on problems is another question."
        )
    return block


def _facts(tuned: TunedRecord) -> dict[str, str]:
    training, source = tuned.training, tuned.soft_targets.facts
    amateur = training.amateur or source.amateur
    return {
        "base, which is the expert": _named(tuned.model.get("model_name_or_path")),
        "amateur": _named(amateur),
        "prompts": _named(source.prompts),
        "steps kept and their targets": training.targets.describe(),
        "optimizer steps": number(training.optimizer_steps),
        "kept steps learnt": number(training.kept_steps_trained),
        "learning rate": _scientific(tuned.arguments.get("learning_rate")),
        "loss, first and last logged": _ends([loss for loss in training.losses]),
        KEPT_ACCURACY: kept_accuracy(tuned),
    }


def kept_accuracy(tuned: TunedRecord) -> str:
    """At the first and at the last logged step, or a dash."""
    logged = [(row.model_extra or {}).get("kept_accuracy") for row in tuned.log_history]
    shares = [share for share in logged if isinstance(share, float)]
    return f"{percent(shares[0])}, {percent(shares[-1])}" if shares else "-"


def _ends(values: list[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) == 1:  # a mean, which shows no change
        return f"{number(finite[0])}, a mean of steps"
    return f"{number(finite[0])}, {number(finite[-1])}" if finite else "-"


def _named(name: object) -> str:
    return "-" if name is None else short_name(name)


def _scientific(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "-"
