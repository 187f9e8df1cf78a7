"""Eigenvectors of a symmetric matrix in plain IEEE arithmetic: the same bits on any machine, for any number of threads.

LAPACK is two to five times as fast, but its last bits change with the number of threads and the processor; a score that
is written for every document must not change with them.
"""

import math

import numpy as np
import numpy.typing as npt

from tamis.kernels.kernel import kernel

Float64 = npt.NDArray[np.float64]

MOST_TURNS = 60  # of the iteration per eigenvalue; two are usual


def eigen(matrix: Float64) -> tuple[Float64, Float64]:
    """(eigenvalues, eigenvectors) of a symmetric matrix, the largest first: float64, (d) and (d, d), vectors in rows.

    matrix : float64, (d, d). Raises ValueError if it holds a number that is not finite.
    Source: Golub and Van Loan, Matrix Computations, sections 8.3.1 (Householder) and 8.3.3 (implicit shifts).
    """
    values, vectors = _solved(matrix, with_vectors=True)
    order = np.argsort(-values, kind="stable")
    return values[order], vectors[order]


def eigenvalues(matrix: Float64) -> Float64:
    """The eigenvalues of a symmetric matrix alone, the largest first: float64, (d), as `eigen` finds them."""
    values, _ = _solved(matrix, with_vectors=False)
    return np.asarray(-np.sort(-values))


def _solved(matrix: Float64, *, with_vectors: bool) -> tuple[Float64, Float64]:
    if not np.isfinite(matrix).all():
        raise ValueError("eigen: expected a matrix of finite numbers, got one with NaN or infinity")
    work = np.array(matrix, np.float64, order="C")
    diagonal, beside, factors = _tridiagonal(work)
    vectors = _rotation(work, factors) if with_vectors else np.zeros((len(work), 0))
    if not _diagonalise(diagonal, beside, vectors):
        raise ValueError(f"eigen: expected to converge within {MOST_TURNS} turns, did not; is the matrix symmetric?")
    return diagonal, vectors


@kernel
def _tridiagonal(a: Float64) -> tuple[Float64, Float64, Float64]:
    """(diagonal, numbers beside it, factors of the reflections); the rows of `a` turn into the reflections."""
    d = len(a)
    beside = np.zeros(d)
    factors = np.zeros(d)
    space = np.empty(d)
    size = 0.0
    for i in range(d):
        for j in range(d):
            size = max(size, abs(a[i, j]))
    small = (2.0**-60 * size) ** 2  # below the rounding of what was done before; squares of less would underflow
    for k in range(d - 2):
        v = a[k, k + 1 :]  # the reflection that clears the row behind its second number; it stays where it was found
        square = 0.0
        for j in range(1, len(v)):
            square += v[j] * v[j]
        first = v[0]
        if square <= small:
            beside[k] = first
            continue
        length = math.sqrt(first * first + square)
        beside[k] = -length if first > 0.0 else length
        v[0] = first - beside[k]
        factor = 2.0 / (square + v[0] * v[0])
        factors[k] = factor
        rest, p = a[k + 1 :, k + 1 :], space[: len(v)]
        p[:] = 0.0
        for i in range(len(v)):
            _add(p, v[i], rest[i])
        inner = 0.0
        for j in range(len(v)):
            p[j] *= factor
            inner += p[j] * v[j]
        _add(p, -0.5 * factor * inner, v)
        for i in range(len(v)):
            _take_two(rest[i], v[i], p, p[i], v)
    if d > 1:
        beside[d - 2] = a[d - 2, d - 1]
    diagonal = np.empty(d)
    for i in range(d):
        diagonal[i] = a[i, i]
    return diagonal, beside, factors


@kernel
def _add(row: Float64, factor: float, other: Float64) -> None:
    for j in range(len(row)):
        row[j] += factor * other[j]


@kernel
def _take_two(row: Float64, one_factor: float, one: Float64, other_factor: float, other: Float64) -> None:
    for j in range(len(row)):
        row[j] -= one_factor * one[j] + other_factor * other[j]


@kernel
def _rotate(low: Float64, high: Float64, s: float, c: float) -> None:
    for j in range(len(low)):
        one, other = low[j], high[j]
        high[j] = s * one + c * other
        low[j] = c * one - s * other


@kernel
def _rotation(a: Float64, factors: Float64) -> Float64:
    """The product of the reflections, transposed: its rows turn into eigenvectors."""
    d = len(a)
    q = np.eye(d)
    space = np.empty(d)
    for k in range(d - 3, -1, -1):
        factor = factors[k]
        if factor == 0.0:
            continue
        v, p = a[k, k + 1 :], space[: d - k - 1]
        rest = q[k + 1 :, k + 1 :]  # before, rows and columns are still those of 1
        p[:] = 0.0
        for i in range(len(v)):
            _add(p, v[i], rest[i])
        for i in range(len(v)):
            _add(rest[i], -(factor * v[i]), p)
    return np.ascontiguousarray(q.T)


@kernel
def _diagonalise(diagonal: Float64, beside: Float64, vectors: Float64) -> bool:
    """Turns (diagonal, beside) into eigenvalues and the rows of `vectors` with them; whether it converged."""
    d = len(diagonal)
    size = 0.0
    for i in range(d):
        size = max(size, abs(diagonal[i]) + abs(beside[i]))
    small = 2.0**-53 * size  # as much as the reflections left of zeros: a smaller bound never ends on a null space
    for low in range(d):
        for _ in range(MOST_TURNS):
            high = low
            while high < d - 1 and abs(beside[high]) > small:
                high += 1
            if high == low:
                break
            _turn(diagonal, beside, vectors, low, high)
        else:
            return False
    return True


@kernel
def _turn(diagonal: Float64, beside: Float64, vectors: Float64, low: int, high: int) -> None:
    """One implicit step from `high` down to `low`, with the shift of the 2 × 2 block at `low`."""
    g = (diagonal[low + 1] - diagonal[low]) / (2.0 * beside[low])
    r = math.sqrt(g * g + 1.0)
    shift = g + r if g >= 0.0 else g - r
    g = diagonal[high] - diagonal[low] + beside[low] / shift
    s, c, p = 1.0, 1.0, 0.0
    for i in range(high - 1, low - 1, -1):
        f, b = s * beside[i], c * beside[i]
        r = math.sqrt(f * f + g * g)
        beside[i + 1] = r
        if r == 0.0:
            diagonal[i + 1] -= p
            beside[high] = 0.0
            return
        s, c = f / r, g / r
        g = diagonal[i + 1] - p
        r = (diagonal[i] - g) * s + 2.0 * c * b
        p = s * r
        diagonal[i + 1] = g + p
        g = c * r - b
        _rotate(vectors[i], vectors[i + 1], s, c)
    diagonal[low] -= p
    beside[low] = g
    beside[high] = 0.0
