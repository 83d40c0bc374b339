"""Whether a server's probabilities of given text are those that it writes by.

Some servers give each token of an echoed prompt the value of another place, silently. So before
anything is scored the server writes a few tokens with their log-probabilities, is given the same
text, and must say the same of it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_proxy.building.reading import parsed_body
from hf_proxy.building.servers import Reply, Request, Server
from hf_proxy.records.errors import InputError
from hf_proxy.traces.shapes.answer import Place, RowDefect, Token
from hf_proxy.traces.shapes.recognise import read_answer

HOW = ("prompt_logprobs", "echo")
# chosen here, nats: a server that computes in bfloat16 differs so much between writing and reading
_MEAN_WITHIN = 0.15
_EACH_WITHIN = 0.75
_TRIES = 6  # texts that a tokenizer cuts otherwise than they were written tell nothing
_NUM_TOKENS = 16
_MOST_BEHIND = 2  # tokens that a request for one may add
_FEWEST = 4  # tokens that are compared
_HEAD = 32  # bytes by which the beginning of a text is known
_MARK = re.compile(rb"<[|\w]+>")  # a special token as a chat template writes it
_SHIFTS = (0, 1, -1)
_TEMPERATURE = 0.5  # another than 1, to see whether the values of given text move with it


class Proof(NamedTuple):
    """What was found of a server.

    Attributes:
        how: the way that text is scored.
        shift: places by which its values stand late.
        num_tokens: that were compared.
        largest_difference: nats, of these, once moved by `shift`.
        adds_bos: it puts tokens before the text.
        first_is_null: the first token has no value.
        moves_with_temperature: values of given text depend on the temperature; asked at 1.
    """

    how: str
    shift: int
    num_tokens: int
    largest_difference: float
    adds_bos: bool
    first_is_null: bool
    moves_with_temperature: bool


def scoring_fields(how: str) -> dict[str, Any]:
    """Fields of a request that has a prompt scored; one token is written, as some write no fewer.

    At temperature 1, as some servers scale by it.
    """
    own = {"prompt_logprobs": 0} if how == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    return {"max_tokens": 1, "temperature": 1.0, **own}


def prove_server(server: Server, prompt: str, how: str | None, echo_shift: int) -> Proof:
    """Prove a server on text that it writes after `prompt`.

    Args:
        how: one of `HOW`; None: the first that it knows.
        echo_shift: the shift that the user knows of.

    Raises:
        InputError: it scores no text, scores it otherwise than it writes, or by another shift than
            `echo_shift`: named, with the remedy.
    """
    known = [how] if how else list(HOW)
    for way in known:
        try:
            proof = _prove(server, prompt, way)
        except InputError:
            if way == known[-1]:  # some refuse what they do not know
                raise
            continue
        except _NotKnown as error:
            if way == known[-1]:
                raise InputError.at(
                    f"the server scores no text that it is given ({error})",
                    remedy="use one with prompt_logprobs (vLLM) or echo, or a local frontier",
                    source=server.base_url,
                ) from error
            continue
        if proof.shift != echo_shift:
            _refuse_shift(server, proof, echo_shift)
        return proof
    raise AssertionError("there is a last way")


def _refuse_shift(server: Server, proof: Proof, echo_shift: int) -> None:
    if not proof.shift:
        problem, remedy = "its values stand at their own tokens", "leave echo_shift out"
    elif proof.how != "echo":
        problem = f"its {proof.how} are off by {abs(proof.shift)} token"
        remedy = "ask it by echo, or use a local frontier"
    else:
        side = "late" if proof.shift > 0 else "early"
        problem = f"its echo is off by one token: each value stands one place {side}"
        remedy = f"pass --echo_shift {proof.shift}: moved back they are exact"
    raise InputError.at(problem, remedy=remedy, source=server.base_url, field="echo_shift")


class _NotKnown(Exception):
    """The server does not know a way of scoring."""


def _prove(server: Server, prompt: str, how: str) -> Proof:
    found = None
    for seed in range(_TRIES):
        written = _tokens(
            _reply(server, prompt, max_tokens=_NUM_TOKENS, temperature=1.0, logprobs=1, seed=seed),
            "",
        )
        written = _spelling(written)
        if len(written) < _FEWEST:
            continue
        text = prompt + b"".join(token.data or b"" for token in written).decode()
        response = _reply(server, text, **scoring_fields(how))
        scored = _tokens(response, text, how)
        start = _place_of(scored, written)
        if start is None:
            continue
        found = (written, scored, start, text, response)
        differences = _differences(written, scored, start)
        fitting = [shift for shift, own in differences.items() if _fits(own)]
        if len(fitting) > 1:  # tokens that are all certain tell no shift
            continue
        if not fitting:
            _refuse(server, how, written, response, start, differences[0])
        (shift,) = fitting
        again = _tokens(
            _reply(server, text, **scoring_fields(how) | {"temperature": _TEMPERATURE}), text, how
        )
        return Proof(
            how=how,
            shift=shift,
            num_tokens=len(differences[shift]),
            largest_difference=float(differences[shift].max()),
            adds_bos=_check_bos(server, scored, text),
            first_is_null=scored[0].logprob is None,
            moves_with_temperature=_moved(scored, again, start, len(written)),
        )
    problem = (
        "nothing that it wrote could be found in its echo"
        if found is None
        else ("what it wrote was too certain to tell a shift")
    )
    raise InputError.at(
        f"the server could not be proved: {problem}",
        remedy="use another server, or a local frontier",
        source=server.base_url,
    )


def _refuse(
    server: Server,
    how: str,
    written: Sequence[Token],
    response: Mapping[str, Any],
    start: int,
    differences: np.ndarray,
) -> None:
    most = f"up to {differences.max():.2f} nats" if len(differences) else "all are missing"
    problem = f"its {how} are not the probabilities that it writes by ({most} apart)"
    if _own_position(written, response, start):
        problem = (
            "its echo is off by one token: each value is read at the token's own place, not at the "
            "one before, and cannot be moved back"
        )
    raise InputError.at(
        problem, remedy="use another server, or a local frontier", source=server.base_url
    )


def _own_position(written: Sequence[Token], response: Mapping[str, Any], start: int) -> bool:
    """Whether the likeliest tokens that stand at a place are those of the next one."""
    try:
        likeliest = response["choices"][0]["logprobs"]["top_logprobs"]
        found = []
        for number, token in enumerate(written[1:], 1):
            at = likeliest[start + number - 1] or {}
            own = at.get((token.data or b"").decode(errors="replace"))
            if own is not None and token.logprob is not None:
                found.append(abs(own - token.logprob))
        return bool(found) and float(np.mean(found)) < _MEAN_WITHIN
    except (KeyError, IndexError, TypeError, AttributeError):
        return False


def _reply(server: Server, prompt: str, **fields: Any) -> dict[str, Any]:
    """What a server answers to one request."""
    texts: list[str] = []

    def take(reply: Reply) -> None:
        texts.append(reply.text)

    body = server.body(prompt, "completions", **fields)
    server.ask([Request("proof", body)], take, api="completions", desc="Proof", total=1)
    try:
        return parsed_body(texts[0], Place(server.base_url, None))
    except RowDefect as error:
        raise InputError(str(error)) from error


def _tokens(response: Mapping[str, Any], prompt: str, how: str = "echo") -> list[Token]:
    """Tokens of a response.

    Raises:
        _NotKnown: there are none of that kind.
    """
    try:
        answer = read_answer(response, "", Place(None, None), prompt or None)
    except RowDefect as error:
        raise _NotKnown(str(error)) from error
    tokens = list(answer.tokens)
    if not tokens or (prompt and not answer.has_context):
        raise _NotKnown(f"no {how}" if prompt else "no logprobs of what it writes")
    if prompt and how == "prompt_logprobs" and not answer.field.endswith(how):
        raise _NotKnown(f"no {how}")
    return tokens


def _spelling(tokens: Sequence[Token]) -> list[Token]:
    """The first tokens, as far as each spells whole letters."""
    own: list[Token] = []
    for token in tokens:
        if not token.data or token.logprob is None or not _is_whole(token.data):
            break
        own.append(token)
    return own


def _is_whole(data: bytes) -> bool:
    return "\ufffd" not in data.decode(errors="replace")


def _place_of(scored: Sequence[Token], written: Sequence[Token]) -> int | None:
    """Number of the first written token among those of the whole text, if it is cut alike there.

    The text ends with what was written; behind it an echo may have the token that came after.
    """
    pieces = [token.data for token in written]
    for behind in range(_MOST_BEHIND + 1):
        start = len(scored) - len(written) - behind
        if start > 0 and [t.data for t in scored[start : start + len(written)]] == pieces:
            return start
    return None


def _differences(
    written: Sequence[Token], scored: Sequence[Token], start: int
) -> dict[int, np.ndarray]:
    """By shift, nats between what was written and what is said of it."""
    found = {}
    for shift in _SHIFTS:
        pairs = []
        for number, token in enumerate(written):
            at = start + number + shift
            value = scored[at].logprob if 0 <= at < len(scored) else None
            if value is not None and token.logprob is not None:
                pairs.append(abs(value - token.logprob))
        found[shift] = np.array(pairs)
    return found


def _fits(differences: np.ndarray) -> bool:
    if len(differences) < _FEWEST - 1:
        return False
    return bool(differences.mean() <= _MEAN_WITHIN and differences.max() <= _EACH_WITHIN)


def _check_bos(server: Server, scored: Sequence[Token], text: str) -> bool:
    """Whether the server puts a token before the text, and not one that the text brings."""
    spelt = b"".join(token.data or b"" for token in scored)
    head = text.encode()[:_HEAD]
    first = scored[0].data
    mark = _MARK.match(head)
    # not spelt, a first token that hides nothing of the text is the server's own
    is_doubled = spelt.startswith(head) if first is None else spelt.startswith(first + first)
    if mark is not None and is_doubled:
        raise InputError.at(
            f"it puts a token of its own before a text that begins with {mark[0].decode()!r}",
            remedy="pass --extra_body '{\"add_special_tokens\": false}'",
            source=server.base_url,
        )
    # a first token that is not spelt hides the text's head, or is the server's own
    return spelt.startswith(head) == (first is None)


def _moved(scored: Sequence[Token], again: Sequence[Token], start: int, num_tokens: int) -> bool:
    pairs = [
        abs(one.logprob - other.logprob)
        for one, other in zip(
            scored[start : start + num_tokens], again[start : start + num_tokens], strict=True
        )
        if one.logprob is not None and other.logprob is not None
    ]
    return bool(pairs) and float(np.mean(pairs)) > _MEAN_WITHIN
