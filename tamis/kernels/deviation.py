"""Mean and deviation of numbers, the same to the bit in any order: sums of whole numbers in limbs.

Numbers become multiples of 2^(e - 53), where all of them are less than 2^e: what is as large as the largest loses
nothing, and the error of any is at most 2^(e - 54). Sums of their first and second powers are then exact.
"""

import math

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64

Float64 = npt.NDArray[np.float64]

BITS = 53
LIMB_BITS, LIMBS = 14, 4  # 2^54 values, moved up to be positive, in 56 bits
MOST_DOCUMENTS = 1 << (63 - 2 * LIMB_BITS)  # products of two limbs that add up within an int64: 3.4e10
SMALLEST = -1100  # below the exponent of any float64
_PAIRS = [(i, j) for i in range(LIMBS) for j in range(i, LIMBS)]


def exponent_of(x: Float64) -> int:
    """The least e, at least `SMALLEST`, with |x| < 2^e for all of x: float64, (n), finite."""
    most = float(np.abs(x).max(initial=0.0))
    return math.frexp(most)[1] if most else SMALLEST


def power_sums(x: Float64, exponent: int) -> tuple[Int64, Int64]:
    """(sums of limbs, sums of products of two limbs) of x: int64, (4) and (10). x : float64, (n), |x| < 2^exponent."""
    whole = np.rint(np.ldexp(x, BITS - exponent)).astype(np.int64) + (1 << BITS)
    limbs = [(whole >> (LIMB_BITS * i)) & ((1 << LIMB_BITS) - 1) for i in range(LIMBS)]
    sums = np.array([limb.sum() for limb in limbs], np.int64)
    return sums, np.array([(limbs[i] * limbs[j]).sum() for i, j in _PAIRS], np.int64)


def mean_and_deviation(sums: Int64, products: Int64, documents: int, exponent: int) -> tuple[float, float]:
    """The mean, and the root of the mean square of what differs from it; NaN and NaN of no documents.

    sums, products : the totals of `power_sums`. Each is the float64 nearest to the exact value of what was summed, the
    deviation to one more rounding.
    """
    if documents == 0:
        return math.nan, math.nan
    total = sum(int(limb) << (LIMB_BITS * i) for i, limb in enumerate(sums))
    squares = sum(
        (int(product) << (LIMB_BITS * (i + j))) * (1 if i == j else 2)
        for (i, j), product in zip(_PAIRS, products, strict=True)
    )
    mean = (total - (documents << BITS)) / documents
    variance = (documents * squares - total * total) / (documents * documents)
    return math.ldexp(mean, exponent - BITS), math.ldexp(math.sqrt(variance), exponent - BITS)
