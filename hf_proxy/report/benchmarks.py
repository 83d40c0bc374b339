"""Section of a report on what `tests/benchmarks` measured."""

from collections.abc import Sequence
from typing import Any

from hf_proxy.records.errors import InputError
from hf_proxy.report.blocks import Block, Figure, Section, Table, cell_text, counted, heading
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.evidence import (
    Group,
    Pairs,
    draw_agreement,
    draw_groups,
    draw_over_compute,
)
from hf_proxy.report.figures.pages import draw_intervals


def benchmark_section(folders: Sequence[RunContents]) -> Section:
    """What `tests/benchmarks` wrote, whichever it was; where there is nothing, nothing is said."""
    blocks = []
    for contents in folders:
        for content in contents.benchmarks.values():
            block = Block(heading(contents.name, content["benchmark"]))
            where = [*content["models"], content["device"], content["processor"], content["dtype"]]
            where += [counted(content["threads"], "thread"), content["date"][:10]]
            block.sentences.append(f"{', '.join(map(str, where))}.")
            if content.get("found"):
                block.sentences.append(content["found"])
            if bars := content["bars"]:
                rows = [
                    [bar["what"], bar["model"], f"{cell_text(bar['measured'])} {bar['unit']}"]
                    + [f"{bar['rule']} {cell_text(bar['bar'])} {bar['unit']}"]
                    + ["met" if bar["met"] else "missed"]
                    for bar in bars
                ]
                block.tables.append(Table("Bars", ("what", "model", "measured", "bar", "is"), rows))
            for table in content["tables"]:
                block.tables.append(_benchmark_table(table))
                for asked in table.get("figures", []):
                    try:
                        block.show(figure_of(table["rows"], asked))
                    except (TypeError, ValueError) as error:
                        raise InputError.at(
                            f"a figure cannot be drawn from its table ({error})",
                            remedy="measure anew, or take it away",
                            source=content["benchmark"],
                            field=asked["caption"],
                        ) from error
            blocks.append(block)
    return Section("benchmarks", "Benchmarks", blocks)


def figure_of(rows: Sequence[dict[str, Any]], asked: dict[str, Any]) -> Figure | str:
    """A figure as a benchmark asked for it, see `BenchmarkFigure`."""
    shown = rows_of(rows, asked)
    caption, labels = asked["caption"], {key: asked.get(key, "") for key in ("x_label", "y_label")}
    if not shown:
        return f"{caption}: no row of the table."
    if asked["kind"] == "intervals":
        names = [str(row[asked["x"]]) for row in shown]
        value, low, high = columns_of(shown, asked)
        zero = asked.get("zero", True)
        drawing = draw_intervals(names, value, low, high, x_label=asked["y_label"], zero=zero)
        digits = "+.3g" if zero else ".3g"
        alt = "; ".join(f"{n} {number:{digits}}" for n, number in zip(names, value, strict=True))
        return Figure(caption, f"{caption}: {alt}", drawing)
    by = asked.get("by")
    names = list(dict.fromkeys(str(row[by]) if by else "" for row in shown))
    own = {name: [r for r in shown if not by or str(r[by]) == name] for name in names}
    label = {name: f"{by} {name}" if _is_number(name) else name for name in names}
    if asked["kind"] == "agreement":
        pairs = {label[name]: pairs_of(found, asked) for name, found in own.items()}
        alt = "; ".join(f"{name}: {len(found.x)} pairs" for name, found in pairs.items())
        return Figure(caption, f"{caption}: {alt}", draw_agreement(pairs, **labels))
    if asked["kind"] == "compute":
        panel = asked.get("panel")
        panels: dict[str, dict[str, Group]] = {}
        for key in dict.fromkeys(str(row[panel]) if panel else "" for row in shown):
            mine = {n: [r for r in o if not panel or str(r[panel]) == key] for n, o in own.items()}
            panels[key] = {label[n]: group_of(found, asked) for n, found in mine.items() if found}
        alt = "; ".join(
            f"{key} {name}".strip() + ": " + _in_words(group)
            for key, groups in panels.items()
            for name, group in groups.items()
        )
        return Figure(caption, f"{caption}: {alt}", draw_over_compute(panels, **labels))
    groups = {label[name]: group_of(found, asked) for name, found in own.items()}
    alt = "; ".join(f"{name}: {_in_words(group)}" for name, group in groups.items())
    return Figure(caption, f"{caption}: {alt}", draw_groups(groups, **labels))


def _in_words(group: Group) -> str:
    return ", ".join(f"{y:+.3g} at {x:g}" for x, y in zip(group.x, group.y, strict=True))


def rows_of(rows: Sequence[dict[str, Any]], asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that a figure shows: its columns are there, and hold what `where` names."""
    needed = [asked["x"], asked["y"], *([asked["by"]] if asked.get("by") else [])]
    where = asked.get("where", {})
    return [
        row
        for row in rows
        if all(row.get(name) is not None for name in needed)
        and all(row.get(name) in values for name, values in where.items())
    ]


def columns_of(
    rows: Sequence[dict[str, Any]], asked: dict[str, Any]
) -> tuple[list[float], list[float | None], list[float | None]]:
    """y, and the ends of its interval where the figure names columns for them."""
    low, high = (
        [row.get(asked[end]) if asked.get(end) else None for row in rows] for end in ("low", "high")
    )
    return [float(row[asked["y"]]) for row in rows], low, high


def group_of(rows: Sequence[dict[str, Any]], asked: dict[str, Any]) -> Group:
    """One series, in the order of x."""
    rows = sorted(rows, key=lambda row: row[asked["x"]])
    return Group([float(row[asked["x"]]) for row in rows], *columns_of(rows, asked))


def pairs_of(rows: Sequence[dict[str, Any]], asked: dict[str, Any]) -> Pairs:
    """All pairs of lists that stand side by side."""
    both = [
        (float(x), float(y))
        for row in rows
        for x, y in zip(row[asked["x"]], row[asked["y"]], strict=True)
    ]
    return Pairs([x for x, _ in both], [y for _, y in both])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _benchmark_table(table: dict[str, Any]) -> Table:
    """A table as a benchmark wrote it; a list holds the rounds of one cell."""
    head = list(dict.fromkeys(name for row in table["rows"] for name in row))
    rows = [[_rounds_text(row.get(name)) for name in head] for row in table["rows"]]
    return Table(table["caption"], head, rows)


def _rounds_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_rounds_text, value))
    return f"{value:.4g}" if isinstance(value, float) else cell_text(value)
