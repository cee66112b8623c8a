"""Attention of one new token a row over keys whose number differs between rows and between KV heads.

The keys of a segment (one row's KV head) lie together in a flat [T, D] tensor, the segments sorted by length. The flat
part's result and that of the tail, where decoded tokens go, are merged exactly through their log-sum-exps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F

# Fewer equally long segments share a bucket with others: a bucket of their own costs launches, a shared one copies.
_MIN_RUN = 4
# What is copied, or raised to float32, at once.
_BUCKET_ENTRIES = 2**18


@dataclass(frozen=True)
class Bucket:
    """Segments that are computed at once, those at the places first ... last - 1 of the flat tensor.

    Attributes:
        start: the first one's first entry; length: entries of the longest.
        index: [last - first, length] int32, entries of the flat tensor, a segment's last one repeated as padding;
            lengths: [last - first]. Both are None where all are equally long: then the bucket is a view.
    """

    first: int
    last: int
    start: int
    length: int
    index: torch.Tensor | None = None
    lengths: torch.Tensor | None = None

    def take(self, flat: torch.Tensor) -> torch.Tensor:
        """[T, ...] to [last - first, length, ...]: a view, or a padded copy."""
        shape = (self.last - self.first, self.length, *flat.shape[1:])
        if self.index is None:
            return flat[self.start : self.start + shape[0] * shape[1]].view(shape)
        return flat.index_select(0, self.index.flatten()).view(shape)

    def filled(self) -> torch.Tensor | None:
        """Which of what is taken is no padding, [last - first, length]; None: all."""
        if self.lengths is None:
            return None
        return torch.arange(self.length, device=self.lengths.device) < self.lengths[:, None]


class Layout:
    """Where segments lie in a flat tensor: one after the other, the longest first (a GPU begins with the most work).

    Attributes:
        lengths: of each segment (that of row b and KV head h is number b * H + h).
        order: the segments in the order in which they are stored; equally long ones stay in theirs.
        starts: a segment's first entry in the flat tensor.
        n_empty: how many are empty; they come last. longest: the most entries of one.
        buckets: the others, to compute with.
        sequence: `order` as a tensor [n]; place: its inverse.
        ends: [n - n_empty + 1] int32, where the non-empty segments begin and the last one ends; count: 0, 1, 2 ...
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        n = len(self.lengths)
        self.order = sorted(range(n), key=lambda segment: -self.lengths[segment])
        stored = [self.lengths[i] for i in self.order]
        ends = [0, *accumulate(stored)]
        self.starts = [0] * n
        for place, segment in enumerate(self.order):
            self.starts[segment] = ends[place]
        self.n_empty, self.longest = stored.count(0), max(stored, default=0)
        self.sequence = torch.tensor(self.order, dtype=torch.long, device=device)
        self.place = self.sequence.argsort()
        filled = n - self.n_empty
        self.ends = torch.tensor(ends[: filled + 1], dtype=torch.int32, device=device)
        self.count = torch.arange(filled + 1, dtype=torch.int32, device=device)
        self.buckets = [_bucket(first, last, ends, device) for first, last in _groups(stored[:filled])]


def _groups(stored: list[int]) -> list[tuple[int, int]]:
    """Splits places whose lengths descend to 1 or more: long runs of equal ones, the rest by powers of two."""
    runs, first = [], 0
    for length, equal in groupby(stored):
        last = first + len(list(equal))
        # No other key is negative, so a long run joins nothing.
        runs.append((-length if last - first >= _MIN_RUN else (length - 1).bit_length(), first, last))
        first = last
    groups = []
    for _, same in groupby(runs, key=lambda run: run[0]):
        same = list(same)
        first, last = same[0][1], same[-1][2]
        step = max(1, _BUCKET_ENTRIES // stored[first])
        groups += [(i, min(i + step, last)) for i in range(first, last, step)]
    return groups


def _bucket(first: int, last: int, ends: list[int], device: torch.device) -> Bucket:
    length = ends[first + 1] - ends[first]
    if ends[last] - ends[first] == (last - first) * length:
        return Bucket(first, last, ends[first], length)
    bounds = torch.tensor(ends[first : last + 1], dtype=torch.int32, device=device)
    lengths = bounds.diff()
    within = torch.arange(length, dtype=torch.int32, device=device)
    index = bounds[:-1, None] + torch.minimum(within, lengths[:, None] - 1)
    return Bucket(first, last, ends[first], length, index, lengths)


@dataclass(frozen=True)
class Window:
    """The limit of a sliding-window layer: a query sees entries from a position on.

    Attributes:
        oldest: [B], the first position that each row's query sees.
        positions: [T] of the flat entries; tail: [B, t] of the tail's.
    """

    oldest: torch.Tensor
    positions: torch.Tensor
    tail: torch.Tensor


def ragged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    tail_keys: torch.Tensor,
    tail_values: torch.Tensor,
    scaling: float,
    window: Window | None = None,
    varlen: bool | None = None,
) -> torch.Tensor:
    """Attention of one query a row over its heads' segments and its tail; the softmax is in float32.

    Args:
        query: [B, Hq, D].
        keys, values: [T, D] as `layout` says, of B * H segments.
        tail_keys, tail_values: [B, H, t, D].
        scaling: factor on the dot product.
        window: None where everything is seen.
        varlen: whether to use a variable-length flash kernel; None means where it can be used.

    Returns:
        [B, Hq, D].
    """
    batch, heads = tail_keys.shape[:2]
    groups = query.reshape(batch * heads, -1, query.shape[-1])
    if varlen is None:
        varlen = can_use_varlen(query, window is not None)
    if varlen:
        output, lse = _varlen_attention(groups, keys, values, layout, scaling)
    else:
        output, lse = _bucket_attention(groups, keys, values, layout, scaling, window)
    scores = _scores(groups, tail_keys.flatten(0, 1), scaling)
    if window is not None:
        unseen = window.tail < window.oldest[:, None]
        scores = scores.masked_fill(unseen.repeat_interleave(heads, 0)[:, None], float("-inf"))
    # All that is known of a segment's scores is their log-sum-exp: the segment weighs as one more key.
    weights = torch.cat([lse[..., None], scores], dim=-1).softmax(-1)
    output = weights[..., :1] * output + weights[..., 1:] @ tail_values.flatten(0, 1).float()
    return output.to(query.dtype).view(query.shape)


def _scores(query: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """[n, G, D] and [n, L, D] to [n, G, L] float32."""
    return (query.float() * scaling) @ keys.float().transpose(1, 2)


def _softmax(scores: torch.Tensor, seen: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [n, G, L] and log-sum-exps [n, G] over what is `seen` [n, L]; seeing nothing gives 0 and -inf."""
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None], float("-inf"))
    lse = scores.logsumexp(-1)
    return (scores - lse.clamp_min(torch.finfo(torch.float32).min)[..., None]).exp_(), lse


def _bucket_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    scaling: float,
    window: Window | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain torch, any device and type: outputs [n, G, D] and log-sum-exps [n, G] of the segments."""
    query = query.index_select(0, layout.sequence)
    output = torch.zeros_like(query, dtype=torch.float32)
    lse = output.new_full(query.shape[:2], float("-inf"))
    if window is not None:
        heads = len(query) // len(window.oldest)
        oldest = window.oldest.repeat_interleave(heads).index_select(0, layout.sequence)
    for bucket in layout.buckets:
        here = slice(bucket.first, bucket.last)
        seen = bucket.filled()
        if window is not None:
            recent = bucket.take(window.positions) >= oldest[here, None]
            seen = recent if seen is None else seen & recent
        # The copies of the keys are gone before those of the values are made.
        weights, lse[here] = _softmax(_scores(query[here], bucket.take(keys), scaling), seen)
        output[here] = weights @ bucket.take(values).float()
    return output.index_select(0, layout.place), lse.index_select(0, layout.place)


def can_use_varlen(query: torch.Tensor, limited: bool) -> bool:
    """Whether a variable-length flash kernel can compute this: it needs a GPU, half precision, and no window."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and not limited
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and varlen_kernel() is not None
    )


@cache
def varlen_kernel() -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
    """torch's own variable-length kernel, or that of the package flash-attn, or None.

    Called with query [Tq, 1, D], keys and values [Tk, 1, D], the cumulative lengths of sequences [n + 1] int32 in both,
    the longest in both, and the scaling; returns the output [Tq, 1, D] and log-sum-exps of Tq queries.
    """
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn

        if "scale" in inspect.signature(varlen_attn).parameters:
            return partial(_torch_varlen, varlen_attn, AuxRequest(lse=True))
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return partial(_flash_attn_varlen, flash_attn_varlen_func)


def _torch_varlen(function, aux, *args):
    return function(*args[:-1], return_aux=aux, scale=args[-1])


def _flash_attn_varlen(function, *args):
    return function(*args[:-1], softmax_scale=args[-1], return_attn_probs=True)[:2]


def _varlen_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: Layout, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_bucket_attention`, by a flash kernel that reads the flat tensors where they are."""
    n, size, dim = query.shape
    # What the kernels say of empty sequences differs, so they are not asked.
    filled = n - layout.n_empty
    if not filled:
        return torch.zeros_like(query), query.new_full((n, size), float("-inf"), dtype=torch.float32)
    # The query heads of a group go as so many tokens of one sequence: without a causal mask that is the same.
    flat = query.index_select(0, layout.sequence[:filled]).view(-1, 1, dim)
    output, lse = varlen_kernel()(
        flat, keys[:, None], values[:, None], layout.count * size, layout.ends, size, layout.longest, scaling
    )
    output, lse = output.view(filled, size, dim), lse.reshape(filled, size)
    if layout.n_empty:
        output = F.pad(output, (0, 0, 0, 0, 0, layout.n_empty))
        lse = F.pad(lse, (0, 0, 0, layout.n_empty), value=float("-inf"))
    return output.index_select(0, layout.place), lse.index_select(0, layout.place)
