"""external/kvpress/positions.py, which parity tests stand on: it finds exactly the entries that kvpress kept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

SCRIPT = Path(__file__).resolve().parents[2] / "external" / "kvpress" / "positions.py"
SNAPKV = {"press": "SnapKVPress", "press_args": {"window_size": 9, "kernel_size": 5}}
PRESSES = [
    SNAPKV,
    {"press": "StreamingLLMPress", "press_args": {"n_sink": 4}},
    {"press": "TOVAPress"},
    {"press": "KeyDiffPress"},
    {"press": "ExpectedAttentionPress"},
    {"press": "PyramidKVPress", "press_args": {"window_size": 5, "beta": 3}},
    {"press": "AdaKVPress", "press_args": {"alpha_safeguard": 0.2, "press": SNAPKV}},
]
LENGTH, KEPT = 70, 25


@pytest.fixture(params=[(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)], ids=["llama", "qwen3"])
def model_folder(request, tmp_path):
    config, model = request.param
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    sizes |= {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128}
    model(config(**sizes)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.peers
def test_every_press_keeps_what_it_was_asked_to(model_folder, tmp_path, environment):
    ids = torch.randint(1, 128, (LENGTH,)).tolist()
    cases = [{**press, "kept": kept, "ids": ids} for press in PRESSES for kept in (KEPT, KEPT + 1, LENGTH)]
    job, out = tmp_path / "job.json", tmp_path / "out.json"
    job.write_text(json.dumps({"model": str(model_folder), "cases": cases}))
    subprocess.run([environment("kvpress"), SCRIPT, job, out], check=True)
    answers = json.loads(out.read_text())["cases"]
    assert len(answers) == len(cases)
    for case, answer in zip(cases, answers, strict=True):
        heads = [head for layer in answer["positions"] for head in layer]
        assert (len(answer["positions"]), len(heads)) == (3, 6)
        assert all(head == sorted(set(head)) and set(head) <= set(range(LENGTH)) for head in heads)
        assert fmean(map(len, heads)) == answer["kept_tokens"] == case["kept"], case["press"]
        if case["kept"] == LENGTH:
            assert heads == [list(range(LENGTH))] * 6
        elif case["press"] not in ("PyramidKVPress", "AdaKVPress"):
            assert {len(head) for head in heads} == {case["kept"]}
        if case["press"] == "SnapKVPress":
            assert all(head[-9:] == list(range(LENGTH - 9, LENGTH)) for head in heads)
        if case["press"] == "StreamingLLMPress":
            assert all(head[:4] == [0, 1, 2, 3] and head[4] == LENGTH - case["kept"] + 4 for head in heads if head[4:])
    # heads of AdaKV and layers of PyramidKV keep unequally many: else these two were not what ran
    assert len({len(head) for layer in answers[-3]["positions"] for head in layer}) > 1
    assert len({len(layer[0]) for layer in answers[-6]["positions"]}) == 3
