"""Small models of real architectures with random weights, and one whose probabilities are given."""

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 640,
}
# architecture: config entries; each treats positions, heads or logits in a way of its own
FAMILIES = {
    "llama": _SMALL,
    "qwen2": _SMALL | {"tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 640},
    "gpt_neox": {k: v for k, v in _SMALL.items() if k != "num_key_value_heads"},
    # head with a bias
    "phi": {k: v for k, v in _SMALL.items() if k != "num_key_value_heads"},
    # softcap on the logits; small, so that it bends random ones
    "gemma2": _SMALL | {"head_dim": 8, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
    # logits multiplied
    "cohere": _SMALL | {"logit_scale": 0.0625},
    # logits divided by a number that bfloat16 cannot hold
    "granite": _SMALL | {"logits_scaling": 13.0},
    # recurrent: no positions, no attention
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
# families that hold float64 from end to end (the others compute their norms, or a scan, in float32)
FLOAT64_FAMILIES = ("llama", "qwen2", "granite", "gpt2", "gpt_neox", "phi")
ATTENTION_FAMILIES = tuple(name for name in FAMILIES if name != "mamba")


def make_model(family: str, vocab_size: int, *, dtype=torch.float32, **changes) -> PreTrainedModel:
    """A seeded model of this architecture, with weights large enough to make peaked predictions."""
    config = AutoConfig.for_model(family, vocab_size=vocab_size, **FAMILIES[family] | changes)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model = model.to(dtype).eval()
    if dtype is torch.float64 and family in FLOAT64_FAMILIES:
        _norms_in_own_dtype(model)
    return model


def _norms_in_own_dtype(model: nn.Module) -> None:
    """Llama's RMSNorm rounds to float32 inside; torch's has the same formula without that."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.shape, child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(module, name, norm)


def sharp_pair(num_tokens: int):
    """Two architectures of other depth, sure of themselves; the expert's head is padded."""
    pair = (
        make_model("llama", num_tokens + 7),
        make_model("qwen2", num_tokens, num_hidden_layers=1, tie_word_embeddings=False),
    )
    for model in pair:
        model.lm_head.weight.data *= 6
    return pair


class BigramConfig(PretrainedConfig):
    model_type = "bigram"


class Bigram(PreTrainedModel):
    """`p(next | token)` is a table, so every NLL can be written down by hand."""

    config_class = BigramConfig

    def __init__(self, table_VV: torch.Tensor, *, after_head=None, calls_head=True, num_virtual=0):
        super().__init__(BigramConfig(vocab_size=len(table_VV)))
        size = len(table_VV)
        self.embed = nn.Embedding(size, size, _weight=torch.eye(size, dtype=table_VV.dtype))
        self.lm_head = nn.Linear(size, size, bias=False, dtype=table_VV.dtype)
        self.lm_head.weight = nn.Parameter(table_VV.log().T.contiguous())
        self.after_head, self.calls_head, self.num_virtual = after_head, calls_head, num_virtual

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, use_cache=None):
        hidden = self.embed(input_ids)
        # tokens of its own before the text, as prompt tuning puts them there
        hidden = torch.cat([hidden[:, :1].expand(-1, self.num_virtual, -1), hidden], dim=1)
        logits = self.lm_head(hidden) if self.calls_head else hidden @ self.lm_head.weight.T
        return CausalLMOutput(logits=self.after_head(logits) if self.after_head else logits)
