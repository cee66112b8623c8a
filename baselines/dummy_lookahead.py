"""Dummy lookahead: SpecKV scored by the last prompt token over and over, at the positions to come.

A control: what the positions of a lookahead give without its content.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import SpecKVConfig


@dataclass(frozen=True)
class DummyLookaheadConfig(SpecKVConfig):
    """SpecKV whose lookahead is one token at future positions."""

    sparse_type: ClassVar[str] = "dummy_lookahead"

    queries: str = "dummy"
