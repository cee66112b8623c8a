"""Expected Attention (kvpress, arXiv 2510.00636): how much attention queries yet to come can be expected to pay.

Queries before their rotation are taken as normal with the mean m and covariance S of the prompt's; R is the rotation
averaged over the next n_future positions. Then, softmax over the keys after the sinks, mean over the group's query
heads:

    importance(j) = mean softmax_j( s k_j . R m + s^2 / 2 k_j . R S R' k_j ) |v_j|         (s: the layer's scaling)

Defaults: kvpress's (512 future positions, 4 sinks, which are always kept and left out of the statistics; no window).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from draft_approx_llm.configs import KVConfig
from draft_approx_llm.kv_dropping import KVDropping


@dataclass(frozen=True)
class ExpectedAttentionConfig(KVConfig):
    """Scores by a model of future queries; see the module."""

    sparse_type: ClassVar[str] = "expected_attention"

    window_size: int = 0
    sink_size: int = 4
    future_positions: int = 512

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.future_positions, int) or self.future_positions < 1:
            raise ValueError(f"future_positions: must be a whole number of at least 1, not {self.future_positions!r}")

    def build(self):
        return ExpectedAttention(self)


class ExpectedAttention(KVDropping):
    """Keys that future queries are expected to attend to matter."""

    def importance(self, view, n, n_ahead, window):
        device, sinks = view.keys.device, self.config.sink_size
        cos, sin = view.rotary(torch.arange(sinks, n, device=device))
        future_cos, future_sin = view.rotary(torch.arange(n, n + self.config.future_positions, device=device))
        average = future_cos.mean(0), future_sin.mean(0)
        groups = view.queries[:, sinks:n].unflatten(0, (len(view.keys), -1))
        scores = []
        for queries, keys, values in zip(groups, view.keys[:, sinks:n].float(), view.values[:, sinks:n], strict=True):
            # Scaled RoPE has cos^2 + sin^2 other than 1: the inverse divides by it.
            square = cos.square() + sin.square()
            before = rotate(queries.float(), cos / square, -sin / square)
            mean = before.mean(dim=1, keepdim=True)
            centred = before - mean
            covariance = centred.transpose(1, 2) @ centred / centred.shape[1]
            mean = rotate(mean, *average)
            # R S R': rotate the rows, then the columns.
            covariance = rotate(rotate(covariance, *average).transpose(1, 2), *average)
            logits = view.scaling * (keys @ mean.transpose(1, 2))[..., 0]
            logits = logits + view.scaling**2 / 2 * ((keys @ covariance) * keys).sum(-1)
            scores.append(logits.softmax(-1).mean(0) * values.float().norm(dim=-1))
        # The sinks' own score is of no account: they are kept.
        return F.pad(torch.stack(scores), (sinks, 0))[:, : n - 1 - window]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Applies a rotary position encoding to x [..., S, D]: cos and sin, [S, R] or [R], turn the first R dimensions."""
    size = cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)
