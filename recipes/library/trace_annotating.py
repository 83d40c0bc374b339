"""`hf-proxy traces annotate`: its flags, and the frontier that they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from hf_proxy.recipes.library.running import at_least, newlines
from hf_proxy.recipes.library.server_flags import ServerConfig
from hf_proxy.recipes.library.trace_sets import save_traces
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.traces.settings import TRACE_CONTEXT


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(ServerConfig):
    """`hf-proxy traces annotate`."""

    source: str = field(metadata={"help": "Trace set, as `hf-proxy traces import` writes it."})
    frontier: str = field(
        metadata={
            "help": "Model folder, adapter or hub id; with base_url the model's name at the server."
        }
    )
    output_dir: str = field(
        metadata={
            "help": "Folder of the new trace set; a server's raw replies go to "
            "OUTPUT_DIR.responses."
        }
    )
    context: str = field(
        default=TRACE_CONTEXT,
        metadata={
            "help": "Text before the trace: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the model's chat template."
        },
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "With context=chat: what the template reads beside the turns, as "
            '{"enable_thinking": false} (JSON; in YAML a mapping).'
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of context and trace; unset: the model's window."},
    )
    too_long: Literal["error", "drop"] = field(
        default="error", metadata={"help": "What to do with traces beyond max_length."}
    )
    tokens_per_batch: int = field(
        default=TOKENS_PER_BATCH,
        metadata={"help": "Tokens of one forward pass, with padding; fewer take less memory."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto: as they were saved."}
    )
    how: Literal["auto", "prompt_logprobs", "echo"] = field(
        default="auto",
        metadata={"help": "How a server scores text; auto: the first of these that it knows."},
    )
    echo_shift: Literal[-1, 0, 1] = field(
        default=0,
        metadata={"help": "Places by which the values of a server's echo are known to stand late."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id of a served model's tokenizer, for context 'chat'."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the set in output_dir."})

    def __post_init__(self) -> None:
        at_least(self, 1, "max_length", "tokens_per_batch")
        self.refuse_unread(
            local=("max_length", "too_long", "tokens_per_batch", "dtype"),
            server=("how", "echo_shift", "tokenizer"),
        )


def annotate(config: AnnotateConfig) -> dict[str, Any]:
    """Give existing traces a frontier model's confidence, by one teacher-forced pass.

    The frontier is a local model, or one behind a server that gives the probabilities of text that
    it is sent: vLLM's prompt_logprobs, or echo of the completions API. Such a server is proved
    first: it writes a few tokens, and must say the same of them when it is given them.

    Reads:   a trace set, and the frontier: the strong model whose confidence is asked for.
    Writes:  the same traces with its probabilities, and provenance.json, in output_dir.
    Example: hf-proxy traces annotate --source outputs/gsm8k
             --frontier Qwen/Qwen2.5-Coder-1.5B-Instruct --output_dir outputs/gsm8k-annotated
    """
    from accelerate import Accelerator

    from hf_proxy.building.annotation import annotate_traces
    from hf_proxy.models.parallel import from_main, stop_together
    from hf_proxy.recipes.library.checkpoints import (
        common_fingerprint,
        find_checkpoints,
        load_model,
        load_tokenizer,
    )
    from hf_proxy.records.storage import check_free
    from hf_proxy.tokens.tokenizers import tokenizer_fingerprint
    from hf_proxy.traces.reading import read_traces

    accelerator = Accelerator()
    # before anything is paid for
    from_main(accelerator, partial(check_free, config.output_dir, overwrite=config.overwrite))
    if config.base_url is not None:
        return from_main(accelerator, partial(_by_server, config))
    with stop_together(accelerator):
        # the probabilities that it may have are replaced
        traces, health = read_traces(config.source, allow_degenerate=True)
        if accelerator.is_main_process:
            print(f"{config.source}: {health.line()}")
        frontier = find_checkpoints(config.frontier)[-1]
    weights = common_fingerprint(frontier, accelerator)
    with stop_together(accelerator):
        tokenizer = load_tokenizer(frontier)
        model = load_model(frontier, dtype=config.dtype, device=accelerator.device)
    annotated = annotate_traces(
        traces,
        model,
        tokenizer,
        accelerator=accelerator,
        context=newlines(config.context),
        chat_template_kwargs=config.chat_template_kwargs,
        max_length=config.max_length,
        too_long=config.too_long,
        tokens_per_batch=config.tokens_per_batch,
    )
    num_dropped = len(traces) - len(annotated)
    counts = {"in": len(traces), "kept": len(annotated), "dropped": {"too long": num_dropped}}
    with stop_together(accelerator):
        if accelerator.is_main_process:
            frontier_facts = {
                "name": frontier.name,
                "step": frontier.step,
                "weights": weights,
                "tokenizer": tokenizer_fingerprint(tokenizer),
                "dtype": str(model.dtype),
            }
            save_traces(annotated, config, counts, frontier=frontier_facts)
            print(f"{len(annotated)} traces in {config.output_dir}, dropped {num_dropped} too long")
    return {"output_dir": config.output_dir, "counts": counts}


def _by_server(config: AnnotateConfig) -> dict[str, Any]:
    """`annotate` over HTTP."""
    from hf_proxy.building.responses import responses_of
    from hf_proxy.building.served_annotation import annotate_by_server
    from hf_proxy.building.servers import Server
    from hf_proxy.tokens.tokenizers import load_tokenizer
    from hf_proxy.traces.reading import read_traces

    assert config.base_url is not None
    server = Server(config.base_url, config.frontier, config.server_settings())
    traces, health = read_traces(config.source, allow_degenerate=True)
    print(f"{config.source}: {health.line()}")
    found = annotate_by_server(
        traces,
        server,
        context=newlines(config.context),
        chat_template_kwargs=config.chat_template_kwargs,
        tokenizer=None if config.tokenizer is None else load_tokenizer(config.tokenizer),
        how=None if config.how == "auto" else config.how,
        echo_shift=config.echo_shift,
        responses_dir=responses_of(config.output_dir),
    )
    proof = found.proof
    dropped = found.health.dropped
    counts = {"in": len(traces), "kept": len(found.traces), "dropped": dropped}
    frontier = {"name": server.model, "base_url": server.base_url, "proof": proof._asdict()}
    save_traces(found.traces, config, counts, frontier=frontier, health=found.health.model_dump())
    print(
        f"{config.base_url}: proved by {proof.num_tokens} tokens that it wrote, within "
        f"{proof.largest_difference:.1e} nats by {proof.how}"
    )
    print(f"{len(found.traces)} traces in {config.output_dir}, dropped {dropped or 'none'}")
    return {"output_dir": config.output_dir, "counts": counts, "proof": proof._asdict()}
