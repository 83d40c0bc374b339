"""What `hf-proxy contrast foretell` and a callback foretold, for the report."""

from collections.abc import Sequence
from typing import Any

from hf_proxy.report.blocks import Block, Table, heading, percent
from hf_proxy.report.contents import RunContents

_HEAD = ("gain, points", "95 % interval", "McNemar p", "verdict")


def foretold_block(contents: RunContents) -> Block:
    """The verdict of `foretold.json`, what belongs beside it, and every setting."""
    found = contents.foretold
    block = Block(heading(contents.name, "foretold before training"))
    block.sentences.append(f"{_told(found)}.")
    block.sentences += [f"{note[0].upper()}{note[1:]}." for note in found["notes"]]
    rows = [
        [f"{row['divergence_beta']:g}", f"{row['plausibility_alpha']:g}"]
        + [percent(row["expert_accuracy"]), percent(row["amateur_accuracy"])]
        + [percent(row["accuracy"]), *_cells(row), percent(row["agreement"])]
        + [f"{row['num_problems']:,}"]
        for row in found["settings"]
    ]
    head = ["divergence_beta", "plausibility_alpha", "expert, greedy", "amateur, greedy"]
    head += ["contrastive", *_HEAD, "same answer", "problems"]
    block.tables.append(Table("Contrastive decoding against greedy decoding", head, rows))
    return block


def foretold_table(lines: Sequence[dict[str, Any]]) -> Table:
    """What was foretold while a model trained, step by step."""
    rows = [[str(line["step"]), *_cells(line["foretold"])] for line in lines]
    return Table("Gain foretold by step", ["step", *_HEAD], rows)


def _told(found: dict[str, Any]) -> str:
    if found["verdict"] is None:
        return "No verdict"
    gain, interval, p, verdict = _cells(found)
    return (
        f"{verdict.capitalize()}: {found['sentence']}; {gain} points ({interval}), McNemar p {p}, "
        f"divergence_beta {found['divergence_beta']:g}, plausibility_alpha "
        f"{found['plausibility_alpha']:g}, {found['num_problems']:,} problems"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    if row["verdict"] is None:
        return ["-"] * len(_HEAD)
    between = f"{100 * row['low']:+.1f} .. {100 * row['high']:+.1f}"
    return [f"{100 * row['gain']:+.1f}", between, f"{row['p']:.3f}", row["verdict"]]
