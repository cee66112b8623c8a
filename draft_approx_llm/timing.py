"""Wall-clock seconds by phase, waiting for the device where there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timer:
    """Adds up the seconds spent in named phases; `seconds` has one entry a phase from the start."""

    def __init__(self, device: torch.device, phases: tuple[str, ...] = ("draft", "prefill", "decode")) -> None:
        self.device = device
        self.seconds = dict.fromkeys(phases, 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[phase] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
