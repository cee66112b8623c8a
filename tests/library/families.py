"""Tiny random models of every family the library holds to, with attention that is far from uniform."""

import os

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 300
# The same tests hold on a GPU: DRAFT_APPROX_TEST_DEVICE=cuda pytest tests/library
DEVICE = torch.device(os.environ.get("DRAFT_APPROX_TEST_DEVICE", "cpu"))

_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    # Two sliding-window layers, shorter than the prompts, to each global one.
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            "sliding_window": 48,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "phi3": (Phi3Config, Phi3ForCausalLM, {"original_max_position_embeddings": 1024}),
}
FAMILIES = list(_CLASSES)


def tiny_model(family, seed=0, layers=3, hidden=48, heads=4, kv_heads=2, **overrides):
    """A random float32 model of the family; equal arguments give equal weights."""
    config_class, model_class, extra = _CLASSES[family]
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
    }
    if family == "phi3":
        settings["hidden_size"] = 16 * heads  # its head size follows from these
    torch.manual_seed(seed)
    model = model_class(config_class(**{**settings, **extra, **overrides})).eval().to(DEVICE)
    model.generation_config.pad_token_id = 0
    return model


def tiny_pair(family):
    """Target and draft of one family."""
    return tiny_model(family, seed=1), tiny_model(family, seed=2)


def prompt(n, seed=0):
    """[1, n] random ids, none of them special."""
    return torch.randint(3, VOCABULARY, (1, n), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def left_padded(prompts):
    """input_ids and attention_mask [B, N] of [1, n] prompts."""
    longest = max(p.shape[1] for p in prompts)
    pad = torch.nn.functional.pad
    ids = torch.cat([pad(p, (longest - p.shape[1], 0)) for p in prompts])
    mask = torch.cat([pad(torch.ones_like(p), (longest - p.shape[1], 0)) for p in prompts])
    return ids, mask
