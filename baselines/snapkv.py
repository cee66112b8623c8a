"""SnapKV (arXiv 2404.14469): the prompt's last window scores the keys; its mean, smoothed, ranks them.

    importance(j) = avgpool_k( mean over window queries i and the group's query heads of softmax(q_i K)_j )

Defaults: those of the official code (window 32, kernel 5, average pooling), with one set per *KV* head and the group's
mean, as in kvpress and AdaKV; the official code keeps a set per *query* head. Its LongBench configurations have kernel
7, max.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import KVConfig


@dataclass(frozen=True)
class SnapKVConfig(KVConfig):
    """The window's own queries, evenly shared; see the module."""

    sparse_type: ClassVar[str] = "snapkv"

    window_size: int = 32
    pool_type: str | None = "mean"
    kernel_size: int = 5
