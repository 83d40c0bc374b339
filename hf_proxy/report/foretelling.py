"""What `hf-proxy contrast foretell` and a callback foretold, for the report."""

from collections.abc import Sequence
from typing import Any

from hf_proxy.intervals import points_interval
from hf_proxy.report.blocks import Block, Figure, Table, heading, p_text, percent
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import draw_intervals
from hf_proxy.report.step_figures import step_figure

_HEAD = ("gain, points", "95 % interval", "McNemar p", "verdict")


def foretold_block(contents: RunContents) -> Block:
    """The verdict of `foretold.json`, what belongs beside it, and every setting."""
    found = contents.foretold
    block = Block(heading(contents.name, "foretold before training"))
    block.sentences.append(f"{foretold_sentence(found)}.")
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
    told = [row for row in found["settings"] if row["verdict"] is not None]
    if len(told) > 1:
        names = [_setting(row) for row in told]
        columns = [[100 * row[key] for row in told] for key in ("gain", "low", "high")]
        drawing = draw_intervals(names, *columns, x_label="gain foretold, points", zero=True)
        alt = "; ".join(f"{n} {gain:+.1f}" for n, gain in zip(names, columns[0], strict=True))
        caption = "gain foretold by setting, 95 % intervals, on all problems"
        block.figures.append(Figure(caption, f"gain foretold, points: {alt}", drawing))
    block.tables.append(Table("Contrastive decoding against greedy decoding", head, rows))
    return block


def foretold_table(lines: Sequence[dict[str, Any]]) -> Table:
    """What was foretold while a model trained, step by step."""
    rows = [[str(line["step"]), *_cells(line["foretold"])] for line in lines]
    return Table("Gain foretold by step", ["step", *_HEAD], rows)


def foretold_figure(lines: Sequence[dict[str, Any]]) -> Figure | str:
    """The same as a line over steps, of those that had right answers to judge by."""
    judged = [line for line in lines if line["foretold"]["verdict"] is not None]
    gain, low, high = (
        [100 * line["foretold"][key] for line in judged] for key in ("gain", "low", "high")
    )
    return step_figure(
        "gain foretold, points",
        [line["step"] for line in judged],
        gain,
        note=", 95 % interval",
        low=low,
        high=high,
        digits=1,
        best=max,
        zero=True,
    )


def foretold_sentence(found: dict[str, Any]) -> str:
    """The verdict with its figures, without a full stop."""
    if found["verdict"] is None:
        return "No verdict"
    gain, interval, p, verdict = _cells(found)
    interval = "no interval as no answer changes" if interval == "-" else interval
    sentence = str(found["sentence"])
    told = sentence if sentence.startswith(verdict) else f"{verdict}: {sentence}"
    return (
        f"{told[0].upper()}{told[1:]}; {gain} points ({interval}), McNemar p {p}, "
        f"divergence_beta {found['divergence_beta']:g}, plausibility_alpha "
        f"{found['plausibility_alpha']:g}, {found['num_problems']:,} problems"
    )


def _setting(row: dict[str, Any]) -> str:
    return f"beta {row['divergence_beta']:g}, alpha {row['plausibility_alpha']:g}"


def _cells(row: dict[str, Any]) -> list[str]:
    if row["verdict"] is None:
        return ["-"] * len(_HEAD)
    between = points_interval(row["low"], row["high"])
    return [f"{100 * row['gain']:+.1f}", between, p_text(row["p"]), row["verdict"]]
