"""Base of the methods that another tool carries out, in an environment of its own: see external/README.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from draft_approx_llm.configs import MethodConfig, capacity_of


@dataclass(frozen=True)
class ExternalConfig(MethodConfig):
    """What such a method's settings have in common.

    Class attributes:
        tool: the folder below external/ with its worker and requirements.
        rewrites: whether the tool shortens prompts, which the target then reads in our environment; else it answers.

    Args:
        max_capacity_prompt, budget_ratio: the budget, as for every other method: KV entries a head kept of the prompt,
            the last token not counted, or tokens that the target reads where the tool rewrites.
    """

    external: ClassVar[bool] = True
    tool: ClassVar[str]
    rewrites: ClassVar[bool] = False

    max_capacity_prompt: int | None = None
    budget_ratio: float | None = None

    def __post_init__(self) -> None:
        ratio = self.budget_ratio
        if self.max_capacity_prompt is not None:
            self.check_whole("max_capacity_prompt", 1)
            if ratio is not None:
                raise ValueError("budget_ratio: give it or max_capacity_prompt, not both")
        if ratio is not None and (type(ratio) not in (int, float) or not 0 < ratio <= 1):
            raise ValueError(f"budget_ratio: must be a number above 0, at most 1, not {ratio!r}")

    def capacity(self, n: int) -> int | None:
        """The budget for a prompt of n tokens; None: the tool's own settings decide."""
        return capacity_of(n, self.max_capacity_prompt, self.budget_ratio)

    def build(self) -> Any:
        raise NotImplementedError(
            f"{self.sparse_type} runs in an environment of its own: python scripts/run_external.py --cfg … "
            f"(the environment is made by `make env-{self.tool}`)"
        )

    def check_whole(self, name: str, minimum: int) -> None:
        """Raises ValueError if that setting is no whole number of at least `minimum`."""
        value = getattr(self, name)
        if type(value) is not int or value < minimum:
            raise ValueError(f"{name}: must be a whole number of at least {minimum}, not {value!r}")

    def check_mapping(self, name: str) -> None:
        """Raises ValueError if that setting does not hold names and values."""
        value = getattr(self, name)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{name}: must hold `name: value` pairs, not {value!r}")
