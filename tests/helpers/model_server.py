"""A server that speaks OpenAI's API over a real model, on the loopback, in a thread of the test.

Its log-probabilities are the model's own. `Faults` stands between it and who asks, and spoils the
replies that a test names.
"""

import asyncio
import contextlib
import itertools
import json
import threading
import time

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from hf_proxy.tokens.pieces import IdSpeller

WAYS = ("prompt_logprobs", "echo")


class ModelServer:
    """The endpoints `/v1/chat/completions` and `/v1/completions`.

    Args:
        model, tokenizer: what is served.
        scripts: text that is written in answer to a question in which the key stands, with the
            model's own probabilities of it; other answers are the model's.
        scores: ways of scoring text that it knows.
        echo_at: `"right"`, `"late"` or `"early"` (each value one place off), or `"own"`: read at
            the token's own position, as llama-cpp-python does.
        bos: id put before every text.
        tempered: log-probabilities are those after the temperature.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        scripts=None,
        scores=WAYS,
        echo_at="right",
        bos=None,
        tempered=False,
    ):
        self.tempered = tempered
        self.model, self.tokenizer, self.scripts = model, tokenizer, scripts or {}
        self.scores, self.echo_at, self.bos = scores, echo_at, bos
        self.speller = IdSpeller(tokenizer)
        self.numbers = itertools.count()
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/v1/completions")(self.completions)

    async def chat(self, request: Request):
        body = await request.json()
        asked = "\n".join(message["content"] for message in body["messages"])
        text = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, tokenize=False
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        new, logprobs, finish = self.written(ids, asked, body)
        pieces = self.speller.spell(new)
        content = b"".join(p.data for p in pieces if not p.is_special).decode(errors="replace")
        choice = {"index": 0, "finish_reason": finish, "logprobs": None}
        choice["message"] = {"role": "assistant", "content": content}
        if body.get("logprobs"):
            choice["logprobs"] = {
                "content": [
                    {
                        "token": piece.data.decode(errors="replace"),
                        "bytes": list(piece.data),
                        "logprob": logprob,
                        "top_logprobs": [],
                    }
                    for piece, logprob in zip(pieces, logprobs, strict=True)
                    if not piece.is_special
                ]
            }
        return self.reply("chat.completion", choice, ids, new)

    async def completions(self, request: Request):
        body = await request.json()
        ids = self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        ids = [self.bos] * (self.bos is not None) + ids
        new, logprobs, finish = self.written(ids, body["prompt"], body)
        echoed = bool(body.get("echo")) and "echo" in self.scores
        shown = list(zip(new, logprobs, strict=True))
        if echoed:
            shown = self.scored(ids + new, body)[: len(ids)] + shown
        if echoed and self.echo_at in ("late", "early"):
            values = [logprob for _, logprob in shown]
            moved = [None, *values[:-1]] if self.echo_at == "late" else [*values[1:], None]
            shown = [(id, value) for (id, _), value in zip(shown, moved, strict=True)]
        texts = [
            piece.data.decode(errors="replace")
            for piece in self.speller.spell([id for id, _ in shown])
        ]
        text = (body["prompt"] if echoed else "") + self.tokenizer.decode(
            new, skip_special_tokens=True
        )
        choice = {"index": 0, "finish_reason": finish, "text": text, "logprobs": None}
        if body.get("logprobs") is not None:
            choice["logprobs"] = {
                "tokens": texts,
                "token_logprobs": [logprob for _, logprob in shown],
                "top_logprobs": self.likeliest(ids + new, len(ids) if not echoed else 0),
            }
        if body.get("prompt_logprobs") is not None and "prompt_logprobs" in self.scores:
            choice["prompt_logprobs"] = [
                None
                if value is None
                else {str(id): {"logprob": value, "rank": 1, "decoded_token": piece}}
                for (id, value), piece in zip(
                    self.scored(ids, body),
                    [p.data.decode(errors="replace") for p in self.speller.spell(ids)],
                    strict=True,
                )
            ]
        return self.reply("text_completion", choice, ids, new)

    def reply(self, kind, choice, ids, new):
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(new)}
        return {
            "id": f"r-{next(self.numbers)}",
            "object": kind,
            "choices": [choice],
            "usage": usage,
        }

    @torch.no_grad()
    def logprobs_TV(self, ids):
        return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)

    def scored(self, ids, body):
        """Each id with its value; the first has none."""
        logprobs_TV = self.logprobs_TV(ids)
        if self.tempered:
            logprobs_TV = torch.log_softmax(logprobs_TV / body["temperature"], -1)
        at = range(len(ids)) if self.echo_at == "own" else range(-1, len(ids) - 1)
        values = [
            None if place < 0 else float(logprobs_TV[place, id])
            for place, id in zip(at, ids, strict=True)
        ]
        return list(zip(ids, [None, *values[1:]], strict=True))

    def likeliest(self, ids, start):
        """The likeliest token at each place, as a mapping to its value."""
        logprobs_TV = self.logprobs_TV(ids)
        found = []
        for place in range(start, len(ids)):
            row = place if self.echo_at == "own" else place - 1
            if row < 0:
                found.append(None)
                continue
            value, id = logprobs_TV[row].max(-1)
            found.append({self.tokenizer.decode([int(id)]): float(value)})
        return found

    def written(self, ids, asked, body):
        """New ids, the end included, their log-probabilities, and why they end."""
        end = self.tokenizer.eos_token_id
        script = next((text for key, text in self.scripts.items() if key in asked), None)
        if script is not None:
            new = [*self.tokenizer(script, add_special_tokens=False)["input_ids"], end]
            new = new[: body["max_tokens"]]
            rows_TV = self.logprobs_TV(ids + new)[len(ids) - 1 : -1]
            logprobs = [float(row_V[id]) for row_V, id in zip(rows_TV, new, strict=True)]
            return new, logprobs, "stop" if new[-1] == end else "length"
        temperature = body.get("temperature", 1.0)
        draws = torch.Generator().manual_seed(body.get("seed") or 0)
        new, logprobs = [], []
        while len(new) < body["max_tokens"] and new[-1:] != [end]:
            row_V = self.logprobs_TV(ids + new)[-1]
            if temperature > 0:
                chances_V = torch.softmax(row_V / temperature, -1)
                new.append(int(torch.multinomial(chances_V, 1, generator=draws)))
            else:
                new.append(int(row_V.argmax()))
            logprobs.append(float(row_V[new[-1]]))
        return new, logprobs, "stop" if new[-1] == end else "length"


class Faults:
    """What stands between: counts requests, keeps them, and spoils some.

    Attributes:
        plan: fault by the place of a request among all, from 0.
        requests: bodies of all that came.
        headers: of all that came.
        most: requests that were under way at once.
    """

    def __init__(self, app):
        self.app, self.plan, self.requests, self.headers = app, {}, [], []
        self.last, self.now, self.most = b"{}", 0, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.pass_on(scope, receive, send)
        finally:
            self.now -= 1

    async def pass_on(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        fault = self.plan.pop(len(self.requests), None)
        self.requests.append(json.loads(body))
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        if fault in (400, 401, 404, 429, 500):
            error = {"error": {"message": f"told: {self.headers[-1]['authorization']}"}}
            headers = {"retry-after-ms": "1"}
            return await JSONResponse(error, fault, headers=headers)(scope, receive, send)
        if fault == "slow":
            await asyncio.sleep(1.0)
        found = {}

        async def again():
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message):
            found["status"] = message.get("status", found.get("status"))
            found["body"] = found.get("body", b"") + message.get("body", b"")

        await self.app(scope, again, keep)
        data = spoilt(found["body"], fault, self.last)
        self.last = found["body"]
        length = len(data) + (100 if fault == "cut" else 0)
        kind = b"text/html" if fault == "html" else b"application/json"
        headers = [(b"content-type", kind), (b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": found["status"], "headers": headers})
        # a body shorter than promised is a connection cut
        await send({"type": "http.response.body", "body": data, "more_body": fault == "cut"})


def spoilt(data, fault, last):
    """A reply as a fault leaves it."""
    if fault == "html":
        return b"<html><body>502 Bad Gateway</body></html>"
    if fault == "repeat":
        return last
    if fault not in ("half", "empty", "no_logprobs"):
        return data
    reply = json.loads(data)
    (choice,) = reply["choices"]
    if fault == "no_logprobs":
        choice["logprobs"] = None
    elif fault == "empty":
        choice["message"]["content"], choice["logprobs"] = "", {"content": []}
    else:  # the text lost a letter that its tokens still spell
        text = choice["message"]["content"]
        choice["message"]["content"] = f"{text[:20]}\ufffd{text[21:]}"
    return json.dumps(reply).encode()


@contextlib.contextmanager
def serving(app):
    """The base URL of an app that runs on the loopback until the block ends."""
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
