"""A folder that `hf-proxy train` tuned a model in: what it learnt from, and how it went."""

import math

from hf_proxy.report.blocks import Block, Table, number, percent, short_name
from hf_proxy.report.result_records import TunedRecord


def show_tuned(tuned: TunedRecord, block: Block) -> None:
    """Base, source of the soft targets, their rules, and what was learnt of them."""
    training, source = tuned.training, tuned.soft_targets.facts
    amateur = training.amateur or source.amateur
    rows = {
        "base, which is the expert": _named(tuned.model.get("model_name_or_path")),
        "amateur": _named(amateur),
        "prompts": _named(source.prompts),
        "steps kept and their targets": training.targets.describe(),
        "optimizer steps": number(training.optimizer_steps),
        "kept steps learnt": number(training.kept_steps_trained),
        "learning rate": _scientific(tuned.arguments.get("learning_rate")),
        "loss, first and last logged": _ends([loss for loss in training.losses]),
        "kept accuracy, first and last logged": kept_accuracy(tuned),
    }
    cells = [[name, text] for name, text in rows.items() if text != "-"]
    block.tables.append(Table("How it was tuned", ("what", "of this model"), cells))
    block.sentences.append(
        "Kept accuracy is the share of the kept steps at which the model's first token is the "
        "target's; what it reaches on problems is another question."
    )


def kept_accuracy(tuned: TunedRecord) -> str:
    """At the first and at the last logged step, or a dash."""
    logged = [(row.model_extra or {}).get("kept_accuracy") for row in tuned.log_history]
    shares = [share for share in logged if isinstance(share, float)]
    return f"{percent(shares[0])}, {percent(shares[-1])}" if shares else "-"


def _ends(values: list[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{number(finite[0])}, {number(finite[-1])}" if finite else "-"


def _named(name: object) -> str:
    return "-" if name is None else short_name(name)


def _scientific(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "-"
