"""Which differences between methods are more than noise: paired by sample, pure functions over scores.

`Scores` are one task's, by sample; an average over tasks is a sequence of them. An effect is the mean over tasks of the
mean differences of each task's common samples, so that a task of 500 samples weighs no more than one of 50.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from harness.metrics import interval

Scores = Mapping[Hashable, float]
ALPHA = 0.05
RESAMPLES = 9_999
SEED = 0
_CHUNK = 1_000


@dataclass(frozen=True)
class Comparison:
    """A method against a reference, over the samples that both answered."""

    effect: float
    """Method minus reference, in points."""
    low: float
    high: float
    """95 % bootstrap interval of the effect, resampling pairs within each task."""
    p: float
    """Two-sided, of this comparison alone."""
    p_holm: float
    """Corrected for the comparisons that were made together."""
    common: int
    """Samples that both answered, over all tasks."""
    all: int
    """Samples that either answered."""

    @property
    def within_noise(self) -> bool:
        """Whether chance alone explains the difference, after the correction."""
        return self.p_holm >= ALPHA


def compare(pairs: Sequence[tuple[Sequence[Scores], Sequence[Scores]]]) -> list[Comparison | None]:
    """(reference, method) over the same tasks, each -> its comparison; None where a task has no common sample.

    All are one family: their p values are corrected together (Holm), those of None apart.
    """
    differences = [[_differences(*task) for task in zip(*pair, strict=True)] for pair in pairs]
    known = [i for i, tasks in enumerate(differences) if tasks and all(tasks)]
    # enough resamples for the smallest p to survive the correction
    raw = sign_flip_test([differences[i] for i in known], max(RESAMPLES, 40 * len(known)))
    result: list[Comparison | None] = [None] * len(pairs)
    for i, p, p_holm in zip(known, raw, holm(raw), strict=True):
        values = [list(task.values()) for task in differences[i]]
        low, high = interval(*values)
        common = sum(map(len, values))
        either = sum(len(a.keys() | b.keys()) for a, b in zip(*pairs[i], strict=True))
        result[i] = Comparison(fmean(map(fmean, values)), low, high, float(p), float(p_holm), common, either)
    return result


def sign_flip_test(differences: Sequence[Sequence[Scores]], resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Paired permutation tests -> two-sided p values, `[comparisons]`.

    differences: of each comparison, of each of its tasks, the paired differences by sample.

    If the two methods are exchangeable, each difference could as well have had the other sign; p is the share of such
    worlds whose effect is at least the observed. With few samples all worlds are counted, else `resamples` drawn ones
    and the observed itself. scipy.stats.permutation_test (permutation_type "samples") is the same, a comparison at a
    time; here hundreds share the drawn worlds.
    """
    rows = {key: i for i, key in enumerate(dict.fromkeys(_changed(differences)))}
    weighted = np.zeros((len(rows), len(differences)))  # [samples, comparisons]
    for column, tasks in enumerate(differences):
        for task, scores in enumerate(tasks):
            for sample, value in scores.items():
                if value:
                    weighted[rows[task, sample], column] = value / (len(scores) * len(tasks))
    observed = np.abs(weighted.sum(axis=0))
    least = observed * (1 - 1e-9) - 1e-12  # equal but for the order of adding up
    n = len(rows)
    exact = 2**n <= resamples + 1
    worlds = 2**n if exact else resamples
    reached = np.zeros(len(differences))
    rng = np.random.default_rng(seed)
    for start in range(0, worlds, _CHUNK):
        size = min(_CHUNK, worlds - start)
        if exact:
            flips = np.arange(start, start + size)[:, None] >> np.arange(n) & 1
        else:
            random = rng.integers(256, size=(size, -(-n // 8)), dtype=np.uint8)
            flips = np.unpackbits(random, axis=1, count=n)
        reached += (np.abs((1.0 - 2.0 * flips) @ weighted) >= least).sum(axis=0)
    return reached / worlds if exact else (reached + 1) / (worlds + 1)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: adjusted p values, in the order given."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def _differences(reference: Scores, scores: Scores) -> dict[Hashable, float]:
    return {sample: value - reference[sample] for sample, value in scores.items() if sample in reference}


def _changed(differences: Sequence[Sequence[Scores]]):
    """(task, sample) of every difference that is not zero: the sign of zero changes nothing."""
    for tasks in differences:
        for task, scores in enumerate(tasks):
            for sample, value in scores.items():
                if value:
                    yield task, sample
