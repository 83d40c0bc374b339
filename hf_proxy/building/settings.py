"""What decides the traces of a frontier, and how a server is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_proxy.records.errors import InputError

APIS = ("chat", "completions")


def _at_least(owner: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value >= least:
            raise InputError.at(f"{value} is too small", remedy=f"give {least} or more", field=name)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What decides an answer beside the frontier and its question; see `build_traces`.

    The defaults of every function and recipe that takes one of these are read here.
    """

    protocol: str = "json"  # published
    num_samples: int = 1  # published
    max_new_tokens: int = 1024
    temperature: float = 0.0  # published
    seed: int = 0
    answer_pattern: str | None = None
    only_correct: bool = False  # published
    task: str = "math"

    def __post_init__(self) -> None:
        _at_least(self, 1, "num_samples", "max_new_tokens")
        _at_least(self, 0, "temperature")
        if self.num_samples > 1 and not self.temperature > 0:
            raise InputError.at(
                "greedy answers to one question are all the same",
                remedy="give a temperature above 0, or num_samples 1",
                field="num_samples",
            )


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server is asked.

    Attributes:
        api: `"chat"`, or `"completions"` for models that know no turns.
        logprobs: ask for log-probabilities. False: traces are text alone, see `annotate_traces`.
        concurrency: requests under way at once.
        requests_per_minute: most requests begun in a minute; None: no limit.
        timeout_s: seconds that an answer may take, each time it is asked for.
        max_retries: times that a request is sent again where the server is busy (429), fails (500
            and above) or drops the connection.
        input_price, output_price: money for a million tokens read and written; None: not shown.
        extra_body: further fields of every request.
    """

    api: str = "chat"
    logprobs: bool = True
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout_s: float = 600.0
    max_retries: int = 5
    input_price: float | None = None
    output_price: float | None = None
    extra_body: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.api not in APIS:
            raise InputError.at(f"{self.api!r} is not known", remedy=f"use {APIS}", field="api")
        _at_least(self, 1, "concurrency")
        _at_least(self, 0, "max_retries", "input_price", "output_price")
        for name in ("requests_per_minute", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError.at(f"{value} is too small", remedy="give more than 0", field=name)
