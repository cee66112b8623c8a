"""PyramidKV (arXiv 2406.02069): SnapKV's scores; lower layers keep more, higher layers less (`selection.pyramid`).

Defaults: KVCache-Factory's (window 8, kernel 7, max pooling, beta 20). Known differences: shares are rounded so that
their sum is exactly layers x budget (KVCache-Factory rounds the step down), and there is no fall-back to even shares;
kvpress falls back when budget / 20 < window, which happens at every budget that matters
(tests/external/test_kvpress_parity.py records figures).
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import KVConfig


@dataclass(frozen=True)
class PyramidKVConfig(KVConfig):
    """The window's own queries, a pyramid over layers; see the module."""

    sparse_type: ClassVar[str] = "pyramidkv"

    window_size: int = 8
    pool_type: str | None = "max"
    kernel_size: int = 7
    allocation: str = "pyramid"
