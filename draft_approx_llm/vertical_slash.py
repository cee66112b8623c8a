"""The vertical-slash pattern of MInference (arXiv 2407.02490): pure tensor functions.

Shapes: Hq query heads, H KV heads, N tokens, D head size. A query at i sees a key at j <= i iff j is one of its head's
vertical columns, or i - j one of its head's slash offsets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from draft_approx_llm.importance import attention_by_head
from draft_approx_llm.selection import best


def choose_vertical_slash(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scaling: float,
    n_vertical: int,
    n_slash: int,
    n_first: int,
    n_recent: int,
    sliding_window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns and diagonals that the last queries attend to most, summed over them, for each query head.

    Args:
        queries: [Hq, W, D], the last ones; keys: [H, N, D].
        n_vertical, n_slash: how many columns and offsets, cut to N; the first `n_first` columns and the nearest
            `n_recent` offsets are always among them.

    Returns:
        columns [Hq, V] and offsets [Hq, S].
    """
    window, n = queries.shape[1], keys.shape[1]
    columns, offsets = [], []
    distance = torch.arange(n - window, n, device=keys.device)[:, None] - torch.arange(n, device=keys.device)
    for weights in attention_by_head(queries, keys, scaling, sliding_window):
        columns.append(weights.sum(1))
        # Weights of the future are zero, so their distances may go anywhere.
        along = weights.new_zeros(len(weights), n)
        along.index_add_(1, distance.clamp(min=0).flatten(), weights.flatten(1))
        offsets.append(along)
    vertical, slash = torch.cat(columns), torch.cat(offsets)
    vertical[:, :n_first] = float("inf")
    slash[:, :n_recent] = float("inf")
    return best(vertical, n_vertical), best(slash, n_slash)


def vertical_slash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    vertical: torch.Tensor,
    slash: torch.Tensor,
    scaling: float,
    sliding_window: int | None = None,
    chunk: int = 256,
) -> torch.Tensor:
    """Attention under the pattern, exactly: [Hq, N, D], [H, N, D], [H, N, D] to [Hq, N, D].

    Masked dense attention, `chunk` queries at a time: it shows what the pattern does to the answers and saves no time.
    """
    n, group = query.shape[1], query.shape[0] // key.shape[0]
    device = key.device
    is_vertical = torch.zeros(len(query), n, dtype=torch.bool, device=device).scatter_(1, vertical, True)
    is_slash = torch.zeros(len(query), n, dtype=torch.bool, device=device).scatter_(1, slash, True)
    keys, values = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    output = torch.empty_like(query)
    for start in range(0, n, chunk):
        end = min(start + chunk, n)
        distance = torch.arange(start, end, device=device)[:, None] - torch.arange(end, device=device)
        seen = is_vertical[:, None, :end] | is_slash[:, distance.clamp(min=0)]
        seen &= distance >= 0
        if sliding_window is not None:
            seen &= distance < sliding_window
        output[:, start:end] = F.scaled_dot_product_attention(
            query[:, start:end], keys[:, :end], values[:, :end], attn_mask=seen, scale=scaling
        )
    return output
