"""Least squares with a penalty on the weights, in plain IEEE arithmetic and a fixed order of additions.

A matrix library adds in an order that depends on the shapes of its arguments and on the number of threads. Here the
sums over documents depend on the documents' order only, and a prediction on its document only.
"""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32
from tamis.kernels.kernel import kernel

Float64 = npt.NDArray[np.float64]

CONSTANT = 1e-9  # a spread below this share of the largest value is what rounding makes of equal values


def spreads(x: Float32) -> tuple[Float64, Float64, Float64, Float64]:
    """(lowest, highest, mean, standard deviation) of each feature over its known values: float64, (d) each.

    x : float32, (n, d), NaN where a value is missing. A feature without known values, or with equal ones, has the
    deviation 0; the other numbers of one without known values are 0.
    """
    low, high, mean, deviation = (np.empty(x.shape[1]) for _ in range(4))
    _spreads(x, low, high, mean, deviation)
    return low, high, mean, deviation


@kernel
def _spreads(x: Float32, low: Float64, high: Float64, mean: Float64, deviation: Float64) -> None:
    n, d = x.shape
    known = np.zeros(d, np.int64)
    low[:], high[:], mean[:], deviation[:] = np.inf, -np.inf, 0.0, 0.0
    for i in range(n):
        for j in range(d):
            value = np.float64(x[i, j])
            if not np.isnan(value):
                known[j] += 1
                mean[j] += value
                low[j] = min(low[j], value)
                high[j] = max(high[j], value)
    for j in range(d):
        if known[j]:
            mean[j] /= known[j]
        else:
            low[j] = high[j] = 0.0
    for i in range(n):
        for j in range(d):
            value = np.float64(x[i, j])
            if not np.isnan(value):
                deviation[j] += (value - mean[j]) * (value - mean[j])
    for j in range(d):
        deviation[j] = np.sqrt(deviation[j] / known[j]) if known[j] else 0.0
        if deviation[j] <= CONSTANT * max(abs(low[j]), abs(high[j])):
            deviation[j] = 0.0


def standardised(x: Float32, low: Float64, high: Float64, mean: Float64, deviation: Float64) -> Float64:
    """(x - mean) / deviation with x between low and high: float64, (n, d); 0 for NaN, and where the deviation is 0.

    x : float32, (n, d). The others : float64, (d), as `spreads` finds them.
    """
    out = np.empty(x.shape, np.float64)
    _standardise(x, low, high, mean, deviation, out)
    return out


@kernel
def _standardise(x: Float32, low: Float64, high: Float64, mean: Float64, deviation: Float64, out: Float64) -> None:
    n, d = x.shape
    for i in range(n):
        for j in range(d):
            value = np.float64(x[i, j])
            if np.isnan(value) or deviation[j] == 0.0:
                out[i, j] = 0.0
            else:
                out[i, j] = (min(max(value, low[j]), high[j]) - mean[j]) / deviation[j]


def add_products(rows: Float64, total: Float64) -> None:
    """Adds Σ r rᵀ over the rows r to the upper triangle of `total`, four rows at a time.

    rows : float64, (n, d). total : float64, (d, d). Where rows come in several calls, n is a multiple of four in all
    but the last, so that the sums do not depend on how they were cut.
    """
    _add_products(np.ascontiguousarray(rows), total)


@kernel
def _add_products(rows: Float64, total: Float64) -> None:
    n, d = rows.shape
    whole = n - n % 4
    for i in range(0, whole, 4):
        for a in range(d):
            _add_four(
                total[a, a:],
                rows[i, a],
                rows[i, a:],
                rows[i + 1, a],
                rows[i + 1, a:],
                rows[i + 2, a],
                rows[i + 2, a:],
                rows[i + 3, a],
                rows[i + 3, a:],
            )
    for i in range(whole, n):
        for a in range(d):
            for b in range(a, d):
                total[a, b] += rows[i, a] * rows[i, b]


@kernel
def _add_four(
    sums: Float64,
    p: float,
    one: Float64,
    q: float,
    two: Float64,
    r: float,
    three: Float64,
    s: float,
    four: Float64,
) -> None:
    for b in range(len(sums)):
        sums[b] += (p * one[b] + q * two[b]) + (r * three[b] + s * four[b])


@kernel
def shrunken(vectors: Float64, values: Float64, products: Float64, penalty: float) -> Float64:
    """The w of (A + penalty · 1) w = products: float64, (d).

    vectors : float64, (d, d), the eigenvectors of A in rows; values : float64, (d), its eigenvalues, none taken for
    less than 0. products : float64, (d). penalty : above 0.
    """
    d = len(values)
    weights = np.zeros(d)
    for k in range(d):
        along = 0.0
        for j in range(d):
            along += vectors[k, j] * products[j]
        along /= max(values[k], 0.0) + penalty
        for j in range(d):
            weights[j] += along * vectors[k, j]
    return weights


@kernel
def quadratic_form(matrix: Float64, vector: Float64) -> float:
    """Σᵢⱼ vector[i] · matrix[i, j] · vector[j], of the upper triangle of a symmetric matrix: float64, (d, d), (d)."""
    total = 0.0
    for i in range(len(vector)):
        row = 0.5 * matrix[i, i] * vector[i]
        for j in range(i + 1, len(vector)):
            row += matrix[i, j] * vector[j]
        total += 2.0 * vector[i] * row
    return total


def weighted_sums(standard: Float64, weights: Float64, constant: float) -> Float64:
    """A constant and Σⱼ weights[j] · standard[i, j], each row by itself, in the order of j: float64, (n).

    standard : float64, (n, d). weights : float64, (d).
    """
    out = np.full(len(standard), constant, np.float64)
    _weighted_sums(standard, weights, out)
    return out


@kernel
def _weighted_sums(standard: Float64, weights: Float64, out: Float64) -> None:
    n, d = standard.shape
    for i in range(n):
        for j in range(d):
            out[i] += weights[j] * standard[i, j]
