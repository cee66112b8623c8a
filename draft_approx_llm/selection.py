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
