"""The natural logarithm in plain IEEE arithmetic, so that decisions depend on no maths library and no vector unit."""

import math

import numpy as np
import numpy.typing as npt

from tamis.kernels.kernel import kernel

LN2_HIGH = 6.93147180369123816490e-01  # upper 32 bits of ln 2: multiples up to 2^20 are exact
LN2_LOW = 1.90821492927058770002e-10
C1 = 6.666666666666735130e-01  # minimax coefficients of (ln(1+s) - ln(1-s)) / s - 2 in s², from fdlibm
C2 = 3.999999999940941908e-01
C3 = 2.857142874366239149e-01
C4 = 2.222219843214978396e-01
C5 = 1.818357216161805012e-01
C6 = 1.531383769920937332e-01
C7 = 1.479819860511658591e-01


@kernel
def ln(x: float) -> float:
    """The natural logarithm of one float64, to less than one unit in the last place.

    Source: Sun's fdlibm, e_log.c: reduce to m in [√½, √2), then a polynomial in ((m - 1) / (m + 1))².
    """
    if not x > 0.0:
        return -math.inf if x == 0.0 else math.nan
    if x == math.inf:
        return x
    m, k = math.frexp(x)
    if m < math.sqrt(0.5):
        m *= 2.0
        k -= 1
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = z * (C1 + w * (C3 + w * (C5 + w * C7)))
    even = w * (C2 + w * (C4 + w * C6))
    half_square = 0.5 * f * f
    return s * (half_square + odd + even) + k * LN2_LOW - half_square + f + k * LN2_HIGH


@kernel
def log(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The natural logarithm of each number: float64, (n); -inf for zero, NaN for negative numbers and NaN."""
    out = np.empty(len(x), np.float64)
    for i in range(len(x)):
        out[i] = ln(x[i])
    return out
