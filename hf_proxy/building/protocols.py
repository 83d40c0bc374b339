"""How a frontier is asked, and what of its answer is the trace: one file of text for each way."""

from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import yaml

from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import fingerprint


class _Reads(NamedTuple):
    """How answers of a protocol are read, see `traces.completions.Reading`."""

    part: str | None
    protocol: str


_READS = {
    "json": _Reads("reasoning", "json"),
    "text": _Reads(None, "text"),
    # an answer without thinking is none of such a model's
    "thinking": _Reads("reasoning", "text"),
}
PROTOCOLS = tuple(_READS)


@dataclass(frozen=True)
class Protocol:
    """A way to ask.

    Attributes:
        name: one of `PROTOCOLS`.
        system, user: the turns, with `{question}` yet to be replaced; no system turn: None.
        hash: of the file that they stand in.
        part, reads: `part` and `protocol` of `Reading`, for the answers.
    """

    name: str
    system: str | None
    user: str
    hash: str
    part: str | None
    reads: str

    def question(self, prompt: str) -> str:
        """The user's turn."""
        return self.user.replace("{question}", prompt)

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The turns of a chat."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.question(prompt)}]

    def text(self, prompt: str) -> str:
        """The same for a model that knows no turns."""
        return "".join(f"{turn['content']}\n\n" for turn in self.messages(prompt))


def read_protocol(name: str, *, task: str = "math") -> Protocol:
    """A protocol by its name.

    Args:
        task: what the problems are, as the system turn says it.

    Raises:
        InputError: there is none of this name.
    """
    if name not in _READS:
        raise InputError.at(
            f"{name!r} is not known", remedy=f"use one of {PROTOCOLS}", field="protocol"
        )
    text = files("hf_proxy.building").joinpath("prompts", f"{name}.yaml").read_text("utf-8")
    turns = yaml.safe_load(text)
    system = turns.get("system")
    return Protocol(
        name,
        None if system is None else system.replace("{task}", task),
        turns["user"].replace("{task}", task),
        fingerprint(text),
        *_READS[name],
    )
