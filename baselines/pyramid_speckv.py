"""Pyramid-SpecKV: SpecKV's scores (arXiv 2506.08373), with PyramidKV's shares over layers (arXiv 2406.02069)."""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import SpecKVConfig


@dataclass(frozen=True)
class PyramidSpecKVConfig(SpecKVConfig):
    """SpecKV with `allocation: pyramid`."""

    sparse_type: ClassVar[str] = "pyramid_speckv"

    allocation: str = "pyramid"
