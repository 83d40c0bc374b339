"""Sections of a report on an expert held against an amateur: figures, sets, trajectories."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.soft_targets import FLAT_SUPPORT, PUBLISHED_STATISTICS
from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Section,
    Table,
    as_csv,
    cell_text,
    download_name,
    heading,
    number,
    percent,
)
from hf_proxy.report.contents import MinedSet, RunContents
from hf_proxy.report.figures.pages import draw_panel
from hf_proxy.report.figures.sets import contrast_panels
from hf_proxy.report.foretelling import foretold_block, foretold_figure, foretold_table
from hf_proxy.report.step_figures import step_figure
from hf_proxy.report.trajectories import trajectory_view
from hf_proxy.tokens.tokenizers import tokenizer_fingerprint

FindTokenizer = Callable[[str], PreTrainedTokenizerBase]
# statistic: what it is, in which unit
_STATISTIC_LABELS = {
    "num_rows": "trajectories",
    "num_steps": "generated steps",
    "num_kept": "steps kept",
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


def contrast_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """How far expert and amateur part: over steps, and in one set."""
    blocks = []
    for contents in folders:
        if contents.contrast:
            lines = sorted(contents.contrast, key=lambda line: line["step"])
            block = Block(heading(contents.name, "over steps"))
            steps = [line["step"] for line in lines]
            for key, (label, is_share) in _CONTRAST_AXES.items():
                unit = 100 if is_share else 1
                values = [None if line[key] is None else unit * line[key] for line in lines]
                block.show(step_figure(label, steps, values, digits=3))
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
            if told := [line for line in lines if line.get("foretold")]:
                block.tables.append(foretold_table(told))
                block.show(foretold_figure(told))
            blocks.append(block)
            flat = [{k: v for k, v in r.items() if not isinstance(v, dict | list)} for r in lines]
            downloads.append(Download(download_name(contents.name, "contrast.csv"), as_csv(flat)))
        if contents.foretold:
            blocks.append(foretold_block(contents))
        if contents.mined is None:
            continue
        title = heading(contents.name, contents.mined.name)
        block = Block(title, is_detail=len(folders) > 1)
        rules = contents.mined.rules
        block.sentences.append(rules.describe())
        if contents.mined.shards:
            panels = contrast_panels(contents.mined.all_rows(), divergence_beta=rules.kept_from)
            for one in panels:
                is_said = one.is_said
                figure = f"{one.alt}." if is_said else Figure(one.title, one.alt, draw_panel(one))
                block.show(figure)
        if contents.mined.statistics is None:
            block.sentences.append(
                f"Its mining has not ended: {len(contents.mined.shards)} of "
                f"{contents.mined.num_batches} batches are there, and no statistics yet."
            )
        else:
            head = ["what", "this set", "published, other models and prompts"]
            rows = [
                [
                    _STATISTIC_LABELS.get(name, name),
                    cell_text(value),
                    PUBLISHED_STATISTICS.get(name, ""),
                ]
                for name, value in contents.mined.statistics.items()
            ]
            caption = "The whole set in numbers (arXiv 2510.07962)"
            block.tables.append(Table(caption, head, rows, is_detail=len(folders) > 1))
            pairs = [{"statistic": k, "value": v} for k, v in contents.mined.statistics.items()]
            downloads.append(
                Download(download_name(contents.name, "statistics.csv"), as_csv(pairs))
            )
        blocks.append(block)
    return Section("contrast", "Contrast of expert and amateur", blocks)


def trajectory_section(
    folders: Sequence[RunContents], find_tokenizer: FindTokenizer | None, tokenizer_at: str | None
) -> Section:
    """The first trajectories of each set, with their targets."""
    blocks, count = [], 0
    for contents in folders:
        if contents.mined is None or not contents.mined.rows:
            continue
        block = Block(heading(contents.name, contents.mined.name))
        tokenizer, why = tokenizer_of_set(contents.mined, find_tokenizer, tokenizer_at)
        if tokenizer is None:
            block.sentences.append(f"They cannot be shown as text: {why}.")
        else:
            for row in contents.mined.rows:
                block.views.append((count, trajectory_view(row, tokenizer)))
                count += 1
            block.sentences.append(
                f"The first {len(contents.mined.rows)} of "
                f"{contents.mined.settings['num_prompts']:,}."
            )
        blocks.append(block)
    return Section("trajectories", "Trajectories and their soft targets", blocks)


def tokenizer_of_set(
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
