"""Sums over documents and exact moments, each against a few boring lines."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.correlation import described, moments, whole
from tamis.kernels.lowest import lowest_means, sums_of

LOSSES = st.lists(st.lists(st.floats(0, 30, width=32), max_size=40), max_size=8)


def flat(documents):
    offsets = np.cumsum([0, *(len(document) for document in documents)]).astype(np.int64)
    return np.array([x for document in documents for x in document], np.float32), offsets


@given(LOSSES)
def test_sums_go_from_first_to_last(documents):
    values, offsets = flat(documents)
    expected = []
    for document in documents:
        total = 0.0
        for value in document:
            total += value
        expected.append(total)
    assert sums_of(values, offsets[:-1], offsets[1:]).tolist() == expected


@given(LOSSES)
def test_means_of_the_least_likely_tenths(documents):
    losses, offsets = flat(documents)
    found = lowest_means(losses, offsets)
    assert (found.dtype, found.shape) == (np.float32, (len(documents), 10))
    for document, row in zip(documents, found, strict=True):
        ranked = sorted(-loss for loss in document)
        for tenth, value in enumerate(row, 1):
            if not ranked:
                assert math.isnan(value)
                continue
            lowest = ranked[: max(1, -(-tenth * len(ranked) // 10))]
            assert value == pytest.approx(sum(lowest) / len(lowest), rel=1e-6, abs=1e-30)


def test_a_kernel_sees_only_its_own_tokens():
    losses = np.random.default_rng(0).exponential(3, 500).astype(np.float32)
    offsets = np.array([0, 1, 37, 37, 400, 500])
    together = lowest_means(losses, offsets)
    for i in range(5):
        alone = lowest_means(losses[offsets[i] : offsets[i + 1]].copy(), np.array([0, offsets[i + 1] - offsets[i]]))
        assert alone.tobytes() == together[i : i + 1].tobytes()


NUMBERS = st.lists(st.tuples(st.floats(-1500, 1500), st.floats(0, 25)), min_size=2, max_size=60)


@given(NUMBERS, st.integers(0, 60))
def test_moments_are_exact_over_any_parts_and_near_numpys(pairs, cut):
    x, y = (whole(np.array(column)) for column in zip(*pairs, strict=True))
    sums = moments(x, y)
    assert (moments(x[:cut], y[:cut]) + moments(x[cut:], y[cut:])).tolist() == sums.tolist()
    mean, deviation, correlation = described(sums)
    assert mean == pytest.approx(np.mean(x / 2**20), rel=1e-12, abs=1e-12)
    assert deviation == pytest.approx(np.std(x / 2**20), rel=1e-9, abs=1e-9)
    if np.ptp(x) and np.ptp(y):
        dx, dy = x - x.mean(), y - y.mean()
        expected = (dx * dy).sum() / math.sqrt((dx * dx).sum() * (dy * dy).sum())
        assert correlation == pytest.approx(expected, abs=1e-6)
    else:
        assert math.isnan(correlation)


def test_nothing_has_no_moments():
    assert all(math.isnan(value) for value in described(moments(whole(np.zeros(0)), whole(np.zeros(0)))))


def test_numbers_beyond_the_largest_count_as_the_largest():
    assert whole(np.array([1e9, -1e9, np.inf])).tolist() == [2**31, -(2**31), 2**31]
    sums = moments(np.full(1000, 2**31), np.full(1000, -(2**31)))
    assert described(sums)[:2] == (2048.0, 0.0)
