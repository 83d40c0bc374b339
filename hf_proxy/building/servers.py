"""Requests to a server that speaks OpenAI's API: many at once, sent again, counted, never lost.

What comes back is handed over as text, before anyone reads it. The key comes from the environment
and is struck out of every text that goes on.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from hf_proxy.building.settings import ServerSettings
from hf_proxy.records.errors import InputError

KEY = "OPENAI_API_KEY"
_NO_KEY = "none"  # servers of one's own ask for none, the client wants one
_LOOK = "see that the server runs, and what it says of the request"
_STRUCK = "[key]"
# letters: what is shorter is no secret ("EMPTY" for a server of one's own), and may stand in a text
_SHORTEST_SECRET = 12
_INSTALL = "pip install 'hf-proxy[servers]'"
# chosen here: so many that fail, with none that succeeds, are the server's or the request's fault
_MOST_FAILURES = 5
_FATAL = {
    401: f"set {KEY} in the environment",
    403: f"set {KEY} in the environment",
    404: "check base_url (it ends in /v1 for most servers) and the model's name",
}


class Request(NamedTuple):
    """One thing to ask: `body` as the API takes it, `name` for whoever waits for the reply."""

    name: str
    body: Mapping[str, Any]


class Reply(NamedTuple):
    """What came back, as text."""

    name: str
    text: str
    seconds: float


def check_base_url(base_url: str) -> str:
    """A server's address, which goes into settings and provenance.

    Raises:
        InputError: it is none, or holds a secret.
    """
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_secret = bool(parts.username or parts.password or parts.query)
    except ValueError:
        is_address = has_secret = False
    if not is_address or has_secret:
        problem = "a key has no place in it" if has_secret else "no address of a server"
        raise InputError.at(
            problem,
            remedy=f"write it as http://localhost:8000/v1; a key stands in {KEY}",
            field="base_url",
        )
    return base_url.rstrip("/")


class Server:
    """A server that is asked with the key of the environment.

    Args:
        base_url: as `http://localhost:8000/v1`.
        model: its name there.
    """

    def __init__(self, base_url: str, model: str, settings: ServerSettings):
        self.base_url, self.model, self.settings = check_base_url(base_url), model, settings
        _require_client()

    def body(self, asked: str | list, api: str, **fields: Any) -> dict[str, Any]:
        """A request's body: messages for a chat, else the text of a completion."""
        what = {"messages" if api == "chat" else "prompt": asked}
        return {"model": self.model, **what, **fields, **(self.settings.extra_body or {})}

    def ask(
        self,
        requests: Iterable[Request],
        take: Callable[[Reply], Request | None],
        *,
        api: str,
        desc: str,
        total: int,
        told: Callable[[], str] = str,
    ) -> dict[str, str]:
        """Ask all of them; `take` gets each reply as it comes, and may ask once more.

        Args:
            requests: taken as there is room.
            take: stores and reads a reply; gives what is to be asked next for the same name, or
                None. What it raises ends the run.
            desc, total: of the progress bar.
            told: what the bar says beside the count.

        Returns:
            by name why there is no reply: what the server refused, or did not send in so many
            tries.

        Raises:
            InputError: no server there, a key or model that it does not know, nothing but failures.
        """
        work = self._ask(requests, take, api, desc, total, told)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        return _in_thread(work)  # in a notebook a loop runs already

    async def _ask(self, requests, take, api, desc, total, told) -> dict[str, str]:
        import openai
        from aiolimiter import AsyncLimiter

        settings = self.settings
        key = os.environ.get(KEY) or _NO_KEY
        waiting, failed, num_replies = iter(requests), {}, 0
        rate = settings.requests_per_minute
        limiter = None if rate is None else AsyncLimiter(1, 60 / rate)
        bar = tqdm(
            total=total,
            desc=desc,
            unit=" answers",
            leave=False,
            disable=None if total > 1 else True,
        )

        async def one(client: Any, request: Request) -> None:
            nonlocal num_replies
            following: Request | None = request
            while following is not None:
                if limiter is not None:
                    await limiter.acquire()
                began = time.monotonic()
                try:
                    text = await _sent(client, api, following.body)
                except openai.APIError as error:
                    reason, problem = _why(error, key)
                    failed[request.name] = reason
                    remedy = _FATAL.get(getattr(error, "status_code", 0))
                    if remedy is None and (num_replies or len(failed) < _MOST_FAILURES):
                        break
                    raise InputError.at(
                        problem,
                        remedy=remedy
                        or "see that the server runs, and what it says of the request",
                        source=self.base_url,
                    ) from None  # a client's error holds the request, and with it the key
                num_replies += 1
                reply = Reply(request.name, _struck(text, key), round(time.monotonic() - began, 3))
                following = take(reply)
            bar.update()
            bar.set_postfix_str(told())

        async def worker(client: Any) -> None:
            for request in waiting:
                await one(client, request)

        client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key,
            max_retries=settings.max_retries,
            timeout=settings.timeout_s,
        )
        try:
            async with client:
                async with asyncio.TaskGroup() as group:
                    for _ in range(settings.concurrency):
                        group.create_task(worker(client))
        except BaseExceptionGroup as errors:  # the others were told to stop
            raise errors.exceptions[0] from None
        finally:
            bar.close()
        if failed and not num_replies:
            reason = next(iter(failed.values()))
            raise InputError.at(
                f"no request succeeded ({reason})",
                remedy=_LOOK,
                source=self.base_url,
            )
        return failed


async def _sent(client: Any, api: str, body: Mapping[str, Any]) -> str:
    """The text of a reply; the client parses nothing of it."""
    fields = dict(body)
    name = "messages" if api == "chat" else "prompt"
    known = {"model": fields.pop("model"), name: fields.pop(name)}
    resource = client.chat.completions if api == "chat" else client.completions
    raw = await resource.with_raw_response.create(**known, extra_body=fields)
    return raw.http_response.text


def _why(error: Any, key: str) -> tuple[str, str]:
    """The reason that failures of a kind are counted under, and a line without the key."""
    status = getattr(error, "status_code", None)
    if status is None:
        kind = "timed out" if "Timeout" in type(error).__name__ else "connection failed"
        return f"request failed ({kind})", f"the server did not answer: {kind}"
    said = _struck(" ".join(str(error.message).split()), key)
    return f"request failed ({status})", f"the server refused with {status}: {said:.200}"


def _struck(text: str, key: str) -> str:
    """The text without the key, which a server may repeat."""
    return text.replace(key, _STRUCK) if len(key) >= _SHORTEST_SECRET else text


def _require_client() -> None:
    try:
        import aiolimiter  # noqa: F401
        import openai  # noqa: F401
    except ImportError as error:
        raise InputError.at(f"{error.name} is not installed", remedy=_INSTALL) from error


def _in_thread(work: Any) -> dict[str, str]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]
