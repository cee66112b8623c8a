"""SpecPC: the draft's attention decides which prompt tokens the target reads (arXiv 2506.08373, section 5)."""

from __future__ import annotations

import torch

from draft_approx_llm.configs import SpecPCConfig
from draft_approx_llm.importance import pool
from draft_approx_llm.method import Listen, LookAhead, Method, Read, Request, check_listened_layer, read_kept
from draft_approx_llm.selection import keep_prompt


class SpecPC(Method):
    """The algorithm box: let the draft read, pool its attention, keep the best tokens, read those with the target."""

    listener = "draft"

    def __init__(self, config: SpecPCConfig) -> None:
        self.config = config

    def check(self, target, draft):
        listener = draft if self.listener == "draft" else target
        check_listened_layer(self.config.starting_layer_index, listener, self.listener)

    def steps(self, prompt, request):
        if len(prompt) <= self.config.capacity(len(prompt)):
            return (yield Read(prompt))
        ahead = yield ask(prompt, request, self.config, self.listener)
        kept = choose(ahead.scores, self.config)
        return (yield from read_kept(prompt, kept, self.config.position_ids == "original"))


def ask(prompt: torch.Tensor, request: Request, config: SpecPCConfig, by: str = "draft") -> LookAhead:
    """Steps 1 and 2: the lookahead whose attention over the prompt is recorded."""
    listen = Listen(
        config.window_size,
        config.starting_layer_index,
        config.reduction_type,
        weighted_query=config.weighted_query,
    )
    return LookAhead(prompt, config.lookahead_tokens or request.max_new_tokens, listen, by)


def choose(scores: torch.Tensor, config: SpecPCConfig) -> torch.Tensor:
    """Steps 3 to 5: importance [N], N above the capacity, to the sorted positions [C] that the target reads."""
    neighbours = config.kernel_size if config.neighbor_tokens is None else config.neighbor_tokens
    pooled = pool(scores, config.pool_type, config.kernel_size)
    capacity = config.capacity(len(scores))
    return keep_prompt(pooled, capacity, min(config.window_size, capacity), neighbours)
