"""Penalised least squares against its Python twins: sums in a fixed order, solutions, predictions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tamis.kernels.eigen import eigen
from tamis.kernels.ridge import add_products, quadratic_form, shrunken, spreads, standardised, weighted_sums

SHAPES = st.tuples(st.integers(0, 11), st.integers(1, 6))
NUMBERS = st.floats(width=32, min_value=-1e6, max_value=1e6) | st.just(math.nan)
FEATURES = hnp.arrays(np.float32, SHAPES, elements=NUMBERS)
WHOLE = hnp.arrays(np.float64, SHAPES, elements=st.integers(-1000, 1000).map(float))


def spread_of(column):
    known = [x for x in column.astype(np.float64).tolist() if not math.isnan(x)]
    if not known:
        return 0.0, 0.0, 0.0, 0.0
    mean = 0.0
    for x in known:
        mean += x
    mean /= len(known)
    square = 0.0
    for x in known:
        square += (x - mean) * (x - mean)
    deviation = math.sqrt(square / len(known))
    least = 1e-9 * max(abs(min(known)), abs(max(known)))
    return min(known), max(known), mean, deviation if deviation > least else 0.0


@given(FEATURES)
def test_spreads_are_those_of_the_known_values(x):
    found = np.stack(spreads(x), axis=1)
    expected = [spread_of(column) for column in x.T]
    assert found.tolist() == [list(values) for values in expected]


@given(FEATURES, FEATURES)
def test_standardised_values_stay_between_the_extremes_of_the_fit(fit, x):
    d = min(fit.shape[1], x.shape[1])
    low, high, mean, deviation = spreads(fit[:, :d])
    found = standardised(x[:, :d], low, high, mean, deviation)
    for row, values in zip(x[:, :d].astype(np.float64).tolist(), found.tolist(), strict=True):
        for j, value in enumerate(row):
            missing = math.isnan(value) or deviation[j] == 0
            assert values[j] == (0 if missing else (min(max(value, low[j]), high[j]) - mean[j]) / deviation[j])


def test_what_only_rounding_tells_apart_is_equal():
    """The mean of equal numbers is off by a rounding; dividing by it would make a feature of nothing."""
    assert spreads(np.full((1000, 1), 0.1, np.float32))[3].tolist() == [0.0]
    assert spreads(np.array([[1e6], [1e6 + 1]], np.float32))[3].tolist() == [0.5]


@given(WHOLE)
def test_products_are_added_up(rows):
    total = np.zeros((rows.shape[1],) * 2)
    add_products(rows, total)
    whole = [[int(x) for x in row] for row in rows.tolist()]
    d = rows.shape[1]
    expected = [[sum(row[a] * row[b] for row in whole) if a <= b else 0 for b in range(d)] for a in range(d)]
    assert total.tolist() == expected


def test_cutting_rows_at_multiples_of_four_changes_no_bit():
    rows = np.random.default_rng(1).standard_normal((103, 9))
    whole, parts = np.zeros((9, 9)), np.zeros((9, 9))
    add_products(rows, whole)
    for start, stop in ((0, 4), (4, 44), (44, 48), (48, 103)):
        add_products(rows[start:stop], parts)
    assert parts.tobytes() == whole.tobytes()
    assert whole == pytest.approx(np.triu(rows.T @ rows), abs=1e-12)


@pytest.mark.parametrize("penalty", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("d", [1, 2, 30])
def test_shrunken_solves_the_penalised_equations(d, penalty):
    random = np.random.default_rng(d)
    x, products = random.standard_normal((4 * d, d)), random.standard_normal(d)
    square = x.T @ x
    values, vectors = eigen(square)
    found = shrunken(vectors, values, products, penalty)
    assert found == pytest.approx(np.linalg.solve(square + penalty * np.eye(d), products), rel=1e-9, abs=1e-12)


@given(WHOLE, st.data())
def test_a_quadratic_form_reads_the_upper_triangle(rows, data):
    d = rows.shape[1]
    vector = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=d, max_size=d)), np.float64)
    square = rows.T @ rows
    below = square + np.tril(np.full((d, d), np.nan), -1)
    assert quadratic_form(below, vector) == vector @ square @ vector


@given(hnp.arrays(np.float64, SHAPES, elements=st.floats(-1e3, 1e3)), st.floats(-10, 10), st.data())
def test_weighted_sums_add_in_the_order_of_features(rows, constant, data):
    d = rows.shape[1]
    weights = np.array(data.draw(st.lists(st.floats(-10, 10), min_size=d, max_size=d)), np.float64)
    for row, found in zip(rows.tolist(), weighted_sums(rows, weights, constant).tolist(), strict=True):
        total = constant
        for x, w in zip(row, weights.tolist(), strict=True):
            total += w * x
        assert found == total
