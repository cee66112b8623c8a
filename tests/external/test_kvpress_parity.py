"""Our methods keep what kvpress's presses keep, at the same hyperparameters, on random models.

kvpress counts the last prompt token; here it is read again after the dropping and is not counted. So a window of W and
a budget of C here are W + 1 and C + 1 there, and its set is ours and the last token.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

import baselines
from draft_approx_llm import config_from_dict, patch_model

SCRIPT = Path(__file__).resolve().parents[2] / "external" / "kvpress" / "positions.py"
N, BUDGETS = 150, (20, 40, 77)
EQUAL = {
    "snapkv": ({"window_size": 8, "kernel_size": 5}, "SnapKVPress", {"window_size": 9, "kernel_size": 5}),
    "streaming_llm": ({"sink_size": 4}, "StreamingLLMPress", {"n_sink": 4}),
    "tova": ({}, "TOVAPress", {}),
    "keydiff": ({}, "KeyDiffPress", {}),
    "expected_attention": ({"future_positions": 64}, "ExpectedAttentionPress", {"n_future_positions": 64}),
}
SNAPKV = {"press": "SnapKVPress", "press_args": {"window_size": 9, "kernel_size": 7}}
UNEQUAL = {
    "ada_snapkv": (
        {"window_size": 8, "kernel_size": 7, "pool_type": "mean"},
        "AdaKVPress",
        {"alpha_safeguard": 0.2, "press": SNAPKV},
    ),
    "pyramidkv": (
        {"window_size": 8, "kernel_size": 7, "pool_type": "mean"},
        "PyramidKVPress",
        {"window_size": 9, "kernel_size": 7},
    ),
}


@pytest.fixture(scope="module", params=[LlamaConfig, Qwen2Config, Qwen3Config], ids=["llama", "qwen2", "qwen3"])
def folder(request, tmp_path_factory):
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.3}
    if request.param is not Qwen2Config:
        sizes["head_dim"] = 16
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(request.param(**sizes)).save_pretrained(path)
    return path


def theirs(folder, tmp_path, environment, cases):
    job, out = tmp_path / "job.json", tmp_path / "out.json"
    job.write_text(json.dumps({"model": str(folder), "cases": cases}))
    subprocess.run([environment("kvpress"), SCRIPT, job, out], check=True)
    return [case["positions"] for case in json.loads(out.read_text())["cases"]]


def ours(folder, ids, name, capacity, settings):
    baselines.load(name)
    target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = config_from_dict({"sparse_type": name, "max_capacity_prompt": capacity, **settings})
    patch_model(target, None, config)
    ids = torch.tensor([ids])
    output = target.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, return_dict_in_generate=True
    )
    return [[head.tolist() for head in layer] for layer in output.kept[0].cache]


@pytest.mark.peers
@pytest.mark.parametrize("name", EQUAL)
def test_the_same_positions_are_kept(folder, tmp_path, environment, name):
    settings, press, press_args = EQUAL[name]
    ids = torch.randint(1, 128, (N,), generator=torch.Generator().manual_seed(7)).tolist()
    asked = [(budget, kept) for budget in BUDGETS for kept in (budget, budget + 1)]
    cases = [{"press": press, "press_args": press_args, "kept": kept, "ids": ids} for _, kept in asked]
    found = dict(zip(asked, theirs(folder, tmp_path, environment, cases), strict=True))
    for budget in BUDGETS:
        mine = ours(folder, ids, name, budget, settings)
        for layer, without, with_last in zip(mine, found[budget, budget], found[budget, budget + 1], strict=True):
            for head, fewer, more in zip(layer, without, with_last, strict=True):
                # A press that does not force the last token may have left it out: then its budget is ours.
                expected = more if N - 1 in more else fewer
                assert head == [position for position in expected if position != N - 1]
                assert len(head) == budget


@pytest.mark.peers
@pytest.mark.parametrize("name", UNEQUAL)
def test_known_differences_are_small_and_the_budget_is_the_same(folder, tmp_path, environment, name, record_property):
    """Ada-KV: kvpress's floor counts the window. PyramidKV: kvpress may fall back to even shares, and rounds."""
    settings, press, press_args = UNEQUAL[name]
    ids = torch.randint(1, 128, (N,), generator=torch.Generator().manual_seed(7)).tolist()
    cases = [{"press": press, "press_args": press_args, "kept": budget + 1, "ids": ids} for budget in BUDGETS]
    for budget, found in zip(BUDGETS, theirs(folder, tmp_path, environment, cases), strict=True):
        mine = ours(folder, ids, name, budget, settings)
        sizes = [[len(head) for layer in kept for head in layer] for kept in (mine, found)]
        ratios = []
        for layer, other in zip(mine, found, strict=True):
            for head, there in zip(layer, other, strict=True):
                one, two = {*head, N - 1}, {*there, N - 1}
                ratios.append(len(one & two) / len(one | two))
        record_property(f"{name} {budget}", f"sizes {sizes[0]} and {sizes[1]}, Jaccard {sum(ratios) / len(ratios):.3f}")
        assert sum(sizes[0]) == budget * len(sizes[0])
        assert abs(sum(sizes[1]) - sum(sizes[0]) - len(sizes[1])) <= len(sizes[1])
