"""Write README's table of what was measured against its bar, from the JSON files in results/.

    python tests/benchmarks/table.py

A benchmark's JSON becomes one of them by being copied there; a test fails where README differs.
"""

import json
from itertools import groupby
from pathlib import Path

from results import RULES, measured_of  # beside this one

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent.parent / "README.md"
MARKERS = ("<!-- written by tests/benchmarks/table.py -->\n", "<!-- end of what it writes -->\n")
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


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(), table_of(RESULTS)))
