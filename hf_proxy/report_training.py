"""Sections of a report on what happens along a training: scores, losses, contrast, trajectories."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_proxy.report_blocks import (
    METRIC_NAMES,
    Block,
    Download,
    Section,
    Shown,
    Table,
    as_csv,
    interval,
    number,
    percent,
    percent_interval,
    told,
)
from hf_proxy.report_data import MinedSet, Part
from hf_proxy.report_plots import Series, draw_steps
from hf_proxy.soft_targets import FLAT_SUPPORT, PUBLISHED
from hf_proxy.spelling import tokenizer_fingerprint
from hf_proxy.trajectories import _view

FindTokenizer = Callable[[str], PreTrainedTokenizerBase]

# statistic: what it is, in which unit
_STATISTICS = {
    "num_rows": "trajectories",
    "num_steps": "generated steps",
    "num_kept": "steps kept (KL of at least divergence_beta)",
    "num_ended_at_once": "trajectories of one token",
    "kept_share": "kept, share of all steps",
    "kl_mean": "KL of expert from amateur, mean over all steps, nats",
    "kl_mean_agree": "KL where both prefer the same token, nats",
    "kl_mean_differ": "KL where they prefer different tokens, nats",
    "top1_agreement": "both prefer the same token, share of all steps",
    "agree_kept_share": "kept, share of those where both prefer the same token",
    "support_size": "plausible tokens of a kept step, mean",
    "one_token_share": "kept steps with one plausible token, share",
    "one_token_share_all": "all steps with one plausible token, share",
    "flip_rate": "kept steps whose target prefers another token than the expert, share",
    "flat_share": f"kept steps with more than {FLAT_SUPPORT} plausible tokens, share",
    "echo_share": "trajectories that repeat the system prompt, share",
}
# statistic: how its axis is named, and whether it is a share
_CONTRAST_AXES = {
    "kept_share": ("kept, % of steps", True),
    "kl_mean": ("mean KL, nats", False),
    "top1_agreement": ("same first token, % of steps", True),
    "support_size": ("plausible tokens of a kept step", False),
    "flip_rate": ("flips, % of kept steps", True),
}


def score_sections(parts: Sequence[Part], downloads: list[Download]) -> list[Section]:
    """Scores and predictions over steps, and the best of them."""
    blocks: list[Block] = []
    best = Block()
    bests: list[tuple[str, ...]] = []
    for part in parts:
        for (name, _), lines in _by_setting(part.scores).items():
            title = told(part.name, name)
            if any(other.title == title for other in blocks):
                title += f", setting {lines[0].get('setting')}"
            blocks.append(_score_block(title, lines))
            lowest = min(lines, key=lambda line: line["value"])
            saved = f"checkpoint-{lowest['step']}"
            is_there = lowest["step"] in part.steps_saved
            cells = [title, str(lowest["step"]), number(lowest["value"])]
            cells += [interval(lowest["low"], lowest["high"])]
            bests.append((*cells, saved if is_there else "no checkpoint of this step is here"))
        if part.scores:
            downloads.append(Download(_file(part, "scores.csv"), as_csv(map(_flat, part.scores))))
        if chosen := part.state.get("best_model_checkpoint"):
            metric = part.state.get("best_metric")
            value = number(metric) if isinstance(metric, float | int) else "unknown"
            best.said.append(
                f"{told(part.name, 'Trainer')}'s own choice (metric_for_best_model) is "
                f"{Path(str(chosen)).name}, at {value}."
            )
    if bests:
        head = ("trace set", "step", "lowest rBridge, nats per token", "90 % interval", "weights")
        best.tables.append(Table("The step with the lowest score of each trace set", head, bests))
    return [
        Section(
            "scores",
            "Scores and predictions over steps",
            "Scores and predictions over steps: no predictions.jsonl with a whole line "
            "(ProxyScoreCallback writes it).",
            blocks,
        ),
        Section(
            "best",
            "Best checkpoint",
            "Best checkpoint: no scores over steps, and no choice of Trainer's.",
            [best] if bests or best.said else [],
        ),
    ]


def _by_setting(lines: list[dict[str, Any]]) -> dict[tuple[str, Any], list[dict[str, Any]]]:
    """Scores of different settings are never compared, so they never share a line."""
    found: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["step"]):
        found.setdefault((line["name"], str(line.get("setting"))), []).append(line)
    return found


def _score_block(title: str, lines: list[dict[str, Any]]) -> Block:
    last, steps = lines[-1], [line["step"] for line in lines]
    block = Block(title)
    model = last.get("model_id") or "the model in training"
    facts = [f"{model} on {number(last.get('num_traces'))} traces"]
    facts += [f"{number(last.get('num_labels'))} tokens to predict, setting {last.get('setting')}"]
    block.said.append(f"{', '.join(facts)}. Lower is better; bands are 90 % intervals over traces.")
    for metric, label in METRIC_NAMES.items():
        values = [line[metric] for line in lines]
        band = [[line[end] for line in lines] for end in ("low", "high")]
        own = band if metric == "value" else ([], [])
        drawing = draw_steps([Series(label, steps, values, *own)], y_label=label)
        block.figures.append(Shown(label, _course(label, steps, values), drawing))
    counted = any(line.get("tokens_seen") is not None for line in lines)
    head = ["step", *["tokens seen"] * counted, "rBridge, nats per token", "90 % interval"]
    head += ["R_phi, nats per token", "bits per byte"]
    rows = [
        [str(line["step"]), *[number(line.get("tokens_seen"))] * counted, number(line["value"])]
        + [interval(line["low"], line["high"])]
        + [number(line["trace_nll"]), number(line["bits_per_byte"])]
        for line in lines
    ]
    for target in dict.fromkeys(target for line in lines for target in line["predictions"]):
        found = [line["predictions"].get(target) for line in lines]
        there = [(step, one) for step, one in zip(steps, found, strict=True) if one is not None]
        level = f"{there[-1][1]['level']:.0%}".replace("%", " %")
        label = "predicted accuracy, %"
        values, low, high = (
            [100 * one[key] for _, one in there] for key in ("value", "low", "high")
        )
        own_steps, beyond = [s for s, _ in there], [one["extrapolated"] for _, one in there]
        series = Series(label, own_steps, values, low, high, beyond)
        caption = f"{target}: {label}, {level} interval; hollow where beyond the fitted points"
        alt = _course(f"{label} of {target}", own_steps, values, digits=1, best=max)
        block.figures.append(Shown(caption, alt, draw_steps([series], y_label=label)))
        head += [f"{target}, accuracy", f"{level} interval"]
        for row, one in zip(rows, found, strict=True):
            if one is None:
                row += ["-", "-"]
            else:
                mark = " (beyond the fitted points)" if one["extrapolated"] else ""
                row += [percent(one["value"]), percent_interval(one["low"], one["high"]) + mark]
    block.tables.append(Table(f"Scores of {title} by step", head, rows))
    return block


def _course(label: str, steps, values, *, digits: int = 4, best: Callable[..., Any] = min) -> str:
    """A line in words."""
    points = [(value, step) for value, step in zip(values, steps, strict=True) if value is not None]
    if not points:
        return f"{label}: nothing"
    (first, at), (last, end) = points[0], points[-1]
    extreme, where = best(points, key=lambda point: point[0])
    words = "lowest" if best is min else "highest"
    return (
        f"{label} over steps: {first:.{digits}f} at step {at}, {words} {extreme:.{digits}f} at "
        f"step {where}, {last:.{digits}f} at the last, step {end}"
    )


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what is nested, its predictions as columns."""
    row = {key: value for key, value in line.items() if not isinstance(value, dict | list)}
    for target, found in line["predictions"].items():
        row |= {f"{target}.{key}": value for key, value in found.items()}
    return row


def training_section(parts: Sequence[Part], downloads: list[Download]) -> Section:
    """Losses and learning rate, as Trainer logged them."""
    blocks = []
    for part in parts:
        rows = [row for row in part.state.get("log_history", []) if "step" in row]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        losses = [k for k in keys if k == "loss" or (k.startswith("eval_") and k.endswith("_loss"))]
        if not losses:
            continue
        losses.sort(key=lambda name: name != "loss")  # the solid line is the denser one
        block = Block(part.name)
        at, most = part.state.get("global_step"), part.state.get("max_steps")
        block.said.append(
            f"From {part.state['at']}, the newest checkpoint that is whole: step {at} of {most}. "
            "Losses are means as Trainer logs them, in nats per token that is learnt; lower is "
            "better."
        )
        for label, names in (("loss, nats", losses), ("learning rate", ["learning_rate"])):
            series, alts = [], []
            for name in names:
                points = [(row["step"], row[name]) for row in rows if _is_number(row.get(name))]
                if points:
                    series.append(Series(name, *map(list, zip(*points, strict=True))))
                    digits = 4 if name != "learning_rate" else 8
                    alts.append(_course(name, *zip(*points, strict=True), digits=digits))
            if series:
                drawing = draw_steps(series, y_label=label)
                block.figures.append(Shown(label, "; ".join(alts), drawing))
        evaluations = [row for row in rows if any(name in row for name in losses if name != "loss")]
        if evaluations:
            head = ["step", *(name for name in losses if name != "loss")]
            cells = [
                [number(row["step"]), *(_cell(row.get(name)) for name in head[1:])]
                for row in evaluations
            ]
            block.tables.append(Table("Evaluations by step", [head[0], *head[1:]], cells))
        blocks.append(block)
        downloads.append(Download(_file(part, "training.csv"), as_csv(rows)))
    absent = "Training curves: no checkpoint that is whole, or no loss in its log."
    return Section("training", "Training curves", absent, blocks)


def contrast_section(parts: Sequence[Part], downloads: list[Download]) -> Section:
    """How far expert and amateur part: over steps, and in one set."""
    blocks = []
    for part in parts:
        if part.contrast:
            lines = sorted(part.contrast, key=lambda line: line["step"])
            block, steps = Block(told(part.name, "over steps")), [line["step"] for line in lines]
            for key, (label, is_share) in _CONTRAST_AXES.items():
                unit = 100 if is_share else 1
                values = [None if line[key] is None else unit * line[key] for line in lines]
                drawing = draw_steps([Series(label, steps, values)], y_label=label)
                alt = _course(label, steps, values, digits=3)
                block.figures.append(Shown(label, alt, drawing))
            head = ["step", "kept steps", *(label for label, _ in _CONTRAST_AXES.values())]
            rows = [
                [str(line["step"]), f"{line['num_kept']:,} of {line['num_steps']:,}"]
                + [
                    percent(line[key]) if is_share else number(line[key])
                    for key, (_, is_share) in _CONTRAST_AXES.items()
                ]
                for line in lines
            ]
            block.tables.append(Table("Contrast by step", head, rows))
            blocks.append(block)
            flat = [{k: v for k, v in r.items() if not isinstance(v, dict | list)} for r in lines]
            downloads.append(Download(_file(part, "contrast.csv"), as_csv(flat)))
        if part.mined is None:
            continue
        block = Block(told(part.name, part.mined.name))
        if part.mined.statistics is None:
            block.said.append(
                f"Its mining has not ended: {part.mined.num_there} of {part.mined.num_batches} "
                "batches are there, and no statistics yet."
            )
        else:
            head = ["what", "this set", "published, other models and prompts"]
            rows = [
                [_STATISTICS.get(name, name), _cell(value), PUBLISHED.get(name, "")]
                for name, value in part.mined.statistics.items()
            ]
            block.tables.append(Table("The whole set in numbers (arXiv 2510.07962)", head, rows))
            pairs = [{"statistic": k, "value": v} for k, v in part.mined.statistics.items()]
            downloads.append(Download(_file(part, "statistics.csv"), as_csv(pairs)))
        blocks.append(block)
    absent = "Contrast: no contrast.jsonl (ContrastCallback) and no mined set."
    return Section("contrast", "Contrast of expert and amateur", absent, blocks)


def trajectory_section(
    parts: Sequence[Part], find_tokenizer: FindTokenizer | None, tokenizer_at: str | None
) -> Section:
    """The first trajectories of each set, with their targets."""
    blocks, count = [], 0
    for part in parts:
        if part.mined is None or not part.mined.rows:
            continue
        block = Block(told(part.name, part.mined.name))
        tokenizer, why = _tokenizer_of(part.mined, find_tokenizer, tokenizer_at)
        if tokenizer is None:
            block.said.append(f"They cannot be shown as text: {why}.")
        else:
            for row in part.mined.rows:
                block.views.append((count, _view(row, tokenizer)))
                count += 1
            block.said.append(
                f"The first {len(part.mined.rows)} of {part.mined.settings['num_prompts']:,}."
            )
        blocks.append(block)
    absent = "Trajectories: no soft targets here."
    return Section("trajectories", "Trajectories and their soft targets", absent, blocks)


def _tokenizer_of(
    mined: MinedSet, find_tokenizer: FindTokenizer | None, tokenizer_at: str | None
) -> tuple[PreTrainedTokenizerBase | None, str]:
    """The tokenizer that the set was mined with, or why there is none."""
    if find_tokenizer is None:
        return None, "no tokenizer was looked for"
    reasons = []
    for where in [tokenizer_at] if tokenizer_at else mined.tokenizer_at:
        try:
            tokenizer = find_tokenizer(where)
        except (OSError, ValueError) as error:
            reasons.append(str(error).strip().splitlines()[0])
            continue
        # the ids of another one would be other words
        if tokenizer_fingerprint(tokenizer) == mined.settings.get("tokenizer"):
            return tokenizer, ""
        reasons.append(f"the tokenizer at {where} is not the one that the set was mined with")
    reason = (reasons or ["the set does not say where its tokenizer is"])[0]
    return None, f"{reason}; name its tokenizer with --tokenizer"


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int)


def _cell(value: Any) -> str:
    return number(value) if value is None or _is_number(value) else str(value)


def _file(part: Part, name: str) -> str:
    return f"{part.name}-{name}" if part.name else name
