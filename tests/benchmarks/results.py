"""What the benchmarks share: one JSON of one shape, which reports and README's table read.

    {"benchmark", "date", "device", "processor", "threads", "load_average", "dtype", "versions",
     "models", "settings": {flag: value},
     "tables": [{"caption", "rows": [{column: value}], "figures": [{"kind", ...}]}],
     "bars": [{"what", "measured", "rule", "bar", "unit", "met", "model"}],
     "found": "what came out, in a sentence"}

A column names its unit; a list is what was measured round by round. `figures` and `found` may be
left out; a figure says which columns a report draws, see `hf_proxy.report.result_records`.
"""

import json
import operator
import os
import platform
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_proxy.recipes.library.screen import print_table

PACKAGES = ("hf-proxy", "torch", "transformers", "accelerate", "datasets", "trl", "peft", "lm_eval")
RULES = {"at least": operator.ge, "at most": operator.le, "more than": operator.gt}
MIB = 2**20


def begin(
    benchmark: str,
    args: Namespace,
    *,
    dtype: str,
    device: str = "cpu",
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """All but what is measured; taken before the first measurement.

    Args:
        args: flags; of paths only the name is kept.
        models: folders or hub ids.
    """
    import torch  # a benchmark may measure in other processes, and keep its own light till here

    cuda = device == "cuda"
    settings = {name: _name(value) for name, value in vars(args).items() if value is not None}
    settings.pop("output", None)
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        # another busy process holds up every barrier of a threaded kernel: ratios go astray by half
        "load_average": os.getloadavg()[0],
        "dtype": dtype,
        "versions": versions(),
        "models": [_name(model) for model in models],
        "settings": settings,
        "tables": [],
        "bars": [],
    }


def bar(
    what: str, measured: float, rule: str, limit: float, *, unit: str, model: str = ""
) -> dict[str, Any]:
    """A measured number against what it must reach; `rule` is one of `RULES`."""
    met = bool(RULES[rule](measured, limit))
    named = {"what": what, "measured": measured, "rule": rule, "bar": limit}
    return named | {"unit": unit, "met": met, "model": _name(model)}


def table(
    caption: str, rows: Sequence[Mapping[str, Any]], *figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Rows of one table, each with the columns that it has, and how they are drawn."""
    found: dict[str, Any] = {"caption": caption, "rows": list(rows)}
    return found | ({"figures": list(figures)} if figures else {})


def shortened(value: Any) -> Any:
    """Tables with four significant digits: where there are hundreds of rows, files stay small."""
    if isinstance(value, Mapping):
        return {name: shortened(own) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [shortened(own) for own in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def add(content: dict[str, Any], tables: Sequence[dict], bars: Sequence[dict], path: Path) -> None:
    """Show these, and write the file with them: what comes later may fail."""
    for one in tables:
        print_one(one)
    for one in bars:
        print(f"{'met    ' if one['met'] else 'NOT met'}  {bar_text(one)}", flush=True)
    content["tables"] += tables
    content["bars"] += bars
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}", flush=True)


def bar_text(one: Mapping[str, Any]) -> str:
    """A bar in words."""
    return f"{one['what']}: {measured_of(one)}, bar: {limit_of(one)}"


def measured_of(one: Mapping[str, Any]) -> str:
    """What was measured, with its unit."""
    return f"{one['measured']:.4g} {one['unit']}"


def limit_of(one: Mapping[str, Any]) -> str:
    """What it must reach, with its unit."""
    return f"{one['rule']} {one['bar']:.4g} {one['unit']}"


def processor() -> str:
    """The name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """What was installed; None where it was not."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _name(value: Any) -> Any:
    """Without the folders of this machine, in which nobody else can look."""
    if isinstance(value, list):
        return [_name(one) for one in value]
    path = Path(value) if isinstance(value, (str, Path)) and value else None
    if path is not None and (path.is_absolute() or path.exists() or isinstance(value, Path)):
        return path.resolve().name
    return value


def print_one(one: Mapping[str, Any]) -> None:
    """A table on the screen; lists stand in the file alone."""
    rows = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in one["rows"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n{one['caption']}")
    print_table(names, [[_cell_text(row.get(n)) for n in names] for row in rows], words=names[:1])


def _cell_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
