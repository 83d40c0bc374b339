"""Soft targets shown to people: in a terminal, or as an HTML page that needs nothing else."""

from collections.abc import Iterable, Mapping
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.soft_targets import check_soft_targets, target_outcome
from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import write_text
from hf_proxy.tokens.spans import byte_level

# Lower edges of the shades, in nats, behind shade 0. 0.4 is the divergence_beta of
# arXiv:2510.07962, the others are chosen here.
_SHADE_EDGES = (0.1, 0.4, 0.8, 1.4, 2.0)
_SHADES = ("below 0.1", "0.1 to 0.4", "0.4 to 0.8", "0.8 to 1.4", "1.4 to 2.0", "2.0 and more")
# with the colour of the letters, so that they read on dark and on light terminals
_SHADE_STYLES = ["", *(f"black on #{rgb}" for rgb in ("fff3c4", "fed976", "fd9d3c", "f0532d"))]
_SHADE_STYLES += ["white on #a50f15"]
_NO_LETTER = "\u00b7"  # stands for a token that completes no letter
# control characters, those that break lines or turn the reading order round, and lone surrogates,
# which cannot be written as UTF-8; a line break still breaks the line
_INVISIBLE = (range(0x20), range(0x7F, 0xA0), range(0x2028, 0x202F), range(0x2066, 0x206A))
_VISIBLE_SIGNS = {
    code: f"<U+{code:04X}>" for codes in (*_INVISIBLE, range(0xD800, 0xE000)) for code in codes
}
_VISIBLE_SIGNS |= {ord("\n"): "\u21b5\n", ord("\t"): "\u21e5"}
# the same in a finished page, for texts that came into it as they are
_PAGE_SIGNS = {code: f"&lt;U+{code:04X}&gt;" for code in _VISIBLE_SIGNS if chr(code) not in "\n\t"}
_STEP_FIELDS = ("kl", "top1_agree", "expert_entropy", "amateur_entropy")
_TARGET_FIELDS = ("prob", "expert_logprob", "amateur_logprob")


class _Token(NamedTuple):
    step: int
    text: str  # what it adds to the decoded text
    shade: int  # index into _SHADES
    kept: bool
    kl: float
    top1_agree: bool
    expert_entropy: float
    amateur_entropy: float


class _Target(NamedTuple):
    text: str
    chosen: bool
    prob: float
    expert: float  # probability
    amateur: float


class _KeptStep(NamedTuple):
    token: _Token
    text: str  # of the token alone, also where it is a part of a letter
    outcome: str
    targets: list[_Target]  # most probable first


class _TrajectoryView(NamedTuple):
    example_id: str
    prompt: str
    tokens: list[_Token]
    kept: list[_KeptStep]
    summary: str


def token_pieces(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each token adds to the decoded text; joined they are the decoded text.

    A letter of several tokens belongs to the last of them, the others add nothing. Every prefix is
    decoded, so time grows with the square of the length.
    """
    full, end, pieces = _decode(tokenizer, ids), 0, []
    for num in range(1, len(ids) + 1):
        # an unfinished letter decodes to a replacement character, where the full text has another
        same = len(commonprefix([_decode(tokenizer, ids[:num]), full]))
        pieces.append(full[end:same])
        end = max(end, same)
    return pieces


def render_terminal(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    console: Console,
    max_targets: int = 5,
) -> None:
    """Print each row: its text shaded by KL with kept tokens underlined, then its kept steps.

    Args:
        rows: soft targets, one trajectory each; read one by one.
        max_targets: entries shown of a kept step; how many are left out is said.

    Raises:
        InputError: there is no row, or the fields of one do not fit together.
    """
    num_rows = 0
    for row in rows:
        view = trajectory_view(row, tokenizer)
        if not num_rows:  # all is printed as Text, which is never read as markup
            shades = [
                (f" {name} ", style) for name, style in zip(_SHADES, _SHADE_STYLES, strict=True)
            ]
            console.print(Text.assemble("KL in nats: ", *shades, "  ", ("kept", "underline")))
        num_rows += 1
        console.print(Text.assemble("\n", (view.example_id, "bold"), f"  {view.summary}"))
        console.print(Text(view.prompt, style="dim"), overflow="fold")
        text = Text()
        for token in view.tokens:
            style = _SHADE_STYLES[token.shade] + " underline" * token.kept
            text.append(token.text or _NO_LETTER, style=style)
        console.print(text, overflow="fold")
        table = Table("step", "token", "KL", "top-1", "target (expert/amateur)", box=None)
        for kept in view.kept:
            flip = ("flip  " * (kept.outcome == "flip"), "bold red")
            targets = Text.assemble(flip, overflow="fold")
            for t in kept.targets[:max_targets]:
                targets.append(f"{t.text} {t.prob:.2f} ({t.expert:.2f}/{t.amateur:.2f})  ")
            if len(kept.targets) > max_targets:
                targets.append(f"+{len(kept.targets) - max_targets} more")
            agree, kl = "same" if kept.token.top1_agree else "differs", f"{kept.token.kl:.2f}"
            table.add_row(str(kept.token.step), Text(kept.text), kl, agree, targets)
        if view.kept:
            console.print(table)
    if not num_rows:
        raise InputError.at("no soft targets to show", remedy="give at least one row")


def write_page(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
) -> None:
    """Write the rows as one HTML file, with neither script nor request, for light and dark.

    Args:
        rows: soft targets, one trajectory each; all are held at once, so give a sample.
        facts: name to value, a table above the trajectories.

    Raises:
        InputError: there is no row, or the fields of one do not fit together.
    """
    views = [trajectory_view(row, tokenizer) for row in rows]
    if not views:
        raise InputError.at("no soft targets to show", remedy="give at least one row")
    page = render_page("trajectories.html.jinja", title=title, facts=facts, views=views)
    write_text(Path(path), page)


def render_page(name: str, **content: Any) -> str:
    """A page from one of our templates; whatever is put into it stands there as text.

    Args:
        name: of the template's file.
        content: what the template asks for, beside what all pages of trajectories do.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = pages.get_template(name).render(shades=_SHADES, nothing=_NO_LETTER, **content)
    return page.translate(_PAGE_SIGNS)


def trajectory_view(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> _TrajectoryView:
    """What a page shows of a `SoftTargets` row."""
    check_soft_targets(row)
    ids, start, offset = np.asarray(row["input_ids"]).tolist(), row["prompt_length"], row["offset"]
    pieces = (piece.translate(_VISIBLE_SIGNS) for piece in token_pieces(ids[start:], tokenizer))
    shades = np.searchsorted(_SHADE_EDGES, row["kl"], side="right").tolist()
    is_kept = np.isin(np.arange(start, len(ids)), row["position"]).tolist()
    values = (np.asarray(row[name]).tolist() for name in _STEP_FIELDS)
    columns = zip(range(len(shades)), pieces, shades, is_kept, *values, strict=True)
    tokens, kept = [_Token(*cells) for cells in columns], []
    for position, begin, end in zip(row["position"], offset[:-1], offset[1:], strict=True):
        before, chosen = ids[position - 1 : position + 1]
        prob, expert, amateur = (np.asarray(row[name][begin:end]) for name in _TARGET_FIELDS)
        target_ids = np.asarray(row["token_id"][begin:end]).tolist()
        entries = zip(target_ids, prob, np.exp(expert), np.exp(amateur), strict=True)
        targets = [
            _Target(_token_text(tokenizer, before, id), id == chosen, *p) for id, *p in entries
        ]
        targets.sort(key=lambda target: -target.prob)
        outcome, text = target_outcome(prob, expert), _token_text(tokenizer, before, chosen)
        kept.append(_KeptStep(tokens[position - start], text, outcome, targets))
    mean = f", mean KL {np.mean(row['kl']):.3f} nats" if tokens else ""
    summary = f"{len(tokens)} steps, {len(kept)} kept{mean}"
    prompt = _decode(tokenizer, ids[:start]).translate(_VISIBLE_SIGNS)
    return _TrajectoryView(
        row["example_id"].translate(_VISIBLE_SIGNS), prompt, tokens, kept, summary
    )


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _token_text(tokenizer: PreTrainedTokenizerBase, before: int, id: int) -> str:
    """A token in a table: spaces visible, a part of a letter as its bytes."""
    # behind another token, since decoders drop the space at the start of a text
    start, both = _decode(tokenizer, [before]), _decode(tokenizer, [before, id])
    text = both[len(start) :] if both.startswith(start) else _decode(tokenizer, [id])
    if text and "\ufffd" not in text:
        return text.translate(_VISIBLE_SIGNS).replace(" ", "\u2423").replace("\n", "")
    piece = str(tokenizer.convert_ids_to_tokens(id))
    data = None if piece.startswith("<") else byte_level(piece)
    return "".join(f"<0x{byte:02X}>" for byte in data) if data else piece.translate(_VISIBLE_SIGNS)
