"""Reading a prompt, densely or sparsely, for several methods at once; layers are compacted as soon as they are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from draft_approx_llm.attention import AttentionHook, CompactAttention, hooked
from draft_approx_llm.cache import CompactCache

KeptPositions = torch.Tensor | list[torch.Tensor]
"""Sorted positions that a layer keeps: [H, K], or a list of H tensors [K_h] where heads keep unequally many."""


@dataclass(frozen=True)
class LayerView:
    """What a method may look at in one layer of what the target reads, position encoding applied.

    Attributes:
        layer, n_layers: index of the layer, and how many there are.
        queries: [Hq, S, D] of all tokens read; keys, values: [H, S, D].
        scaling: the factor on the dot product.
        sliding_window: how many keys back a query of this layer sees, its own included; None means all.
        rotary: positions [P] (any, as floats or whole numbers) -> cos and sin [P, rotated size] of this layer's
            position encoding.
    """

    layer: int
    n_layers: int
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    scaling: float
    sliding_window: int | None
    rotary: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    _memo: dict[Hashable, Any] = field(default_factory=dict, compare=False)

    def once(self, key: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args), computed at the first call with this key: several methods look at one view."""
        if key not in self._memo:
            self._memo[key] = function(*args)
        return self._memo[key]


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
    hook: Prefill | None = None,
    positions: torch.Tensor | None = None,
) -> tuple[Prefill, torch.Tensor]:
    """Prefills one prompt [N]; returns the hook, which has the caches, and the last token's logits [1, vocabulary].

    `positions` [N] are RoPE positions, 0 ... N-1 unless given.
    """
    cache = CompactCache()
    cache.index = torch.arange(len(tokens), device=tokens.device)[None]
    positions = cache.index if positions is None else positions[None]
    hook = Prefill() if hook is None else hook
    hook.cache, hook.model = cache, model
    with hooked(model, hook):
        return hook, forward(model, tokens[None], positions, cache)


def step(model: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor, hook: CompactAttention) -> torch.Tensor:
    """Feeds one token a row to the hook's cache: ids [B] at RoPE positions [B]. Returns logits [B, vocabulary]."""
    hook.cache.index = hook.index[:, None]
    with hooked(model, hook):
        return forward(model, tokens[:, None], positions[:, None], hook.cache)


@dataclass
class Branch:
    """One method's share of a prefill.

    Attributes:
        keep: what stays of a layer; None: everything that a later query can see (sliding-window layers have a window).
        cache: what stayed, one row. kept: as `keep` said, a layer each.
        peak_bytes: the most that would have been held at once, had this branch been alone: what is kept of the layers
            before, and all of the present one.
    """

    keep: Callable[[LayerView], KeptPositions] | None = None
    cache: CompactCache = field(default_factory=CompactCache)
    kept: list[KeptPositions] = field(default_factory=list)
    peak_bytes: int = 0
    _bytes: int = 0


class Prefill(AttentionHook):
    """Reads a prompt once for one or more branches, each of which drops what it does not keep layer by layer.

    Beside what the branches keep, at most one layer's keys and values exist.
    """

    cache: CompactCache
    model: PreTrainedModel

    def __init__(
        self,
        branches: Sequence[Branch] | None = None,
        pattern: Callable[[LayerView], torch.Tensor | None] | None = None,
    ) -> None:
        self.branches = [Branch()] if branches is None else branches
        self.pattern = pattern

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        sliding_window, layer = kwargs.get("sliding_window"), module.layer_idx
        view = LayerView(
            layer,
            self.model.config.get_text_config().num_hidden_layers,
            query[0],
            key[0],
            value[0],
            kwargs["scaling"],
            sliding_window,
            partial(rotary, self.model, layer),
        )
        attended = None if self.pattern is None else self.pattern(view)
        if attended is None:
            output = delegate(module, query, key, value, attention_mask, **kwargs)
        else:
            output = attended.transpose(0, 1)[None].contiguous(), None
        whole = self.cache.layers[layer]
        heads, n = key.shape[1:3]
        for branch in self.branches:
            if branch.keep is not None:
                kept = branch.keep(view)
                branch.kept.append(kept)
            else:
                first = first_visible(n, sliding_window)
                kept = torch.arange(first, n, device=key.device).expand(heads, -1) if first else None
            # The window moves on while decoding: entries of a sliding layer must know their places.
            part = whole.select(kept, track_positions=sliding_window is not None and kept is not None)
            branch.peak_bytes = max(branch.peak_bytes, branch._bytes + whole.nbytes())
            branch._bytes += part.nbytes()
            branch.cache.layers.append(part)
        self.cache.layers[layer] = type(whole)()
        return output


def first_visible(index: int, sliding_window: int | None) -> int:
    """The first position that a query at `index`, and so any later one, sees."""
    return 0 if sliding_window is None else max(0, index - sliding_window + 1)


def rotary(model: PreTrainedModel, layer: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [P, rotated size], float32, of a layer's position encoding at positions [P] (they may be fractions).

    Models whose layers differ (Gemma 3) are asked for that of the layer's type.
    """
    embedding = model.get_decoder().rotary_emb
    types = getattr(model.config.get_text_config(), "layer_types", None)
    by_type = len(inspect.signature(embedding.forward).parameters) > 2 and types
    like = torch.empty(0, dtype=torch.float32, device=positions.device)
    cos, sin = embedding(like, positions[None], *([types[layer]] if by_type else []))
    return cos[0], sin[0]


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
