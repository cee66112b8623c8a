"""Oracle lookahead: SpecKV scored by the target's own answer over the full cache: what a perfect draft would give.

A control, not a saving: the target reads the prompt twice and generates the answer in between.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import SpecKVConfig


@dataclass(frozen=True)
class OracleLookaheadConfig(SpecKVConfig):
    """SpecKV whose lookahead is the target's own full-cache answer."""

    sparse_type: ClassVar[str] = "oracle_lookahead"

    queries: str = "oracle"
