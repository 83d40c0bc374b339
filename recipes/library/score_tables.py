"""What `hf-proxy score` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_proxy.recipes.library.scores import read_scores, score_name
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.record import read_json
from hf_proxy.records.scores import METRIC_NAMES, ProxyScore
from hf_proxy.scoring.comparison import Comparison, compare


def print_scores(scores: list[ProxyScore], facts: list[dict[str, Any]]) -> None:
    """A row for each model, in a block of their own those of another setting."""
    blocks: dict[str, list[int]] = {}
    for place, score in enumerate(scores):
        blocks.setdefault(score.setting.hash, []).append(place)
    for number, places in enumerate(blocks.values()):
        print("\n" * bool(number), end="")
        _print_block([scores[place] for place in places], [facts[place] for place in places])
    if len(blocks) > 1:
        first, other = (scores[places[0]].setting for places in list(blocks.values())[:2])
        differing = first.differing(other)
        if any(part.startswith("tokenizer") for part in differing):
            print(
                "\nthe blocks are of different tokenizers: models compare across them by "
                f"{METRIC_NAMES['bits_per_byte']} only"
            )
        else:
            print(f"\nmodels do not compare across the blocks: {'; '.join(differing)}")


def print_frontiers(scores: list[ProxyScore], facts: list[dict[str, Any]], traces: str) -> None:
    """Name the models that weighed these traces themselves, as the set's provenance tells."""
    path = Path(traces) / "provenance.json"
    frontier = read_json(path).get("frontier") if path.is_file() else None
    weights = frontier.get("weights") if isinstance(frontier, dict) else None
    for score, fact in zip(scores, facts, strict=True):
        if weights is not None and fact["weights"] == weights:
            print(
                f"note: {score_name(score, '')} is the frontier of these traces: what it is sure "
                "of weighs most, so its own rBridge is low whatever it can do"
            )


def _print_block(scores: list[ProxyScore], facts: list[dict[str, Any]]) -> None:
    stepped = any(score.step is not None for score in scores)
    head = ["model", *["step"] * stepped, METRIC_NAMES["value"], "90 % interval"]
    head += [METRIC_NAMES["trace_nll"], METRIC_NAMES["bits_per_byte"]]
    head += ["top-1", "rank", "traces", "labels", "setting", "seconds"]
    rows = [
        [str(score.model_id), *["-" if score.step is None else str(score.step)] * stepped]
        + [f"{score.value:.6f}"]
        + ["-" if score.low is None else f"{score.low:.4f} .. {score.high:.4f}"]
        + [f"{score.trace_nll:.4f}", f"{score.bits_per_byte:.4f}"]
        + [f"{score.top1_agreement:.3f}", f"{score.mean_rank:.1f}"]
        + [str(score.num_traces), str(score.num_labels), score.setting.hash]
        + ["cached" if fact["cached"] else f"{fact['seconds']:.1f}"]
        for score, fact in zip(scores, facts, strict=True)
    ]
    print_table(head, rows, words=("model",), names=("model",))


def print_masked(scores: list[ProxyScore], facts: list[dict[str, Any]]) -> None:
    """What the authors of masked traces print: perplexities of the words and bytes in masks."""
    rows = [
        [str(score.model_id), str(score.num_traces)]
        + [
            "-" if fact["masked"][name] is None else f"{fact['masked'][name]:.{digits}f}"
            for name, digits in (
                ("word_perplexity", 2),
                ("byte_perplexity", 2),
                ("bits_per_byte", 4),
            )
        ]
        for score, fact in zip(scores, facts, strict=True)
    ]
    head = ("model", "traces", "word perplexity", "byte perplexity", "bits per byte in masks")
    print_table(head, rows, words=("model",), names=("model",))


def print_statistics(scores: list[ProxyScore], names: Sequence[str]) -> None:
    """A row for each statistic, a column for each model."""
    if not names:
        return
    print()
    head = [score_name(score, "") for score in scores]
    rows = [[name, *(f"{score.statistics[name]:.6f}" for score in scores)] for name in names]
    print_table(["statistic", *head], rows, words=("statistic",))
    for model, score in zip(head, scores, strict=True):
        for weighting, num in score.zero_weight_traces.items():
            print(f"note: {model}: {num} traces with every weight of {weighting} 0, averaged alike")


def print_steps(path: Path, names: Sequence[str]) -> None:
    """How each trace set's last step differs from its first, where the lines hold their traces."""
    for name in names:
        found = [score for score, _ in read_scores(path, trace_set=name)]
        first, last = found[0], found[-1]
        if first.step == last.step or not (len(first.rows) and len(last.rows)):
            continue
        result = compare(last, first)
        steps = f"{name}: step {last.step} - step {first.step}"
        print(f"{steps}: {_in_words(result)}")


def difference_sentence(a: ProxyScore, b: ProxyScore, result: Comparison) -> str:
    """How two models differ on the same traces."""
    return f"{a.model_id} - {b.model_id}: {_in_words(result)}"


def _in_words(result: Comparison) -> str:
    note = f" ({result.note})" if result.note else ""
    return (
        f"{METRIC_NAMES[result.metric]} {result.difference:+.4f} "
        f"[{result.low:+.4f}, {result.high:+.4f}], p = {result.p_value:.4f}, "
        f"n = {result.num_traces}{note}"
    )
