"""KeyDiff (arXiv 2504.15364): keep the keys that are least like the others.

    importance(j) = -cos(k_j, mean over all keys i of k_i / |k_i|)

Once over the whole prompt, as kvpress's KeyDiffPress; the paper evicts block by block. No window (kvpress has none).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from draft_approx_llm.configs import KVConfig
from draft_approx_llm.kv_dropping import KVDropping


@dataclass(frozen=True)
class KeyDiffConfig(KVConfig):
    """Scores by the keys alone; see the module."""

    sparse_type: ClassVar[str] = "keydiff"

    window_size: int = 0

    def build(self):
        return KeyDiff(self)


class KeyDiff(KVDropping):
    """Unlike keys matter."""

    def importance(self, view, n, n_ahead, window):
        keys = view.keys[:, :n].float()
        anchor = F.normalize(keys, dim=-1).mean(dim=1, keepdim=True)
        return -F.cosine_similarity(keys, anchor, dim=-1)[:, : n - 1 - window]
