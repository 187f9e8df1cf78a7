"""Sums of outer products, exact to the bit: vectors as integers, so that no order of adding them changes the result.

A unit vector's components are rounded to multiples of 2^-bits. Products and sums of such integers are exact in float64
as long as they stay below 2^53, however a matrix library splits, reorders or fuses them: the fast routine for floats
is used, and what it returns is converted to integers.
"""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32, Int64
from tamis.kernels.kernel import kernel

Float64 = npt.NDArray[np.float64]

BITS = 14  # of a component in a sum of outer products: 2^63 / 2^28 = 3.4e10 documents fit into an int64
BLOCK_ROWS = 1 << 24  # of one matrix product: 2^24 products of at most 2^28 stay below 2^53
MOST_DOCUMENTS = 1 << (63 - 2 * BITS)
FINE_BITS = 25  # of a component in a projection: an inner product of two unit vectors stays below 2^51


def fixed_point(vectors: Float32, bits: int = BITS) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """(vectors of length one as multiples of 2^-bits, which are known): float64, (n, d), whole numbers; bool, (n).

    vectors : float32, (n, d). A vector of zeros, or with a number that is not finite, has no direction: it is
    unknown, and its row is 0. The error of a component is at most 2^-(bits + 1).
    """
    out = np.empty(vectors.shape, np.float64)
    known = np.empty(len(vectors), np.bool_)
    _fixed_point(np.ascontiguousarray(vectors, np.float32), np.float64(1 << bits), out, known)
    return out, known


@kernel
def _fixed_point(vectors: Float32, scale: float, out: Float64, known: npt.NDArray[np.bool_]) -> None:
    n, d = vectors.shape
    for i in range(n):
        square = 0.0
        for j in range(d):
            square += np.float64(vectors[i, j]) * np.float64(vectors[i, j])
        known[i] = 0.0 < square < np.inf
        factor = scale / np.sqrt(square) if known[i] else 0.0
        for j in range(d):
            out[i, j] = np.rint(np.float64(vectors[i, j]) * factor) if known[i] else 0.0


def sum_of(whole: Float64, repeats: Int64) -> Int64:
    """The sum of the rows, each `repeats` times: int64, (d). whole : float64, (n, d), as `fixed_point` makes it."""
    total: Int64 = (repeats.astype(np.float64) @ whole).astype(np.int64)
    return total


def gram(whole: Float64, repeats: Int64) -> Int64:
    """The sum of x xᵀ over the rows x, each `repeats` times, exact: int64, (d (d + 1) / 2), the upper triangle by rows.

    whole : float64, (n, d), as `fixed_point` makes it with 14 bits. repeats : int64, (n), 0 to leave a row out.
    """
    d = whole.shape[1]
    total = np.zeros(d * (d + 1) // 2, np.int64)
    for times in np.unique(repeats[repeats > 0]):
        rows = whole if (repeats == times).all() else whole[repeats == times]
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            _add_triangle(block.T @ block, int(times), total)
    return total


@kernel
def _add_triangle(square: Float64, times: int, total: Int64) -> None:
    d = len(square)
    at = 0
    for i in range(d):
        for j in range(i, d):
            total[at] += np.int64(square[i, j]) * times
            at += 1


def unpacked(triangle: Int64, d: int, bits: int = BITS) -> Float64:
    """The symmetric matrix of an upper triangle, in units of the vectors: float64, (d, d)."""
    out = np.empty((d, d), np.float64)
    _unpack(np.ascontiguousarray(triangle), 2.0 ** (-2 * bits), out)
    return out


@kernel
def _unpack(triangle: Int64, unit: float, out: Float64) -> None:
    d = len(out)
    at = 0
    for i in range(d):
        for j in range(i, d):
            out[i, j] = out[j, i] = np.float64(triangle[at]) * unit
            at += 1


def quadratic(vectors: Float32, directions: Float64, centre: Float64, weights: Float64) -> Float64:
    """Σⱼ weights[j, k] · (directions[j] · (x - centre))² of each vector x: float64, (n, k); NaN for unknown vectors.

    vectors : float32, (n, d), scaled to length one. directions : float64, (m, d), rows of length one at most.
    centre : float64, (d). weights : float64, (m, k). Every row is computed by itself to the bit: the inner products
    are sums of integers, and what follows has a fixed order.
    """
    unit = np.float64(1 << FINE_BITS)
    whole, known = fixed_point(vectors, FINE_BITS)
    axes = np.rint(directions * unit)
    middle = np.rint(np.minimum(np.maximum(centre, -1.0), 1.0) * unit)
    out = np.empty((len(vectors), weights.shape[1]), np.float64)
    _weigh_squares(whole @ axes.T, axes @ middle, unit * unit, np.ascontiguousarray(weights.T), known, out)
    return out


@kernel
def _weigh_squares(
    products: Float64, middle: Float64, unit: float, weights: Float64, known: npt.NDArray[np.bool_], out: Float64
) -> None:
    n, m = products.shape
    for i in range(n):
        for k in range(len(weights)):
            total = 0.0
            for j in range(m):
                place = (products[i, j] - middle[j]) / unit
                total += weights[k, j] * (place * place)
            out[i, k] = total if known[i] else np.nan
