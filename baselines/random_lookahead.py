"""Random lookahead: SpecKV scored by tokens drawn at random: what more queries at later positions give by themselves.

A control. The tokens depend on `seed` and the length of the prompt alone.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import SpecKVConfig


@dataclass(frozen=True)
class RandomLookaheadConfig(SpecKVConfig):
    """SpecKV whose lookahead is random tokens."""

    sparse_type: ClassVar[str] = "random_lookahead"

    queries: str = "random"
