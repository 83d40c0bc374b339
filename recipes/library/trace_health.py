"""The health of a trace set on the screen, and its lengths against a model's window."""

from typing import Any

from datasets import Dataset

from hf_proxy.recipes.library.screen import print_table
from hf_proxy.traces.health import TraceHealth
from hf_proxy.traces.settings import TRACE_CONTEXT


def print_health(
    health: TraceHealth, num_tokens: int, window: dict[str, Any], *, fingerprint: str
) -> None:
    """Print what `hf-proxy traces check` has found.

    Args:
        num_tokens: frontier spans, masks among them.
        window: of `lengths_in_tokens`; empty where no model was named.
    """
    rows = [
        ["rows", str(health.rows)],
        ["frontier tokens", str(num_tokens)],
        ["letters", str(health.letters)],
        ["letters without probability", str(health.letters_without_probability)],
        ["probabilities exactly 0", str(health.zeros)],
        ["probabilities exactly 1", str(health.ones)],
        ["duplicates", str(health.duplicates)],
        ["dropped", str(health.dropped or "none")],
    ]
    if health.parts:
        rows.append(["parts scored", str(health.parts)])
    if health.temperatures:
        rows.append(["temperatures told", str(health.temperatures)])
    if health.right or health.wrong:
        rows.append(["answers", f"{health.right} right, {health.wrong} wrong"])
    if window:
        rows.append(["window of the model", str(window["window"] or "not told")])
        rows.append(["longest, in its tokens", str(window["longest"])])
        rows.append(["traces beyond its window", str(window["beyond_window"])])
    rows += [["worth a look", remark] for remark in health.remarks()]
    rows.append(["fingerprint", fingerprint])
    print_table(("what", "of this set"), rows, words=("what", "of this set"))
    if health.tokens:
        most = max(health.histogram)
        bars = [
            (f"{i / 10:.1f} - {(i + 1) / 10:.1f}", str(count), "#" * round(50 * count / most))
            for i, count in enumerate(health.histogram)
        ]
        print_table(("frontier probability", "tokens", "of them"), bars, words=("of them",))


def lengths_in_tokens(traces: Dataset, name: str) -> dict[str, int | None]:
    """`window` of a model, tokens of the `longest` context and trace, rows `beyond_window`.

    Raises:
        InputError: there is no such model or tokenizer.
    """
    from transformers import AutoConfig

    from hf_proxy.tokens.tokenizers import encode_contexts, load_tokenizer

    tokenizer = load_tokenizer(name)
    try:
        settings = AutoConfig.from_pretrained(name).get_text_config()
        window = getattr(settings, "max_position_embeddings", None)
    except (OSError, ValueError):  # a tokenizer alone
        window = tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None
    lengths: list[int] = []
    for rows in traces.iter(batch_size=1000):
        asked = [TRACE_CONTEXT.replace("{prompt}", prompt) for prompt in rows["prompt"]]
        written = tokenizer(rows["trace"], add_special_tokens=False, verbose=False)["input_ids"]
        contexts = encode_contexts(tokenizer, asked, chat=False)
        lengths += [len(c) + len(t) for c, t in zip(contexts, written, strict=True)]
    beyond = 0 if window is None else sum(length > window for length in lengths)
    return {"window": window, "longest": max(lengths), "beyond_window": beyond}
