"""Baselines that drop KV pairs: their scores by the formulas written out plainly, their steps, and what they keep."""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "library"))

from families import DEVICE, prompt, tiny_model  # noqa: E402

import baselines  # noqa: E402
from draft_approx_llm import config_from_dict  # noqa: E402
from draft_approx_llm.kv_dropping import KVDropping  # noqa: E402
from draft_approx_llm.method import Generate, LookAhead, Read, Request  # noqa: E402
from draft_approx_llm.prefill import LayerView, sparse_attention  # noqa: E402
from draft_approx_llm.selection import pyramid  # noqa: E402
from draft_approx_llm.timing import Timer  # noqa: E402
from draft_approx_llm.vertical_slash import choose_vertical_slash, vertical_slash_attention  # noqa: E402

N, H, GROUP, D, LAYERS = 60, 2, 2, 8, 4
SCALING = 0.4


def config_of(sparse_type, **settings):
    baselines.load(sparse_type)
    return config_from_dict({"sparse_type": sparse_type, **settings})


def rotary(positions):
    """A rotation of the first 6 of 8 dimensions, scaled as some RoPE variants are."""
    angles = positions[:, None] * torch.tensor([1.0, 0.3, 0.02], device=positions.device)
    return 1.2 * torch.cat([angles, angles], -1).cos(), 1.2 * torch.cat([angles, angles], -1).sin()


def view_of(n, layer=0, seed=0, sliding_window=None):
    """A layer of n random tokens."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = (torch.randn(h, n, D, generator=generator).to(DEVICE) for h in (H * GROUP, H, H))
    return LayerView(layer, LAYERS, 2 * queries, keys, values, SCALING, sliding_window, rotary)


def attention(view):
    """[Hq, n, n], by the definition."""
    keys = view.keys.repeat_interleave(GROUP, 0)
    hidden = torch.ones(keys.shape[1], keys.shape[1], dtype=torch.bool, device=DEVICE).triu(1)
    return (view.queries @ keys.transpose(1, 2) * SCALING).masked_fill(hidden, float("-inf")).softmax(-1)


def kept_of(config, view, n, n_ahead=0):
    return [head.tolist() for head in config.build().keep(view, n=n, n_ahead=n_ahead)]


def best_of(scores, k):
    """Sorted positions of the k best of [S]."""
    return scores.topk(k).indices.sort().values.tolist()


def test_tova_keeps_what_the_last_token_attends_to_in_all_heads():
    view = view_of(N)
    scores = attention(view)[:, -1, : N - 1].mean(0)
    assert kept_of(config_of("tova", max_capacity_prompt=12), view, N) == [best_of(scores, 12)] * H


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_the_heads_of_a_layer_are_reduced_alike(reduction):
    view = view_of(N)
    weights = attention(view)[:, -6:, : N - 6]
    scores = weights.amax((0, 1)) if reduction == "max" else weights.mean((0, 1))
    config = config_of(
        "snapkv",
        max_capacity_prompt=12,
        window_size=5,
        pool_type=None,
        reduction_type=reduction,
        head_reduction="layer",
    )
    torch.testing.assert_close(config.build().importance(view, N, 0, 5), scores.expand(H, -1))
    assert kept_of(config, view, N) == [best_of(scores, 7) + list(range(N - 6, N - 1))] * H


def test_h2o_adds_up_the_attention_of_all_the_prompts_queries():
    view, window = view_of(N + 3), 4  # the last 3 are no part of the prompt
    got = config_of("h2o", max_capacity_prompt=20).build().importance(view, N, 3, window)
    expected = attention(view)[:, :N, : N - 1 - window].unflatten(0, (H, GROUP)).sum(2).mean(1)
    torch.testing.assert_close(got, expected)


def test_keydiff_prefers_keys_unlike_the_mean_of_all():
    view = view_of(N)
    keys = view.keys / view.keys.norm(dim=-1, keepdim=True)
    mean = keys.mean(1, keepdim=True)
    expected = -(keys * mean).sum(-1) / mean.norm(dim=-1)
    got = config_of("keydiff", max_capacity_prompt=20).build().importance(view, N, 0, 3)
    torch.testing.assert_close(got, expected[:, : N - 4])


def test_expected_attention_is_the_formula():
    view, sinks, future, window = view_of(N), 4, 11, 2

    def turn(position):
        """[D, D]: the rotation at a position, as a matrix."""
        cos, sin = (table[0, :3] for table in rotary(torch.tensor([position], device=DEVICE)))
        matrix = torch.eye(D, device=DEVICE)
        for i in range(3):
            matrix[i, i] = matrix[i + 3, i + 3] = cos[i]
            matrix[i, i + 3], matrix[i + 3, i] = -sin[i], sin[i]
        return matrix

    average = torch.stack([turn(N + i) for i in range(future)]).mean(0)
    expected = torch.zeros(H, N - sinks, device=DEVICE)
    for head in range(H):
        keys, values = view.keys[head, sinks:], view.values[head, sinks:]
        for query_head in range(head * GROUP, (head + 1) * GROUP):
            queries = torch.stack([turn(i).inverse() @ view.queries[query_head, i] for i in range(sinks, N)])
            mean, covariance = queries.mean(0), torch.cov(queries.T, correction=0)
            spread = (keys @ average @ covariance @ average.T * keys).sum(-1)
            logits = SCALING * keys @ average @ mean + SCALING**2 / 2 * spread
            expected[head] += logits.softmax(-1) / GROUP * values.norm(dim=-1)
    config = config_of("expected_attention", max_capacity_prompt=20, future_positions=future, sink_size=sinks)
    got = config.build().importance(view, N, 0, window)
    assert got.shape == (H, N - 1 - window)
    torch.testing.assert_close(got[:, sinks:], expected[:, : N - 1 - window - sinks], atol=1e-6, rtol=1e-4)
    assert all(head[:sinks] == [0, 1, 2, 3] for head in kept_of(config, view, N))


def test_streaming_llm_keeps_the_sinks_and_the_end():
    config = config_of("streaming_llm", max_capacity_prompt=10)
    assert kept_of(config, view_of(N), N) == [[0, 1, 2, 3, *range(N - 7, N - 1)]] * H


def test_random_keep_differs_by_head_layer_length_and_seed_and_by_nothing_else():
    def kept(layer=0, n=N, view_seed=0, **settings):
        config = config_of("random_kv", max_capacity_prompt=20, window_size=4, **settings)
        return kept_of(config, view_of(n, layer, view_seed), n)

    first = kept()
    assert first == kept(view_seed=5)
    assert first[0] != first[1]
    others = kept(layer=1), kept(n=N + 1), kept(seed=7)
    assert all(first[0][:-4] != other[0][:-4] for other in others)


@pytest.mark.parametrize("name", ["pyramidkv", "pyramid_speckv", "ada_snapkv", "ada_speckv", "snapkv"])
def test_how_the_budget_is_shared_out(name):
    shared = {"max_capacity_prompt": 20, "window_size": 4, "kernel_size": 5}
    config = config_of(name, **shared)
    sizes = [list(map(len, kept_of(config, view_of(N, layer, seed=layer), N))) for layer in range(LAYERS)]
    if "pyramid" in name:
        assert sizes == [[4 + share] * H for share in pyramid(16, LAYERS, N - 5, 20)]
        gentle = config_of(name, **shared, pyramid_beta=2)
        assert len(kept_of(gentle, view_of(N), N)[0]) == 4 + pyramid(16, LAYERS, N - 5, 2)[0] != sizes[0][0]
    elif "ada" in name:
        assert all(sum(layer) == 20 * H for layer in sizes) and any(len(set(layer)) > 1 for layer in sizes)
        even = config_of(name, **shared, adaptive_floor=1)
        assert [len(head) for head in kept_of(even, view_of(N), N)] == [20] * H
    else:
        assert sizes == [[20] * H] * LAYERS


REQUEST = Request(7, (), tiny_model("llama"), Timer(DEVICE))


def play(config, ids, *results):
    """The steps that a method takes when it is sent these results."""
    steps = config.build().steps(ids, REQUEST)
    taken = [steps.send(None)]
    taken += [steps.send(result) for result in results]
    return taken


def test_the_oracle_generates_from_the_full_cache():
    ids, said = prompt(N, 1)[0], torch.tensor([5, 6], device=DEVICE)
    config = config_of("oracle_lookahead", max_capacity_prompt=20, window_size=4, lookahead_tokens=3)
    first, generate, second = play(config, ids, "prefilled", said)
    assert isinstance(first, Read) and first.tokens is ids and first.keep is None and first.lookahead is None
    assert isinstance(generate, Generate) and (generate.prefilled, generate.n_tokens) == ("prefilled", 3)
    assert second.tokens is ids and second.lookahead is said and second.keep is not None


@pytest.mark.parametrize("name", ["speckv", "ada_speckv", "pyramid_speckv"])
def test_the_draft_looks_ahead_by_max_new_tokens_unless_told(name):
    (step,) = play(config_of(name, max_capacity_prompt=20, window_size=4), prompt(N, 1)[0])
    assert isinstance(step, LookAhead) and (step.n_tokens, step.by, step.listen) == (7, "draft", None)


def test_the_sparse_prefill_sees_the_band_and_the_best_columns():
    said, settings = torch.tensor([5, 6], device=DEVICE), {"window_size": 4, "pool_type": None}
    config = config_of("speckv", prefill_window_size=10, prefill_vertical_size=6, max_capacity_prompt=20, **settings)
    _, read = play(config, prompt(N, 1)[0], SimpleNamespace(tokens=said))
    view = view_of(N + 2)
    scores = attention(view)[:, -7:, : N - 5].unflatten(0, (H, GROUP)).amax((1, 2))
    expected = sparse_attention(view.queries, view.keys, view.values, scores.topk(6).indices, 10, SCALING)
    torch.testing.assert_close(read.pattern(view), expected, atol=1e-6, rtol=1e-5)
    assert read.lookahead is said


def test_controls_bring_a_lookahead_of_their_own():
    ids = prompt(N, 1)[0]

    def lookahead(name, of=ids, **settings):
        (read,) = play(config_of(name, max_capacity_prompt=20, window_size=4, **settings), of)
        return read.lookahead.tolist()

    assert lookahead("dummy_lookahead") == [int(ids[-1])] * 7
    random = lookahead("random_lookahead", lookahead_tokens=40)
    assert len(random) == 40 and len(set(random)) > 20
    assert min(random) >= 0 and max(random) < REQUEST.target.config.vocab_size
    assert lookahead("random_lookahead", of=prompt(N, 2)[0], lookahead_tokens=40) == random
    assert lookahead("random_lookahead", lookahead_tokens=40, seed=7) != random
    assert lookahead("random_lookahead", of=ids[1:], lookahead_tokens=40) != random


def test_laq_compresses_by_its_first_window_and_scores_with_what_it_generated():
    ids, said = prompt(N, 1)[0], torch.tensor([5, 6], device=DEVICE)
    config = config_of("laq", max_capacity_prompt=20, window_size=4, first_window_size=9, lookahead_tokens=3)
    first, generate, second = play(config, ids, "prefilled", said)
    assert (generate.prefilled, generate.n_tokens) == ("prefilled", 3)
    assert first.lookahead is None and second.lookahead is said
    snapkv = partial(config_of, "snapkv", max_capacity_prompt=20, pool_type="mean", kernel_size=5)
    view = view_of(N)
    assert first.keep(view).tolist() == kept_of(snapkv(window_size=9), view, N)
    longer = view_of(N + 2)
    assert second.keep(longer).tolist() == kept_of(snapkv(window_size=4), longer, N, n_ahead=2)
    assert second.keep(longer).tolist() != kept_of(snapkv(window_size=9), longer, N, n_ahead=2)


def test_minference_chooses_by_its_settings():
    settings = {"vertical_size": 6, "slash_size": 9, "first_size": 2, "recent_size": 5, "window_size": 7}
    (read,) = play(config_of("minference", **settings), prompt(N, 1)[0])
    view = view_of(N, sliding_window=30)
    chosen = choose_vertical_slash(
        view.queries[:, -7:],
        view.keys,
        SCALING,
        n_vertical=6,
        n_slash=9,
        n_first=2,
        n_recent=5,
        sliding_window=30,
    )
    expected = vertical_slash_attention(view.queries, view.keys, view.values, *chosen, SCALING, 30)
    assert torch.equal(read.pattern(view), expected)


def test_one_view_is_scored_once_for_budgets_and_anew_for_what_scores_otherwise():
    view, shared = view_of(N), {"max_capacity_prompt": 20, "window_size": 4}
    alike = [
        config_of("snapkv", **shared),
        config_of("snapkv", **shared, allocation="adaptive"),
        config_of("snapkv", **shared | {"max_capacity_prompt": 30}),
    ]
    others = [
        config_of("snapkv", **shared, kernel_size=9),
        config_of("snapkv", **shared, pool_type=None),
        config_of("snapkv", **shared, reduction_type="max"),
        config_of("snapkv", **shared, head_reduction="layer"),
        config_of("snapkv", **shared | {"window_size": 6}),
        config_of("snapkv", budget_ratio=3 / N, window_size=4),  # no more than its window, which shrinks to 3
        config_of("h2o", **shared, pool_type="mean", kernel_size=5),  # SnapKV's settings, another method
        config_of("random_kv", **shared),
        config_of("random_kv", **shared, seed=7),
    ]
    alone = [kept_of(config, view_of(N), N) for config in alike + others]
    assert [kept_of(config, view, N) for config in alike + others] == alone
    scored = SimpleNamespace(times=0)

    class Counting(KVDropping):
        def importance(self, *args):
            scored.times += 1
            return super().importance(*args)

    for config in alike:
        Counting(config).keep(view, n=N, n_ahead=0)
    assert scored.times == 1


def test_published_defaults():
    def settings(name, *names):
        config = config_of(name, **({} if name == "minference" else {"max_capacity_prompt": 100}))
        return tuple(getattr(config, one) for one in names)

    window = "window_size", "kernel_size", "pool_type", "reduction_type"
    assert settings("snapkv", *window) == (32, 5, "mean", "mean")
    assert settings("pyramidkv", *window, "pyramid_beta") == (8, 7, "max", "mean", 20)
    assert settings("ada_snapkv", *window, "adaptive_floor") == (32, 7, "max", "mean", 0.2)
    assert settings("h2o", "window_size", "pool_type") == (8, None)
    assert settings("laq", *window, "first_window_size", "lookahead_tokens") == (8, 5, "mean", "mean", 32, 8)
    assert settings("expected_attention", "window_size", "sink_size", "future_positions") == (0, 4, 512)
    assert settings("speculative_prefill", "lookahead_tokens", "kernel_size", "chunk_size") == (8, 13, 32)
    sizes = "vertical_size", "slash_size", "first_size", "recent_size", "window_size"
    assert settings("minference", *sizes) == (1000, 6096, 30, 100, 64)
