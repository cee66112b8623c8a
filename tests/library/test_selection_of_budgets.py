"""How a budget is shared out over layers and heads, and what all queries' attention adds up to."""

import pytest
import torch

from draft_approx_llm import config_from_dict
from draft_approx_llm.configs import KVConfig, capacity_of
from draft_approx_llm.importance import accumulated_attention, attention_by_head
from draft_approx_llm.selection import best, best_over_heads, pyramid


@pytest.mark.parametrize("n_layers", [1, 2, 4, 28, 32])
@pytest.mark.parametrize(
    ("mean", "most", "beta"), [(80, 4000, 20), (7, 300, 20), (56, 90, 20), (1, 50, 3), (64, 64, 20)]
)
def test_a_pyramid_falls_and_keeps_the_mean(n_layers, mean, most, beta):
    shares = pyramid(mean, n_layers, most, beta)
    assert len(shares) == n_layers and sum(shares) == n_layers * mean
    assert all(0 <= share <= most for share in shares)
    # rounding may turn a step by one
    assert all(lower >= higher - 1 for lower, higher in zip(shares, shares[1:], strict=False))
    if n_layers > 1 and 2 * mean < most and mean >= beta:
        assert abs(shares[-1] - mean / beta) <= 1 and abs(shares[0] - (2 * mean - mean / beta)) <= 1


def test_pyramid_by_hand():
    # from 2 * 79 - 79 / 20 = 154.05 down to 79 / 20 = 3.95, in steps of 50.03
    shares = pyramid(79, 4, 4000, 20)
    assert shares == [154, 104, 54, 4]


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.5, 1.0])
def test_heads_share_by_rank_above_a_floor(floor):
    scores = torch.rand(3, 50, generator=torch.Generator().manual_seed(3)) * torch.tensor([[1.0], [3.0], [0.2]])
    k = 10
    chosen = best_over_heads(scores, k, floor)
    assert sum(map(len, chosen)) == 3 * k
    for head, row in zip(chosen, scores, strict=True):
        assert head.tolist() == sorted(head.tolist())
        assert set(best(row, int(k * floor)).tolist()) <= set(head.tolist())
        # what a head keeps are its own best
        assert set(head.tolist()) == set(best(row, len(head)).tolist())
    if floor == 1.0:
        assert [len(head) for head in chosen] == [k] * 3
    if floor == 0.0:
        threshold = scores.flatten().sort(descending=True).values[3 * k - 1]
        assert [head.tolist() for head in chosen] == [(row >= threshold).nonzero()[:, 0].tolist() for row in scores]


def test_ties_between_heads_go_to_the_lower_head_and_position():
    chosen = best_over_heads(torch.ones(2, 6), 2, 0.0)
    assert [head.tolist() for head in chosen] == [[0, 1, 2, 3], []]
    assert [head.tolist() for head in best_over_heads(torch.ones(2, 6), 2, 0.5)] == [[0, 1, 2], [0]]
    # the floor of 1.5 is one position
    assert [head.tolist() for head in best_over_heads(torch.ones(2, 6), 3, 0.5)] == [[0, 1, 2, 3, 4], [0]]


@pytest.mark.parametrize("sliding_window", [None, 9])
@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("most_weights", [1, 200, 1 << 26])
def test_attention_of_all_queries_adds_up_block_by_block(sliding_window, reduction, most_weights):
    generator = torch.Generator().manual_seed(5)
    queries, keys = torch.randn(4, 37, 8, generator=generator), torch.randn(2, 37, 8, generator=generator)
    got = accumulated_attention(queries, keys, 0.3, reduction, sliding_window, most_weights)
    weights = torch.stack(list(attention_by_head(queries, keys, 0.3, sliding_window)))
    expected = weights.amax((1, 2)) if reduction == "max" else weights.sum(2).mean(1)
    torch.testing.assert_close(got, expected)
    if reduction == "mean":
        assert got.sum() == pytest.approx(2 * 37, rel=1e-5)  # every query spends 1


@pytest.mark.parametrize(("n", "ratio", "tokens"), [(10, 0.25, 3), (10, 0.04, 1), (10, 1.0, 10), (1000, 0.1, 100)])
def test_a_ratio_is_rounded_and_never_nothing(n, ratio, tokens):
    assert capacity_of(n, None, ratio) == tokens
    assert KVConfig(budget_ratio=ratio).capacity(n) == tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "max_capacity_prompt: missing; or give budget_ratio"),
        ({"max_capacity_prompt": 64, "budget_ratio": 0.1}, "budget_ratio: give it or max_capacity_prompt, not both"),
        ({"budget_ratio": 0}, "budget_ratio: must be a number above 0"),
        ({"budget_ratio": 1.5}, "budget_ratio: must be a number above 0"),
        ({"max_capacity_prompt": 64, "queries": "drafts"}, "queries: must be one of window, draft, target"),
        ({"max_capacity_prompt": 64, "allocation": "ada"}, "allocation: must be one of uniform, pyramid"),
        ({"max_capacity_prompt": 34, "sink_size": 4}, "sink_size: 4 and window_size 32 leave no room"),
        ({"max_capacity_prompt": 64, "adaptive_floor": 2}, "adaptive_floor: must be a number from 0 to 1"),
        ({"max_capacity_prompt": 64, "kernel_size": 4}, "kernel_size: 4 is even"),
    ],
)
def test_axes_are_checked(settings, message):
    import baselines

    baselines.load("snapkv")
    with pytest.raises(ValueError) as caught:
        config_from_dict({"sparse_type": "snapkv", **settings})
    assert str(caught.value).startswith(message)
