"""A KV cache whose layers can keep a subset of positions, for real: what is dropped is freed, and nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from draft_approx_llm.ragged import Layout, Window, ragged_attention


class Piece(NamedTuple):
    """Consecutive entries of one row's KV head: keys and values [n, D], positions [n] or None."""

    keys: torch.Tensor
    values: torch.Tensor
    positions: torch.Tensor | None

    def places(self) -> torch.Tensor:
        """The positions; where nobody tracked them, nothing was dropped and an entry's place is its own."""
        if self.positions is not None:
            return self.positions
        return torch.arange(len(self.keys), dtype=torch.int32, device=self.keys.device)


class CompactLayer(CacheLayerMixin):
    """One layer's keys and values, [B, H, S, D], oldest first: every row and head holds equally many.

    `positions`, [B, H, S] int32, says which token of the sequence each entry belongs to. It is None where nobody
    has to ask, that is unless a sliding window moves over a layer that has dropped entries.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.positions: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends [B, H, n, D]; `index` [B, n] are the tokens' places in the sequence, needed once positions are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            # A view would hold on to the projection it was cut from (Phi-3 fuses q, k and v).
            self.keys, self.values = key_states.contiguous(), value_states.contiguous()
            return self.keys, self.values
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        if self.positions is not None:
            new = index.to(self.positions)[:, None, :].expand(-1, self.n_heads, -1)
            self.positions = torch.cat([self.positions, new], dim=-1)
        return self.keys, self.values

    def select(
        self, kept: torch.Tensor | Sequence[torch.Tensor] | None, track_positions: bool
    ) -> CompactLayer | RaggedLayer:
        """A new layer that holds only `kept` of this one, which has one row and has dropped nothing before.

        Args:
            kept: sorted positions, [H, K], or H tensors [K_h]; None means all, and shares the memory.
            track_positions: whether somebody will ask which positions they were.
        """
        if kept is not None and not isinstance(kept, torch.Tensor):
            if len({len(head) for head in kept}) > 1:
                return self._select_ragged(kept, track_positions)
            kept = torch.stack(tuple(kept))
        layer = CompactLayer()
        layer.lazy_initialization(self.keys, self.values)
        if kept is None:
            layer.keys, layer.values, layer.positions = self.keys, self.values, self.positions
        else:
            index = kept[None, :, :, None].expand(-1, -1, -1, self.keys.shape[-1])
            layer.keys, layer.values = self.keys.gather(2, index), self.values.gather(2, index)
            layer.positions = kept[None].int() if track_positions else None
        return layer

    def _select_ragged(self, kept: Sequence[torch.Tensor], track_positions: bool) -> RaggedLayer:
        layout = Layout([len(head) for head in kept], self.keys.device)
        length = self.keys.shape[2]
        index = torch.cat([kept[head] + head * length for head in layout.order])
        keys = self.keys[0].flatten(0, 1).index_select(0, index)
        values = self.values[0].flatten(0, 1).index_select(0, index)
        positions = torch.cat([kept[head] for head in layout.order]).int() if track_positions else None
        return RaggedLayer(keys, values, positions, layout, len(kept))

    def visible(self, index: torch.Tensor, newest: int, sliding_window: int | None) -> torch.Tensor | None:
        """Which entries the tokens at `index` [B] see, bool [B, 1 or H, S]; None means all of them.

        `newest` is the largest of `index`, known without asking the device.
        """
        oldest = _oldest(index, newest, sliding_window)
        if oldest is None:
            return None
        positions = self.positions
        if positions is None:
            positions = torch.arange(self.keys.shape[-2], device=self.keys.device)[None, None]
        return positions >= oldest[:, None, None]

    @property
    def n_rows(self) -> int:
        return self.keys.shape[0]

    @property
    def n_heads(self) -> int:
        return self.keys.shape[1]

    def pieces(self, row: int, head: int) -> list[Piece]:
        """The entries of one row's KV head, oldest first, as views."""
        positions = None if self.positions is None else self.positions[row, head]
        return [Piece(self.keys[row, head], self.values[row, head], positions)]

    def row(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [H, S, D] and positions [S] of a row, the newest token's among them.

        For layers whose heads all hold the same positions, and that have dropped nothing or track positions.
        """
        return self.keys[row], self.pieces(row, 0)[0].places().long()

    def release(self) -> None:
        """Lets go of all memory."""
        self.keys = self.values = self.positions = None
        self.is_initialized = False

    def nbytes(self) -> int:
        """Bytes of keys and values (storage, not views: a slice of a larger tensor counts whole)."""
        return _nbytes(self.keys, self.values)

    def entries_per_head(self) -> float:
        """KV entries a head holds, the mean over rows and heads."""
        return self.get_seq_length()

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class RaggedLayer(CacheLayerMixin):
    """One layer's keys and values where rows or KV heads hold unequally many.

    What the layer is made from lies in `keys` and `values`, [T, D], a segment for each row and KV head as `layout`
    says; `positions` [T] int32 are tracked as in `CompactLayer`. Tokens decoded since are in a dense tail, so the flat
    part is never copied again: `tail_keys` and `tail_values` [B, H, t, D], `tail_positions` [B, t] int32.
    """

    is_sliding = False

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor | None,
        layout: Layout,
        n_heads: int,
    ) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.positions, self.layout, self.n_heads = keys, values, positions, layout, n_heads
        self.n_rows = len(layout.lengths) // n_heads
        self.tail_keys = keys.new_empty(self.n_rows, n_heads, 0, keys.shape[-1])
        self.tail_values = values.new_empty(self.n_rows, n_heads, 0, values.shape[-1])
        self.tail_positions = torch.empty(self.n_rows, 0, dtype=torch.int32, device=keys.device)

    @classmethod
    def of(cls, segments: list[list[Piece]], n_heads: int) -> RaggedLayer:
        """Copies segments, row by row and head by head, into one new layer with an empty tail."""
        layout = Layout([sum(len(piece.keys) for piece in pieces) for pieces in segments], segments[0][0].keys.device)
        stored = [piece for segment in layout.order for piece in segments[segment]]
        tracked = any(pieces[0].positions is not None for pieces in segments)
        return cls(
            torch.cat([piece.keys for piece in stored]),
            torch.cat([piece.values for piece in stored]),
            torch.cat([piece.places() for piece in stored]) if tracked else None,
            layout,
            n_heads,
        )

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends [B, H, n, D] of the tokens at the places `index` [B, n]; returns the tail only: use `attend`."""
        self.tail_keys = torch.cat([self.tail_keys, key_states], dim=-2)
        self.tail_values = torch.cat([self.tail_values, value_states], dim=-2)
        self.tail_positions = torch.cat([self.tail_positions, index.to(self.tail_positions)], dim=-1)
        return self.tail_keys, self.tail_values

    def attend(
        self, query: torch.Tensor, scaling: float, index: torch.Tensor, newest: int, sliding_window: int | None
    ) -> torch.Tensor:
        """Attention [B, Hq, D] of the query [B, Hq, D] of one token a row, at `index` [B] (at most `newest`)."""
        oldest, window = _oldest(index, newest, sliding_window), None
        if oldest is not None:
            if self.positions is None:
                stored = [self._flat(segment) for segment in self.layout.order]
                self.positions = torch.cat([piece.places() for piece in stored])
            window = Window(oldest, self.positions, self.tail_positions)
        return ragged_attention(
            query, self.keys, self.values, self.layout, self.tail_keys, self.tail_values, scaling, window
        )

    def _flat(self, segment: int) -> Piece:
        start = self.layout.starts[segment]
        here = slice(start, start + self.layout.lengths[segment])
        return Piece(self.keys[here], self.values[here], None if self.positions is None else self.positions[here])

    def pieces(self, row: int, head: int) -> list[Piece]:
        """The entries of one row's KV head, oldest first, as views."""
        tail = Piece(self.tail_keys[row, head], self.tail_values[row, head], self.tail_positions[row])
        return [self._flat(row * self.n_heads + head), tail]

    def row(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [H, S, D] and positions [S] of a row, the newest token's among them (see `CompactLayer.row`)."""
        first = row * self.n_heads
        lengths = self.layout.lengths[first : first + self.n_heads]
        if len(set(lengths)) > 1:
            raise ValueError(f"row {row}: its heads hold unequally many entries, {lengths}")
        # Equally long segments of one row lie side by side.
        start = self.layout.starts[first]
        flat = self.keys[start : start + self.n_heads * lengths[0]].view(self.n_heads, lengths[0], -1)
        positions = torch.cat([piece.places() for piece in self.pieces(row, 0)])
        return torch.cat([flat, self.tail_keys[row]], dim=1), positions.long()

    def release(self) -> None:
        """Lets go of all memory."""
        self.keys = self.values = self.positions = self.layout = None
        self.tail_keys = self.tail_values = self.tail_positions = None
        self.is_initialized = False

    def nbytes(self) -> int:
        """Bytes of keys and values (storage, not views)."""
        return _nbytes(self.keys, self.values, self.tail_keys, self.tail_values)

    def entries_per_head(self) -> float:
        """KV entries a head holds, the mean over rows and heads."""
        return sum(self.layout.lengths) / len(self.layout.lengths) + self.tail_keys.shape[-2]

    def get_seq_length(self) -> int:
        """Entries of the longest head."""
        return self.layout.longest + self.tail_keys.shape[-2] if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


def _oldest(index: torch.Tensor, newest: int, sliding_window: int | None) -> torch.Tensor | None:
    """The first positions that tokens at `index` [B] see; None where the window does not end before the first token."""
    if sliding_window is None or newest < sliding_window:
        return None
    return index - sliding_window + 1


def _nbytes(*tensors: torch.Tensor | None) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)


class CompactCache(Cache):
    """A cache of `CompactLayer`s and `RaggedLayer`s.

    `index` [B, n] holds the places in the sequence of the tokens being fed.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=CompactLayer)
        self.index: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends to one layer; whatever else a model passes (RoPE tables, say) is of no use to this cache."""
        return super().update(key_states, value_states, layer_idx, index=self.index)

    def nbytes(self) -> int:
        """Bytes of all layers' keys and values."""
        return sum(layer.nbytes() for layer in self.layers)

    def entries_per_head(self) -> float:
        """KV entries a head holds, the mean over layers, rows and heads."""
        return sum(layer.entries_per_head() for layer in self.layers) / len(self.layers)


def merge(caches: Sequence[CompactCache], order: Sequence[int] | None = None) -> CompactCache:
    """One cache of all the caches' rows. A single cache whose rows keep their order is returned as it is.

    The given caches are emptied layer by layer, so that two copies of everything never exist.

    Args:
        caches: of one row or more, which may have decoded different numbers of tokens.
        order: for each row of the result, its place among all the caches' rows, in turn; None means unchanged.
    """
    if len(caches) == 1 and (order is None or list(order) == list(range(caches[0].layers[0].n_rows))):
        return caches[0]
    merged = CompactCache()
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        merged.layers.append(_merge_layers(layers, order))
        for layer in layers:
            layer.release()
    return merged


def _merge_layers(
    layers: Sequence[CompactLayer | RaggedLayer], order: Sequence[int] | None
) -> CompactLayer | RaggedLayer:
    rows = [(layer, row) for layer in layers for row in range(layer.n_rows)]
    if order is not None:
        rows = [rows[i] for i in order]
    heads = range(layers[0].n_heads)
    uniform = len({layer.get_seq_length() for layer in layers}) == 1
    if not uniform or any(isinstance(layer, RaggedLayer) for layer in layers):
        return RaggedLayer.of([layer.pieces(row, head) for layer, row in rows for head in heads], len(heads))
    merged = CompactLayer()
    merged.lazy_initialization(layers[0].keys, layers[0].values)
    merged.keys = torch.stack([layer.keys[row] for layer, row in rows])
    merged.values = torch.stack([layer.values[row] for layer, row in rows])
    if any(layer.positions is not None for layer in layers):
        places = [torch.stack([layer.pieces(row, head)[0].places() for head in heads]) for layer, row in rows]
        merged.positions = torch.stack(places)
    return merged
