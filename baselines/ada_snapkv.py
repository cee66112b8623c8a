"""Ada-SnapKV (Ada-KV, arXiv 2407.11550): SnapKV's scores; a layer's heads compete for its budget
(`selection.best_over_heads`).

Defaults: AdaKV's (window 32, kernel 7, max pooling) and its floor of 0.2 under grouped-query attention, which is
kvpress's too: each head's best fifth is safe, the rest is ranked over all heads. AdaKV's own code blends sizes instead,
round(size * (1 - floor)) + floor * even share: close, not equal (196/204 here where it has 196/203).
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import KVConfig


@dataclass(frozen=True)
class AdaSnapKVConfig(KVConfig):
    """The window's own queries, shares by head; see the module."""

    sparse_type: ClassVar[str] = "ada_snapkv"

    window_size: int = 32
    pool_type: str | None = "max"
    kernel_size: int = 7
    allocation: str = "adaptive"
