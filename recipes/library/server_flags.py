"""Flags of the commands that can ask a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hf_proxy.building.settings import ServerSettings
from hf_proxy.recipes.library.running import RecipeConfig
from hf_proxy.records.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ServerConfig(RecipeConfig):
    """Flags of every command that asks a server."""

    base_url: str | None = field(
        default=None,
        metadata={
            "help": "A server that speaks OpenAI's API, as http://localhost:8000/v1. Its key is "
            "read from the environment (OPENAI_API_KEY)."
        },
    )
    concurrency: int = field(
        default=ServerSettings.concurrency, metadata={"help": "Requests under way at once."}
    )
    requests_per_minute: float | None = field(
        default=ServerSettings.requests_per_minute,
        metadata={"help": "Most requests begun in a minute; unset: no limit."},
    )
    timeout_s: float = field(
        default=ServerSettings.timeout_s,
        metadata={"help": "Seconds that an answer may take, each time it is asked for."},
    )
    max_retries: int = field(
        default=ServerSettings.max_retries,
        metadata={"help": "Times that a request is sent again after 429, 500 or a cut connection."},
    )
    input_price: float | None = field(
        default=ServerSettings.input_price,
        metadata={"help": "Money for a million tokens read, to show what it costs."},
    )
    output_price: float | None = field(
        default=ServerSettings.output_price,
        metadata={"help": "Money for a million tokens written."},
    )
    extra_body: str | None = field(
        default=None,
        metadata={"help": "JSON object of further fields of every request, as '{\"top_p\": 1}'."},
    )

    def refuse_unread(self, *, local: Sequence[str], server: Sequence[str]) -> None:
        """Refuse a flag that the named frontier has no use for.

        Args:
            local, server: flags of the command that only a local, or a served one reads.

        Raises:
            InputError: naming the first that is set.
        """
        own = [
            field.name for field in fields(ServerConfig) if field.name not in ("json", "base_url")
        ]
        is_served = self.base_url is not None
        defaults = {field.name: field.default for field in fields(self)}
        for name in local if is_served else (*own, *server):
            if getattr(self, name) != defaults[name]:
                kind = "local" if is_served else "served"
                raise InputError.at(
                    f"only a {kind} frontier has it",
                    remedy="leave it out, or base_url"
                    if is_served
                    else "give base_url, or leave it out",
                    field=name,
                )

    def server_settings(self, **own: Any) -> ServerSettings:
        """How the server is asked."""
        names = (
            "concurrency", "requests_per_minute", "timeout_s", "max_retries", "input_price",
            "output_price",
        )  # fmt: skip
        extra = None
        if self.extra_body is not None:
            try:
                extra = json.loads(self.extra_body)
            except ValueError:
                pass
            if not isinstance(extra, dict):
                raise InputError.at(
                    f"{self.extra_body!r:.60} is no JSON object",
                    remedy="write it as '{\"top_p\": 1}'",
                    field="extra_body",
                )
        return ServerSettings(
            **{name: getattr(self, name) for name in names}, extra_body=extra, **own
        )
