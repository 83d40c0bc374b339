"""Tiny models of the causal architectures in transformers, built from their configs alone."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

MOST_PARAMETERS = 4_000_000
# what a config has of these is set; `_OWN` comes on top
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "embedding_size": 32,
    "embed_dim": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "dff": 48,
    "dim_ff": 48,
    "ffn_hidden_size": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 640,
    "n_positions": 640,
    "max_seq_len": 640,
    "max_target_positions": 640,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_topk": 2,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
    "state_size": 8,
    "sliding_window": 8,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
}
_LATENT = {"num_key_value_heads": 4}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LOCAL = {"layer_types": ["sliding_attention", "full_attention"]}
_OWN: dict[str, dict[str, Any]] = {
    "gemma3_text": _LOCAL,
    "gpt_oss": _LOCAL,
    "cohere2": _LOCAL,
    "exaone4": _LOCAL,
    "llama4_text": {"attention_chunk_size": 16, "intermediate_size_mlp": 48}
    | {"interleave_moe_layer_step": 1, "num_experts_per_tok": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "falcon": {"alibi": False, "head_dim": None, "num_key_value_heads": None},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "bamba": _MAMBA | {"attn_layer_indices": [1], "attn_rotary_emb": 8},
    "granitemoehybrid": _MAMBA
    | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48}
    | {"num_local_experts": 0, "position_embedding_type": "rope"},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 64},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2}
    | {"expert_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False},
    "zamba2": {"n_mamba_heads": 8, "mamba_headdim": 8, "layers_block_type": ["mamba", "hybrid"]}
    | {"hybrid_layer_ids": [1], "attention_head_dim": 16, "chunk_size": 16}
    | {"use_mem_rope": True, "num_key_value_heads": 4},
    "qwen3_next": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "olmo_hybrid": _LINEAR,
    "recurrent_gemma": {"lru_width": 32, "block_types": ["recurrent", "attention"]}
    | {"attention_window_size": 8, "num_key_value_heads": 1},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8}
    | {"mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 16},
    "rwkv": {"attention_hidden_size": 32, "context_length": 640},
    "xlstm": {"num_blocks": 2, "v_head_dim": None},
    "xlm": {"emb_dim": 32},
    "dbrx": {"attn_config": {"kv_n_heads": 2}, "ffn_config": {"ffn_hidden_size": 48}}
    | {"num_key_value_heads": None},
    "jetmoe": {"kv_channels": 8},
    "cpmant": {"dim_head": 8, "num_key_value_heads": None},
    "smollm3": {"no_rope_layers": [1, 0]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "prophetnet": {"num_hidden_layers": None},
    "reformer": {"is_decoder": True, "axial_pos_shape": [20, 32], "axial_pos_embds_dim": [8, 24]}
    | {"attn_layers": ["local", "local"], "num_hidden_layers": None, "feed_forward_size": 48}
    | {"local_attn_chunk_length": 8, "attention_head_size": 8},
    "roc_bert": {"pronunciation_vocab_size": 32, "shape_vocab_size": 32}
    | {"pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "xlnet": {"max_position_embeddings": None, "d_inner": 48, "d_head": 8},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2}
    | {"attn_layer_period": 2, "attn_layer_offset": 1},
    "zaya": {"num_experts_per_tok": 1},
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite")
        + ("glm_moe_dsa", "longcat_flash", "minicpm3", "youtu"),
        _LATENT,
    ),
}


def build(name: str, vocab_size: int, *, dtype=torch.float32, **changes: Any) -> PreTrainedModel:
    """A seeded model, with weights large enough that tokens matter to each other.

    Raises:
        Exception: whatever its config or its constructor raises of these sizes.
    """
    default = AutoConfig.for_model(name)
    entries = {key: value for key, value in _SMALL.items() if hasattr(default, key)}
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    entries |= ends | {"vocab_size": vocab_size} | _OWN.get(name, {}) | changes
    config = AutoConfig.for_model(name, **{k: v for k, v in entries.items() if v is not None})
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size} parameters are not tiny")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.to(dtype).eval()
