"""Score models on reasoning traces: a table of rBridge with intervals, and paired comparisons."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy import __version__
from hf_proxy.recipes.library.running import RecipeConfig, at_least, newlines, run
from hf_proxy.records.defaults import LAST_TOKENS, TOKENS_PER_BATCH
from hf_proxy.traces.settings import TRACE_CONTEXT

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_proxy.recipes.library.checkpoints import Checkpoint
    from hf_proxy.records.scores import ProxyScore
    from hf_proxy.scoring.comparison import Comparison


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    models: list[str] = field(
        metadata={
            "help": "Model folders, hub ids, training checkpoints, LoRA adapters, or run folders "
            "(which stand for their checkpoints)."
        }
    )
    traces: str = field(
        metadata={"help": "Trace set: file, save_to_disk folder or hub id; see `hf-proxy traces`."}
    )
    traces_format: Literal["auto", "trace", "text", "openai", "rbridge", "rbridge-mask"] = field(
        default="auto", metadata={"help": "auto: recognised from the columns."}
    )
    part: Literal["auto", "reasoning", "answer", "all"] = field(
        default="auto",
        metadata={
            "help": "What of a server's answer is scored; auto: the reasoning where there is one."
        },
    )
    num_traces: int | None = field(
        default=None,
        metadata={"help": "Score the first so many traces, for a quick look; unset: all."},
    )
    context: str = field(
        default=TRACE_CONTEXT,
        metadata={
            "help": "Text before the trace: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the model's chat template."
        },
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "With context=chat: what the template reads beside the turns, as "
            '{"enable_thinking": false} (JSON; in YAML a mapping).'
        },
    )
    unit: Literal["letter", "byte"] = field(
        default="letter",
        metadata={"help": "A token's weight is averaged over its letters (paper) or bytes."},
    )
    minmax_over: Literal["trace", "dataset", "none"] = field(
        default="trace",
        metadata={
            "help": "Weights are stretched to 0..1 within each trace (paper), over the whole set, "
            "or not at all (none)."
        },
    )
    divisor: Literal["auto", "tokens", "weights"] = field(
        default="auto",
        metadata={
            "help": "Weighted sums are divided by tokens (paper) or by weights; auto: by weights "
            "where the traces are masked."
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of context and trace; unset: the model's window."},
    )
    too_long: Literal["error", "drop"] = field(
        default="error", metadata={"help": "What to do with traces beyond max_length."}
    )
    statistics: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Statistics of the traces to show too, as ce, freq_top5; 'all' shows each. "
            "All of them stand in scores.jsonl."
        },
    )
    last_tokens: int = field(
        default=LAST_TOKENS,
        metadata={"help": "The statistics are of so many tokens at the end of a trace; 0: all."},
    )
    tokens_per_batch: int = field(
        default=TOKENS_PER_BATCH,
        metadata={"help": "Tokens of one forward pass, with padding; fewer take less memory."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto: as they were saved."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "eager, sdpa, flash_attention_2, ...; unset: the model's own."},
    )
    use_score_cache: bool = field(
        default=True,
        metadata={
            "help": "Take scores of equal weights, setting and precision from an earlier run; "
            "--no_use_score_cache scores anew."
        },
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of scores.jsonl and provenance.json; unset: screen only."},
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "num_traces", "max_length", "tokens_per_batch")
        at_least(self, 0, "last_tokens")


def main(config: ScoreConfig) -> dict[str, Any]:
    """Score models on a frontier's reasoning traces (rBridge; nats per token, lower is better).

    The score is the model's loss on worked solutions of a stronger model (the frontier), each token
    weighted by how sure the frontier was of it. Several models are compared on the same traces.

    Reads:   models, and a trace set (see hf-proxy traces).
    Writes:  a table to the screen; scores.jsonl and provenance.json in output_dir, where given. The
             same line again goes on where it stopped: equal weights are not scored twice.
    Example: hf-proxy score --traces ASSETS/traces.parquet
             --models ASSETS/expert ASSETS/amateur
    """
    from accelerate import Accelerator

    from hf_proxy.models.parallel import require_equal, stop_together
    from hf_proxy.recipes.library.checkpoints import find_checkpoints
    from hf_proxy.recipes.library.score_tables import (
        difference_sentence,
        print_frontiers,
        print_masked,
        print_scores,
        print_statistics,
    )
    from hf_proxy.records.lines import write_lines
    from hf_proxy.records.storage import provenance_of, write_text
    from hf_proxy.scoring.masks import masked_figures
    from hf_proxy.scoring.statistics import STATISTIC_NAMES, check_statistics
    from hf_proxy.traces.reading import read_traces

    accelerator = Accelerator()
    statistics = STATISTIC_NAMES
    if config.statistics != ["all"]:
        statistics = check_statistics(config.statistics)
    with stop_together(accelerator):
        traces, health = read_traces(
            config.traces,
            format=None if config.traces_format == "auto" else config.traces_format,
            part=None if config.part == "auto" else config.part,
        )
        if accelerator.is_main_process:
            print(f"{config.traces}: {health.line()}")
        if config.num_traces is not None:
            traces = traces.select(range(min(config.num_traces, len(traces))))
        checkpoints = [found for spec in config.models for found in find_checkpoints(spec)]
    require_equal(
        str([(checkpoint.name, checkpoint.step) for checkpoint in checkpoints]),
        accelerator,
        what="the list of checkpoints",
        remedy="name models that all nodes have, or score on one node",
    )
    is_masked = set(traces["weighting"]) == {"mask"}
    if config.divisor == "auto":
        config = dataclasses.replace(config, divisor="weights" if is_masked else "tokens")
    scores, facts = [], []
    for checkpoint in checkpoints:
        score, fact = _score(checkpoint, traces, config, accelerator)
        scores.append(score)
        facts.append(fact | ({"masked": masked_figures(score, traces)} if is_masked else {}))
    comparisons = _comparisons(scores)
    if accelerator.is_main_process:
        print_scores(scores, facts)
        print_frontiers(scores, facts, config.traces)
        if is_masked:
            print_masked(scores, facts)
        print_statistics(scores, statistics)
        for (a, b), result in comparisons:
            print(difference_sentence(scores[a], scores[b], result))
        if config.output_dir is not None:
            folder = Path(config.output_dir)
            lines = (
                s.scalars()
                | {"rows": s.rows.to_dict()}
                | ({"masked": fact["masked"]} if is_masked else {})
                for s, fact in zip(scores, facts, strict=True)
            )
            write_lines(folder / "scores.jsonl", lines)
            stamp = provenance_of(parameters=dataclasses.asdict(config), models=facts)
            write_text(folder / "provenance.json", json.dumps(stamp, indent=2))
    return {
        "scores": [s.scalars() | fact for s, fact in zip(scores, facts, strict=True)],
        "comparisons": [
            {"a": scores[a].model_id, "b": scores[b].model_id} | dataclasses.asdict(result)
            for (a, b), result in comparisons
        ],
    }


def _score(
    checkpoint: Checkpoint, traces: Any, config: ScoreConfig, accelerator: Accelerator
) -> tuple[ProxyScore, dict[str, Any]]:
    """The score of one checkpoint, from the cache where equal weights were scored before."""

    from hf_proxy.models.parallel import from_main, stop_together
    from hf_proxy.recipes.library.checkpoints import (
        common_fingerprint,
        load_model,
        load_tokenizer,
    )
    from hf_proxy.records.scores import ProxyScore, Setting
    from hf_proxy.records.storage import cache_dir, fingerprint, write_text
    from hf_proxy.scoring.scoring import score_traces, setting_of
    from hf_proxy.scoring.statistics import statistics_parts
    from hf_proxy.traces.alignment import align_traces

    start = time.perf_counter()
    with stop_together(accelerator):
        aligned = align_traces(
            traces,
            load_tokenizer(checkpoint),
            context=newlines(config.context),
            chat_template_kwargs=config.chat_template_kwargs,
            unit=config.unit,
            minmax_over=None if config.minmax_over == "none" else config.minmax_over,
            max_length=config.max_length,
            too_long=config.too_long,
        )
        setting = setting_of(aligned, divisor=config.divisor)
    weights = common_fingerprint(checkpoint, accelerator)
    last_tokens = config.last_tokens or None
    of_all = Setting(setting.parts | statistics_parts(last_tokens))
    how = [config.dtype, config.attn_implementation, accelerator.device.type]
    path = cache_dir() / f"score-{fingerprint([__version__, weights, of_all.hash, how])}.json"
    # the main process decides for all: a rank that found no file would wait for the others'
    # forwards
    found = from_main(accelerator, lambda: _cached(path) if config.use_score_cache else None)
    fact = {"weights": weights, "dtype": config.dtype, "device": accelerator.device.type}
    score = None if found is None else ProxyScore.from_json(found)
    if score is not None:
        score = dataclasses.replace(score, model_id=checkpoint.name, step=checkpoint.step)
        return score, fact | {"cached": True, "seconds": time.perf_counter() - start}
    with stop_together(accelerator):
        model = load_model(
            checkpoint,
            dtype=config.dtype,
            device=accelerator.device,
            attn_implementation=config.attn_implementation,
        )
    score = score_traces(
        model,
        aligned,
        accelerator=accelerator,
        tokens_per_batch=config.tokens_per_batch,
        divisor=config.divisor,
        last_tokens=last_tokens,
        step=checkpoint.step,
        model_id=checkpoint.name,
    )
    if accelerator.is_main_process:
        write_text(path, score.to_json())
    return score, fact | {"cached": False, "seconds": time.perf_counter() - start}


def _cached(path: Path) -> str | None:
    """What an earlier run kept; None where it kept nothing that can be read."""
    from hf_proxy.records.scores import ProxyScore

    try:
        text = path.read_text(encoding="utf-8")
        ProxyScore.from_json(text)
    except (OSError, ValueError):
        return None
    return text


def _comparisons(scores: list[ProxyScore]) -> list[tuple[tuple[int, int], Comparison]]:
    """Each model against the first: by rBridge, across tokenizers by bits per byte."""
    from hf_proxy.scoring.comparison import compare

    found = []
    for b in range(1, len(scores)):
        same = not scores[0].setting.differing(scores[b].setting)
        metric = "value" if same else "bits_per_byte"
        try:
            found.append(((0, b), compare(scores[0], scores[b], metric=metric)))
        except ValueError as reason:
            print(f"{scores[0].model_id} and {scores[b].model_id}: {reason}")
    return found


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy score`."""
    return run(ScoreConfig, main, argv, prog="hf-proxy score")


if __name__ == "__main__":
    raise SystemExit(cli())
