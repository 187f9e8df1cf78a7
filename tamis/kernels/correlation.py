"""Mean, deviation and correlation of numbers whose sums are exact: multiples of 2^-20, squares in two halves."""

import math

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64

Float64 = npt.NDArray[np.float64]

BITS = 20  # numbers are rounded to multiples of 2^-20, an error of 5e-7 at most
LARGEST = 1 << 31  # of a number, in these units: 2,048; what is beyond counts as that
HALF = 32  # bits: a square is below 2^62, and 2^31 halves of squares fit into an int64


def whole(x: Float64) -> Int64:
    """Numbers as multiples of 2^-20: int64, same shape. x : float64, finite."""
    return np.clip(np.rint(x * (1 << BITS)), -LARGEST, LARGEST).astype(np.int64)


def moments(x: Int64, y: Int64) -> Int64:
    """n, Σx, Σy, and Σx², Σy², Σxy as upper and lower halves: int64, (9), which add up over any parts.

    x, y : int64, (n), as `whole` makes them.
    """
    products = [part for product in (x * x, y * y, x * y) for part in _halves(product)]
    return np.array([len(x), x.sum(), y.sum(), *(part.sum() for part in products)], np.int64)


def _halves(product: Int64) -> tuple[Int64, Int64]:
    return product >> HALF, product & ((1 << HALF) - 1)


def described(sums: Int64) -> tuple[float, float, float]:
    """(mean of x, standard deviation of x, Pearson correlation of x and y) of such sums; NaN where there is none.

    sums : int64, (9). The deviation is that of the n numbers themselves (divided by n).
    """
    n, first, other, *halves = (int(value) for value in sums)
    if n == 0:
        return math.nan, math.nan, math.nan
    square, other_square, product = (halves[i] * (1 << HALF) + halves[i + 1] for i in (0, 2, 4))
    spread, other_spread = n * square - first * first, n * other_square - other * other  # n² times the variances
    common = n * product - first * other
    unit = 1 << BITS
    correlation = common / math.sqrt(spread) / math.sqrt(other_spread) if spread and other_spread else math.nan
    return first / n / unit, math.sqrt(spread) / n / unit, correlation
