"""What an architecture writes, by the product and plainly: gaps in ids, heads, adapters of PEFT."""

import warnings
from typing import Any

import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from helpers.zoo import build
from hf_proxy import InputError
from hf_proxy.models.access import scoring_mode
from hf_proxy.models.generation import generate

VOCAB_SIZE = 64  # rows of the head
PROMPTS = [[5, 6, 7, 41, 42], [9, 50, 51, 11, 12, 13, 14, 8, 45], [52, 43, 44]]
NUM_NEW = 6
# ids that stand for tokens: fewer than the largest of them, one more than the head has, fewer
IDS = {
    "ids with gaps": [*range(5, 15), *range(40, VOCAB_SIZE)],
    "head one row short": [*range(VOCAB_SIZE + 1)],
    "wider head": [*range(55)],
}
ADAPTERS = {
    "LORA": lambda: LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    "PREFIX_TUNING": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "PROMPT_TUNING": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}
KINDS = [*IDS, *ADAPTERS]
CLOSE = 1e-3  # nats; a choice no clearer than that is a matter of rounding


class Ids:
    """As much of a tokenizer as writing needs."""

    added_tokens_decoder: dict = {}

    def __init__(self, ids: list[int], end: int):
        self.ids, self.eos_token_id, self.pad_token_id = ids, end, end

    def get_vocab(self) -> dict[str, int]:
        return {str(id): id for id in self.ids}


def product(
    model: Any, ids: list[int], end: int, prompts: list[list[int]] | None = None
) -> list[list[int]]:
    """What the product writes after prompts together."""
    with scoring_mode(model) as bare:
        return generate(
            bare,
            PROMPTS if prompts is None else prompts,
            processing_class=Ids(ids, end),
            max_new_tokens=NUM_NEW,
            temperature=0.0,
            seed=[0],
        )


def plainly(model: Any, prompt: list[int], allowed: list[int]) -> tuple[list[int], list[float]]:
    """By the largest logit of plain forwards, among these ids, and how clear each choice was."""
    written, clear = [], []
    for _ in range(NUM_NEW):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + written]), use_cache=False).logits
        best = torch.log_softmax(logits[0, -1, allowed].double(), -1).topk(2)
        written.append(allowed[int(best.indices[0])])
        clear.append(float(best.values[0] - best.values[1]))
    return written, clear


def by_peft(model: Any, prompt: list[int]) -> list[int]:
    """What `PeftModel.generate` writes after one prompt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's: positions under virtual tokens are its own
        found = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=NUM_NEW,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
            forced_eos_token_id=None,  # of BART's own config
            forced_bos_token_id=None,
        )
    return found[0, len(prompt) :].tolist()


def with_adapter(model: Any, kind: str) -> Any:
    """The model under a random adapter."""
    torch.manual_seed(1)
    model = get_peft_model(model, ADAPTERS[kind]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.7 * torch.randn_like(parameter))
    return model


def looks_ahead(model: Any) -> bool:
    """Whether a later token moves an earlier logit."""
    ids = torch.tensor([PROMPTS[1], [*PROMPTS[1][:-2], 21, 22]])
    with torch.no_grad():
        one, other = (model(input_ids=row[None], use_cache=False).logits[0] for row in ids)
    return bool((one - other)[:-2].abs().max() > 1e-3)


def judge(name: str, kind: str) -> dict[str, Any]:
    """Whether the product writes what it should: a verdict, and why where it is not "right"."""
    try:
        model = build(name, VOCAB_SIZE)
        if looks_ahead(model):
            return {"verdict": "not causal"}
    except Exception as error:  # whatever its config or its forward raises of these sizes
        return {"verdict": "not built", "why": _said(error)}
    if kind in IDS:
        return _judge_ids(model, IDS[kind])
    return _judge_adapter(model, kind)


def _judge_ids(model: Any, ids: list[int]) -> dict[str, Any]:
    allowed = [id for id in ids if id < VOCAB_SIZE]
    plain = [plainly(model, prompt, allowed) for prompt in PROMPTS]
    end = plain[0][0][2]  # so that one text ends before its limit
    model.generation_config.eos_token_id = end
    try:
        found = product(model, ids, end)
    except Exception as error:
        try:
            by_peft(model, PROMPTS[0])
        except Exception as plain:
            return {"verdict": "transformers cannot write", "why": _said(plain)}
        return {"verdict": "bare error", "why": _said(error)}
    for (written, clear), own in zip(plain, found, strict=True):
        wanted = written[: written.index(end) + 1] if end in written else written
        if own != wanted:
            pairs = enumerate(zip(own, wanted, strict=False))
            where = next(i for i, (one, other) in pairs if one != other)
            verdict = "rounding" if clear[where] < CLOSE else "WRONG"
            alone = [product(model, ids, end, [prompt])[0] for prompt in PROMPTS]
            if verdict == "WRONG" and alone == found:
                verdict = "cache is not the forward"  # by transformers, in whatever company
            return {"verdict": verdict, "why": f"{own} for {wanted}, {clear[where]:.3g} nats"}
    return {"verdict": "right"}


def _judge_adapter(model: Any, kind: str) -> dict[str, Any]:
    try:
        base = [by_peft(model, prompt) for prompt in PROMPTS]
    except Exception as error:
        return {"verdict": "transformers cannot write", "why": _said(error)}
    try:
        model = with_adapter(model, kind)
    except Exception as error:
        return {"verdict": "no such adapter", "why": _said(error)}
    wanted, failure = None, ""
    acts = _acts(model)
    try:
        wanted = [by_peft(model, prompt) for prompt in PROMPTS]
    except Exception as error:
        failure = _said(error)
    try:
        found = product(model, [*range(VOCAB_SIZE)], 0)
    except InputError as error:
        verdict = "refused, PEFT cannot" if wanted is None else "WRONG"
        return {"verdict": verdict, "why": f"{error}; {failure}"[:300]}
    except Exception as error:
        return {"verdict": "bare error", "why": f"{_said(error)}; PEFT: {failure}"}
    if wanted is None:
        return {"verdict": "WRONG", "why": f"written, where PEFT says {failure}"}
    if found != wanted:
        again = [by_peft(model, prompt) for prompt in PROMPTS]
        verdict = "WRONG" if again == wanted else "PEFT differs from call to call"
        return {"verdict": verdict, "why": f"{found} for {wanted}"}
    return {"verdict": "right" if acts else "no effect", "differs": wanted != base}


def _acts(model: Any) -> bool:
    """Whether the adapter moves a plain forward at all."""
    ids = torch.tensor(PROMPTS[:1])
    try:
        with torch.no_grad():
            under = model(input_ids=ids, use_cache=False).logits[0, -1]
            with model.disable_adapter():
                base = model(input_ids=ids, use_cache=False).logits[0, -1]
    except Exception:  # PEFT cannot run it, which its writing will say
        return True
    return bool((under - base).abs().max() > 1e-4)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
