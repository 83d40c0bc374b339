"""Which shape an answer has, told row by row: one file may hold several."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hf_proxy.traces.shapes import (
    chat,
    completions_api,
    native,
    prompt_logprobs,
    responses_api,
    sets,
)
from hf_proxy.traces.shapes.answer import WHOLE, Answer, Place


class Shape(NamedTuple):
    """A shape and its reader."""

    name: str
    fits: Callable[[Mapping], bool]
    read: Callable[..., Answer]


# the first that fits; what scores a prompt answers with a completion beside it
SHAPES = (
    Shape("prompt_logprobs", prompt_logprobs.fits, prompt_logprobs.read),
    Shape("lighteval", sets.fits_lighteval, sets.read_lighteval),
    Shape("completions", completions_api.fits, completions_api.read),
    Shape("chat", chat.fits, chat.read),
    Shape("responses", responses_api.fits, responses_api.read),
    Shape("llama.cpp", native.fits_llama, native.read_llama),
    Shape("tgi", native.fits_tgi, native.read_tgi),
    Shape("gemini", native.fits_gemini, native.read_gemini),
    Shape("ids", sets.fits_ids, sets.read_ids),
    Shape("ollama", native.fits_ollama, native.read_ollama),
)


def shape_of(response: Mapping) -> Shape | None:
    """The shape of a response; None: no server is known that answers so."""
    return next((shape for shape in SHAPES if shape.fits(response)), None)


def read_answer(response: Mapping, at: str, place: Place, prompt: str | None = None) -> Answer:
    """The answer that a response holds.

    Args:
        response: what the server sent, or a row of a set that has the shape of one.
        at: key path of `response` in its row.
        prompt: what was asked, to tell it from an answer that repeats it.

    Raises:
        RowDefect: no server is known that answers so, or it does not fit its shape.
    """
    shape = shape_of(response)
    if shape is None:
        names = ", ".join(known.name for known in SHAPES)
        raise place.defect(
            "no answer of a known shape",
            f"not a response of a known shape ({names})",
            remedy=WHOLE,
            field=at,
        )
    if shape.name == "completions":
        return shape.read(response, at, place, prompt)
    return shape.read(response, at, place)
