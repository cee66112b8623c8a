"""StreamingLLM (arXiv 2309.17453): keep the first tokens (attention sinks) and the most recent ones.

Default: 4 sinks, the paper's. Keys keep the rotation of their original positions, as in kvpress; the paper re-rotates
them to their places in the cache.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from draft_approx_llm.configs import KVConfig
from draft_approx_llm.kv_dropping import KVDropping


@dataclass(frozen=True)
class StreamingLLMConfig(KVConfig):
    """Scores by recency, and sinks; see the module."""

    sparse_type: ClassVar[str] = "streaming_llm"

    window_size: int = 0
    sink_size: int = 4

    def build(self):
        return StreamingLLM(self)


class StreamingLLM(KVDropping):
    """The later, the more important."""

    def importance(self, view, n, n_ahead, window):
        recency = torch.arange(n - 1 - window, dtype=torch.float32, device=view.keys.device)
        return recency.expand(len(view.keys), -1)
