"""Equality with the reference implementation: kept positions and output tokens of all 24 recorded cases."""

import json
from pathlib import Path

import pytest
import torch
from families import DEVICE
from transformers import AutoModelForCausalLM

from draft_approx_llm import config_from_dict, patch_model
from draft_approx_llm.lookahead import look_ahead
from draft_approx_llm.specpc import ask

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    pytest.param(family, case, id=f"{family}-{case['name']}")
    for family in ("llama", "qwen2", "qwen3")
    for case in json.loads((GOLDEN / family / "cases.json").read_text())
]


@pytest.fixture(scope="module")
def pairs():
    loaded = {}

    def load(family):
        if family not in loaded:
            loaded[family] = [
                AutoModelForCausalLM.from_pretrained(GOLDEN / family / role, dtype=torch.float32).to(DEVICE)
                for role in ("target", "draft")
            ]
        return loaded[family]

    return load


def test_there_are_24_cases():
    assert len(CASES) == 24


@pytest.mark.parametrize(("family", "case"), CASES)
def test_equals_the_reference(pairs, family, case):
    target, draft = pairs(family)
    config = config_from_dict(case["sparse_config"])
    prompt = torch.tensor(case["input_ids"], device=DEVICE)
    patch_model(target, draft, config)
    output = target.generate(prompt, max_new_tokens=case["max_new_tokens"], return_dict_in_generate=True)

    assert output.output_ids.tolist() == case["output_ids"]
    kept = output.kept[0]
    if case["specpc"]:
        assert [kept.prompt.tolist()] == case["specpc"][0]["kept"]
    if case["layers"]:
        read = torch.arange(prompt.shape[1], device=DEVICE) if kept.prompt is None else kept.prompt
        kv = config if config.sparse_type == "speckv" else config.speckv_config
        for positions, layer in zip(kept.cache, case["layers"], strict=True):
            # The recorded positions count within what the target read, and leave the window out.
            within = torch.searchsorted(read, positions)
            assert within[:, : -kv.window_size].tolist() == layer["kept"][0]
            window = range(len(read) - kv.window_size - 1, len(read) - 1)
            assert within[:, -kv.window_size :].tolist() == [list(window)] * len(within)


@pytest.mark.parametrize(("family", "case"), [c for c in CASES if c.values[1]["specpc"]])
def test_prompt_scores_equal_the_reference(pairs, family, case):
    _, draft = pairs(family)
    config = config_from_dict(case["sparse_config"])
    config = getattr(config, "specpc_config", config)
    prompt = torch.tensor(case["input_ids"][0], device=DEVICE)
    asked = ask(prompt, None, config)
    (longest,) = look_ahead(draft, [prompt], [asked.n_tokens], (), [[asked.listen]])
    found = longest.first(asked.n_tokens, asked.listen)
    recorded = torch.tensor(case["specpc"][0]["score"][0], device=DEVICE)
    if config.reduction_type == "mean":
        # The reference sums, which ranks like a mean.
        recorded = recorded * found.scores.sum() / recorded.sum()
    torch.testing.assert_close(found.scores, recorded, atol=1e-5, rtol=1e-4)
