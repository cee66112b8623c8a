"""Speculative Prefill (arXiv 2502.02789): the draft's attention ranks chunks; the target reads the best ones.

    score(j) = mean over lookahead steps of max over layers and heads of avgpool_13( softmax(q K) )_j

The first step's query is the last prompt token's. Chunks of 32 tokens, the last partial one counting as one, are ranked
by their mean score; the best ceil(share * chunks) stay, in order, at their *original* positions; nothing is forced.
Defaults: the official code's (8 lookahead tokens, pool 13, chunk 32). It has a share and no budget in tokens; here the
share is budget / tokens, and the worst chunks go while the budget is exceeded, so that it is held as by every other
method; if one chunk alone is more than the budget, its last tokens stay.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from draft_approx_llm.configs import MethodConfig, capacity_of, check_budget, check_int
from draft_approx_llm.method import Listen, LookAhead, Method, Read, read_kept
from draft_approx_llm.selection import best


@dataclass(frozen=True)
class SpeculativePrefillConfig(MethodConfig):
    """Args: max_capacity_prompt or budget_ratio, prompt tokens kept at most; the others as in the module's formula."""

    sparse_type: ClassVar[str] = "speculative_prefill"
    needs_draft: ClassVar[bool] = True

    max_capacity_prompt: int | None = None
    budget_ratio: float | None = None
    lookahead_tokens: int = 8
    kernel_size: int = 13
    chunk_size: int = 32

    def __post_init__(self):
        check_budget(self)
        for name in ("lookahead_tokens", "kernel_size", "chunk_size"):
            check_int(self, name, 1)

    def build(self):
        return SpeculativePrefill(self)


class SpeculativePrefill(Method):
    """Reads the best chunks."""

    def __init__(self, config):
        self.config = config

    def steps(self, prompt, request):
        n = len(prompt)
        capacity = capacity_of(n, self.config.max_capacity_prompt, self.config.budget_ratio)
        if n <= capacity:
            return (yield Read(prompt))
        listen = Listen(step_reduction="mean", pool_type="mean", kernel_size=self.config.kernel_size)
        ahead = yield LookAhead(prompt, self.config.lookahead_tokens, listen)
        kept = choose_chunks(ahead.scores, capacity, self.config.chunk_size)
        return (yield from read_kept(prompt, kept, original=True))


def choose_chunks(scores: torch.Tensor, capacity: int, chunk: int) -> torch.Tensor:
    """Scores [N] to the sorted positions, at most `capacity`, of the best chunks; ties go to the earlier chunk."""
    n = len(scores)
    parts = torch.arange(n, device=scores.device).split(chunk)
    ranked = best(torch.stack([scores[part].mean() for part in parts]), math.ceil(capacity / n * len(parts))).tolist()
    while len(ranked) > 1 and sum(len(parts[i]) for i in ranked) > capacity:
        ranked.pop()
    return torch.cat([parts[i] for i in sorted(ranked)])[-capacity:]
