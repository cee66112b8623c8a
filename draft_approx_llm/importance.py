"""Attention to importance: pure tensor functions, no model in sight.

Shapes: Hq query heads, H KV heads, G = Hq / H query heads a group, Q scoring queries, S keys, D head size. Softmax and
everything after it is float32, and so is the dot product: a bfloat16 product has 8 bits and would rank by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F


def attention_by_head(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, sliding_window: int | None = None
) -> Iterator[torch.Tensor]:
    """Attention of the sequence's last Q queries, one KV head at a time, so that [Hq, Q, S] never exists at once.

    Args:
        queries: [Hq, Q, D], those of the last Q tokens, position encoding applied.
        keys: [H, S, D], all keys up to and with the last token's.
        scaling: factor on the dot product.
        sliding_window: a query sees the last `sliding_window` keys up to its own; None means all.

    Yields:
        For each KV head, float32 weights [G, Q, S]; the queries are causal inside their block.
    """
    n_queries, n_keys = queries.shape[1], keys.shape[1]
    distance = _distance(n_queries, n_keys, keys.device)
    hidden = distance < 0
    if sliding_window is not None:
        hidden |= distance >= sliding_window
    groups = queries.unflatten(0, (keys.shape[0], -1))
    for group, key in zip(groups, keys, strict=True):
        logits = group.float() @ key.float().T * scaling
        yield logits.masked_fill_(hidden, float("-inf")).softmax(dim=-1)


def _distance(n_queries: int, n_keys: int, device: torch.device) -> torch.Tensor:
    """How far key j lies behind query i, [Q, S]; negative in the future."""
    query_position = torch.arange(n_keys - n_queries, n_keys, device=device)
    return query_position[:, None] - torch.arange(n_keys, device=device)


def reduce(scores: torch.Tensor, dims: tuple[int, ...] | int, reduction: str) -> torch.Tensor:
    """The maximum or the mean over `dims`."""
    return scores.amax(dims) if reduction == "max" else scores.mean(dims)


def kv_importance(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, reduction: str, sliding_window: int | None = None
) -> torch.Tensor:
    """SpecKV, steps 3 and 4 before pooling: the attention that each key before the block gets from the block.

    Args: as `attention_by_head`; reduction "max" or "mean", over the group's query heads and the queries.

    Returns:
        [H, S - Q] float32.
    """
    before = keys.shape[1] - queries.shape[1]
    heads = attention_by_head(queries, keys, scaling, sliding_window)
    return torch.stack([reduce(weights[..., :before], (0, 1), reduction) for weights in heads])


def accumulated_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scaling: float,
    reduction: str,
    sliding_window: int | None = None,
    most_weights: int = 1 << 26,
) -> torch.Tensor:
    """H2O: the attention that each key gets from all queries, exactly, block by block of queries.

    Args: queries [Hq, S, D] and keys [H, S, D] of the same tokens; `reduction` "mean" sums over the queries and
        averages over the group's query heads, "max" takes the maximum over both; at most `most_weights` weights
        (float32) exist at once, or one query's.

    Returns:
        [H, S] float32.
    """
    heads, n = keys.shape[:2]
    block = max(1, most_weights // (n * (queries.shape[0] // heads)))
    total = torch.zeros(heads, n, device=keys.device)
    for start in range(0, n, block):
        end = min(start + block, n)
        first = 0 if sliding_window is None else max(0, start - sliding_window + 1)
        rows = attention_by_head(queries[:, start:end], keys[:, first:end], scaling, sliding_window)
        for head, weights in enumerate(rows):
            part = total[head, first:end]
            if reduction == "max":
                torch.maximum(part, weights.amax((0, 1)), out=part)
            else:
                part += weights.sum(1).mean(0)
    return total


def prompt_importance(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scaling: float,
    reduction: str,
    weighted: bool,
    sliding_window: int | None = None,
    pool_type: str | None = None,
    kernel_size: int = 1,
) -> torch.Tensor:
    """SpecPC, steps 1 and 2 in one layer: the attention that each prompt token gets from the last W queries.

    Args: as `attention_by_head`; `weighted` scales the queries' rows by linspace(0, 1, W), `pool_type` and
        `kernel_size` smooth each row as `pool` does.

    Returns:
        [S] float32, reduced over heads and queries.
    """
    rows = torch.linspace(0, 1, queries.shape[1], device=queries.device)[:, None] if weighted else 1.0
    heads = attention_by_head(queries, keys, scaling, sliding_window)
    pooled = (pool(weights * rows, pool_type, kernel_size) for weights in heads)
    return reduce(torch.stack([reduce(weights, (0, 1), reduction) for weights in pooled]), 0, reduction)


def pool(scores: torch.Tensor, pool_type: str | None, kernel_size: int) -> torch.Tensor:
    """Smooths importance along the last dimension, length unchanged, padded with zeros.

    The window is centred; an even one reaches one position further to the right. The mean divides by `kernel_size`
    also at the edges, as SnapKV's does. pool_type None returns the scores as they are.
    """
    if pool_type is None or scores.shape[-1] == 0:
        return scores
    left = (kernel_size - 1) // 2
    padded = F.pad(scores, (left, kernel_size - 1 - left))
    rows = padded.reshape(-1, 1, padded.shape[-1])
    pooled = (F.max_pool1d if pool_type == "max" else F.avg_pool1d)(rows, kernel_size, stride=1)
    return pooled.reshape(scores.shape)
