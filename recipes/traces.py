"""Trace sets: build them, import them from other formats, annotate them, check them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.recipes.library.running import (
    RecipeConfig,
    at_least,
    compile_pattern,
    newlines,
    run_action,
)
from hf_proxy.recipes.library.trace_building import BuildConfig, build
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.records.errors import InputError
from hf_proxy.traces.settings import TRACE_CONTEXT

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


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(RecipeConfig):
    """`hf-proxy traces annotate`."""

    source: str = field(metadata={"help": "Trace set, as `hf-proxy traces import` writes it."})
    frontier: str = field(metadata={"help": "Model folder, adapter or hub id of the frontier."})
    output_dir: str = field(metadata={"help": "Folder of the new trace set."})
    context: str = field(
        default=TRACE_CONTEXT,
        metadata={
            "help": "Text before the trace: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the model's chat template."
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of context and trace; unset: the model's window."},
    )
    too_long: Literal["error", "drop"] = field(
        default="error", metadata={"help": "What to do with traces beyond max_length."}
    )
    tokens_per_batch: int = field(
        default=TOKENS_PER_BATCH,
        metadata={"help": "Tokens of one forward pass, with padding; fewer take less memory."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto: as they were saved."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the set in output_dir."})

    def __post_init__(self) -> None:
        at_least(self, 1, "max_length", "tokens_per_batch")


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
    from hf_proxy.traces.checks import check_trace

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
    _save(traces, config, counts, health=health.model_dump())
    print(f"{len(traces)} traces in {config.output_dir}, dropped {dropped or 'none'}")
    return {"output_dir": config.output_dir, "counts": counts}


def annotate(config: AnnotateConfig) -> dict[str, Any]:
    """Give existing traces a local frontier model's confidence, by one teacher-forced pass.

    Reads:   a trace set, and the frontier: the strong model whose confidence is asked for.
    Writes:  the same traces with its probabilities, and provenance.json, in output_dir.
    Example: hf-proxy traces annotate --source outputs/gsm8k
             --frontier Qwen/Qwen2.5-Coder-1.5B-Instruct --output_dir outputs/gsm8k-annotated
    """
    from accelerate import Accelerator

    from hf_proxy.building.annotation import annotate_traces
    from hf_proxy.models.parallel import stop_together
    from hf_proxy.recipes.library.checkpoints import (
        find_checkpoints,
        load_model,
        load_tokenizer,
        weights_fingerprint,
    )
    from hf_proxy.tokens.tokenizers import tokenizer_fingerprint
    from hf_proxy.traces.reading import load_traces

    accelerator = Accelerator()
    with stop_together(accelerator):
        traces = load_traces(config.source)
        frontier = find_checkpoints(config.frontier)[-1]
        tokenizer = load_tokenizer(frontier)
        model = load_model(frontier, dtype=config.dtype, device=accelerator.device)
    annotated = annotate_traces(
        traces,
        model,
        tokenizer,
        accelerator=accelerator,
        context=newlines(config.context),
        max_length=config.max_length,
        too_long=config.too_long,
        tokens_per_batch=config.tokens_per_batch,
    )
    num_dropped = len(traces) - len(annotated)
    counts = {"in": len(traces), "kept": len(annotated), "dropped": {"too long": num_dropped}}
    if accelerator.is_main_process:
        frontier_facts = {
            "name": frontier.name,
            "step": frontier.step,
            "weights": weights_fingerprint(frontier),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "dtype": str(model.dtype),
        }
        _save(annotated, config, counts, frontier=frontier_facts)
        print(f"{len(annotated)} traces in {config.output_dir}, dropped {num_dropped} too long")
    accelerator.wait_for_everyone()
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


def _save(traces: Dataset, config: Any, counts: dict, **facts: Any) -> None:
    from hf_proxy.records.storage import save_dataset
    from hf_proxy.traces.checks import traces_fingerprint

    content = {
        "parameters": dataclasses.asdict(config),
        "counts": counts,
        "fingerprint": traces_fingerprint(traces),
    }
    save_dataset(traces, config.output_dir, content | facts, overwrite=config.overwrite)


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
