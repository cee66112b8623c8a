"""Rows of predictions -> the numbers of a run, each score with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from data.benchmark import PROTOCOLS, Benchmark, Sample

RESAMPLES = 2000
SEED = 0


def interval(*strata: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of the strata's means, resampling within each stratum.

    Each stratum is a task's scores; one stratum gives the interval of its mean. Seeded: same scores, same interval.
    """
    rng = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for scores in strata:
        values = np.asarray(scores, dtype=np.float64)
        means += values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1) / len(strata)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def costs(rows: Sequence[Mapping]) -> dict[str, float]:
    """What the answers cost, in tokens, bytes and seconds: means over samples (`peak_cache_bytes`: the maximum).

    `draft_tokens` is left out where a row of before there were any lacks it.
    """
    stats = [row["stats"] for row in rows]
    names = ["prompt_tokens", "read_tokens", "kept_tokens", "lookahead_tokens", "cache_bytes", "draft_cache_bytes"]
    names += ["draft_tokens"] * all("draft_tokens" in s for s in stats)
    result = {"kept_fraction": fmean(s["kept_tokens"] / s["prompt_tokens"] for s in stats)}
    result |= {name: fmean(s[name] for s in stats) for name in names}
    result["peak_cache_bytes"] = max(s["peak_cache_bytes"] for s in stats)
    result["new_tokens"] = fmean(row["new_tokens"] for row in rows)
    for phase in ("draft", "prefill", "decode"):
        result[f"{phase}_seconds"] = fmean(row["seconds"][phase] for row in rows)
    return result


def most_branches(rows: Sequence[Mapping]) -> int:
    """The most runs that were answered in one call with a row's: above 1, its seconds are a share of that call."""
    return max(row.get("branches", 1) for row in rows)  # rows of before there were any have none


def run_metrics(
    rows: Sequence[Mapping],
    samples: Sequence[Sample],
    benchmark: Benchmark,
    protocol: str,
    exhausted: bool,
    subset: str | None,
    simulated: bool,
) -> dict:
    """What metrics.json holds besides the fingerprint; `rows` are the predictions of `samples`, in their order.

    `exhausted`: the data set has no more samples than these; `subset`: the `subset_label`; `simulated`: what the
    method drops stays in memory.
    """
    result: dict = {"protocol": protocol, "n": len(rows), "exhausted": exhausted, "subset": subset}
    result |= {"branches": most_branches(rows), "memory": "simulated" if simulated else "real"}
    for key, name in (("score", protocol), *((f"score_{p}", p) for p in PROTOCOLS)):
        scores = [row[f"score_{name}"] for row in rows]
        result[key] = benchmark.mean(scores)
        result[f"{key}_interval"] = [round(bound, 2) for bound in interval(scores)]
        if parts := benchmark.breakdown(samples, scores):
            result[f"{key}_by_length"] = parts
    extras = [row.get("extras", {}) for row in rows]  # rows of before there were any have none
    result |= {name: round(fmean(extra[name] for extra in extras), 2) for name in extras[0]}
    return result | costs(rows)


def subset_label(n: int, exhausted: bool, full_size: int | None, shuffle_seed: int | None = None) -> str | None:
    """`first 5 of 500`, or None where nothing is left out.

    `exhausted`: the data set has no more samples than these; `full_size`: how many the published one has;
    `shuffle_seed`: of the order that they are the first in.
    """
    order = "" if shuffle_seed is None else f", shuffled with seed {shuffle_seed}"
    if full_size is not None:
        return f"first {n} of {full_size}{order}" if n < full_size else None
    return None if exhausted else f"first {n}{order}"
