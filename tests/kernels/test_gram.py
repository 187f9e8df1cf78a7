"""Exact sums of outer products, projections and eigenvectors against their Python twins."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tamis.kernels.eigen import eigen, eigenvalues
from tamis.kernels.gram import BITS, MOST_DOCUMENTS, fixed_point, gram, quadratic, sum_of, unpacked

SHAPES = st.tuples(st.integers(0, 12), st.integers(1, 9))
NUMBERS = st.floats(width=32, min_value=-1e6, max_value=1e6)
VECTORS = hnp.arrays(np.float32, SHAPES, elements=NUMBERS)


def drawn(n, d, seed=0):
    """Vectors of very different directions: float32, (n, d)."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((n, d)) * np.linspace(1, 0.01, d) + 0.3 * np.eye(d)[0]).astype(np.float32)


def unit(vectors):
    exact = vectors.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1)[:, None]


@given(VECTORS, st.integers(4, 25))
def test_vectors_of_length_one_as_whole_numbers(vectors, bits):
    whole, known = fixed_point(vectors, bits)
    for row, found, is_known in zip(vectors.tolist(), whole.tolist(), known.tolist(), strict=True):
        square = 0.0
        for x in row:
            square += x * x
        assert is_known == (square > 0)
        factor = 2**bits / math.sqrt(square) if square else 0.0
        assert found == [float(round(x * factor)) for x in row]


def test_vectors_without_a_direction_are_unknown():
    vectors = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [3, 4], [1e-30, 0]], np.float32)
    whole, known = fixed_point(vectors)
    assert known.tolist() == [False, False, False, True, True]
    assert whole.tolist() == [[0, 0], [0, 0], [0, 0], [round(0.6 * 2**14), round(0.8 * 2**14)], [2**14, 0]]


@given(VECTORS, st.data())
def test_sums_are_those_of_whole_numbers(vectors, data):
    n, d = vectors.shape
    repeats = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.int64)
    whole, _ = fixed_point(vectors)
    rows = [[int(x) for x in row] for row in whole.tolist()]
    used = [(t, row) for t, row in zip(repeats.tolist(), rows, strict=True) if t]
    triangle = [sum(t * row[i] * row[j] for t, row in used) for i in range(d) for j in range(i, d)]
    assert gram(whole, repeats).tolist() == triangle
    assert sum_of(whole, repeats).tolist() == [sum(t * row[i] for t, row in used) for i in range(d)]
    square = unpacked(gram(whole, repeats), d)
    assert (square == square.T).all()
    assert [square[i, j] * 4**BITS for i in range(d) for j in range(i, d)] == triangle


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_batches_in_any_order_add_up_to_the_same_bits(seed):
    random = np.random.default_rng(seed)
    vectors, repeats = drawn(3000, 70), random.integers(0, 4, 3000)
    expected = gram(fixed_point(vectors)[0], repeats)
    order = random.permutation(3000)
    parts = np.split(order, np.sort(random.integers(0, 3000, 12)))
    found = sum(gram(fixed_point(vectors[part])[0], repeats[part]) for part in parts)
    assert found.tobytes() == expected.tobytes()


def test_the_error_of_rounding_is_bounded():
    """A component is off by 2^-15 at most, so an entry of the mean of x xᵀ by 2^-15 · (|x_i| + |x_j|) + 2^-30."""
    vectors = drawn(5000, 48)
    exact = unit(vectors)
    found = unpacked(gram(fixed_point(vectors)[0], np.ones(5000, np.int64)), 48) / 5000
    size = np.abs(exact).mean(axis=0)
    assert (np.abs(found - exact.T @ exact / 5000) <= 2**-15 * (size[:, None] + size) + 2**-30 + 1e-12).all()
    # and on average by far less, because errors of many documents cancel
    assert np.abs(found - exact.T @ exact / 5000).max() < 1e-6


def test_the_worst_sums_fit():
    """All documents alike, in one direction: 3.4e10 of them fit an int64, and the next does not."""
    whole, _ = fixed_point(np.array([[1, 0]], np.float32))
    (largest, _, _) = gram(whole, np.array([1], np.int64)).tolist()
    assert largest * MOST_DOCUMENTS == 2**63
    assert MOST_DOCUMENTS > 3 * 10**10


@given(st.integers(0, 6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32))
def test_projections_are_squared_and_weighed(n, d, m, k, seed):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((n, d)).astype(np.float32)
    directions = unit(random.standard_normal((m, d)))
    centre, weights = random.uniform(-0.3, 0.3, d), random.standard_normal((m, k))
    found = quadratic(vectors, directions, centre, weights)
    for i in range(n):
        x = [value / math.sqrt(sum(float(v) ** 2 for v in vectors[i])) for value in vectors[i].tolist()]
        moved = [a - c for a, c in zip(x, centre.tolist(), strict=True)]
        places = [sum(e * z for e, z in zip(axis, moved, strict=True)) for axis in directions.tolist()]
        for j in range(k):
            expected = sum(w * p * p for w, p in zip(weights[:, j].tolist(), places, strict=True))
            assert found[i, j] == pytest.approx(expected, abs=1e-6)


def test_a_projection_depends_on_its_own_row_only():
    vectors, axes = drawn(400, 96), np.linalg.qr(drawn(96, 96).astype(np.float64))[0]
    centre, weights = unit(drawn(1, 96))[0] / 3, np.linspace(-1, 5, 96)[:, None]
    whole = quadratic(vectors, axes, centre, weights)
    for rows in (1, 3, 128, 399):
        parts = [quadratic(vectors[start : start + rows], axes, centre, weights) for start in range(0, 400, rows)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_a_projection_of_nothing_known_is_missing():
    found = quadratic(np.zeros((2, 3), np.float32), np.eye(3), np.zeros(3), np.ones((3, 1)))
    assert np.isnan(found).all()


SYMMETRIC = (
    st.integers(1, 8)
    .flatmap(lambda d: hnp.arrays(np.float64, (d, d), elements=st.floats(-100, 100).map(lambda x: round(x, 3))))
    .map(lambda a: a + a.T)
)


@given(SYMMETRIC)
def test_eigenvectors_make_the_matrix_again(matrix):
    values, vectors = eigen(matrix)
    size = max(1.0, np.abs(matrix).max())
    assert (values[:-1] >= values[1:]).all()
    assert np.abs((vectors.T * values) @ vectors - matrix).max() <= 1e-12 * size
    assert np.abs(vectors @ vectors.T - np.eye(len(matrix))).max() <= 1e-12
    assert np.abs(np.sort(values) - np.linalg.eigvalsh(matrix)).max() <= 1e-12 * size


def test_eigenvalues_of_a_matrix_that_is_known_exactly():
    """The second difference of a path: 2 - 2 cos(k π / (d + 1))."""
    d = 150
    matrix = 2 * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)
    expected = [2 - 2 * math.cos(k * math.pi / (d + 1)) for k in range(d, 0, -1)]
    values, vectors = eigen(matrix)
    assert values == pytest.approx(expected, abs=1e-13)
    assert np.abs(vectors @ matrix - values[:, None] * vectors).max() < 1e-13


@pytest.mark.parametrize(
    "matrix", [np.zeros((4, 4)), np.eye(5), np.ones((6, 6)), np.diag([1e-12, 1.0, 1e-6]), np.array([[2.0]])], ids=str
)
def test_repeated_and_tiny_eigenvalues(matrix):
    values, vectors = eigen(matrix)
    assert values == pytest.approx(np.linalg.eigvalsh(matrix)[::-1], abs=1e-14)
    assert np.abs((vectors.T * values) @ vectors - matrix).max() < 1e-14


@pytest.mark.parametrize(("rank", "d"), [(40, 120), (1, 60), (119, 120)])
def test_a_matrix_with_a_null_space(rank, d):
    x = drawn(rank, d).astype(np.float64)
    matrix = x.T @ x
    values, vectors = eigen(matrix)
    assert values[0] > 1
    assert np.abs(values[rank:]).max() < 1e-12 * values[0]
    assert np.abs((vectors.T * values) @ vectors - matrix).max() < 1e-12 * values[0]
    assert eigenvalues(matrix) == pytest.approx(values, abs=1e-13 * values[0])


def test_blocks_of_ones_in_any_order():
    """Exact zeros behind the first reflections: what is left of rounding must not be divided by its square."""
    groups = np.arange(60) % 7 % 3
    values, _ = eigen((groups[:, None] == groups).astype(np.float64))
    assert values == pytest.approx([26, 17, 17, *[0] * 57], abs=1e-13)


@given(SYMMETRIC)
def test_eigenvalues_alone_are_the_same(matrix):
    assert eigenvalues(matrix).tobytes() == eigen(matrix)[0].tobytes()


def test_numbers_that_are_not_finite_have_no_eigenvectors():
    with pytest.raises(ValueError, match="finite"):
        eigen(np.array([[np.nan]]))


def test_the_unit_of_a_triangle_is_exact():
    assert Fraction(unpacked(np.array([3], np.int64), 1)[0, 0]) == Fraction(3, 2 ** (2 * BITS))
