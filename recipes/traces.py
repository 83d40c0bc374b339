"""Trace sets: build them, import them from other formats, annotate them, check them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.recipes.library.running import (
    RecipeConfig,
    at_least,
    compile_pattern,
    run_action,
)
from hf_proxy.recipes.library.trace_annotating import AnnotateConfig, annotate
from hf_proxy.recipes.library.trace_building import BuildConfig, build
from hf_proxy.recipes.library.trace_sets import save_traces
from hf_proxy.records.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_proxy.traces.health import TraceHealth


@dataclass(frozen=True, kw_only=True)
class ReadConfig(RecipeConfig):
    """Where traces are read from."""

    source: str = field(
        metadata={"help": "File (.jsonl, .json, .parquet), folder, save_to_disk folder or hub id."}
    )
    format: Literal["auto", "trace", "text", "openai", "rbridge", "rbridge-mask"] = field(
        default="auto", metadata={"help": "auto: recognised from the columns."}
    )
    part: Literal["auto", "reasoning", "answer", "all"] = field(
        default="auto",
        metadata={
            "help": "What of a server's answer is scored; auto: the reasoning where there is one."
        },
    )
    protocol: Literal["auto", "json", "text"] = field(
        default="auto",
        metadata={
            "help": "json: answers that are no JSON object are dropped; text: taken as they stand; "
            "auto: json where most are such objects."
        },
    )
    strict: bool = field(
        default=False, metadata={"help": "Stop at the first row that a server spoilt."}
    )
    allow_degenerate: bool = field(
        default=False,
        metadata={"help": "Take a set whose probabilities are nearly all exactly 0 or 1."},
    )
    split: str | None = field(
        default=None, metadata={"help": "Split to take, where there are several."}
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Field names of the source, as prompt=question trace=answer."},
    )
    requests: str | None = field(
        default=None,
        metadata={"help": "With the output of an OpenAI batch: its input file, for the prompts."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id of the server's tokenizer, for tokens that are ids."},
    )
    texts: str | None = field(
        default=None,
        metadata={"help": "With rows of ids and logprobs: file of their prompts and texts, by id."},
    )


@dataclass(frozen=True, kw_only=True)
class ImportConfig(ReadConfig):
    """`hf-proxy traces import`."""

    output_dir: str = field(metadata={"help": "Folder of the new trace set."})
    remove: str | None = field(
        default=None,
        metadata={
            "help": "Regular expression cut out of traces without probabilities, as '<<.*?>>'."
        },
    )
    num_traces: int | None = field(
        default=None, metadata={"help": "Keep the first so many; unset: all."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the set in output_dir."})

    def __post_init__(self) -> None:
        at_least(self, 1, "num_traces")


@dataclass(frozen=True, kw_only=True)
class CheckConfig(ReadConfig):
    """`hf-proxy traces check`."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id of a model: traces beyond its window are counted."},
    )


def import_traces(config: ImportConfig) -> dict[str, Any]:
    """Read traces from another format, check every row, and write them as a trace set.

    A trace is a worked solution, with the probability that a strong model (the frontier) gave to
    each of its tokens where that is known. Formats: trace (our own), text (prompt and trace alone),
    openai (any server's answers with logprobs, or the output of a batch), rbridge and rbridge-mask
    (as released); recognised by their fields. A row that a server spoilt is dropped and counted.

    Reads:   .jsonl, .json or .parquet file, folder of those, save_to_disk folder, or hub id.
    Writes:  the trace set and provenance.json in output_dir.
    Example: hf-proxy traces import --source gsm8k.jsonl --columns prompt=question trace=answer
             --output_dir outputs/gsm8k
    """
    from hf_proxy.records.storage import check_free
    from hf_proxy.traces.checks import check_trace

    check_free(config.output_dir, overwrite=config.overwrite)
    traces, health = _read(config)
    print(f"{config.source}: {health.line()}")
    dropped = health.dropped
    num_read = len(traces)
    if config.num_traces is not None:
        traces = traces.select(range(min(config.num_traces, num_read)))
    if config.remove is not None:
        if set(traces["weighting"]) != {"none"}:
            raise InputError.at(
                "these traces have probabilities, so no letter may be cut out of them",
                remedy="import them without --remove",
                source=config.source,
            )
        cut = compile_pattern(config.remove, "remove")
        traces = traces.map(lambda row: {"trace": cut.sub("", row["trace"])}, desc="Removing")
        for index, row in enumerate(traces):  # nothing may be left of one
            check_trace(row, source=config.source, index=index)
    counts = {"in": num_read + sum(dropped.values()), "kept": len(traces), "dropped": dropped}
    save_traces(traces, config, counts, health=health.model_dump())
    print(f"{len(traces)} traces in {config.output_dir}, dropped {dropped or 'none'}")
    return {"output_dir": config.output_dir, "counts": counts}


def check(config: CheckConfig) -> dict[str, Any]:
    """Check every row of a trace set and print what it holds.

    Reads:   what `hf-proxy traces import` reads.
    Writes:  to the screen only: rows, tokens, letters without probability, a histogram of the
             probabilities and how many are exactly 0 or 1, duplicates, answers right and wrong,
             what was dropped and why, and the fingerprint of the content.
    Example: hf-proxy traces check --source outputs/gsm8k-annotated
    """
    from hf_proxy.recipes.library.trace_health import lengths_in_tokens, print_health
    from hf_proxy.traces.checks import traces_fingerprint

    traces, health = _read(config, allow_degenerate=True)
    num_tokens = sum(map(len, traces["frontier_spans"]))
    counts: dict[str, Any] = {
        "rows": len(traces),
        "frontier_tokens": num_tokens,
        "letters": health.letters,
        "letters_without_probability": health.letters_without_probability,
        "weights_histogram": health.histogram,
        "exact_share": health.exact_share,
        "duplicates": health.duplicates,
        "dropped": health.dropped,
        "parts": health.parts,
        "temperatures": health.temperatures,
        "right": health.right,
        "wrong": health.wrong,
        "fingerprint": traces_fingerprint(traces),
    }
    window: dict[str, Any] = {}
    if config.model is not None:
        window = lengths_in_tokens(traces, config.model)
        counts |= window
    print_health(health, num_tokens, window, fingerprint=str(counts["fingerprint"]))
    if not config.allow_degenerate:
        health.check(config.source)
    return counts


def _read(
    config: ReadConfig, *, allow_degenerate: bool | None = None
) -> tuple[Dataset, TraceHealth]:
    from hf_proxy.traces.reading import read_traces

    columns = {}
    for pair in config.columns:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise InputError.at(
                f"{pair!r} is no pair",
                remedy="write OURS=THEIRS, as prompt=question trace=answer",
                field="columns",
            )
        columns[ours] = theirs
    return read_traces(
        config.source,
        format=None if config.format == "auto" else config.format,
        split=config.split,
        columns=columns,
        part=None if config.part == "auto" else config.part,
        strict=config.strict,
        requests=config.requests,
        tokenizer=config.tokenizer,
        texts=config.texts,
        protocol=None if config.protocol == "auto" else config.protocol,
        allow_degenerate=config.allow_degenerate if allow_degenerate is None else allow_degenerate,
    )


ACTIONS: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
    "build": (BuildConfig, build),
    "import": (ImportConfig, import_traces),
    "annotate": (AnnotateConfig, annotate),
    "check": (CheckConfig, check),
}


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy traces build|import|annotate|check`."""
    return run_action(ACTIONS, argv, prog="hf-proxy traces")


if __name__ == "__main__":
    raise SystemExit(cli())
