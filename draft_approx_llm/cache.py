"""A KV cache whose layers can keep a subset of positions, for real: what is dropped is freed."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

PADDING = -1


class CompactLayer(CacheLayerMixin):
    """One layer's keys and values, [B, H, S, D], oldest first.

    `positions`, [B, 1 or H, S] int32, says which token of the sequence each entry belongs to and marks padding with
    -1. It is None where nobody has to ask: no padding, and no sliding window over a layer that has dropped entries.
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
            new = index.to(self.positions)[:, None, :].expand(-1, self.positions.shape[1], -1)
            self.positions = torch.cat([self.positions, new], dim=-1)
        return self.keys, self.values

    def keep(self, kept: torch.Tensor, track_positions: bool) -> None:
        """Drops all entries but `kept`, [H, K] sorted positions (batch of one); the rest of the memory is freed."""
        index = kept[None, :, :, None]
        self.keys = self.keys.gather(2, index.expand(-1, -1, -1, self.keys.shape[-1]))
        self.values = self.values.gather(2, index.expand(-1, -1, -1, self.values.shape[-1]))
        self.positions = kept[None].int() if track_positions else None

    def visible(self, index: torch.Tensor, newest: int, sliding_window: int | None) -> torch.Tensor | None:
        """Which entries the tokens at `index` [B] see, bool [B, 1 or H, S]; None means all of them.

        `newest` is the largest of `index`, known without asking the device.
        """
        limited = sliding_window is not None and newest >= sliding_window
        if self.positions is None and not limited:
            return None
        positions = self.positions
        if positions is None:
            positions = torch.arange(self.keys.shape[-2], device=self.keys.device, dtype=torch.int32)[None, None]
        seen = positions > PADDING
        if limited:
            seen = seen & (positions > index.to(positions)[:, None, None] - sliding_window)
        return seen

    def entries(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which entries of a row are not padding, [K] indices, and the positions [K] of what they hold.

        For layers whose heads all hold the same positions.
        """
        if self.positions is None:
            everything = torch.arange(self.get_seq_length(), device=self.keys.device)
            return everything, everything
        positions = self.positions[row, 0].long()
        real = (positions > PADDING).nonzero()[:, 0]
        return real, positions[real]

    def nbytes(self) -> int:
        """Bytes of keys and values (storage, not views: a slice of a larger tensor counts whole)."""
        if not self.is_initialized:
            return 0
        return self.keys.untyped_storage().nbytes() + self.values.untyped_storage().nbytes()

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class CompactCache(Cache):
    """A cache of `CompactLayer`s. `index` [B, n] holds the places in the sequence of the tokens being fed."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=CompactLayer)
        self.index: torch.Tensor | None = None
        self._peak_bytes = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends to one layer; whatever else a model passes (RoPE tables, say) is of no use to this cache."""
        return super().update(key_states, value_states, layer_idx, index=self.index)

    def nbytes(self) -> int:
        """Bytes of all layers' keys and values."""
        return sum(layer.nbytes() for layer in self.layers)

    def note_peak(self) -> None:
        """Remembers the bytes held now; called where a layer is about to be compacted."""
        self._peak_bytes = max(self._peak_bytes, self.nbytes())

    @property
    def peak_bytes(self) -> int:
        """The most bytes of keys and values that were held at once, as far as noted."""
        return max(self._peak_bytes, self.nbytes())

    def entries_per_head(self) -> float:
        """KV entries a head holds, the mean over layers (heads of a layer hold equally many)."""
        return sum(layer.get_seq_length() for layer in self.layers) / len(self.layers)


def merge(caches: list[CompactCache]) -> CompactCache:
    """One cache whose batch rows are the given ones (a batch of one each), padded on the left where they are shorter.

    The given caches are emptied layer by layer, so that two copies of everything never exist.
    """
    if len(caches) == 1:
        return caches[0]
    merged = CompactCache()
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        merged.layers.append(_merge_layers(list(layers)))
    return merged


def _merge_layers(rows: list[CompactLayer]) -> CompactLayer:
    lengths = [row.get_seq_length() for row in rows]
    longest = max(lengths)
    merged = CompactLayer()
    merged.lazy_initialization(rows[0].keys, rows[0].values)
    merged.keys = torch.cat([_pad_left(row.keys, longest) for row in rows])
    merged.values = torch.cat([_pad_left(row.values, longest) for row in rows])
    if min(lengths) < longest or any(row.positions is not None for row in rows):
        heads = max(1 if row.positions is None else row.positions.shape[1] for row in rows)
        merged.positions = torch.cat([_padded_positions(row, longest, heads) for row in rows])
    for row in rows:
        row.keys = row.values = row.positions = None
    return merged


def _pad_left(states: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[-2], 0))


def _padded_positions(row: CompactLayer, length: int, heads: int) -> torch.Tensor:
    positions = row.positions
    if positions is None:
        positions = torch.arange(row.get_seq_length(), device=row.keys.device, dtype=torch.int32)[None, None]
    padded = torch.nn.functional.pad(positions, (length - positions.shape[-1], 0), value=PADDING)
    return padded.expand(-1, heads, -1)
