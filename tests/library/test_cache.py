"""Caches whose rows and heads hold unequally many entries: attention, merging, memory."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from families import DEVICE, prompt, tiny_model
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from draft_approx_llm import ragged
from draft_approx_llm.attention import CompactAttention
from draft_approx_llm.cache import CompactCache, CompactLayer, RaggedLayer, merge
from draft_approx_llm.prefill import step
from draft_approx_llm.ragged import Layout, can_use_varlen, ragged_attention, varlen_kernel

H, GROUP, D = 2, 3, 16
SCALING = 0.3


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def prefilled(n, seed=0, heads=H, dim=D, dtype=torch.float32):
    """A one-row layer that holds n tokens."""
    layer = CompactLayer()
    layer.update(normal(1, heads, n, dim, seed=seed, dtype=dtype), normal(1, heads, n, dim, seed=seed + 1, dtype=dtype))
    return layer


def cache_of(*layers):
    cache = CompactCache()
    cache.layers.extend(layers)
    return cache


def some(n, size, seed):
    """`size` sorted positions below n."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:size].sort().values.to(DEVICE)


def choose(n, sizes, seed=0):
    return [some(n, size, seed + i) for i, size in enumerate(sizes)]


def masked_attention(query, entries, window_start=None):
    """[B, Hq, D] by softmax over a list of (keys [n, D], values [n, D], positions [n]) a row and KV head, in order."""
    output = torch.empty_like(query)
    for i, (keys, values, positions) in enumerate(entries):
        row, head = divmod(i, H)
        seen = positions >= (0 if window_start is None else window_start[row])
        heads = slice(head * GROUP, (head + 1) * GROUP)
        weights = (query[row, heads].double() @ keys[seen].double().T * SCALING).softmax(-1)
        output[row, heads] = (weights @ values[seen].double()).to(query.dtype)
    return output


class Reference:
    """What a batch must hold, as plain lists of entries."""

    def __init__(self):
        self.entries = []

    def add(self, layer, kept):
        for head in range(H):
            chosen = kept[head]
            self.entries.append((layer.keys[0, head, chosen], layer.values[0, head, chosen], chosen))

    def feed(self, keys, values, index):
        for i, (old_keys, old_values, positions) in enumerate(self.entries):
            row, head = divmod(i, H)
            self.entries[i] = (
                torch.cat([old_keys, keys[row, head]]),
                torch.cat([old_values, values[row, head]]),
                torch.cat([positions, index[row]]),
            )

    def reorder(self, order):
        self.entries = [self.entries[row * H + head] for row in order for head in range(H)]


def feed(layer, reference, index, seed):
    """Appends one token a row at `index`, a list, to both; checks that a query there attends alike."""
    rows = len(index)
    index = torch.tensor(index, device=DEVICE)
    keys, values = normal(rows, H, 1, D, seed=seed), normal(rows, H, 1, D, seed=seed + 1)
    layer.update(keys, values, index[:, None])
    reference.feed(keys, values, index[:, None])
    check(layer, reference, index)


def check(layer, reference, index, sliding_window=None):
    query = 3 * normal(len(index), H * GROUP, D, seed=99)
    module = SimpleNamespace(layer_idx=0, num_key_value_groups=GROUP, is_causal=True)
    hook = CompactAttention(cache_of(layer), index, int(index.max()))
    limits = {"scaling": SCALING, "sliding_window": sliding_window}
    got, _ = hook(None, module, query[:, :, None], layer.keys, layer.values, None, **limits)
    start = None if sliding_window is None else index - sliding_window + 1
    expected = masked_attention(query, reference.entries, start)
    torch.testing.assert_close(got[:, 0], expected, atol=1e-5, rtol=1e-5)


SIZES = [(0, 7), (1, 1), (40, 3), (16, 17), (0, 0), (9, 33), (40, 40), (40, 40), (5, 6)]


def ragged_batch(track_positions=True, sizes=SIZES, n=50):
    """A ragged layer of a row for each of `sizes`, and its reference."""
    reference, parts = Reference(), []
    for i, one in enumerate(sizes):
        layer, kept = prefilled(n, seed=10 * i), choose(n, one, seed=10 * i)
        reference.add(layer, kept)
        parts.append(cache_of(layer.select(kept, track_positions)))
    return merge(parts).layers[0], reference


def test_ragged_attention_equals_softmax_over_what_is_kept():
    layer, reference = ragged_batch()
    assert isinstance(layer, RaggedLayer)
    for i in range(3):
        feed(layer, reference, [50 + i] * len(SIZES), seed=200 + i)


def test_one_row_with_unequal_heads():
    layer, reference = prefilled(50), Reference()
    kept = choose(50, (0, 31))
    reference.add(layer, kept)
    part = layer.select(kept, False)
    assert isinstance(part, RaggedLayer)
    feed(part, reference, [50], seed=1)


def test_buckets_are_split_where_they_would_be_large(monkeypatch):
    monkeypatch.setattr(ragged, "_BUCKET_ENTRIES", 64)
    layer, reference = ragged_batch()
    assert max((bucket.last - bucket.first) * bucket.length for bucket in layer.layout.buckets) <= 64
    feed(layer, reference, [50] * len(SIZES), seed=1)


@pytest.mark.parametrize("window", [4, 20, 45, 50])
@pytest.mark.parametrize("track_positions", [True, False])
def test_a_sliding_window_over_ragged_rows(window, track_positions):
    if track_positions:
        layer, reference = ragged_batch()
        lengths = [50] * len(SIZES)
    else:  # nothing was dropped, and rows are of different lengths
        lengths, reference, parts = [50, 3, 21, 50], Reference(), []
        for i, n in enumerate(lengths):
            layer = prefilled(n, seed=10 * i)
            reference.add(layer, [torch.arange(n, device=DEVICE)] * H)
            parts.append(cache_of(layer.select(None, False)))
        layer = merge(parts).layers[0]
    for i in range(6):  # longer than the smallest window, which leaves the flat part and moves on into the tail
        index = [n + i for n in lengths]
        feed(layer, reference, index, seed=300 + i)
        check(layer, reference, torch.tensor(index, device=DEVICE), window)


def test_a_sliding_window_over_a_dense_selection():
    layer, reference = prefilled(50), Reference()
    kept = torch.stack(choose(50, (20, 20)))
    reference.add(layer, kept)
    part = layer.select(kept, True)
    assert isinstance(part, CompactLayer)
    index = torch.tensor([50], device=DEVICE)
    keys, values = normal(1, H, 1, D, seed=5), normal(1, H, 1, D, seed=6)
    part.update(keys, values, index[:, None])
    reference.feed(keys, values, index[:, None])
    check(part, reference, index, 12)


def test_merging_rows_that_have_decoded_with_rows_that_have_not():
    group, reference = ragged_batch(sizes=SIZES[:3])
    feed(group, reference, [50] * 3, seed=1)
    feed(group, reference, [51] * 3, seed=3)
    fresh, more = ragged_batch(sizes=[(50, 50), (2, 9)])
    uniform = prefilled(20, seed=7)
    more.add(uniform, [torch.arange(20, device=DEVICE)] * H)
    order = [5, 2, 0, 4, 1, 3]
    merged = merge([cache_of(group), cache_of(fresh), cache_of(uniform)], order).layers[0]
    reference.entries += more.entries
    reference.reorder(order)
    lengths = [[52, 52, 52, 50, 50, 20][i] for i in order]
    feed(merged, reference, lengths, seed=20)
    check(merged, reference, torch.tensor(lengths, device=DEVICE), 15)
    again = merge([cache_of(merged)], [1, 0, 3, 2, 5, 4]).layers[0]
    reference.reorder([1, 0, 3, 2, 5, 4])
    lengths = [lengths[i] + 1 for i in (1, 0, 3, 2, 5, 4)]
    feed(again, reference, lengths, seed=30)


def test_merging_equally_long_rows_stays_dense():
    layers = [prefilled(20, seed=i) for i in range(3)]
    keys = [layer.keys for layer in layers]
    tracked = layers[1].select(torch.arange(20, device=DEVICE).expand(H, -1), True)
    merged = merge([cache_of(layers[0]), cache_of(tracked), cache_of(layers[2])], [2, 0, 1]).layers[0]
    assert isinstance(merged, CompactLayer)
    assert torch.equal(merged.keys, torch.cat([keys[2], keys[0], keys[1]]))
    assert merged.positions.tolist() == [[list(range(20))] * H] * 3


def test_merging_one_cache_in_its_order_copies_nothing():
    cache = cache_of(prefilled(20))
    assert merge([cache]) is merge([cache], [0]) is cache
    twice = merge([cache], [0, 0])
    assert torch.equal(twice.layers[0].keys[0], twice.layers[0].keys[1])


def test_merging_lets_go_layer_by_layer_but_not_of_what_others_share():
    whole = prefilled(20)
    one, other = whole.select(None, False), whole.select(None, False)
    keys = whole.keys.clone()
    gone = prefilled(30, seed=3)
    freed = weakref.ref(gone.keys)
    short = cache_of(gone)
    merge([cache_of(one), short])
    gc.collect()
    assert freed() is None and one.nbytes() == short.nbytes() == 0
    assert torch.equal(other.keys, keys)


def test_selecting_frees_the_rest():
    whole = prefilled(50)
    freed = weakref.ref(whole.keys)
    parts = [whole.select(choose(50, (7, 7)), False), whole.select(choose(50, (7, 12)), True)]
    assert [type(part) for part in parts] == [CompactLayer, RaggedLayer]
    del whole
    gc.collect()
    assert freed() is None
    size = D * 4 * 2
    assert [part.nbytes() for part in parts] == [14 * size, 19 * size]
    assert [part.entries_per_head() for part in parts] == [7, 9.5]


def test_a_selection_holds_what_was_kept():
    whole = prefilled(50)
    equal = torch.stack(choose(50, (7, 7)))
    for kept in (equal, list(equal)):
        part = whole.select(kept, True)
        assert part.positions.tolist() == [equal.tolist()]
        for head in range(H):
            assert torch.equal(part.keys[0, head], whole.keys[0, head, equal[head]])
            assert torch.equal(part.values[0, head], whole.values[0, head, equal[head]])
    everything = whole.select(None, False)
    assert everything is not whole and everything.keys is whole.keys and everything.positions is None


def test_bytes_are_those_of_what_is_kept():
    layer, _ = ragged_batch()
    kept, size = sum(map(sum, SIZES)), D * 4 * 2
    assert layer.nbytes() == kept * size
    assert layer.entries_per_head() == kept / (H * len(SIZES))
    layer.update(*[normal(len(SIZES), H, 1, D)] * 2, torch.full((len(SIZES), 1), 50))
    assert layer.nbytes() == (kept + H * len(SIZES)) * size
    assert layer.entries_per_head() == kept / (H * len(SIZES)) + 1
    fused = normal(1, H, 10, 2 * D)
    whole = CompactLayer()
    whole.update(fused[..., :D], fused[..., D:])
    cache = cache_of(layer, whole)
    assert cache.nbytes() == layer.nbytes() + H * 10 * size
    assert cache.entries_per_head() == (layer.entries_per_head() + 10) / 2
    assert cache.get_seq_length() == 41


def test_equally_long_segments_are_views_and_others_are_at_most_doubled():
    lengths = [300] * 4 + [0, 1, 2, 2, 3, 511, 260, 400] + [64] * 5
    layout = Layout(lengths, DEVICE)
    flat = normal(sum(lengths), D)
    views = {bucket.length for bucket in layout.buckets if bucket.index is None}
    assert {300, 64} <= views
    places = []
    for bucket in layout.buckets:
        places += range(bucket.first, bucket.last)
        taken = bucket.take(flat)
        shared = taken.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        assert shared == (bucket.index is None)
        real = [lengths[layout.order[place]] for place in range(bucket.first, bucket.last)]
        assert taken.shape[:2] == (len(real), max(real))
        assert max(real) < 2 * min(real)
        for i, length in enumerate(real):
            start = layout.starts[layout.order[bucket.first + i]]
            assert torch.equal(taken[i, :length], flat[start : start + length])
    assert places == list(range(len(lengths) - 1))  # all but the empty one
    assert layout.n_empty == 1


def test_a_row_is_told_with_its_newest_token():
    layers = [prefilled(20), prefilled(33, seed=4)]
    prompts = [layer.keys[0] for layer in layers]
    merged = merge([cache_of(layer) for layer in layers]).layers[0]
    new = normal(2, H, 1, D, seed=9)
    merged.update(new, new, torch.tensor([[20], [33]], device=DEVICE))
    for row, n in enumerate((20, 33)):
        keys, positions = merged.row(row)
        assert torch.equal(keys, torch.cat([prompts[row], new[row]], dim=1))
        assert positions.tolist() == list(range(n + 1))
    tracked = prefilled(20).select(torch.stack([some(20, 5, 1)] * H), True)
    keys, positions = tracked.row(0)
    assert torch.equal(keys, tracked.keys[0]) and positions.tolist() == some(20, 5, 1).tolist()
    merged = merge([cache_of(tracked), cache_of(prefilled(9))]).layers[0]
    assert merged.row(0)[1].tolist() == some(20, 5, 1).tolist()
    assert merged.row(1)[1].tolist() == list(range(9))
    with pytest.raises(ValueError, match="row 0: its heads hold unequally many"):
        ragged_batch()[0].row(0)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_decoding_over_a_ragged_cache_equals_masking(family):
    """Rows of two prompts, every head of every layer with a number of entries of its own, against -inf on the rest."""
    model = tiny_model(family)
    lengths, new = [90, 61], prompt(12, 5)[0].view(2, 6)
    caches, kept = [], []
    for row, n in enumerate(lengths):
        cache = CompactCache()
        with torch.no_grad():
            model(input_ids=prompt(n, row), past_key_values=cache)
        kept.append([choose(n, (5 + 7 * i + row, 30 - i), seed=i) for i in range(len(cache.layers))])
        tracked = family == "gemma3"
        cache.layers[:] = [layer.select(k, tracked) for layer, k in zip(cache.layers, kept[row], strict=True)]
        caches.append(cache)
    cache = merge(caches)
    assert all(isinstance(layer, RaggedLayer) for layer in cache.layers)
    index = torch.tensor(lengths, device=DEVICE)
    logits = []
    for i in range(new.shape[1]):
        hook = CompactAttention(cache, index + i, max(lengths) + i)
        with torch.no_grad():
            logits.append(step(model, new[:, i], index + i, hook))
    for row, n in enumerate(lengths):
        ids = torch.cat([prompt(n, row), new[row : row + 1]], dim=1)
        expected = masked_logits(model, ids, n, kept[row])
        torch.testing.assert_close(torch.stack(logits)[:, row], expected, atol=1e-4, rtol=1e-4)


def masked_logits(model, ids, n, kept):
    """Logits [new, vocabulary] of the tokens from n on, which see of the first n only what each layer and head kept."""
    seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=DEVICE).tril()

    def attention(module, query, key, value, attention_mask, **kwargs):
        mask = seen.repeat(query.shape[1], 1, 1)
        for head in range(query.shape[1]):
            dropped = torch.ones(n, dtype=torch.bool, device=DEVICE)
            dropped[kept[module.layer_idx][head // (query.shape[1] // key.shape[1])]] = False
            mask[head, n:, :n] &= ~dropped
        if kwargs.get("sliding_window") is not None:
            mask &= seen.triu(1 - kwargs["sliding_window"])
        return sdpa_attention_forward(module, query, key, value, mask[None], **{**kwargs, "is_causal": False})

    AttentionInterface.register("test_ragged_masking", attention)
    AttentionMaskInterface.register("test_ragged_masking", sdpa_mask)
    chosen = model.config._attn_implementation
    model.set_attn_implementation("test_ragged_masking")
    try:
        with torch.no_grad():
            return model(input_ids=ids).logits[0, n:]
    finally:
        model.set_attn_implementation(chosen)


def test_the_flash_kernel_is_chosen_only_where_it_can_be_used():
    assert not can_use_varlen(torch.empty(1, 4, 64, dtype=torch.bfloat16), False)  # on the CPU
    if DEVICE.type == "cuda":
        query = torch.empty(1, 4, 64, dtype=torch.bfloat16, device=DEVICE)
        assert can_use_varlen(query, False) == (varlen_kernel() is not None)
        assert not can_use_varlen(query, True)
        assert not can_use_varlen(query.float(), False)
        assert not can_use_varlen(query[..., :60], False)


def fake_varlen(monkeypatch):
    """A stand-in with the kernels' conventions, empty sequences not allowed."""

    def kernel(query, keys, values, query_ends, key_ends, most_queries, most_keys, scaling):
        outputs, lses = [], []
        assert query.shape[1] == keys.shape[1] == 1
        bounds = torch.stack([query_ends[:-1], query_ends[1:], key_ends[:-1], key_ends[1:]], dim=1)
        for start, end, key_start, key_end in bounds.tolist():
            assert 0 < end - start <= most_queries and 0 < key_end - key_start <= most_keys
            scores = query[start:end, 0] @ keys[key_start:key_end, 0].T * scaling
            outputs.append(scores.softmax(-1) @ values[key_start:key_end, 0])
            lses.append(scores.logsumexp(-1))
        return torch.cat(outputs)[:, None], torch.cat(lses)[None]

    monkeypatch.setattr(ragged, "varlen_kernel", lambda: kernel)


@pytest.mark.parametrize("sizes", [SIZES, [(0, 0), (0, 0)]])
def test_the_flash_path_equals_the_torch_path(sizes, monkeypatch):
    if len(set(map(tuple, sizes))) == 1:
        layer = RaggedLayer.of([prefilled(0).pieces(0, 0)] * 4, H)
    else:
        layer, _ = ragged_batch(sizes=sizes)
    rows = len(sizes)
    layer.update(*[normal(rows, H, 2, D)] * 2, torch.full((rows, 2), 50))
    query = normal(rows, H * GROUP, D, seed=7)
    arguments = (query, layer.keys, layer.values, layer.layout, layer.tail_keys, layer.tail_values, SCALING)
    fake_varlen(monkeypatch)
    torch.testing.assert_close(ragged_attention(*arguments, varlen=True), ragged_attention(*arguments, varlen=False))


@pytest.mark.skipif(DEVICE.type != "cuda" or varlen_kernel() is None, reason="needs a GPU and a variable-length kernel")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 128])
def test_the_flash_kernel_equals_the_torch_path(dtype, dim):
    heads, group, rows = 4, 4, 6
    sizes = [(0, 1, 700, 33), (129, 128, 127, 2), (64,) * 4, (0,) * 4, (1000, 5, 5, 5), (300,) * 4]
    parts = []
    for i, one in enumerate(sizes):
        layer = prefilled(1000, seed=i, heads=heads, dim=dim, dtype=dtype)
        parts.append(cache_of(layer.select(choose(1000, one, seed=i), False)))
    layer = merge(parts).layers[0]
    layer.update(*[normal(rows, heads, 3, dim, dtype=dtype)] * 2, torch.full((rows, 3), 1000))
    query = normal(rows, heads * group, dim, seed=7, dtype=dtype)
    arguments = (query, layer.keys, layer.values, layer.layout, layer.tail_keys, layer.tail_values, dim**-0.5)
    flash, plain = ragged_attention(*arguments, varlen=True), ragged_attention(*arguments, varlen=False)
    torch.testing.assert_close(flash, plain, atol=2e-2, rtol=2e-2)
    assert torch.equal(ragged_attention(*arguments), flash)
