"""Write the tables of the README here from the JSON files in results/.

    python tests/benchmarks/table.py

A benchmark's JSON becomes one of them by being copied there; a test fails where the README differs.
The first table holds all bars; another stands below a line that names its file, its number there
and its columns: `<!-- table 1 of coverage.json: n; AR(1) -->`.
"""

import json
import re
from itertools import groupby
from pathlib import Path

from results import RULES, measured_of  # beside this one

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
MARKERS = ("<!-- written by table.py -->\n", "<!-- end of the bars -->\n")
# of one block: an empty one takes nothing of what stands between it and the next
BLOCK = re.compile(
    r"(<!-- table (\d+) of (\S+): ([^\n]+) -->\n\n)(?:(?!<!--).)*"
    r"(<!-- end of what it writes -->\n)",
    re.DOTALL,
)
SIGNS = {"at least": ">=", "at most": "<=", "more than": ">"}  # a line has 120 characters


def table_of(folder: Path) -> str:
    """One row for each bar of each file, in the order of their names, headed by model and date.

    Raises:
        ValueError: a file says met of what is not, or the reverse.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        for bar in content["bars"]:
            met = RULES[bar["rule"]](bar["measured"], bar["bar"])
            if met != bar["met"]:
                raise ValueError(
                    f"{path.name}: {bar['what']}: {bar['met']} is not what it measured"
                )
            found.append((bar["model"], content["date"][:10], bar))
    lines = ["| what | measured | bar | |", "|---|---|---|---|"]
    for (model, date), rows in groupby(found, key=lambda row: row[:2]):
        lines.append(f"| **{model}**, {date} | | | |")
        for _, _, bar in rows:
            limit = f"{SIGNS[bar['rule']]} {bar['bar']:.4g}"
            met = "met" if bar["met"] else "NOT met"
            lines.append(f"| {bar['what']} | {measured_of(bar)} | {limit} | {met} |")
    return "\n".join(lines) + "\n"


def with_table(text: str, table: str) -> str:
    """The text with what stands between the markers replaced.

    Raises:
        ValueError: the markers do not stand there once each.
    """
    if [text.count(marker) for marker in MARKERS] != [1, 1]:
        raise ValueError(f"the text must hold these lines once each: {MARKERS}")
    before, rest = text.split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    return f"{before}{MARKERS[0]}\n{table}\n{MARKERS[1]}{after}"


def with_results(text: str, folder: Path) -> str:
    """The text with each table below a line that names one of a results file."""

    def written(found: re.Match[str]) -> str:
        content = json.loads((folder / found[3]).read_text())
        rows = content["tables"][int(found[2]) - 1]["rows"]
        columns = found[4].split("; ")
        lines = [columns, ["---"] * len(columns)]
        lines += [[_short(row[column]) for column in columns] for row in rows]
        return found[1] + "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{found[5]}"

    return BLOCK.sub(written, text)


def _short(value: str | int | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    README.write_text(with_results(with_table(README.read_text(), table_of(RESULTS)), RESULTS))
