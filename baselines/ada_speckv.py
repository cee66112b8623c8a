"""Ada-SpecKV: SpecKV's scores (arXiv 2506.08373), shared out over a layer's heads as Ada-KV does (arXiv 2407.11550)."""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import SpecKVConfig


@dataclass(frozen=True)
class AdaSpecKVConfig(SpecKVConfig):
    """SpecKV with `allocation: adaptive`."""

    sparse_type: ClassVar[str] = "ada_speckv"

    allocation: str = "adaptive"
