"""Several runs answer a sample together: one call for all, and smaller ones only where that call fails."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING, Any

from data.benchmark import Sample
from harness.models import ModelError, ModelPool, free_memory
from harness.plan import Run
from harness.rows import Samples, failed_row, make_row

if TYPE_CHECKING:
    from draft_approx_llm.method import Kept


class Joint:
    """Answers the samples of one data group; a context manager, on whose exit the models are as they were."""

    def __init__(self, pool: ModelPool, data: Samples):
        self.pool, self.data = pool, data
        self.refused: dict[str, str] = {}
        """Runs, by name, whose method or models cannot be had, and why: they are left out from then on."""
        self._most = sys.maxsize  # rows of a call: fewer once a larger call failed where its parts did not
        self._apart: set[str] = set()  # runs that failed where others did not: they no longer make the others fail
        self._patched: tuple[list[str], Any] = [], None
        self._patches = ExitStack()

    def __enter__(self) -> Joint:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._patches.close()

    def answer(
        self, samples: Sequence[Sample], runs: Sequence[Run]
    ) -> Generator[tuple[Run, dict, Kept | None], None, set[str]]:
        """Yields a row for every sample and run, as soon as it is there, and what was kept of the prompt, where that
        is known; none for a run that is `refused`.

        The runs have one reader. Where a call fails, halves of it are tried, down to the sample and the run that
        fail: out of memory with all runs is no failure where it is not with half of them. Returns the names of the
        runs that failed.
        """
        runs = [run for run in runs if run.name not in self.refused]
        if not runs:
            return set()
        tried = len(samples) * len(runs) <= self._most and (len(runs) == 1 or not self._of(runs, self._apart))
        if tried:
            try:
                answers = self._call(samples, runs)
            except Exception as exc:  # out of memory, a defect in a method: recorded, and the sweep goes on
                failure = failed_row(samples[0], exc)
                if len(runs) == 1 and isinstance(exc, ModelError):
                    self.refused[runs[0].name] = str(exc)
                    return {runs[0].name}
            else:
                for (sample, run), answer in zip(product(samples, runs), answers, strict=True):
                    yield run, make_row(run, sample, answer, len(samples), len(runs)), answer.kept
                return set()
            free_memory()  # not before the exception is gone, which holds the frames that hold the tensors
            if len(samples) == len(runs) == 1:
                yield runs[0], failure, None
                return {runs[0].name}
        failed: set[str] = set()
        parts = self._parts(samples, runs)
        for part in parts:
            failed |= yield from self.answer(*part)
        if tried and not failed:
            self._most = min(self._most, max(len(some) * len(few) for some, few in parts))
        elif tried and len(samples) == 1 and len(failed) < len(runs):
            self._apart |= failed
        return failed

    def _parts(self, samples: Sequence[Sample], runs: Sequence[Run]) -> list[tuple[Sequence[Sample], Sequence[Run]]]:
        """Smaller calls: without the runs that are apart, else half of the samples, else half of the runs."""
        apart = self._of(runs, self._apart)
        if apart and len(runs) > 1:
            rest = [run for run in runs if run not in apart]
            return [(samples, some) for some in (rest, *([run] for run in apart)) if some]
        # the runs of a sample share its prefill: they are parted last
        if len(samples) > 1:
            middle = len(samples) // 2
            return [(samples[:middle], runs), (samples[middle:], runs)]
        middle = len(runs) // 2
        return [(samples, runs[:middle]), (samples, runs[middle:])]

    @staticmethod
    def _of(runs: Sequence[Run], names: set[str]) -> list[Run]:
        return [run for run in runs if run.name in names]

    def _call(self, samples: Sequence[Sample], runs: Sequence[Run]) -> list[Any]:
        names = [run.name for run in runs]
        if self._patched[0] != names:  # to build a method may take long: the one there is stays
            self._patched = [], None
            self._patches.close()
            self._patched = names, self._patches.enter_context(self.pool.patched([run.config for run in runs]))
        return self._patched[1].answer([self.data.ids(sample) for sample in samples], samples[0])
