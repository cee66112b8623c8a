"""The pure functions against definitions written out plainly."""

import pytest
import torch
from families import DEVICE

from draft_approx_llm.importance import attention_by_head, kv_importance, pool, prompt_importance
from draft_approx_llm.prefill import sparse_attention
from draft_approx_llm.selection import best, keep_prompt, neighbour_offsets


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense_weights(queries, keys, scaling, sliding_window=None):
    """[Hq, Q, S]: the definition, one entry at a time."""
    heads, n_queries, _ = queries.shape
    group, n_keys = heads // keys.shape[0], keys.shape[1]
    weights = torch.zeros(heads, n_queries, n_keys)
    for h in range(heads):
        for q in range(n_queries):
            position = n_keys - n_queries + q
            oldest = 0 if sliding_window is None else max(0, position - sliding_window + 1)
            seen = keys[h // group, oldest : position + 1]
            weights[h, q, oldest : position + 1] = (seen @ queries[h, q] * scaling).softmax(0)
    return weights


@pytest.mark.parametrize("sliding_window", [None, 7])
def test_attention_by_head_is_causal_softmax(sliding_window):
    queries, keys = random(6, 5, 8), random(2, 20, 8, seed=1)
    got = torch.cat(list(attention_by_head(queries, keys, 0.3, sliding_window)))
    torch.testing.assert_close(got, dense_weights(queries, keys, 0.3, sliding_window))


def test_attention_is_float32_whatever_the_model_computes_in():
    queries, keys = random(2, 3, 8).bfloat16(), random(1, 9, 8, seed=1).bfloat16()
    (got,) = attention_by_head(queries, keys, 1.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, dense_weights(queries.float(), keys.float(), 1.0))


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_kv_importance_reduces_over_its_own_group(reduction):
    queries, keys = random(6, 5, 8), random(2, 20, 8, seed=1)
    weights = dense_weights(queries, keys, 1.0)[..., :15].reshape(2, 3 * 5, 15)
    expected = weights.amax(1) if reduction == "max" else weights.mean(1)
    torch.testing.assert_close(kv_importance(queries, keys, 1.0, reduction), expected)


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_prompt_importance_weighs_later_queries_more(reduction):
    queries, keys = random(4, 5, 8), random(2, 12, 8, seed=1)
    weights = dense_weights(queries, keys, 1.0) * torch.tensor([0, 0.25, 0.5, 0.75, 1])[:, None]
    expected = weights.amax((0, 1)) if reduction == "max" else weights.mean((0, 1))
    torch.testing.assert_close(prompt_importance(queries, keys, 1.0, reduction, weighted=True), expected)


@pytest.mark.parametrize("kernel", [1, 2, 5, 8])
def test_pool_is_centred_and_even_kernels_reach_right(kernel):
    scores = random(2, 11).abs()
    left = (kernel - 1) // 2
    windows = [scores[:, max(0, i - left) : i + kernel - left] for i in range(11)]
    torch.testing.assert_close(pool(scores, "max", kernel), torch.stack([w.amax(1) for w in windows], 1))
    torch.testing.assert_close(pool(scores, "mean", kernel), torch.stack([w.sum(1) / kernel for w in windows], 1))
    assert pool(scores, None, kernel) is scores
    assert pool(scores[:, :0], "max", kernel).shape == (2, 0)


def test_best_breaks_ties_by_position_for_every_k():
    scores = torch.tensor([[1.0, 3, 3, 2, 3, 2], [0, 0, 0, 0, 0, 0]], device=DEVICE)
    assert best(scores, 6).tolist() == [[1, 2, 4, 3, 5, 0], [0, 1, 2, 3, 4, 5]]
    for k in range(7):
        assert best(scores, k).tolist() == best(scores, 6)[:, :k].tolist()
    many = torch.randint(0, 4, (3, 5000), generator=torch.Generator().manual_seed(0)).float().to(DEVICE)
    expected = [sorted(range(5000), key=lambda i, row=row: (-row[i], i))[:777] for row in many.tolist()]
    assert best(many, 777).tolist() == expected


@pytest.mark.parametrize(
    ("n", "expected"), [(0, [0]), (1, [0]), (2, [0, 1]), (3, [0, -1, 1]), (6, [0, -1, 1, -2, 2, 3])]
)
def test_neighbours_come_nearest_first_and_left_first(n, expected):
    assert neighbour_offsets(n) == expected


@pytest.mark.parametrize("seed", range(20))
def test_keep_prompt_is_the_ordered_list_of_the_paper(seed):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(30, 90, (), generator=generator))
    capacity = int(torch.randint(10, n, (), generator=generator))
    window, neighbours = int(torch.randint(1, capacity, (), generator=generator)), seed % 7
    scores = torch.randint(0, 9, (n,), generator=generator).float()

    order = sorted(range(n), key=lambda i: (-scores[i], i))[:capacity]
    wanted = list(range(n - window, n))
    for i in order:
        wanted += [min(max(i + offset, 0), n - 1) for offset in neighbour_offsets(neighbours)]
    expected = sorted(list(dict.fromkeys(wanted))[:capacity])
    assert keep_prompt(scores, capacity, window, neighbours).tolist() == expected


@pytest.mark.parametrize("sliding_window", [None, 23])
@pytest.mark.parametrize(("n", "band", "columns", "chunk"), [(70, 9, 5, 16), (64, 1, 0, 64), (33, 40, 33, 8)])
def test_sparse_attention_is_dense_attention_with_a_mask(n, band, columns, chunk, sliding_window):
    query, key, value = random(6, n, 8), random(2, n, 8, seed=1), random(2, n, 8, seed=2)
    vertical = torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(s))[:columns] for s in (0, 1)])
    i, j = torch.arange(n)[:, None], torch.arange(n)
    seen = ((i - j < band) | torch.zeros(2, n, dtype=torch.bool).scatter(1, vertical, True)[:, None]) & (j <= i)
    if sliding_window is not None:
        seen = seen & (i - j < sliding_window)
    logits = (query.unflatten(0, (2, 3)) @ key[:, None].transpose(-1, -2) * 0.4).masked_fill(
        ~seen[:, None], float("-inf")
    )
    expected = (logits.softmax(-1) @ value[:, None]).flatten(0, 1)
    got = sparse_attention(query, key, value, vertical, band, 0.4, sliding_window, chunk=chunk)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
