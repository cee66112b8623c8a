"""Truncation: cut tokens out of the prompt's head, middle or tail, without looking at them. A control.

`cut: middle` keeps the first and the last half of the budget, as LongBench does with prompts that are too long; an odd
token goes to the end. `cut: head` keeps the end, `cut: tail` the beginning (and so loses the question). Positions are
contiguous.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from draft_approx_llm.configs import MethodConfig, capacity_of, check_budget, check_choice
from draft_approx_llm.method import Method, Read, read_kept


@dataclass(frozen=True)
class TruncationConfig(MethodConfig):
    """Args: max_capacity_prompt or budget_ratio, prompt tokens kept; cut: what goes, "head", "middle" or "tail"."""

    sparse_type: ClassVar[str] = "truncation"

    max_capacity_prompt: int | None = None
    budget_ratio: float | None = None
    cut: str = "middle"

    def __post_init__(self):
        check_budget(self)
        check_choice(self, "cut", ("head", "middle", "tail"))

    def build(self):
        return Truncation(self)


class Truncation(Method):
    """Reads what is left."""

    def __init__(self, config):
        self.config = config

    def steps(self, prompt, request):
        n = len(prompt)
        capacity = capacity_of(n, self.config.max_capacity_prompt, self.config.budget_ratio)
        if n <= capacity:
            return (yield Read(prompt))
        return (yield from read_kept(prompt, choose(n, capacity, self.config.cut).to(prompt.device)))


def choose(n: int, capacity: int, cut: str) -> torch.Tensor:
    """Sorted positions [capacity] of a prompt of n tokens, more than the capacity."""
    first = {"head": 0, "middle": capacity // 2, "tail": capacity}[cut]
    return torch.cat([torch.arange(first), torch.arange(n - (capacity - first), n)])
