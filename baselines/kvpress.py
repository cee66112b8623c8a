"""Any press of kvpress (github.com/NVIDIA/kvpress), in kvpress's own environment: scripts/run_external.py.

    sparse_config: {sparse_type: kvpress, press: SnapKVPress, press_args: {window_size: 32, kernel_size: 5},
                    max_capacity_prompt: 256}

The prompt but its last `question_tokens` is read under the press; then those are read and the answer is decoded. A
wrapper takes its inner press in the same form: press: AdaKVPress, press_args: {press: {press: SnapKVPress, press_args:
{window_size: 32}}}. A press whose budget is not a ratio (ThinKPress, DuoAttentionPress, a DecodingPress …) gets it
through press_args, and the budget is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from baselines._external import ExternalConfig

# Of kvpress 0.5.5: these mask or zero what they drop, and it stays in memory.
SIMULATED = frozenset(
    (
        "AdaKVPress",
        "CriticalAdaKVPress",
        "DMSPress",
        "DuoAttentionPress",
        "FastKVzipPress",
        "KVgradPress",
        "KVzipPress",
        "LUKVPress",
        "RestoreKVPress",
        "ThinKPress",
    )
)


@dataclass(frozen=True)
class KVPressConfig(ExternalConfig):
    """A press and its budget.

    Args:
        press: class name of the press.
        press_args: its arguments; a mapping with `press` and `press_args` is a press.
        question_tokens: tokens at the prompt's end that are read after the compression. They are kept, within the
            budget but for the last one.
    """

    sparse_type: ClassVar[str] = "kvpress"
    tool: ClassVar[str] = "kvpress"

    press: str = ""
    press_args: dict[str, Any] = field(default_factory=dict, hash=False)
    question_tokens: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.press, str) or not self.press.isidentifier():
            raise ValueError(f"press: must be the class name of a press, such as SnapKVPress, not {self.press!r}")
        self.check_mapping("press_args")
        self.check_whole("question_tokens", 1)
        if self.max_capacity_prompt is not None and self.question_tokens > self.max_capacity_prompt:
            raise ValueError(
                f"question_tokens: {self.question_tokens} leave no room in max_capacity_prompt "
                f"{self.max_capacity_prompt}, which includes all of them but the last"
            )
        budgeted = self.max_capacity_prompt is not None or self.budget_ratio is not None
        if budgeted and "compression_ratio" in self.press_args:
            raise ValueError("press_args.compression_ratio: is set from the budget. Give one of them")

    @property
    def simulated(self) -> bool:
        """Whether the press, or one in it, masks what it drops."""
        return any(
            name in SIMULATED or (name == "KVComposePress" and args.get("structured") is False)
            for name, args in _presses(self.press, self.press_args)
        )


def _presses(name: str, args: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A press and the presses in it: (class name, arguments)."""
    yield name, args
    for value in args.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and "press" in item:
                yield from _presses(item["press"], item.get("press_args") or {})
