"""Baselines that shorten the prompt, and the vertical-slash prefill."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "library"))

from families import DEVICE, left_padded, prompt, tiny_pair  # noqa: E402

import baselines  # noqa: E402
from baselines.speculative_prefill import choose_chunks  # noqa: E402
from baselines.truncation import choose  # noqa: E402
from draft_approx_llm import config_from_dict, patch_model, unpatch_model  # noqa: E402
from draft_approx_llm.importance import attention_by_head  # noqa: E402
from draft_approx_llm.vertical_slash import choose_vertical_slash, vertical_slash_attention  # noqa: E402

N = 120
SETTINGS = {
    "truncation": {},
    "truncation head": {"cut": "head"},
    "random_prompt": {"window_size": 8},
    "specpc_oracle": {"window_size": 8, "kernel_size": 6, "lookahead_tokens": 3, "starting_layer_index": 1},
    "speculative_prefill": {"chunk_size": 16, "kernel_size": 5, "lookahead_tokens": 4},
}


def config_of(name, capacity=48):
    sparse_type = name.split()[0]
    baselines.load(sparse_type)
    return config_from_dict({"sparse_type": sparse_type, "max_capacity_prompt": capacity, **SETTINGS[name]})


def run(target, ids, mask=None):
    mask = torch.ones_like(ids) if mask is None else mask
    return target.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_target_reads_the_kept_tokens_and_no_more_than_the_budget(name, family):
    target, draft = tiny_pair(family)
    patch_model(target, draft, config_of(name))
    ids = prompt(N, 6)
    output = run(target, ids)
    kept = output.kept[0].prompt
    assert kept.tolist() == sorted(set(kept.tolist())) and int(kept[0]) >= 0 and int(kept[-1]) < N
    assert output.stats[0]["read_tokens"] == len(kept) <= 48
    if name != "speculative_prefill":
        assert len(kept) == 48
        unpatch_model(target)
        short = run(target, ids[:, kept])
        assert output.output_ids.tolist() == short.sequences[:, 48:].tolist()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_budget_of_the_prompt_changes_nothing_and_a_batch_equals_its_rows(name):
    target, draft = tiny_pair("llama")
    unpatch_model(target)
    expected = run(target, prompt(N, 3)).sequences.tolist()
    patch_model(target, draft, config_of(name, capacity=512))
    assert run(target, prompt(N, 3)).sequences.tolist() == expected
    patch_model(target, draft, config_of(name))
    prompts = [prompt(N, 1), prompt(N - 27, 2), prompt(20, 3)]
    together = run(target, *left_padded(prompts))
    for row, one in enumerate(prompts):
        alone = run(target, one)
        assert together.output_ids[row].tolist() == alone.output_ids[0].tolist()
        assert together.stats[row] == alone.stats[0]
        if alone.kept[0].prompt is not None:
            assert together.kept[row].prompt.tolist() == alone.kept[0].prompt.tolist()


def test_what_truncation_cuts():
    assert choose(10, 5, "head").tolist() == [5, 6, 7, 8, 9]
    assert choose(10, 5, "tail").tolist() == [0, 1, 2, 3, 4]
    assert choose(10, 5, "middle").tolist() == [0, 1, 7, 8, 9]


def test_random_tokens_depend_on_the_prompt_and_the_seed_alone():
    target, _ = tiny_pair("llama")

    def kept(ids, **changes):
        settings = {"sparse_type": "random_prompt", "max_capacity_prompt": 48, "window_size": 8, **changes}
        patch_model(target, None, config_from_dict(settings))
        return run(target, ids).kept[0].prompt.tolist()

    config_of("random_prompt")
    first = kept(prompt(N, 1))
    assert kept(prompt(N, 2)) != first != kept(prompt(N, 1), seed=7)
    assert kept(prompt(N, 1)) == first
    assert first[-8:] == list(range(N - 8, N))


def test_chunks_are_ranked_by_their_mean_and_kept_in_order():
    scores = torch.zeros(10)
    scores[[1, 8, 9]] = torch.tensor([1.0, 5.0, 5.0])
    # chunks of 4: means 0.25, 0, 5 (of two tokens)
    assert choose_chunks(scores, 6, 4).tolist() == [0, 1, 2, 3, 8, 9]
    assert choose_chunks(scores, 5, 4).tolist() == [8, 9]  # ceil(5 / 10 * 3) = 2 chunks are 6 tokens: one too many
    assert choose_chunks(scores, 1, 4).tolist() == [9]


def test_speculative_prefill_scores_are_the_formula():
    target, draft = tiny_pair("llama")
    ids, steps, kernel = prompt(N, 6), 4, 5
    unpatch_model(draft)
    said = draft.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False)
    draft.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            attention = draft(said[:, :-1], output_attentions=True).attentions
    finally:
        draft.set_attn_implementation("sdpa")
    rows = []
    for step in range(said.shape[1] - N):
        at = N - 1 + step
        seen = torch.stack([layer[0, :, at, : at + 1] for layer in attention])
        pooled = torch.nn.functional.avg_pool1d(seen, kernel, 1, kernel // 2)
        rows.append(pooled.amax((0, 1))[:N])
    for chunk in (16, 1):
        expected = choose_chunks(torch.stack(rows).mean(0), 48, chunk)
        patch_model(target, draft, replace(config_of("speculative_prefill"), chunk_size=chunk))
        assert run(target, ids).kept[0].prompt.tolist() == expected.tolist()
        assert len(expected) <= 48


def test_the_oracle_listens_to_the_target():
    target, draft = tiny_pair("llama")
    patch_model(target, None, config_of("specpc_oracle"))
    alone = run(target, prompt(N, 6))
    assert alone.stats[0]["draft_tokens"] == alone.stats[0]["draft_cache_bytes"] == 0
    specpc = config_from_dict({"sparse_type": "specpc", "max_capacity_prompt": 48, **SETTINGS["specpc_oracle"]})
    patch_model(target, target, specpc)
    assert run(target, prompt(N, 6)).kept[0].prompt.tolist() == alone.kept[0].prompt.tolist()
    patch_model(target, draft, specpc)
    assert run(target, prompt(N, 6)).kept[0].prompt.tolist() != alone.kept[0].prompt.tolist()


@pytest.mark.parametrize("sliding_window", [None, 11])
def test_vertical_slash_is_masked_attention(sliding_window):
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(h, 50, 8, generator=generator) for h in (4, 2, 2))
    vertical, slash = choose_vertical_slash(query[:, -9:], key, 0.4, 6, 7, 2, 3, sliding_window)
    weights = torch.cat(list(attention_by_head(query[:, -9:], key, 0.4, sliding_window)))
    for head in range(4):
        column_sums = weights[head].sum(0)
        along = torch.tensor([sum(weights[head, i, 41 + i - d] for i in range(9) if 41 + i >= d) for d in range(50)])
        column_sums[:2] = along[:3] = float("inf")
        assert sorted(vertical[head].tolist()) == sorted(column_sums.topk(6).indices.tolist())
        assert sorted(slash[head].tolist()) == sorted(along.topk(7).indices.tolist())
    got = vertical_slash_attention(query, key, value, vertical, slash, 0.4, sliding_window, chunk=16)
    i, j = torch.arange(50)[:, None], torch.arange(50)
    for head in range(4):
        seen = torch.isin(j, vertical[head]) | torch.isin(i - j, slash[head])
        seen = seen & (j <= i) & ((i - j) < (sliding_window or 99))
        logits = (query[head] @ key[head // 2].T * 0.4).masked_fill(~seen, float("-inf"))
        torch.testing.assert_close(got[head], logits.softmax(-1) @ value[head // 2], atol=1e-5, rtol=1e-5)


def test_minference_is_dense_when_everything_is_chosen_and_keeps_everything():
    baselines.load("minference")
    target, _ = tiny_pair("llama")
    unpatch_model(target)
    expected = run(target, prompt(N, 6))
    for settings, same in (
        ({}, True),
        ({"vertical_size": 4, "slash_size": 4, "first_size": 1, "recent_size": 2}, False),
    ):
        patch_model(target, None, config_from_dict({"sparse_type": "minference", **settings}))
        got = run(target, prompt(N, 6))
        assert got.stats[0]["kept_tokens"] == N
        assert torch.allclose(got.logits[0], expected.logits[0], atol=1e-4) == same
    assert target.device == DEVICE
