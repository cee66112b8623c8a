"""H2O (arXiv 2306.14048): heavy hitters, the keys that got most attention from all queries, and the recent tokens.

    importance(j) = sum over queries i >= j of softmax(q_i K)_j, mean over the group's query heads

Summed over all of the prompt's queries with a window of 8 recent tokens, as KVCache-Factory does (the paper keeps half
of the budget for recent tokens: set window_size to that; kvpress's observed attention divides by the queries that saw
a key).
Accumulated block by block: exact, and N x N weights never exist. The selection is made once, after the prompt.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from draft_approx_llm.configs import KVConfig
from draft_approx_llm.importance import accumulated_attention
from draft_approx_llm.kv_dropping import KVDropping


@dataclass(frozen=True)
class H2OConfig(KVConfig):
    """All of the prompt's queries; `reduction_type: max` takes their maximum instead of the sum."""

    sparse_type: ClassVar[str] = "h2o"

    window_size: int = 8

    def build(self):
        return H2O(self)


class H2O(KVDropping):
    """What was attended to matters."""

    def importance(self, view, n, n_ahead, window):
        scores: torch.Tensor = accumulated_attention(
            view.queries[:, :n], view.keys[:, :n], view.scaling, self.config.reduction_type, view.sliding_window
        )
        return scores[:, : n - 1 - window]
