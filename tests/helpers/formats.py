"""Answers as each server writes them, and a plain reading of what must come out.

The plain reading knows nothing of the package: pieces of bytes with probabilities are laid one
after another, and cut to the text that is wanted.
"""

import json
import math

TEXT = "It is 16²."
PIECES = [b"It", b" is", b" 16\xc2", b"\xb2", b"."]  # the letter is split between two tokens
LOGPROBS = [-0.1, -0.2, -0.01, -0.4, -0.3]
THOUGHT = "2048/128=16"
THOUGHT_PIECES = [b"2048", b"/128", b"=16"]
THOUGHT_LOGPROBS = [-0.5, -1.0, -0.05]


def token(piece: bytes, logprob, *, told: bool = True) -> dict:
    """A token as OpenAI writes it."""
    text = piece.decode(errors="replace")
    return {
        "token": text,
        "logprob": logprob,
        "bytes": list(piece) if told else None,
        "top_logprobs": [],
    }


def tokens(pieces=PIECES, logprobs=LOGPROBS, *, told: bool = True) -> list[dict]:
    """Tokens as OpenAI writes them."""
    return [token(p, x, told=told) for p, x in zip(pieces, logprobs, strict=True)]


def spans(pieces=PIECES, logprobs=LOGPROBS) -> tuple[list[list[int]], list[float]]:
    """The plain reading: each piece one span behind the other."""
    found, at = [], 0
    for piece in pieces:
        found.append([at, at + len(piece)])
        at += len(piece)
    return found, list(logprobs)


def mean_logprob(*logprobs: float) -> float:
    """Of a letter whose pieces have these."""
    return math.log(sum(map(math.exp, logprobs)) / len(logprobs))


def chat(content, content_tokens, finish="stop", *, logprobs=None, **message) -> dict:
    """A chat completion."""
    return {
        "id": "chatcmpl-9",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content, **message},
                "logprobs": {"content": content_tokens, **(logprobs or {})},
            }
        ],
    }


def row(response, **changes) -> dict:
    """A row that holds a response."""
    return {"example_id": "a", "prompt": "2048/128?", "response": response, **changes}


def lists(pieces=PIECES, logprobs=LOGPROBS, **more) -> dict:
    """Tokens in parallel lists, in the spelling of OpenAI's older API for half a letter."""
    texts = []
    for piece in pieces:
        try:
            texts.append(piece.decode())
        except UnicodeDecodeError:
            texts.append("bytes:" + "".join(f"\\x{byte:02x}" for byte in piece))
    return {"tokens": texts, "token_logprobs": list(logprobs), "top_logprobs": None, **more}


def think_tokens() -> list[dict]:
    """A stream of thinking between its marks, a blank line, and the answer."""
    pieces = [b"<think>", *THOUGHT_PIECES, b"</think>", b"\n\n", *PIECES, b"<|im_end|>"]
    logprobs = [-0.1, *THOUGHT_LOGPROBS, -0.1, -0.2, *LOGPROBS, 0.0]
    return tokens(pieces, logprobs)


def harmony_tokens() -> list[dict]:
    """A stream of Harmony's channels."""
    pieces = [
        *(b"<|channel|>", b"analysis", b"<|message|>", *THOUGHT_PIECES, b"<|end|>", b"<|start|>"),
        *(b"assistant", b"<|channel|>", b"final", b"<|message|>", *PIECES, b"<|return|>"),
    ]
    logprobs = [-0.1, -0.1, 0.0, *THOUGHT_LOGPROBS, -0.1, 0.0, 0.0, 0.0, 0.0, 0.0, *LOGPROBS, -0.1]
    return tokens(pieces, logprobs)


# pieces without a split letter, for servers that give a token as text alone
PLAIN = [b"It", b" is", b" 16", b"."]
PLAIN_LOGPROBS = [-0.1, -0.2, -0.01, -0.3]
PLAIN_TEXT = "It is 16."


def _tgi() -> dict:
    ids = [
        {"id": i, "text": p.decode(), "logprob": x, "special": False}
        for i, (p, x) in enumerate(zip(PLAIN, PLAIN_LOGPROBS, strict=True))
    ]
    end = {"id": 2, "text": "</s>", "logprob": -0.1, "special": True}
    details = {"finish_reason": "eos_token", "tokens": [*ids[:2], end, *ids[2:], end]}
    return {"generated_text": PLAIN_TEXT, "details": details}


def _gemini(logprob="logProbability", chosen="chosenCandidates", result="logprobsResult") -> dict:
    pairs = zip(PLAIN, PLAIN_LOGPROBS, strict=True)
    listed = [{"token": p.decode(), logprob: x, "tokenId": 1} for p, x in pairs]
    candidate = {"content": {"parts": [{"text": PLAIN_TEXT}]}, result: {chosen: listed}}
    return {"candidates": [candidate | {"finishReason": "STOP"}]}


def _text(text, finish="stop", **logprobs) -> dict:
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": lists(**logprobs)}
    return {"object": "text_completion", "choices": [choice]}


def _prompt_logprobs() -> dict:
    places = [None, {"9": {"logprob": -3.0, "rank": 9, "decoded_token": "\n"}}]
    for id, (piece, logprob) in enumerate(zip(PLAIN, PLAIN_LOGPROBS, strict=True), 10):
        own = {"logprob": logprob, "rank": 2, "decoded_token": piece.decode()}
        likeliest = {"logprob": -0.001, "rank": 1, "decoded_token": "x"}
        places.append({"7": likeliest, str(id): own})
    body = chat("x", None, "length")
    return body | {"prompt_token_ids": [8, 9, 10, 11, 12, 13], "prompt_logprobs": places}


def _lighteval() -> dict:
    pieces = [b'{"reasoning": "', *PIECES, b'"}']
    specific = {
        "frontier_logprobs": tokens(pieces, [-0.1, *LOGPROBS, -0.1]),
        "reasoning_byte_start": 15,
        "reasoning_byte_end": 15 + len(TEXT.encode()),
    }
    return {"query": "2048/128?", "choices": [TEXT], "specific": specific}


def _responses() -> dict:
    part = {"type": "output_text", "text": TEXT, "logprobs": tokens()}
    item = {"type": "message", "status": "completed", "content": [part]}
    return {"object": "response", "status": "completed", "output": [item]}


WHOLE, THINKING = (TEXT, *spans()), (THOUGHT, *spans(THOUGHT_PIECES, THOUGHT_LOGPROBS))
SIMPLE = (PLAIN_TEXT, *spans(PLAIN, PLAIN_LOGPROBS))
APART = {"reasoning_content": tokens(THOUGHT_PIECES, THOUGHT_LOGPROBS)}
# by name: a row, and by part the trace, spans and logprobs that must come out
SHAPES: dict[str, tuple[dict, dict]] = {
    "openai": (row(chat(TEXT, tokens())), {None: WHOLE, "answer": WHOLE, "all": WHOLE}),
    "sglang": (
        row(chat(TEXT, think_tokens(), reasoning_content=THOUGHT)),
        {None: THINKING, "reasoning": THINKING, "answer": WHOLE},
    ),
    "no parser": (
        row(chat(f"<think>{THOUGHT}</think>\n\n{TEXT}", think_tokens())),
        {None: THINKING, "reasoning": THINKING, "answer": WHOLE},
    ),
    "opened in the prompt": (
        row(chat(f"{THOUGHT}</think>\n\n{TEXT}", think_tokens()[1:])),
        {None: THINKING, "answer": WHOLE},
    ),
    "deepseek": (
        row(chat(TEXT, tokens(), reasoning_content=THOUGHT, logprobs=APART)),
        {None: THINKING, "answer": WHOLE},
    ),
    "openrouter": (
        row(chat(TEXT, think_tokens(), reasoning=THOUGHT)),
        {None: THINKING, "answer": WHOLE},
    ),
    "unknown marks": (
        row(chat(TEXT, tokens([b"<hm>", *THOUGHT_PIECES, b"</hm>", *PIECES],
                              [0.0, *THOUGHT_LOGPROBS, 0.0, *LOGPROBS]), reasoning=THOUGHT)),
        {None: THINKING, "answer": WHOLE},
    ),
    "parts": (
        row(chat([{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
                  {"type": "text", "text": TEXT}], think_tokens())),
        {None: THINKING, "answer": WHOLE},
    ),
    "completions": (row(_text(TEXT), prompt="Q\n"), {None: WHOLE}),
    "echo": (
        row(_text("Q\n" + TEXT, pieces=[b"Q", b"\n", *PIECES], logprobs=[None, -1, *LOGPROBS]),
            prompt="Q\n"),
        {None: WHOLE},
    ),
    "echo of a text": (
        row(_text("Q\n" + TEXT + "!", "length", pieces=[b"Q", b"\n", *PIECES, b"!"],
                  logprobs=[None, -1, *LOGPROBS, -2]), prompt="Q\n", trace=TEXT),
        {None: WHOLE},
    ),
    "responses": (row(_responses()), {None: WHOLE}),
    "ollama": (row(TEXT, logprobs=tokens(), done_reason="stop"), {None: WHOLE}),
    "ollama chat": (
        row({"message": {"content": TEXT, "thinking": THOUGHT}, "logprobs": think_tokens()[1:4]
             + think_tokens()[6:]}),
        {None: THINKING, "answer": WHOLE},
    ),
    "llama.cpp": (
        row({"content": TEXT, "completion_probabilities": tokens(), "stop_type": "eos"}),
        {None: WHOLE},
    ),
    "tgi": (row([_tgi()]), {None: SIMPLE}),
    "gemini": (row(_gemini()), {None: SIMPLE}),
    "gemini, python": (
        row(_gemini("log_probability", "chosen_candidates", "logprobs_result")), {None: SIMPLE}
    ),
    "prompt_logprobs": (row(_prompt_logprobs(), prompt="Q\n"), {None: SIMPLE}),
    "together": (
        row(chat(TEXT, None, "eos", logprobs=lists([*PIECES, b"<|eot_id|>"], [*LOGPROBS, -0.1]))),
        {None: WHOLE},
    ),
    "harmony": (
        row(chat(TEXT, harmony_tokens(), reasoning_content=THOUGHT)),
        {None: THINKING, "answer": WHOLE},
    ),
    "harmony, not parted": (
        row(chat(f"analysis{THOUGHT}assistantfinal{TEXT}", harmony_tokens())),
        {None: THINKING, "answer": WHOLE},
    ),
    "lighteval": (_lighteval(), {None: WHOLE}),
}  # fmt: skip


def write_rows(path, rows):
    """Rows as a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
