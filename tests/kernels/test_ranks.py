"""Ranks and deviations, exactly: against sorting, and against fractions."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.deviation import LIMB_BITS, MOST_DOCUMENTS, exponent_of, mean_and_deviation, power_sums
from tamis.kernels.ranks import part_of, ranked

SMALL = st.integers(0, 6)
KEYS = st.one_of(SMALL, st.sampled_from([2**63, 2**64 - 1]))
FINITE = st.floats(-1e150, 1e150)


@given(st.lists(KEYS), st.sets(KEYS))
def test_parts_are_splitters_and_what_lies_between_them(keys, splitters):
    splitters = sorted(splitters)
    found = part_of(np.array(keys, np.uint64), np.array(splitters, np.uint64))
    expected = [2 * sum(s < key for s in splitters) + (key in splitters) for key in keys]
    assert found.tolist() == expected
    assert found.dtype == np.int64


@given(st.lists(st.tuples(SMALL, KEYS)))
def test_ranks_within_groups_are_counts(pairs):
    groups, keys = (np.array([pair[i] for pair in pairs], np.uint64) for i in (0, 1))
    below, equal = ranked(groups, keys)
    assert below.tolist() == [sum(g == group and k < key for g, k in pairs) for group, key in pairs]
    assert equal.tolist() == [sum(g == group and k == key for g, k in pairs) for group, key in pairs]


def exact(values):
    """Mean and variance as fractions; 0 and 0 of none."""
    fractions = [Fraction(x) for x in values]
    mean = sum(fractions) / len(fractions)
    return mean, sum((x - mean) ** 2 for x in fractions) / len(fractions)


def described(values, cuts=()):
    x = np.array(values, np.float64)
    exponent = exponent_of(x)
    parts = [power_sums(part, exponent) for part in np.split(x, cuts)]
    limbs, products = (sum(part[i] for part in parts) for i in (0, 1))
    return mean_and_deviation(limbs, products, len(x), exponent)


@given(st.lists(FINITE, min_size=1, max_size=30), st.data())
def test_mean_and_deviation_are_right_to_the_last_places_of_the_largest(values, data):
    cut = data.draw(st.integers(0, len(values)))
    mean, deviation = described(values, [cut])
    most = max(map(abs, values)) or 1.0
    true_mean, true_variance = exact([Fraction(x) / Fraction(most) for x in values])
    assert abs(mean / most - float(true_mean)) <= 2.0**-51
    assert abs(deviation / most - math.sqrt(true_variance)) <= 2.0**-51
    assert (mean, deviation) == described(values[::-1])


@pytest.mark.parametrize("scale", [1.0, 2.0**-1040, 2.0**900, 3e-7])
def test_whole_numbers_of_any_scale_lose_nothing(scale):
    values = [0.0, 1.0, 1.0, 7.0, -3.0]
    mean, deviation = described([x * scale for x in values])
    assert mean == pytest.approx(1.2 * scale, rel=1e-15, abs=0)
    assert deviation == pytest.approx(math.sqrt(10.56) * scale, rel=1e-15, abs=0)


def test_what_is_equal_deviates_by_nothing():
    for value in (0.0, -0.1, 1 / 3, 5e-324, -1.7e308, 123456789.123):
        assert described([value] * 7) == (value, 0.0)


def test_nothing_has_no_mean():
    mean, deviation = described([])
    assert math.isnan(mean)
    assert math.isnan(deviation)


def test_sums_of_limbs_cannot_overflow():
    """The largest limb and product that there can be, times the documents that are promised."""
    largest = max(
        abs(int(number))
        for sign, mantissa in product((-1, 1), (1.0 - 2.0**-53, 0.5, 0.75))
        for sums in power_sums(np.array([sign * mantissa]), 0)
        for number in sums
    )
    assert largest <= (1 << (2 * LIMB_BITS))
    assert largest * (MOST_DOCUMENTS - 1) < 2**63
