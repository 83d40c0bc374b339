"""Section of a report on answers to problems: how many are right, and whether models differ."""

from collections.abc import Sequence
from typing import Any

from hf_proxy.intervals import points_interval
from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Section,
    Table,
    as_csv,
    download_name,
    number,
    p_text,
    percent,
    percent_interval,
    short_names,
)
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import draw_intervals

_FEW = 5  # pairs; more are opened when asked for, their gains are drawn


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
        short = _short(contents.accuracy)
        if sentence := accuracy_sentence(contents.accuracy):
            block.sentences.append(sentence)
        names = [short[row["model"]] for row in models]
        if len(models) > 1:
            columns = [[100 * row[k] for row in models] for k in ("accuracy", "low", "high")]
            alt = "; ".join(
                f"{name} {percent(row['accuracy'])}"
                for name, row in zip(names, models, strict=True)
            )
            drawing = draw_intervals(names, *columns, x_label="accuracy (pass@1), %")
            block.figures.append(Figure("Accuracy, 90 % intervals (Wilson)", alt, drawing))
        _show_gains(contents.accuracy, short, block)
        head = ["model", "accuracy", "90 % interval", "right", "cut short", "without answer"]
        rows = [
            [name, percent(row["accuracy"]), percent_interval(row["low"], row["high"])]
            + [f"{row['num_correct']:,} of {row['num_problems']:,}", number(row["num_cut"])]
            + [number(row["num_without_answer"]), number(row["tokens_mean"], 0)]
            for name, row in zip(names, models, strict=True)
        ]
        block.tables.append(Table("Accuracy of models", [*head, "tokens, mean"], rows))
        if pairs := contents.accuracy["comparisons"]:
            head = ["pair", "difference, points", "90 % interval", "right alone"]
            head += ["p, McNemar", "would show in 80 %, points"]
            rows = [
                [f"{short[row['b']]} minus {short[row['a']]}", f"{100 * row['difference']:+.1f}"]
                + [points_interval(row["low"], row["high"])]
                + [f"{row['only_b']} and {row['only_a']}", p_text(row["p_value"])]
                + [
                    "none would"
                    if row["detectable"] is None
                    else number(100 * row["detectable"], 1)
                ]
                for row in pairs
            ]
            block.tables.append(
                Table(
                    "Pairs of models, problem by problem", head, rows, is_detail=len(pairs) > _FEW
                )
            )
            downloads.append(
                Download(download_name(contents.name, "comparisons.csv"), as_csv(pairs))
            )
        block.texts += _answer_texts(contents.items, num_answers, short)
        blocks.append(block)
        downloads.append(Download(download_name(contents.name, "accuracy.csv"), as_csv(models)))
    return Section("accuracy", "Accuracy on problems", blocks)


def accuracy_sentence(found: dict[str, Any]) -> str:
    """The first model, the best of the others, and whether the two differ; cut answers."""
    models, short = found["models"], _short(found)
    if not models:
        return ""
    first = models[0]
    said = f"{short[first['model']]} solves {percent(first['accuracy'])} of "
    said += f"{first['num_problems']:,} problems"
    best = max(models[1:], key=lambda row: row["accuracy"], default=None)
    if best is not None:
        said += f", {short[best['model']]} {percent(best['accuracy'])}"
        gains = {pair["b"]: pair for pair in found["comparisons"] if pair["a"] == first["model"]}
        if pair := gains.get(best["model"]):
            said += f": {100 * pair['difference']:+.1f} points "
            p = f"McNemar p {p_text(pair['p_value'])}"
            if pair["low"] == pair["high"]:
                said += f"(no interval as none differs; {p})"
            else:
                said += f"[{100 * pair['low']:+.1f}, {100 * pair['high']:+.1f}] (90 %, paired; {p})"
    cut = [row for row in models if row["num_cut"]]
    if cut:
        words = ", ".join(f"{row['num_cut']:,} of {short[row['model']]}" for row in cut)
        said += f". Answers cut at the limit: {words}"
    return f"{said}."


def _short(found: dict[str, Any]) -> dict[str, str]:
    """Names as they stand in the file to those of the page."""
    names = [row["model"] for row in found["models"]]
    names += [pair[side] for pair in found["comparisons"] for side in ("a", "b")]
    names = list(dict.fromkeys(names))
    return dict(zip(names, short_names(names), strict=True))


def _show_gains(found: dict[str, Any], short: dict[str, str], block: Block) -> None:
    """Every model against the first, problem by problem."""
    if not found["models"]:
        return
    first = found["models"][0]["model"]
    pairs = [pair for pair in found["comparisons"] if pair["a"] == first]
    if len(pairs) < 2:
        return  # one pair is said in words
    names = [short[pair["b"]] for pair in pairs]
    columns = [[100 * pair[key] for pair in pairs] for key in ("difference", "low", "high")]
    drawing = draw_intervals(names, *columns, x_label=f"points more than {short[first]}", zero=True)
    alt = "; ".join(f"{n} {gain:+.1f}" for n, gain in zip(names, columns[0], strict=True))
    caption = f"gain over {short[first]} on the same problems, 90 % intervals"
    block.figures.append(Figure(caption, f"points more than {short[first]}: {alt}", drawing))


def _answer_texts(
    items: list[dict[str, Any]], num_answers: int, short: dict[str, str]
) -> list[tuple[str, str]]:
    """Of the first problems, those first on which the models part."""
    own: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        own.setdefault(item["example_id"], []).append(item)
    order = sorted(own, key=lambda name: len({item["correct"] for item in own[name]}) < 2)
    return [
        (
            f"Problem {name}, {short.get(item['model'], item['model'])}: "
            f"{'right' if item['correct'] else 'wrong'}, {item.get('answer')} where "
            f"{item['gold']} was due",
            item["text"],
        )
        for name in order[:num_answers]
        for item in own[name]
    ]
