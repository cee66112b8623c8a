"""Seconds and memory of a method at real model sizes, with random weights of the published shapes.

    python scripts/latency.py --target llama-8b --draft llama-1b --prompt 16384 32768 --new_tokens 32

Prints one line a prompt length and method: seconds in draft, prefill and decode, the target's KV bytes after prefill,
their peak, and the most GPU memory in use beyond the weights. Nothing is downloaded; what the models say is noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import baselines  # noqa: E402
from draft_approx_llm import MethodConfig, config_from_dict, patch_model  # noqa: E402

SHAPES = {
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 10,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
KV = {"max_capacity_prompt": 256, "window_size": 32}
DENSE = {"prefill_window_size": None, "prefill_vertical_size": None}
METHODS: dict[str, dict] = {
    "full": {"sparse_type": "full"},
    "speckv": {"sparse_type": "speckv", **KV, **DENSE},
    "speckv sparse": {"sparse_type": "speckv", **KV},
    "ada_speckv": {"sparse_type": "ada_speckv", **KV, **DENSE},
    "pyramid_speckv": {"sparse_type": "pyramid_speckv", **KV, **DENSE},
    "specpc": {"sparse_type": "specpc"},
    "speckvpc": {
        "sparse_type": "speckvpc",
        "specpc_config": {"max_capacity_prompt": 2048, "lookahead_tokens": 20},
        "speckv_config": KV,
    },
    "snapkv": {"sparse_type": "snapkv", **KV},
    "h2o": {"sparse_type": "h2o", **KV},
}


def random_model(shape: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A Llama of the named shape with random weights."""
    config = LlamaConfig(vocab_size=128256, max_position_embeddings=131072, **SHAPES[shape])
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def measure(target: PreTrainedModel, draft: PreTrainedModel, method: MethodConfig, ids: torch.Tensor, new: int) -> str:
    """One table line, from the second of two equal calls."""
    device = ids.device
    patch_model(target, draft, method)
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        output = target.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            return_dict_in_generate=True,
        )
    used = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:9.0f}" if device.type == "cuda" else "        -"
    seconds, stats = output.timings, output.stats[0]
    return (
        f"{seconds['draft']:8.3f} {seconds['prefill']:8.3f} {seconds['decode']:8.3f} "
        f"{stats['cache_bytes'] / 2**20:9.1f} {stats['peak_cache_bytes'] / 2**20:9.1f} {used}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=SHAPES, default="llama-8b")
    parser.add_argument("--draft", choices=SHAPES, default="llama-1b")
    parser.add_argument("--prompt", type=int, nargs="+", default=[16384])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--new_tokens", type=int, default=32)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    target, draft = random_model(args.target, device, dtype), random_model(args.draft, device, dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {args.target} with {args.draft}, {dtype}, {args.new_tokens} new tokens")
    columns = ("draft s", "prefill", "decode", "KV MiB", "peak KV", "all MiB")
    widths = (8, 8, 8, 9, 9, 9)
    print(f"{'prompt':>7} {'method':14}", *(name.rjust(width) for name, width in zip(columns, widths, strict=True)))
    for n in args.prompt:
        ids = torch.randint(3, 128000, (1, n), device=device)
        for method in args.methods:
            if METHODS[method]["sparse_type"] in baselines.available():
                baselines.load(METHODS[method]["sparse_type"])
            line = measure(target, draft, config_from_dict(METHODS[method]), ids, args.new_tokens)
            print(f"{n:7} {method:14} {line}", flush=True)


if __name__ == "__main__":
    main()
