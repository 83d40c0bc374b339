"""One page of a run, live or finished: scores, losses, contrast, trajectories, accuracies."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_proxy.recipes.library.running import RecipeConfig, at_least, run


@dataclass(frozen=True, kw_only=True)
class ReportConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    run_dir: str = field(metadata={"help": "output_dir of any command."})
    output: str | None = field(
        default=None, metadata={"help": "The page; unset: report.html in run_dir."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Model of the tokenizer, for trajectories; unset: the one that the set names."
        },
    )
    num_rows: int = field(
        default=3, metadata={"help": "Trajectories of a set, and problems, to show."}
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "num_rows")


def main(config: ReportConfig) -> dict[str, Any]:
    """Write one HTML page of a run, live or finished, that needs neither network nor script.

    Reads:   output_dir of any command; it may stand alone, without --run_dir.
    Writes:  report.html there, or the page that --output names.
    Example: hf-proxy report --run_dir outputs/run
    """
    from hf_proxy.recipes.library.checkpoints import find_tokenizer
    from hf_proxy.report.page import write_report

    output = Path(config.output or Path(config.run_dir) / "report.html")
    if config.tokenizer is not None:
        find_tokenizer(config.tokenizer)  # one that was asked for is not passed over in silence
    found = write_report(
        config.run_dir,
        output,
        find_tokenizer=find_tokenizer,
        num_rows=config.num_rows,
        tokenizer_at=config.tokenizer,
    )
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"{', '.join(found['sections'])}; {output}")
    return found | {"output": str(output)}


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy report`; a folder that stands first is `--run_dir`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--run_dir", *argv]
    return run(ReportConfig, main, argv, prog="hf-proxy report")


if __name__ == "__main__":
    raise SystemExit(cli())
