"""Sections of a report on what commands measured once: models, curves, accuracies, benchmarks."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from hf_proxy.prediction.curve import Y_UNITS, Curve
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import METRIC_LABELS
from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Section,
    Table,
    as_csv,
    cell_text,
    download_name,
    heading,
    interval,
    number,
    percent,
    percent_interval,
)
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import draw_fit, draw_intervals
from hf_proxy.scoring.comparison import compare

_MOST_COMPARED = 20  # models held against the first: each takes a bootstrap


def ranking_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """Models as `hf-proxy score` scored them, and the order that `hf-proxy rank` gave."""
    blocks = []
    for contents in folders:
        if contents.model_scores:
            blocks.append(_models_block(contents, downloads))
        if contents.ranking:
            blocks.append(_ranking_block(contents, downloads))
    absent = "Ranking: no ranking.json (hf-proxy rank) and no scores.jsonl (hf-proxy score)."
    return Section("ranking", "Models and their ranking", absent, blocks)


def _models_block(contents: RunContents, downloads: list[Download]) -> Block:
    scores = contents.model_scores
    names = [heading(str(s.model_id), "" if s.step is None else f"step {s.step}") for s in scores]
    block = Block(heading(contents.name, "scores"))
    block.sentences.append(
        "rBridge in nats per token, lower is better; 90 % intervals over traces."
    )
    settings = {score.setting.hash for score in scores}
    if len(settings) == 1 and len(scores) > 1:
        columns = [[getattr(s, name) for s in scores] for name in ("value", "low", "high")]
        drawing = draw_intervals(names, *columns, x_label=METRIC_LABELS["value"])
        alt = "; ".join(f"{n} {number(s.value)}" for n, s in zip(names, scores, strict=True))
        block.figures.append(Figure(METRIC_LABELS["value"], alt, drawing))
    if len(settings) > 1:
        block.sentences.append(
            "These are of different settings (traces, tokenizer or context): their rBridge does "
            "not compare, only bits per byte may."
        )
    head = ["model", METRIC_LABELS["value"], "90 % interval", METRIC_LABELS["trace_nll"]]
    head += [METRIC_LABELS["bits_per_byte"], "traces", "setting"]
    rows = [
        [name, number(s.value), interval(s.low, s.high), number(s.trace_nll)]
        + [number(s.bits_per_byte), number(s.num_traces), s.setting.hash]
        for name, s in zip(names, scores, strict=True)
    ]
    block.tables.append(Table("Scores of models", head, rows))
    compared = []
    for name, score in zip(names[1:_MOST_COMPARED], scores[1:_MOST_COMPARED], strict=True):
        same = not scores[0].setting.differing(score.setting)
        try:
            found = compare(scores[0], score, metric="value" if same else "bits_per_byte")
        except ValueError as reason:
            block.sentences.append(f"{names[0]} and {name}: {reason}.")
            continue
        between = f"{found.low:+.4f} .. {found.high:+.4f}"
        cells = [f"{names[0]} minus {name}", METRIC_LABELS[found.metric]]
        compared.append([*cells, f"{found.difference:+.4f}", between, f"{found.p_value:.4f}"])
    if compared:
        head = ["pair", "metric", "difference", "90 % interval", "p, permutation"]
        block.tables.append(Table("Each model against the first, trace by trace", head, compared))
    flat = [{k: v for k, v in s.scalars().items() if k != "setting_parts"} for s in scores]
    downloads.append(Download(download_name(contents.name, "models.csv"), as_csv(flat)))
    return block


def _ranking_block(contents: RunContents, downloads: list[Download]) -> Block:
    block = Block(heading(contents.name, "ranking"))
    try:
        if found := contents.ranking.get("ranking"):
            _show_ranking(found, block)
        if savings := contents.ranking.get("compute_saving"):
            head = ("compute of the proxy, FLOPs", "decision accuracy", "compute saved")
            rows = [
                [f"{s['flops']:.3e}", number(s["decision_accuracy"])]
                + [s["note"] if s["factor"] is None else f"{s['factor']:.1f} times"]
                for s in savings
            ]
            block.tables.append(Table("Compute saved against the baseline", head, rows))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError.at(
            f"this is no ranking of ours ({type(error).__name__}: {error})",
            remedy="rank again, or take it away",
            source=heading(contents.name, "ranking.json"),
        ) from error
    downloads.append(
        Download(
            download_name(contents.name, "ranking.json"), json.dumps(contents.ranking, indent=2)
        )
    )
    return block


def _show_ranking(found: dict[str, Any], block: Block) -> None:
    label, names = METRIC_LABELS[found["metric"]], found["order"]
    columns = [found[name] for name in ("value", "low", "high")]
    drawing = draw_intervals(names, *columns, x_label=label)
    alt = f"{label}, best first: " + "; ".join(
        f"{name} {number(value)}" for name, value in zip(names, found["value"], strict=True)
    )
    block.figures.append(Figure(f"{label}, best on top, 90 % intervals", alt, drawing))
    head = ("name", "place", label, "90 % interval", "places, 90 % interval")
    rows = [
        [name, str(i + 1), number(found["value"][i])]
        + [interval(found["low"][i], found["high"][i])]
        + [f"{found['best_rank'][i]} to {found['worst_rank'][i]}"]
        for i, name in enumerate(names)
    ]
    block.tables.append(Table("Best first; lower is better", head, rows))
    block.sentences.append(
        f"{found['num_traces']:,} traces tell differences of "
        f"{number(found['smallest_difference'])} apart (90 %, two-sided, power 80 %)."
    )
    if decisions := found["decisions"]:
        low, high = decisions["low"], decisions["high"]
        between = "" if low is None else f" [{low:.3f}, {high:.3f}] (90 % interval)"
        block.sentences.append(
            f"Decision accuracy {decisions['value']:.4f}{between} over {decisions['num_pairs']} "
            f"pairs, Kendall's tau {found['kendall_tau']:.3f}."
        )
    block.sentences += [f"Note: {note}." for note in found["notes"]]


def curve_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """Curves of `hf-proxy fit`: their form, and their errors beside those of their controls."""
    blocks = []
    for contents in folders:
        for name, curve in contents.curves.items():
            block = Block(heading(contents.name, curve.target or name))
            start, end = curve.x_range
            block.sentences.append(
                f"{curve.form.capitalize()} curve from {METRIC_LABELS[curve.metric]} between "
                f"{start:.4g} and {end:.4g}, {curve.num_points} points, R2 of the fit "
                f"{curve.fits[0].r2:.3f}."
            )
            if curve.statistics is None:
                block.sentences.append("Too few points to hold any out.")
            else:
                block.tables.append(_error_table(curve))
                block.sentences += [f"Note: {note}." for note in curve.statistics.notes]
            at = [start + (end - start) * i / 6 for i in range(7)]
            read = [curve.predict(x) for x in at]
            rows = [
                [number(x), percent(p.value), percent_interval(p.low, p.high)]
                for x, p in zip(at, read, strict=True)
            ]
            level = f"{read[0].level:.0%}".replace("%", " %")
            label = METRIC_LABELS[curve.metric]
            caption = f"{curve.form} curve, band {level}, pale beyond the points"
            if not curve.points:
                caption += ", which its record does not hold"
            alt = f"{curve.form} curve of accuracy with {len(curve.points)} points: " + "; ".join(
                f"{row[1]} at {row[0]}, {level} interval {row[2]}" for row in (rows[0], rows[-1])
            )
            block.figures.append(Figure(caption, alt, draw_fit(curve, x_label=label)))
            head = (label, "accuracy", f"{level} interval")
            block.tables.append(Table(f"The curve of {curve.target or name}", head, rows))
            blocks.append(block)
            flat = [{"x": x} | dataclasses.asdict(p) for x, p in zip(at, read, strict=True)]
            downloads.append(
                Download(download_name(contents.name, f"curve-{name}.csv"), as_csv(flat))
            )
    absent = "Curves: none of hf-proxy fit."
    return Section("curves", "Curves to a large model's accuracy", absent, blocks)


def _error_table(curve: Curve) -> Table:
    assert curve.statistics is not None
    unit = 100 / Y_UNITS[curve.y_unit]
    rows = [
        [name, number(cv.test_r2, 3), number(unit * cv.test_mae, 2), percent(cv.coverage)]
        for name, cv in {"proxy": curve.statistics, **curve.statistics.controls}.items()
    ]
    head = ("from", "held-out R2", "held-out mean error, points of a percent", "in 90 % interval")
    return Table("Error on points held out, beside the controls'", head, rows)


def accuracy_section(
    folders: Sequence[RunContents], downloads: list[Download], *, num_answers: int
) -> Section:
    """pass@1 of models on the same problems, McNemar's comparisons, and a few answers."""
    blocks = []
    for contents in folders:
        if contents.num_begun:
            said = (
                f"Under way: {contents.num_begun} sets of answers are begun, "
                f"{contents.num_batches} batches written; the result comes at the end."
            )
            blocks.append(Block(contents.name, [said]))
        if not contents.accuracy:
            continue
        block, models = Block(contents.name), contents.accuracy["models"]
        names = [row["model"] for row in models]
        if models:
            columns = [[100 * row[k] for row in models] for k in ("accuracy", "low", "high")]
            alt = "; ".join(f"{row['model']} {percent(row['accuracy'])}" for row in models)
            drawing = draw_intervals(names, *columns, x_label="accuracy (pass@1), %")
            block.figures.append(Figure("Accuracy, 90 % intervals (Wilson)", alt, drawing))
        head = ["model", "accuracy", "90 % interval", "right", "cut short", "without answer"]
        rows = [
            [row["model"], percent(row["accuracy"]), percent_interval(row["low"], row["high"])]
            + [f"{row['num_correct']:,} of {row['num_problems']:,}", number(row["num_cut"])]
            + [number(row["num_without_answer"]), number(row["tokens_mean"], 0)]
            for row in models
        ]
        block.tables.append(Table("Accuracy of models", [*head, "tokens, mean"], rows))
        if pairs := contents.accuracy["comparisons"]:
            head = ["pair", "difference, points", "90 % interval", "right alone"]
            head += ["p, McNemar", "would show in 80 %, points"]
            rows = [
                [f"{row['b']} minus {row['a']}", f"{100 * row['difference']:+.1f}"]
                + [f"{100 * row['low']:+.1f} .. {100 * row['high']:+.1f}"]
                + [f"{row['only_b']} and {row['only_a']}", f"{row['p_value']:.3f}"]
                + ["none would" if row["detectable"] is None else number(100 * row["detectable"])]
                for row in pairs
            ]
            block.tables.append(Table("Pairs of models, problem by problem", head, rows))
            downloads.append(
                Download(download_name(contents.name, "comparisons.csv"), as_csv(pairs))
            )
        block.texts += _answer_texts(contents.items, num_answers)
        blocks.append(block)
        downloads.append(Download(download_name(contents.name, "accuracy.csv"), as_csv(models)))
    absent = "Accuracy: no results.json (hf-proxy accuracy)."
    return Section("accuracy", "Accuracy on problems", absent, blocks)


def _answer_texts(items: list[dict[str, Any]], num_answers: int) -> list[tuple[str, str]]:
    """Of the first problems, those first on which the models part."""
    own: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        own.setdefault(item["example_id"], []).append(item)
    order = sorted(own, key=lambda name: len({item["correct"] for item in own[name]}) < 2)
    return [
        (
            f"Problem {name}, {item['model']}: {'right' if item['correct'] else 'wrong'}, "
            f"{item.get('answer')} where {item['gold']} was due",
            item["text"],
        )
        for name in order[:num_answers]
        for item in own[name]
    ]


def benchmark_section(folders: Sequence[RunContents]) -> Section:
    """What `tests/benchmarks` wrote, whichever it was; where there is nothing, nothing is said."""
    blocks = []
    for contents in folders:
        for content in contents.benchmarks.values():
            block = Block(heading(contents.name, content["benchmark"]))
            where = [*content["models"], content["device"], content["processor"], content["dtype"]]
            where += [f"{content['threads']} threads", content["date"]]
            block.sentences.append(f"{', '.join(map(str, where))}.")
            if bars := content["bars"]:
                rows = [
                    [bar["what"], bar["model"], f"{cell_text(bar['measured'])} {bar['unit']}"]
                    + [f"{bar['rule']} {cell_text(bar['bar'])} {bar['unit']}"]
                    + ["met" if bar["met"] else "missed"]
                    for bar in bars
                ]
                block.tables.append(Table("Bars", ("what", "model", "measured", "bar", "is"), rows))
            block.tables += [_benchmark_table(table) for table in content["tables"]]
            blocks.append(block)
    return Section("benchmarks", "Benchmarks", "", blocks)


def _benchmark_table(table: dict[str, Any]) -> Table:
    """A table as a benchmark wrote it; a list holds the rounds of one cell."""
    head = list(dict.fromkeys(name for row in table["rows"] for name in row))
    rows = [[_rounds_text(row.get(name)) for name in head] for row in table["rows"]]
    return Table(table["caption"], head, rows)


def _rounds_text(value: Any) -> str:
    return ", ".join(map(cell_text, value)) if isinstance(value, list) else cell_text(value)
