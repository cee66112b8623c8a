"""Random keep: a control. Any method must beat tokens drawn at random, with the same window, for each KV head anew.

What is drawn depends on `seed`, the layer and the prompt's length alone, not on the device or on what was read before.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from draft_approx_llm.configs import KVConfig
from draft_approx_llm.kv_dropping import KVDropping


@dataclass(frozen=True)
class RandomKVConfig(KVConfig):
    """Random scores, and the window; see the module."""

    sparse_type: ClassVar[str] = "random_kv"

    def build(self):
        return RandomKV(self)


class RandomKV(KVDropping):
    """Scores are noise."""

    def importance(self, view, n, n_ahead, window):
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + n * 1_009 + view.layer)
        return torch.rand(len(view.keys), n - 1 - window, generator=generator).to(view.keys.device)
