"""TOVA (arXiv 2401.06104): the last token's attention, averaged over all heads of the layer, ranks the keys.

No window: the last prompt token scores, and is the one that is read again. One set for all heads of a layer, as in the
paper; kvpress forces the last token into the budget, here it is not part of it.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import KVConfig


@dataclass(frozen=True)
class TOVAConfig(KVConfig):
    """The last query alone, averaged over the layer; see the module."""

    sparse_type: ClassVar[str] = "tova"

    window_size: int = 0
    head_reduction: str = "layer"
