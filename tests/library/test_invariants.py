"""What must hold for every method in every family."""

from dataclasses import replace

import pytest
import torch
from families import DEVICE, FAMILIES, left_padded, prompt, tiny_pair
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import baselines
from draft_approx_llm import (
    FullConfig,
    SpecKVConfig,
    SpecKVPCConfig,
    SpecPCConfig,
    config_from_dict,
    patch_model,
    unpatch_model,
)
from draft_approx_llm.method import Request
from draft_approx_llm.prefill import Branch, Prefill, read, rotary
from draft_approx_llm.reading import read_prompts
from draft_approx_llm.timing import Timer

N, NEW = 120, 8


def speckv(capacity, **changes):
    settings = {"max_capacity_prompt": capacity, "window_size": 8, "kernel_size": 5, "lookahead_tokens": 5}
    return SpecKVConfig(**{**settings, **changes})


def specpc(capacity, **changes):
    settings = {
        "max_capacity_prompt": capacity,
        "window_size": 8,
        "kernel_size": 6,
        "lookahead_tokens": 4,
        "starting_layer_index": 1,
    }
    return SpecPCConfig(**{**settings, **changes})


# Baselines that drop KV pairs, by their own name and with small windows for small prompts.
WINDOWED = ("snapkv", "pyramidkv", "ada_snapkv", "h2o", "random_kv", "laq")
WINDOWLESS = ("streaming_llm", "tova", "keydiff", "expected_attention")
LOOKAHEAD = ("ada_speckv", "pyramid_speckv", "oracle_lookahead", "random_lookahead", "dummy_lookahead")
RAGGED = ("ada_snapkv", "ada_speckv", "speckv_pyramid_adaptive")


def baseline(name, capacity, **changes):
    baselines.load(name)
    settings = {"sparse_type": name, "max_capacity_prompt": capacity, **changes}
    if name not in WINDOWLESS:
        settings["window_size"] = 8
    if name in LOOKAHEAD:
        settings |= {"lookahead_tokens": 5, "kernel_size": 5}
    if name == "laq":
        settings |= {"first_window_size": 12, "lookahead_tokens": 3}
    return config_from_dict(settings)


def methods(pc_capacity, kv_capacity):
    return {
        **{name: baseline(name, kv_capacity) for name in (*WINDOWED, *WINDOWLESS, *LOOKAHEAD)},
        "speckv_pyramid_adaptive": speckv(kv_capacity, allocation="pyramid_adaptive"),
        "full": FullConfig(),
        "speckv": speckv(kv_capacity),
        "speckv_mean": speckv(kv_capacity, reduction_type="mean", pool_type="mean", lookahead_tokens=None),
        "speckv_sparse": speckv(kv_capacity, prefill_window_size=20, prefill_vertical_size=16),
        "specpc": specpc(pc_capacity),
        "specpc_original": specpc(pc_capacity, position_ids="original", reduction_type="mean"),
        "speckvpc": SpecKVPCConfig(specpc(pc_capacity), speckv(kv_capacity, lookahead_tokens=None)),
        "speckvpc_original": SpecKVPCConfig(
            specpc(pc_capacity, position_ids="original"), speckv(kv_capacity, lookahead_tokens=None)
        ),
    }


DROPPING = methods(64, 32)
ROOMY = methods(512, 512)


def run(target, ids, mask=None, **kwargs):
    mask = torch.ones_like(ids) if mask is None else mask
    kwargs = {"max_new_tokens": NEW, "do_sample": False, **kwargs}
    return target.generate(ids, attention_mask=mask, return_dict_in_generate=True, **kwargs)


@pytest.mark.parametrize("name", ROOMY)
def test_budget_of_the_prompt_equals_the_unpatched_model(pair, name):
    target, draft = pair
    ids, mask = left_padded([prompt(N, 1), prompt(N - 50, 2)])
    alone = prompt(N, 3)
    unpatch_model(target)
    expected = run(target, alone, output_logits=True)
    expected_batch = run(target, ids, mask)
    patch_model(target, draft, ROOMY[name])
    got = run(target, alone, output_logits=True)
    assert got.sequences.tolist() == expected.sequences.tolist()
    if target.config.model_type == "gemma3_text":  # a mask where transformers needs none: other rounding
        torch.testing.assert_close(got.logits, expected.logits, atol=1e-5, rtol=1e-4)
    else:
        assert torch.equal(torch.stack(got.logits), torch.stack(expected.logits))
    assert run(target, ids, mask).sequences.tolist() == expected_batch.sequences.tolist()


@pytest.mark.parametrize("name", DROPPING)
def test_a_batch_equals_its_rows(pair, name):
    target, draft = pair
    # One row is below the budgets, one above SpecKV's only.
    prompts = [prompt(N, 1), prompt(N - 27, 2), prompt(20, 3), prompt(50, 4)]
    patch_model(target, draft, DROPPING[name])
    ids, mask = left_padded(prompts)
    together = run(target, ids, mask, output_logits=True)
    for row, one in enumerate(prompts):
        alone = run(target, one, output_logits=True)
        assert together.output_ids[row].tolist() == alone.output_ids[0].tolist()
        torch.testing.assert_close(
            torch.stack(together.logits)[:, row], torch.stack(alone.logits)[:, 0], atol=1e-4, rtol=1e-4
        )
        assert together.stats[row] == alone.stats[0]
        assert same_kept(together.kept[row], alone.kept[0])


def same_kept(one, other):
    def as_lists(kept):
        prompt_positions = None if kept.prompt is None else kept.prompt.tolist()
        cache = [] if kept.cache is None else kept.cache
        return prompt_positions, [[head.tolist() for head in layer] for layer in cache]

    return as_lists(one) == as_lists(other)


@pytest.mark.parametrize("name", DROPPING)
def test_a_sample_does_not_depend_on_the_one_before(pair, name):
    target, draft = pair
    patch_model(target, draft, DROPPING[name])
    alone = run(target, prompt(N, 7), output_logits=True)
    run(target, prompt(N + 31, 8))
    after = run(target, prompt(N, 7), output_logits=True)
    assert torch.equal(torch.stack(after.logits), torch.stack(alone.logits))
    assert same_kept(after.kept[0], alone.kept[0])


@pytest.mark.parametrize("name", [name for name in DROPPING if "full" not in name])
def test_the_method_changes_what_the_model_says(pair, name):
    target, draft = pair
    unpatch_model(target)
    expected = run(target, prompt(N, 9), output_logits=True)
    patch_model(target, draft, DROPPING[name])
    got = run(target, prompt(N, 9), output_logits=True)
    assert not torch.allclose(got.logits[0], expected.logits[0], atol=1e-3)


class Masking:
    """The reference for dropping: the full cache stays, and dropped keys are masked, per layer and KV head."""

    def __init__(self, n):
        self.n, self.kept = n, None

    def __call__(self, module, query, key, value, attention_mask, **kwargs):
        if query.shape[2] > 1:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        length = key.shape[2]
        seen = torch.zeros(key.shape[1], length, dtype=torch.bool, device=DEVICE)
        seen[:, self.n - 1 :] = True  # the last prompt token and everything after it
        for head, positions in enumerate(self.kept[module.layer_idx]):
            seen[head, positions] = True
        window = kwargs.get("sliding_window")
        if window is not None:
            seen[:, : max(0, length - window)] = False
        seen = seen.repeat_interleave(query.shape[1] // key.shape[1], 0)[None, :, None]
        return sdpa_attention_forward(module, query, key, value, seen, **kwargs)


MASKED = {
    **{name: method for name, method in DROPPING.items() if name not in ("full", "speckv_sparse") and "pc" not in name},
    "unpooled": speckv(32, reduction_type="mean", pool_type=None),
    "window": speckv(32, window_size=20),
}


@pytest.mark.parametrize("name", MASKED)
def test_dropping_equals_masking(pair, name):
    target, draft = pair
    check_masking(target, draft, MASKED[name], N)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_sliding_window_leaves_the_sinks_behind(beyond):
    target, draft = tiny_pair("gemma3")
    check_masking(target, draft, baseline("streaming_llm", 20), target.config.sliding_window + beyond)


def check_masking(target, draft, config, n):
    patch_model(target, draft, config)
    ids = prompt(n, 5)
    got = run(target, ids, output_logits=True)
    unpatch_model(target)

    masking = Masking(n)
    masking.kept = got.kept[0].cache
    AttentionInterface.register("test_masking", masking)
    AttentionMaskInterface.register("test_masking", sdpa_mask)
    cache = DynamicCache()  # without the model's config: sliding layers keep everything, and Masking hides it
    target.set_attn_implementation("test_masking")
    try:
        with torch.no_grad():
            target(input_ids=ids[:, :-1], past_key_values=cache)
            tokens = torch.cat([ids[:, -1:], got.output_ids], dim=1)
            for i in range(NEW):
                position = torch.tensor([[n - 1 + i]], device=DEVICE)
                step = target(input_ids=tokens[:, i : i + 1], position_ids=position, past_key_values=cache)
                torch.testing.assert_close(got.logits[i], step.logits[:, -1], atol=1e-4, rtol=1e-4)
    finally:
        target.set_attn_implementation("sdpa")


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_really_shrinks(family):
    target, draft = tiny_pair(family)
    capacity, config = 32, target.config
    method = speckv(capacity).build()
    request = Request(NEW, (), target, Timer(DEVICE))
    with torch.no_grad():
        (result,) = read_prompts(target, draft, [method], [prompt(N, 6)[0]], request)
    head_bytes = config.num_key_value_heads * config.head_dim * 4 * 2 if family != "phi3" else 2 * 16 * 4 * 2
    layers = config.num_hidden_layers
    # The budget; the last prompt token is yet to be fed again.
    for layer in result.cache.layers:
        assert layer.keys.shape[-2] == layer.values.shape[-2] == capacity
        held = layer.keys.untyped_storage().nbytes() + layer.values.untyped_storage().nbytes()
        assert held == capacity * head_bytes
    assert (result.stats["read_tokens"], result.stats["kept_tokens"]) == (N, capacity)
    assert result.stats["cache_bytes"] == layers * capacity * head_bytes
    one_full_layer = (N + 5) * head_bytes
    assert result.stats["peak_cache_bytes"] == (layers - 1) * capacity * head_bytes + one_full_layer


def test_at_most_one_whole_layer_exists_at_a_time(llama_pair):
    target, _ = llama_pair
    seen = []

    def keep(view):
        seen.append(hook.cache.nbytes())
        return torch.arange(10, device=DEVICE).expand(len(view.keys), -1)

    hook = Prefill([Branch(keep), Branch()])
    with torch.no_grad():
        read(target, prompt(N, 6)[0], hook)
    layers, whole = target.config.num_hidden_layers, 2 * N * 16 * 4 * 2
    assert seen == [whole] * layers
    assert hook.cache.nbytes() == 0
    assert [branch.cache.nbytes() for branch in hook.branches] == [layers * whole * 10 // N, layers * whole]


def test_the_rotation_is_that_of_the_layer(pair):
    model, _ = pair
    given = []
    layers = model.get_decoder().layers
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(kwargs["position_embeddings"]), with_kwargs=True
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(prompt(30))
    for hook in hooks:
        hook.remove()
    for i, (cos, sin) in enumerate(given):
        got = rotary(model, i, torch.arange(30, device=DEVICE))
        torch.testing.assert_close(got, (cos[0], sin[0]))
    assert len(given) == len(layers)


def test_a_sliding_layer_keeps_nothing_that_no_later_query_sees():
    target, draft = tiny_pair("gemma3")
    patch_model(target, draft, speckv(64))
    kept = run(target, prompt(N, 6)).kept[0].cache
    window = target.config.sliding_window
    assert [layer.shape[1] for layer in kept] == [window - 1, window - 1, 64]
    assert min(layer.min() for layer in kept[:2]) == N - window
    patch_model(target, None, FullConfig())
    assert run(target, prompt(N, 6)).stats[0]["kept_tokens"] == (2 * (window - 1) + N) / 3


def test_the_sliding_window_moves_on_while_decoding():
    target, _ = tiny_pair("gemma3")
    ids = prompt(target.config.sliding_window - 4, 6)
    expected = run(target, ids, max_new_tokens=12, output_logits=True)
    patch_model(target, None, FullConfig())
    got = run(target, ids, max_new_tokens=12, output_logits=True)
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-5, rtol=1e-4)


def test_the_prefill_is_sparse_where_prompt_and_lookahead_exceed_band_and_columns():
    method = speckv(None, prefill_window_size=20, prefill_vertical_size=16).build()
    assert not method.acts_on(31, 5)
    assert method.acts_on(32, 5)


def test_sparse_prefill_alone_drops_nothing(llama_pair):
    target, draft = llama_pair
    patch_model(target, draft, speckv(None, prefill_window_size=20, prefill_vertical_size=16))
    output = run(target, prompt(N, 6))
    assert output.stats[0]["kept_tokens"] == N - 1  # the last prompt token is fed again
    assert output.kept[0].cache[0].tolist() == [list(range(N - 1))] * 2


def test_prompt_compression_reads_the_kept_tokens_only(llama_pair):
    target, draft = llama_pair
    patch_model(target, draft, specpc(64))
    ids = prompt(N, 6)
    output = run(target, ids, output_logits=True)
    kept = output.kept[0].prompt
    assert output.stats[0]["read_tokens"] == output.stats[0]["kept_tokens"] == len(kept) == 64
    assert output.stats[0]["prompt_tokens"] == N
    assert output.sequences[:, :N].tolist() == ids.tolist()
    unpatch_model(target)
    short = run(target, ids[:, kept], output_logits=True)
    assert output.output_ids.tolist() == short.sequences[:, 64:].tolist()
    assert torch.equal(torch.stack(output.logits), torch.stack(short.logits))


def test_original_positions_keep_their_places(llama_pair):
    target, draft = llama_pair
    patch_model(target, draft, specpc(64, position_ids="original"))
    ids = prompt(N, 6)
    output = run(target, ids, output_logits=True)
    kept = output.kept[0].prompt
    with torch.no_grad():
        whole = torch.cat([ids[:, kept], output.output_ids[:, :-1]], dim=1)
        positions = torch.cat([kept, torch.arange(N, N + NEW - 1, device=DEVICE)])[None]
        unpatch_model(target)
        expected = target(input_ids=whole, attention_mask=torch.ones_like(whole), position_ids=positions).logits
    torch.testing.assert_close(torch.stack(output.logits, 1), expected[:, -NEW:], atol=1e-4, rtol=1e-4)


def test_the_cascade_reads_and_looks_ahead_at_original_positions(llama_pair, monkeypatch):
    target, draft = llama_pair
    patch_model(target, draft, DROPPING["speckvpc_original"])
    fed = []
    forward = type(target).forward

    def recorded(self, position_ids=None, **kwargs):
        if self is target:
            fed.append(position_ids[0].tolist())
        return forward(self, position_ids=position_ids, **kwargs)

    monkeypatch.setattr(type(target), "forward", recorded)
    kept = run(target, prompt(N, 6), max_new_tokens=3).kept[0].prompt
    # What is kept of the prompt, four lookahead tokens; then the last prompt token again, and what is decoded.
    assert fed == [[*kept.tolist(), *range(N, N + 4)], [N - 1], [N], [N + 1]]


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_the_cascade_with_room_in_one_stage_is_the_other_alone(llama_pair, positions):
    target, draft = llama_pair
    pc, kv = specpc(64, lookahead_tokens=5, position_ids=positions), speckv(32, lookahead_tokens=None)
    for cascade, alone in (
        (SpecKVPCConfig(pc, replace(kv, max_capacity_prompt=512)), pc),
        (SpecKVPCConfig(replace(pc, max_capacity_prompt=512), kv), replace(kv, lookahead_tokens=5)),
    ):
        patch_model(target, draft, cascade)
        got = run(target, prompt(N, 6), output_logits=True)
        patch_model(target, draft, alone)
        expected = run(target, prompt(N, 6), output_logits=True)
        assert torch.equal(torch.stack(got.logits), torch.stack(expected.logits))
        assert got.stats == expected.stats
        got, expected = got.kept[0], expected.kept[0]
        if expected.cache is None:
            assert got.prompt.tolist() == expected.prompt.tolist() and got.cache is None
        else:
            assert got.prompt.tolist() == list(range(N))
            assert [layer.tolist() for layer in got.cache] == [layer.tolist() for layer in expected.cache]


def test_the_draft_runs_once_for_the_cascade(llama_pair, monkeypatch):
    target, draft = llama_pair
    patch_model(target, draft, DROPPING["speckvpc"])
    lengths = []
    forward = type(draft).forward

    def counted(self, input_ids=None, **kwargs):
        if self is draft:
            lengths.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(draft), "forward", counted)
    run(target, prompt(N, 6))
    assert lengths == [N, 1, 1, 1]  # four lookahead tokens: the prompt, then three steps


@pytest.mark.parametrize("name", ["speckv", "specpc", "speckvpc"])
def test_lookahead_stops_at_eos(llama_pair, name):
    target, draft = llama_pair
    unpatch_model(draft)
    ids = prompt(N, 6)
    said = draft.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)[0, N:]
    eos = int(said[1])
    expected = said.tolist().index(eos) + 1
    patch_model(target, draft, DROPPING[name])
    output = run(target, ids, eos_token_id=eos)
    assert output.stats[0]["lookahead_tokens"] == expected


def test_what_the_target_generates_is_counted_stops_at_eos_and_has_its_peak(llama_pair):
    target, _ = llama_pair
    unpatch_model(target)
    ids = prompt(N, 6)
    said = run(target, ids).sequences[0, N:]
    patch_model(target, None, DROPPING["oracle_lookahead"])
    stats = run(target, ids).stats[0]
    assert stats["lookahead_tokens"] == 5 and stats["draft_tokens"] == 0
    head_bytes = 2 * 16 * 4 * 2
    assert stats["peak_cache_bytes"] == 3 * N * head_bytes  # the oracle holds all of the prompt
    stats = run(target, ids, eos_token_id=int(said[2])).stats[0]
    assert stats["lookahead_tokens"] == said.tolist().index(int(said[2])) + 1 < 5


@pytest.mark.parametrize("name", ["speckv", "specpc_original", "speckvpc"])
def test_a_row_whose_draft_has_ended_records_nothing_more(llama_pair, name):
    target, draft = llama_pair
    unpatch_model(draft)
    prompts = [prompt(N, 6), prompt(N - 9, 7)]
    said = draft.generate(prompts[0], attention_mask=torch.ones_like(prompts[0]), max_new_tokens=1, do_sample=False)
    eos = int(said[0, -1])
    patch_model(target, draft, DROPPING[name])
    ids, mask = left_padded(prompts)
    together = run(target, ids, mask, eos_token_id=eos)
    assert together.stats[0]["lookahead_tokens"] == 1 < together.stats[1]["lookahead_tokens"]
    for row, one in enumerate(prompts):
        alone = run(target, one, eos_token_id=eos)
        assert together.stats[row] == alone.stats[0]
        assert same_kept(together.kept[row], alone.kept[0])


def test_lookahead_null_means_max_new_tokens(llama_pair):
    target, draft = llama_pair
    for config in (
        speckv(32, lookahead_tokens=None),
        SpecKVPCConfig(specpc(64, lookahead_tokens=None), speckv(32, lookahead_tokens=None)),
    ):
        patch_model(target, draft, config)
        assert run(target, prompt(N, 6), max_new_tokens=11).stats[0]["lookahead_tokens"] == 11


@pytest.mark.parametrize("name", RAGGED)
def test_ragged_memory_is_what_is_kept(llama_pair, name):
    target, draft = llama_pair
    request = Request(NEW, (), target, Timer(DEVICE))
    with torch.no_grad():
        (result,) = read_prompts(target, draft, [DROPPING[name].build()], [prompt(N, 6)[0]], request)
    config = target.config
    sizes = [[len(head) for head in layer] for layer in result.kept.cache]
    assert any(len(set(layer)) > 1 for layer in sizes)  # heads do differ
    assert sum(map(sum, sizes)) == 32 * config.num_hidden_layers * config.num_key_value_heads
    assert result.stats["kept_tokens"] == 32
    for layer, heads in zip(result.cache.layers, sizes, strict=True):
        assert layer.nbytes() == sum(heads) * config.head_dim * 4 * 2
    assert result.stats["cache_bytes"] == sum(map(sum, sizes)) * config.head_dim * 4 * 2


@pytest.mark.parametrize("name", [name for name in DROPPING if name not in ("full", "specpc", "specpc_original")])
def test_every_method_keeps_the_budget(llama_pair, name):
    target, draft = llama_pair
    patch_model(target, draft, DROPPING[name])
    output = run(target, prompt(N, 6))
    assert output.stats[0]["kept_tokens"] == 32
    heads, layers = target.config.num_key_value_heads, target.config.num_hidden_layers
    kept = output.kept[0].cache
    assert sum(len(head) for layer in kept for head in layer) == 32 * heads * layers
    for layer in kept:
        for head in layer:
            assert head.tolist() == sorted(set(head.tolist()))
            assert int(head[0]) >= 0 and int(head[-1]) < N - 1


def test_several_methods_together_equal_each_alone(pair):
    target, draft = pair
    configs = list(DROPPING.values())
    prompts = [prompt(N, 1), prompt(N - 27, 2)]
    rows = [one for one in prompts for _ in configs]
    patch_model(target, draft, configs)
    together = run(target, *left_padded(rows), output_logits=True)
    for i, config in enumerate(configs):
        patch_model(target, draft, config)
        for j, one in enumerate(prompts):
            row = j * len(configs) + i
            alone = run(target, one, output_logits=True)
            assert together.output_ids[row].tolist() == alone.output_ids[0].tolist()
            logits = torch.stack(together.logits)[:, row], torch.stack(alone.logits)[:, 0]
            torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
            assert together.stats[row] == alone.stats[0]
            assert same_kept(together.kept[row], alone.kept[0])


def test_configurations_of_one_prefill_key_share_a_prefill_and_others_do_not(llama_pair, monkeypatch):
    """`eval.py --dry-run` counts prefills by these keys before any model is there."""
    target, draft = llama_pair
    pc = specpc(64, lookahead_tokens=5)

    def ahead(capacity, **changes):
        return speckv(capacity, **{"prefill_window_size": None, "prefill_vertical_size": None, **changes})

    def cascade(capacity, **changes):
        return SpecKVPCConfig(pc, ahead(capacity, lookahead_tokens=None, **changes))

    band = {"prefill_window_size": 20, "prefill_vertical_size": 16}
    random = replace(DROPPING["random_lookahead"], prefill_window_size=None, prefill_vertical_size=None)
    alike = {
        "prompt": [FullConfig(), *(DROPPING[name] for name in ("snapkv", "h2o", "tova"))],
        "prompt + draft lookahead": [ahead(32), ahead(48, window_size=6)],
        "prompt + draft lookahead, sparse": [ahead(32, **band), ahead(48, **band, allocation="pyramid")],
        "prompt, sparse": [baseline("snapkv", 32, **band), baseline("snapkv", 48, **band)],
        "prompt + random lookahead": [random],
        "specpc's own": [pc],
        "shortened prompt + draft lookahead": [cascade(32), cascade(48)],
        "shortened prompt + draft lookahead, sparse": [cascade(32, **band), cascade(48, **band)],
    }
    others = [
        ("prompt + draft lookahead", ahead(32, lookahead_tokens=4)),
        ("prompt + draft lookahead, sparse", ahead(32, **band, window_size=6)),
        ("prompt + draft lookahead, sparse", ahead(32, **{**band, "prefill_window_size": 21})),
        ("prompt, sparse", baseline("h2o", 32, **band, pool_type="mean", kernel_size=5)),
        ("prompt + random lookahead", replace(random, seed=7)),
        ("specpc's own", replace(pc, window_size=9)),
        ("shortened prompt + draft lookahead", replace(cascade(32), specpc_config=replace(pc, window_size=9))),
    ]
    groups = [(words, [config.prefill_key for config in configs]) for words, configs in alike.items()]
    groups += [(words, [config.prefill_key]) for words, config in others]
    assert all(key[0] == words and key == keys[0] for words, keys in groups for key in keys)
    assert len({keys[0] for _, keys in groups}) == len(groups)
    read = []
    forward = type(target).forward

    def counted(self, input_ids=None, **kwargs):
        read.extend([input_ids.shape[1]] if self is target and input_ids.shape[1] > 1 else [])
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(target), "forward", counted)
    configs = [config for some in alike.values() for config in some] + [config for _, config in others]
    patch_model(target, draft, configs)
    run(target, *left_padded([prompt(N, 1)] * len(configs)), max_new_tokens=2)
    assert len(read) == len(groups)


def test_a_prompt_is_not_taken_for_another_with_its_lookahead(llama_pair):
    target, _ = llama_pair
    ids = prompt(N, 1)
    longer = torch.cat([ids, ids[:, -1:]], dim=1)  # the same tokens, read as one prompt
    patch_model(target, None, [replace(DROPPING["dummy_lookahead"], lookahead_tokens=1), FullConfig()])
    together = run(target, *left_padded([ids, longer]))
    patch_model(target, None, FullConfig())
    alone = run(target, longer)
    assert together.stats[1] == alone.stats[0]
    assert together.output_ids[1].tolist() == alone.output_ids[0].tolist()


@pytest.mark.parametrize(("n", "kept"), [(32, 32), (33, 32)])
def test_a_prompt_of_the_budgets_length_is_read_as_it_is(llama_pair, n, kept):
    target, draft = llama_pair
    for name in ("snapkv", "speckv"):
        patch_model(target, draft, DROPPING[name])
        output = run(target, prompt(n, 6))
        assert (output.kept[0].cache is None) == (n == kept)
        assert output.stats[0]["kept_tokens"] == kept


@pytest.mark.parametrize("capacity", [1, 7, 8])
def test_a_budget_by_ratio_within_the_window_is_all_window(llama_pair, capacity):
    target, draft = llama_pair
    for name in ("snapkv", "speckv", "ada_speckv", "pyramidkv"):
        patch_model(target, draft, replace(DROPPING[name], max_capacity_prompt=None, budget_ratio=capacity / N))
        for layer in run(target, prompt(N, 6)).kept[0].cache:
            assert [head.tolist() for head in layer] == [list(range(N - 1 - capacity, N - 1))] * 2


def test_equal_work_is_done_once(llama_pair, monkeypatch):
    target, draft = llama_pair
    lengths = {id(target): [], id(draft): []}
    forward = type(target).forward

    def counted(self, input_ids=None, **kwargs):
        lengths[id(self)].append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(target), "forward", counted)
    names = ("full", "snapkv", "h2o", "tova", "ada_snapkv", "speckv", "ada_speckv", "pyramid_speckv", "specpc")
    configs = [DROPPING[name] for name in names] + [baseline("snapkv", 48), speckv(48)]
    patch_model(target, draft, configs)
    run(target, *left_padded([prompt(N, 1)] * len(configs)), max_new_tokens=2)
    # The prompt, the prompt and the draft's lookahead, and what SpecPC keeps.
    assert sorted(n for n in lengths[id(target)] if n > 1) == [64, N, N + 5]
    assert lengths[id(draft)] == [N, 1, 1, 1, 1]
