"""Float64 as unsigned integers in the same order: what an exact cut counts digits of."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import UInt64

SIGN = np.uint64(1 << 63)


def ordered(x: npt.NDArray[np.float64]) -> UInt64:
    """Keys that compare as the numbers do: uint64, same shape; both zeros have one key.

    Raises ValueError for NaN, which has no place in an order: the caller says what a missing value means.
    """
    if np.isnan(x).any():
        raise ValueError(f"ordered: NaN has no order, got {int(np.isnan(x).sum())} of {x.size}; leave them out")
    bits = (np.asarray(x, np.float64) + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def unordered(keys: UInt64) -> npt.NDArray[np.float64]:
    """The numbers that `ordered` made these keys of: float64, same shape."""
    return np.where(keys & SIGN, keys ^ SIGN, ~keys).view(np.float64)
