"""Seconds and memory of a method at real model sizes, with random weights of the published shapes.

    python scripts/latency.py --target llama-8b --draft llama-1b --prompt 16384 32768 --new_tokens 32

Prints one line a prompt length and method: seconds in draft, prefill and decode, the target's KV bytes after prefill,
their peak, and the most GPU memory in use beyond the weights. Nothing is downloaded; what the models say is noise.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from draft_approx_llm import FullConfig, MethodConfig, SpecKVConfig, SpecKVPCConfig, SpecPCConfig, patch_model

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
METHODS: dict[str, MethodConfig] = {
    "full": FullConfig(),
    "speckv": SpecKVConfig(256, 32, prefill_window_size=None, prefill_vertical_size=None),
    "speckv sparse": SpecKVConfig(256, 32),
    "specpc": SpecPCConfig(1024),
    "speckvpc": SpecKVPCConfig(SpecPCConfig(2048, lookahead_tokens=20), SpecKVConfig(256, 32)),
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
        for method_name, method in METHODS.items():
            print(f"{n:7} {method_name:14} {measure(target, draft, method, ids, args.new_tokens)}", flush=True)


if __name__ == "__main__":
    main()
