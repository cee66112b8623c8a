"""Paired tests: known values, brute force, scipy, and what they promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from harness.metrics import interval
from harness.statistics import compare, holm, sign_flip_test


def scores(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_few_samples_are_enumerated():
    tasks = [scores(8, -1, 6, 0, 7), scores(3, -4)]
    flat = [(value, len(task)) for task in tasks for value in task.values()]
    observed = abs(sum(value / n for value, n in flat))
    worlds = [
        abs(sum(sign * value / n for sign, (value, n) in zip(signs, flat, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(flat))
    ]
    expected = np.mean([world >= observed - 1e-9 for world in worlds])
    assert sign_flip_test([tasks]).tolist() == [expected]


def test_drawn_worlds_agree_with_scipy():
    rng = np.random.default_rng(1)
    columns = [rng.normal(shift, 1, size=40) for shift in (0.0, 0.3, 0.5)]
    ours = sign_flip_test([[scores(*values)] for values in columns])
    for p, values in zip(ours, columns, strict=True):
        options = {"permutation_type": "samples", "vectorized": True, "n_resamples": 9999, "rng": 2}
        theirs = scipy.stats.permutation_test((values,), lambda x, axis: x.mean(axis=axis), **options)
        assert p == pytest.approx(theirs.pvalue, abs=0.015)
    assert (ours == sign_flip_test([[scores(*values)] for values in columns])).all()


def test_p_is_small_as_often_as_it_says_where_there_is_no_difference():
    rng = np.random.default_rng(3)
    p = sign_flip_test([[scores(*rng.normal(size=30))] for _ in range(400)])
    assert 0.02 <= np.mean(p < 0.05) <= 0.09
    assert 0.4 <= np.mean(p < 0.5) <= 0.6


def test_an_effect_is_the_mean_over_tasks():
    few, many = scores(*[100.0] * 2), scores(*[10.0] * 50)
    (found,) = compare([([scores(0, 0), scores(*[0.0] * 50)], [few, many])])
    assert found.effect == 55  # not (200 + 500) / 52
    assert (found.low, found.high) == (55, 55)
    assert found.p < 0.01
    assert not found.within_noise
    assert (found.common, found.all) == (52, 52)


def test_only_common_samples_are_paired():
    reference, method = {1: 0.0, 2: 0.0, 3: 50.0}, {2: 10.0, 3: 70.0, 4: 1000.0}
    (found,) = compare([([reference], [method])])
    assert (found.effect, found.common, found.all) == (15, 2, 4)
    assert found.p == 0.5  # 2 of 4 worlds


def test_nothing_in_common_is_no_comparison_and_costs_the_others_nothing():
    pair = ([scores(*[0.0] * 9)], [scores(*[9.0] * 9)])
    nothing, found = compare([([{1: 0.0}], [{2: 0.0}]), pair])
    assert nothing is None
    assert found.p_holm == found.p == 2 / 2**9
    assert compare([]) == []


def test_equal_scores_are_noise():
    (found,) = compare([([scores(1, 2, 3)], [scores(1, 2, 3)])])
    assert (found.effect, found.p, found.within_noise) == (0, 1, True)


def test_many_comparisons_are_corrected_and_can_still_be_significant():
    rng = np.random.default_rng(5)
    pairs = [
        ([scores(*rng.normal(size=50))], [scores(*rng.normal(shift, size=50))]) for shift in (5, 0) for _ in range(300)
    ]
    found = compare(pairs)
    assert not any(one.within_noise for one in found[:300])
    assert all(one.within_noise for one in found[300:])
    assert any(one.p < 0.05 for one in found[300:])


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(7).normal(50, 10, size=60)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    assert interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.4)
