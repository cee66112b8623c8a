"""SpecPC without a draft: the target's own attention decides which prompt tokens it reads. A control, not a saving.

What SpecPC (arXiv 2506.08373, section 5) would keep if the draft were as good as the target; the target reads the
prompt twice.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import SpecPCConfig
from draft_approx_llm.specpc import SpecPC


@dataclass(frozen=True)
class SpecPCOracleConfig(SpecPCConfig):
    """SpecPC's settings; `starting_layer_index` counts the target's layers."""

    sparse_type: ClassVar[str] = "specpc_oracle"
    needs_draft: ClassVar[bool] = False

    @property
    def first_draft_layer(self) -> int:
        return 0

    def build(self):
        return SpecPCOracle(self)


class SpecPCOracle(SpecPC):
    """Listens to the target."""

    listener = "target"
