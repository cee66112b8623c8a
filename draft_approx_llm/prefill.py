"""Reading a prompt: dense, sparse, and compacting each layer as soon as its attention is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from draft_approx_llm.attention import AttentionHook, CompactAttention, hooked
from draft_approx_llm.cache import CompactCache


@dataclass(frozen=True)
class LayerView:
    """What a KV-dropping method may look at in one layer of one prompt, position encoding applied.

    Attributes:
        layer: index of the layer.
        queries: [Hq, Q, D], those of the last Q tokens read.
        keys, values: [H, S, D] of all tokens read.
        scaling: the factor on the dot product.
        sliding_window: how many keys back a query of this layer sees, its own included; None means all.
    """

    layer: int
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    scaling: float
    sliding_window: int | None


@dataclass(frozen=True)
class LayerPlan:
    """What a method wants of a layer. None means: everything.

    Attributes:
        keep: [H, K] sorted positions whose keys and values stay.
        vertical: [H, V] columns of the sparse prefill; `band` is its local window in tokens.
    """

    keep: torch.Tensor | None = None
    vertical: torch.Tensor | None = None
    band: int = 0


def forward(
    model: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor, cache: CompactCache, **kwargs
) -> torch.Tensor:
    """Feeds tokens [B, n] at RoPE positions [B, n]; returns the last token's logits [B, vocabulary]."""
    output = model(
        input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1, **kwargs
    )
    return output.logits[:, -1]


def read(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    hook: AttentionHook | None = None,
    positions: torch.Tensor | None = None,
) -> tuple[CompactCache, torch.Tensor]:
    """Prefills one prompt [N] and returns its cache and the last token's logits [1, vocabulary].

    `positions` [N] are RoPE positions, 0 ... N-1 unless given.
    """
    cache = CompactCache()
    cache.index = torch.arange(len(tokens), device=tokens.device)[None]
    positions = cache.index if positions is None else positions[None]
    hook = Prefill() if hook is None else hook
    hook.cache = cache
    with hooked(model, hook):
        return cache, forward(model, tokens[None], positions, cache)


def step(model: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor, hook: CompactAttention) -> torch.Tensor:
    """Feeds one token a row to the hook's cache: ids [B] at RoPE positions [B]. Returns logits [B, vocabulary]."""
    hook.cache.index = hook.index[:, None]
    with hooked(model, hook):
        return forward(model, tokens[:, None], positions[:, None], hook.cache)


class Prefill(AttentionHook):
    """Reads densely and keeps everything that a later query can see: sliding-window layers keep their window."""

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        output = delegate(module, query, key, value, attention_mask, **kwargs)
        self.cache.note_peak()
        heads, n = key.shape[1:3]
        first = first_visible(n, kwargs.get("sliding_window"))
        if first > 0:
            kept = torch.arange(first, n, device=key.device).expand(heads, -1)
            self.cache.layers[module.layer_idx].keep(kept, track_positions=True)
        return output


def first_visible(index: int, sliding_window: int | None) -> int:
    """The first position that a query at `index`, and so any later one, sees."""
    return 0 if sliding_window is None else max(0, index - sliding_window + 1)


class CompactingPrefill(AttentionHook):
    """Asks a method for its plan in each layer, attends (densely or sparsely), and drops what is not kept at once.

    At most one layer's full keys and values exist beyond the budget; `CompactCache.peak_bytes` shows it.
    """

    def __init__(self, n_queries: int, plan: Callable[[LayerView], LayerPlan]) -> None:
        self.n_queries, self.plan = n_queries, plan
        self.kept: list[torch.Tensor | None] = []

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        sliding_window = kwargs.get("sliding_window")
        layer = self.cache.layers[module.layer_idx]
        view = LayerView(
            module.layer_idx, query[0, :, -self.n_queries :], key[0], value[0], kwargs["scaling"], sliding_window
        )
        plan = self.plan(view)
        if plan.vertical is None:
            output = delegate(module, query, key, value, attention_mask, **kwargs)
        else:
            sparse = sparse_attention(
                query[0], key[0], value[0], plan.vertical, plan.band, kwargs["scaling"], sliding_window
            )
            output = sparse.transpose(0, 1)[None].contiguous(), None
        self.cache.note_peak()
        self.kept.append(plan.keep)
        if plan.keep is not None:
            layer.keep(plan.keep, track_positions=sliding_window is not None)
        return output


def sparse_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    vertical: torch.Tensor,
    band: int,
    scaling: float,
    sliding_window: int | None = None,
    chunk: int = 512,
) -> torch.Tensor:
    """SpecKV's sparse prefill, exactly: query i sees key j <= i iff i - j < band, or j is one of the vertical columns.

    Plain torch. Work and memory follow what is seen, chunk * (band + chunk + V) scores a head at a time, not N * N.

    Args:
        query: [Hq, N, D]; key, value: [H, N, D], of the same N tokens.
        vertical: [H, V] distinct columns that every later query of the KV head's group sees.
        band: length of the local window in tokens, the query's own included.
        sliding_window: the layer's own limit, which holds on top.

    Returns:
        [Hq, N, D].
    """
    heads, n, _ = key.shape
    device = key.device
    is_vertical = torch.zeros(heads, n, dtype=torch.bool, device=device).scatter_(1, vertical, True)
    vertical_key = _gather_rows(key, vertical)
    vertical_value = _gather_rows(value, vertical)
    output = torch.empty_like(query)
    for start in range(0, n, chunk):
        end = min(start + chunk, n)
        first = max(0, start - band + 1)
        i = torch.arange(start, end, device=device)[:, None]
        j = torch.arange(first, end, device=device)
        local = (j <= i) & ((i - j < band) | is_vertical[:, None, first:end])
        # Columns from `first` on are in the local part already.
        column = vertical[:, None, :]
        distant = (column < first).expand(-1, end - start, -1)
        if sliding_window is not None:
            local = local & (i - j < sliding_window)
            distant = distant & (i - column < sliding_window)
        seen = torch.cat([distant, local], dim=-1)[:, None]
        keys = torch.cat([vertical_key, key[:, first:end]], dim=1)[:, None]
        values = torch.cat([vertical_value, value[:, first:end]], dim=1)[:, None]
        groups = query[:, start:end].unflatten(0, (heads, -1))
        size = groups.shape[1]
        attended = F.scaled_dot_product_attention(
            groups, keys.expand(-1, size, -1, -1), values.expand(-1, size, -1, -1), attn_mask=seen, scale=scaling
        )
        output[:, start:end] = attended.flatten(0, 1)
    return output


def _gather_rows(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """[H, N, D] at [H, V] to [H, V, D]."""
    return states.gather(1, rows[..., None].expand(-1, -1, states.shape[-1]))
