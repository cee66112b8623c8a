"""Random prompt tokens: a control for prompt compression. The last window, and tokens drawn at random, in order.

What is drawn depends on `seed` and on the prompt's tokens, not on the device or on what was read before.
"""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from draft_approx_llm.configs import MethodConfig, capacity_of, check_budget, check_int, check_window
from draft_approx_llm.method import Method, Read, read_kept


@dataclass(frozen=True)
class RandomPromptConfig(MethodConfig):
    """Args: max_capacity_prompt or budget_ratio, prompt tokens kept, the last `window_size` among them; seed."""

    sparse_type: ClassVar[str] = "random_prompt"

    max_capacity_prompt: int | None = None
    budget_ratio: float | None = None
    window_size: int = 64
    seed: int = 42

    def __post_init__(self):
        check_budget(self)
        check_int(self, "window_size", 0)
        check_int(self, "seed", 0)
        check_window(self)

    def build(self):
        return RandomPrompt(self)


class RandomPrompt(Method):
    """Reads what was drawn."""

    def __init__(self, config):
        self.config = config

    def steps(self, prompt, request):
        n = len(prompt)
        capacity = capacity_of(n, self.config.max_capacity_prompt, self.config.budget_ratio)
        if n <= capacity:
            return (yield Read(prompt))
        window = min(self.config.window_size, capacity)
        checksum = zlib.crc32(prompt.long().cpu().numpy().tobytes(), self.config.seed)
        generator = torch.Generator().manual_seed(checksum)
        drawn = torch.randperm(n - window, generator=generator)[: capacity - window].sort().values
        return (yield from read_kept(prompt, torch.cat([drawn, torch.arange(n - window, n)]).to(prompt.device)))
