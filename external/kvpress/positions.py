"""Which positions kvpress keeps: .envs/kvpress/bin/python external/kvpress/positions.py job.json out.json

For tests that compare our methods with kvpress's. `job.json`:

    {"model": FOLDER, "attn_implementation": "sdpa",
     "cases": [{"press": "SnapKVPress", "press_args": {"window_size": 9}, "kept": 25, "ids": [5, 3, ...]}, ...]}

Each case's ids [N] are read under the press, in float32, at the ratio that keeps `kept` entries. `out.json`:

    {"cases": [{"positions": [layer][KV head][sorted positions], "kept_tokens": mean over layers and heads}, ...]}

kvpress keeps entries in the order of their scores and does not tell which they are: each is found again by its key and
value among those of the same forward pass before the compression (bitwise). Entries masked by a head-wise press
(AdaKVPress) count as dropped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from press_tools import attention_layers, build_press, kept_tokens, prefill, ratio_for, set_ratio
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar


def kept_positions(model: torch.nn.Module, case: dict) -> dict:
    """One case of the job -> one case of the answer. Raises ValueError if entries cannot be told apart."""
    press = build_press(case["press"], case.get("press_args") or {})
    ids = torch.tensor([case["ids"]])
    set_ratio(press, ratio_for(case["kept"], ids.shape[1]))
    whole: dict[int, torch.Tensor] = {}

    def look(index, cache):
        whole[index] = entries(cache.layers[index])

    cache = prefill(model, press, ids, look)
    positions = []
    for index, module in enumerate(attention_layers(model)):
        masked = [set() for _ in whole[index]]
        for _, head, at in zip(*(x.tolist() for x in module.masked_key_indices or ()), strict=True):
            masked[head].add(at)
        layer = []
        for head, (before, after) in enumerate(zip(whole[index], entries(cache.layers[index]), strict=True)):
            place = {row.numpy().tobytes(): at for at, row in enumerate(before)}
            if len(place) < len(before):
                raise ValueError(f"layer {index}, head {head}: equal entries cannot be told apart")
            found = [place[row.numpy().tobytes()] for row in after]
            layer.append(sorted(set(found) - masked[head]))
        positions.append(layer)
    return {"positions": positions, "kept_tokens": kept_tokens(model, cache)}


def entries(layer) -> torch.Tensor:
    """A cache layer's keys and values side by side, [heads, S, 2 D]."""
    return torch.cat([layer.keys, layer.values], dim=-1)[0]


def main(job_path: str, out_path: str) -> None:
    disable_progress_bar()
    job = json.loads(Path(job_path).read_text())
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.float32, attn_implementation=job.get("attn_implementation", "sdpa")
    ).eval()
    with torch.no_grad():
        cases = [kept_positions(model, case) for case in job["cases"]]
    Path(out_path).write_text(json.dumps({"cases": cases}))


if __name__ == "__main__":
    main(*sys.argv[1:])
