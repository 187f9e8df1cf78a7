"""Judging predictions: the interval of `lds_interval` for many values, R², and the best tenth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.models.held_out import judged, spearman_interval, top_share_found
from tamis.models.lds import lds_interval, spearman

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30)


@given(PAIRS, st.integers(0, 2**64 - 1))
def test_the_interval_is_that_of_the_general_one(pairs, seed):
    """To the bit, with many equal values."""
    x, y = np.array(pairs, np.float64).T
    found, expected = spearman_interval(x, y, 0.9, seed, 100), lds_interval(x, y, 0.9, seed, 100)
    assert tuple(found) == tuple(expected)


def test_an_interval_of_millions_of_documents():
    """Squares of 3.2 million ranks add up to more than 2^63."""
    x = np.arange(3_200_000.0)
    found = spearman_interval(x, x, resamples=1)
    assert tuple(found) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_the_interval_is_that_of_samples_drawn_again():
    """The twin: documents drawn with replacement, ranked anew each time."""
    random = np.random.default_rng(1)
    x = random.standard_normal(400)
    y = x + random.standard_normal(400)
    drawn = [random.integers(0, 400, 400) for _ in range(1000)]
    again = np.quantile([spearman(x[rows], y[rows]) for rows in drawn], [0.025, 0.975])
    found = spearman_interval(x, y)
    assert found.value == pytest.approx(spearman(x, y))
    assert [found.low, found.high] == pytest.approx(again, abs=0.012)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Normal pairs of correlation r have a rank correlation of 6 / π · asin(r / 2).

    Of 200 intervals of level 0.95, fewer than 181 cover it with probability 0.003 if they are right; the seed is fixed.
    """
    random, r = np.random.default_rng(2), 0.4
    truth = 6 / math.pi * math.asin(r / 2)
    covered = 0
    for _ in range(200):
        x = random.standard_normal(300)
        found = spearman_interval(x, r * x + math.sqrt(1 - r * r) * random.standard_normal(300), resamples=300)
        covered += found.low <= truth <= found.high
    assert covered >= 181


def test_r2_is_one_less_the_share_of_the_spread_that_is_left():
    actual = np.array([1.0, 2.0, 3.0, 4.0])
    assert judged(actual, actual).r2 == 1
    assert judged(np.full(4, 2.5), actual).r2 == 0
    assert judged(actual[::-1], actual).r2 == 1 - 20 / 5
    assert math.isnan(judged(actual, np.ones(4)).r2)


def test_the_best_tenth_is_found_or_not():
    actual = np.arange(100.0)
    assert top_share_found(actual * 3, actual) == 1
    assert top_share_found(-actual, actual) == 0
    assert top_share_found(np.where(actual >= 95, 1000 + actual, 94 - actual), actual) == 0.5
    assert top_share_found(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 1


def test_equal_values_are_among_the_best_as_often_as_a_lot_would_have_them():
    def drawn(predicted, actual):
        """By shuffling: the order of what is equal is that of a draw."""
        order = random.permutation(len(actual))
        chosen = order[np.argsort(-predicted[order], kind="stable")][:5]
        order = random.permutation(len(actual))
        wanted = order[np.argsort(-actual[order], kind="stable")][:5]
        return len(set(chosen.tolist()) & set(wanted.tolist())) / 5

    random = np.random.default_rng(5)
    whole = np.full(50, 3.0)
    assert top_share_found(whole, whole) == pytest.approx(0.1)
    for levels in (2, 3, 8, 40):
        predicted, actual = (random.integers(0, levels, 50).astype(float) for _ in range(2))
        found = [drawn(predicted, actual) for _ in range(4000)]
        # a share has a deviation below 0.5: a mean of 4,000 is off by 0.04, five of its own, once in two million
        assert top_share_found(predicted, actual) == pytest.approx(np.mean(found), abs=0.04)


def test_of_a_random_order_a_tenth_of_the_best_tenth_is_found():
    random = np.random.default_rng(3)
    found = [top_share_found(random.standard_normal(1000), random.standard_normal(1000)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.1, abs=0.01)  # its deviation is 0.002


def test_what_is_reliable():
    random = np.random.default_rng(4)
    x = random.standard_normal(500)
    assert judged(x, x + random.standard_normal(500)).reliable
    assert not judged(x, -x).reliable
    assert not judged(x, random.standard_normal(500)).reliable
    assert not judged(np.ones(500), x).reliable
