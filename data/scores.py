"""What the benchmarks share in scoring predictions files: reading a row's fields, and means that round as published."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction


def prediction_of(row: Mapping) -> str:
    """A row's prediction: ours (`prediction`) or the benchmarks' own runners' (`pred`). Raises ValueError."""
    key = "prediction" if "prediction" in row else "pred"
    if key not in row:
        raise ValueError("pred: missing (our rows call it prediction)")
    if not isinstance(row[key], str):
        raise ValueError(f"{key}: {row[key]!r} is not a string")
    return row[key]


def references_of(row: Mapping, theirs: str) -> tuple[str, ...]:
    """A row's references: ours (`references`) or, under the key `theirs`, the runner's. Raises ValueError."""
    key = "references" if "references" in row else theirs
    if key not in row:
        raise ValueError(f"{theirs}: missing (our rows call it references)")
    value = row[key]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{key}: {value!r} is not a list of one or more strings")
    return tuple(value)


def meta_of(row: Mapping) -> Mapping:
    """Where a row keeps what is particular to its benchmark: ours in `meta`, the runners' rows themselves."""
    meta = row.get("meta") if "prediction" in row else row
    return meta if isinstance(meta, Mapping) else {}


def fractions(scores: Iterable[float]) -> list[float]:
    """Scores 100 * x -> the fractions x that the benchmarks' scorers add up, to the last bit where it can be known.

    That bit decides how a mean in the middle between two hundredths is rounded. Two floats x can have the same 100 * x;
    the one meant is nearly always the one closest to a fraction of small whole numbers. It is always for shares, which
    are such fractions; F1 carries a rounding error of its own, so that the mean of a handful of rows can, once in some
    3000 times, fall on the other side of a tie. ROUGE's values are no such fractions, and their means no ties.
    """
    return [_fraction(score) for score in scores]


def total(scores: Iterable[float]) -> float:
    """The sum of the `fractions`, added one by one: from Python 3.12 on sum() compensates rounding errors, which
    published results do not."""
    result = 0.0
    for fraction in fractions(scores):
        result += fraction
    return result


def _fraction(score: float) -> float:
    x = score / 100
    simple = Fraction(x).limit_denominator(1000)
    same = [near for near in (math.nextafter(x, 0), x, math.nextafter(x, 2)) if 100 * near == score]
    return min(same or [x], key=lambda near: abs(near - simple.numerator / simple.denominator))
