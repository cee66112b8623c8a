"""The study of importance: its measures, and a study of a tiny pair."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1] / "library"))

from families import prompt, tiny_pair  # noqa: E402

from draft_approx_llm import SpecKVConfig, patch_model  # noqa: E402
from harness.importance_study import agreements, noisy, overlap, spearman, token_agreement  # noqa: E402

SETTINGS = SpecKVConfig(
    max_capacity_prompt=20, window_size=4, kernel_size=3, prefill_window_size=None, prefill_vertical_size=None
)


def test_the_correlation_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 3, 40))  # with ties
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman(a, b), expected)
    np.testing.assert_allclose(spearman(a, -a), -1)
    assert spearman(np.ones((1, 5)), b[:1, :5]).tolist() == [0]


def test_overlap_counts_the_common_best():
    scores = np.array([[9.0, 8, 7, 1, 0, 0]])
    assert overlap(scores, scores, 3).tolist() == [1]
    assert overlap(scores, -scores, 3).tolist() == [0]
    assert overlap(np.array([[9.0, 0, 0, 8, 0, 7]]), scores, 3).tolist() == [1 / 3]
    assert overlap(np.zeros((1, 6)), scores, 3).tolist() == [1], "ties go to the lower position"


def test_the_oracle_agrees_with_itself_and_random_tokens_do_not():
    target, draft = tiny_pair("llama")
    ids = prompt(90, 3)[0]
    found = agreements(target, draft, ids, SETTINGS, 6, ("oracle", "draft", "window", "random"))
    layers = target.config.num_hidden_layers
    assert all(one.overlap.shape == one.correlation.shape == (layers,) for one in found.values())
    np.testing.assert_allclose(found["oracle"].correlation, 1)
    assert found["oracle"].overlap.tolist() == [1] * layers
    assert found["random"].correlation.mean() < 0.999 and found["window"].overlap.mean() < 1
    # the target as its own draft is the oracle
    own = agreements(target, target, ids, SETTINGS, 6, ("draft",))["draft"]
    np.testing.assert_allclose(own.correlation, 1)


def test_what_is_compared_is_what_the_method_ranks():
    target, draft = tiny_pair("llama")
    ids = prompt(90, 3)
    kept = []
    for queries in ("draft", "oracle"):
        patch_model(target, draft, SpecKVConfig.from_dict({**SETTINGS.to_dict(), "queries": queries}))
        out = target.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, return_dict_in_generate=True
        )
        kept.append([[set(head.tolist()) - set(range(85, 89)) for head in layer] for layer in out.kept[0].cache])
    expected = [
        np.mean([len(a & b) / 16 for a, b in zip(one, other, strict=True)]) for one, other in zip(*kept, strict=True)
    ]
    found = agreements(target, draft, ids[0], SETTINGS, 6, ("draft",))["draft"]
    np.testing.assert_allclose(found.overlap, expected)


def test_a_prompt_within_the_budget_is_refused():
    target, draft = tiny_pair("llama")
    with pytest.raises(ValueError, match="a prompt of 20 tokens is within the budget of 20"):
        agreements(target, draft, prompt(20, 3)[0], SETTINGS, 6)


def test_noise_is_seeded_grows_and_leaves_the_model_alone():
    _, draft = tiny_pair("llama")
    before = {name: weight.clone() for name, weight in draft.named_parameters()}

    @torch.no_grad()
    def distance(other):
        return sum((a - b).norm().item() for a, b in zip(draft.parameters(), other.parameters(), strict=True))

    little, much, again = noisy(draft, 0.1, 1), noisy(draft, 0.5, 1), noisy(draft, 0.1, 1)
    assert 0 < distance(little) < distance(much)
    assert distance(little) == distance(again) != distance(noisy(draft, 0.1, 2))
    assert distance(noisy(draft, 0.0, 1)) == 0
    assert all(torch.equal(weight, before[name]) for name, weight in draft.named_parameters())


def test_tokens_agree_at_their_places():
    assert token_agreement([1, 2, 9], [1, 2, 3, 4]) == 0.5
    assert token_agreement([], [1]) == 0
