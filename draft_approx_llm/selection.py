"""Importance to kept positions: pure tensor functions.

The order among equal scores is fixed everywhere, for max-pooling makes exact ties: the higher score first, then the
lower position.
"""

from __future__ import annotations

import torch


def best(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Positions of the k highest scores along the last dimension, best first, ties to the lower position.

    `torch.topk` leaves ties open (they change with k and with the device); a stable sort does not.
    """
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]


def best_over_heads(scores: torch.Tensor, k: int, floor: float) -> list[torch.Tensor]:
    """Ada-KV (arXiv 2407.11550): H * k positions of a layer, shared out to the heads by rank among all scores.

    Each head first gets its own best floor * k (rounded down), as in kvpress; the rest goes to the best that are left,
    whichever head's. AdaKV's own code blends sizes instead: `baselines/ada_snapkv.py` has figures.

    Args:
        scores: [H, S].
        k: mean number a head, at most S counts.
        floor: 0 (the layer's best, whichever head) to 1 (even shares).

    Returns:
        H sorted tensors [K_h], min(k, S) * H positions in all.
    """
    heads, n = scores.shape
    k = min(k, n)
    ranked = scores.scatter(1, best(scores, int(k * floor)), float("inf"))
    taken = torch.zeros(heads * n, dtype=torch.bool, device=scores.device)
    taken[best(ranked.flatten(), heads * k)] = True
    return [row.nonzero()[:, 0] for row in taken.view(heads, n)]


def pyramid(mean: int, n_layers: int, most: int, beta: int) -> list[int]:
    """PyramidKV (arXiv 2406.02069): a budget for each layer, falling linearly from the first to the last.

    The last layer gets mean / beta and the first 2 * mean minus that; where the first would exceed `most`, it gets
    `most` and the last what keeps the mean. Shares are rounded so that their sum is exactly n_layers * mean.

    Args:
        mean: tokens a layer, outside the window, on average; most: tokens there are to keep.
        n_layers: number of layers; one layer gets the mean.
        beta: steepness.
    """
    mean = min(mean, most)
    top = min(2 * mean - mean / beta, most)
    step = 2 * (top - mean) / max(1, n_layers - 1)
    totals = [round((layer * top - step * layer * (layer - 1) / 2) + 1e-9) for layer in range(n_layers)]
    totals.append(n_layers * mean)
    return [after - before for before, after in zip(totals, totals[1:], strict=False)]


def neighbour_offsets(n: int) -> list[int]:
    """Offsets of a token's n neighbours, itself among them, nearest first and left before right; n = 0 is itself alone.

    They span -floor((n-1)/2) ... n-1-floor((n-1)/2) (paper, SpecPC).
    """
    if n == 0:
        return [0]
    left = (n - 1) // 2
    return sorted(range(-left, n - left), key=lambda offset: (abs(offset), offset))


def keep_prompt(scores: torch.Tensor, capacity: int, window: int, neighbours: int) -> torch.Tensor:
    """SpecPC, steps 4 and 5: which prompt tokens the target reads.

    Args:
        scores: [N], pooled importance, N > capacity.
        capacity: tokens kept, the window included.
        window: the last tokens of the prompt, always kept.
        neighbours: tokens that come with a chosen one (`neighbour_offsets`).

    Returns:
        [capacity] sorted positions.
    """
    n = scores.shape[0]
    offsets = torch.tensor(neighbour_offsets(neighbours), device=scores.device)
    around = (best(scores, capacity)[:, None] + offsets).clamp_(0, n - 1).flatten()
    wanted = torch.cat([torch.arange(n - window, n, device=scores.device), around])
    # The place where a position is first wanted ranks it; positions nobody wants come last.
    first = torch.full((n,), len(wanted), device=scores.device)
    first.scatter_reduce_(0, wanted, torch.arange(len(wanted), device=scores.device), "amin")
    return torch.sort(first, stable=True).indices[:capacity].sort().values
