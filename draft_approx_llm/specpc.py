"""SpecPC: the draft's attention decides which prompt tokens the target reads (arXiv 2506.08373, section 5)."""

from __future__ import annotations

import torch

from draft_approx_llm.configs import SpecPCConfig
from draft_approx_llm.draft_guided import DraftGuided
from draft_approx_llm.importance import pool
from draft_approx_llm.method import Kept, read_all
from draft_approx_llm.selection import keep_prompt


class SpecPC(DraftGuided):
    """The algorithm box: let the draft read, pool its attention, keep the best tokens, read those with the target."""

    def __init__(self, config: SpecPCConfig) -> None:
        self.config = self.listen = config
        self.lookahead_tokens = config.lookahead_tokens

    def acts_on(self, n, n_lookahead):
        return n > self.config.max_capacity_prompt

    def read(self, target, prompt, lookahead):
        kept = choose(lookahead.scores, self.config)
        if self.config.position_ids == "original":
            result = read_all(target, prompt[kept], positions=kept, next_position=len(prompt))
        else:
            result = read_all(target, prompt[kept])
        result.kept = Kept(prompt=kept)
        return result


def choose(scores: torch.Tensor, config: SpecPCConfig) -> torch.Tensor:
    """Steps 3 to 5: importance [N], N above the capacity, to the sorted positions [C] that the target reads."""
    neighbours = config.kernel_size if config.neighbor_tokens is None else config.neighbor_tokens
    pooled = pool(scores, config.pool_type, config.kernel_size)
    return keep_prompt(pooled, config.max_capacity_prompt, config.window_size, neighbours)
