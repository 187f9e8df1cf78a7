"""Vectors as directions in 16-bit fixed point: sums and inner products of them are exact, in any order."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64
from tamis.kernels.kernel import kernel

Int16 = npt.NDArray[np.int16]
Float64 = npt.NDArray[np.float64]

UNIT = 32767  # the length one; a cosine of directions is off by 6e-6 (standard deviation), whatever the dimension


@kernel
def directions(vectors: npt.NDArray[np.floating]) -> Int16:
    """Each vector at length UNIT, rounded: int16, (n, d); zeros for a vector that is zero or not finite.

    vectors : float32 or float64, (n, d). The length is summed from left to right in float64.
    """
    n, d = vectors.shape
    rounded = np.zeros((n, d), np.int16)
    for i in range(n):
        square = 0.0
        for j in range(d):
            square += np.float64(vectors[i, j]) * np.float64(vectors[i, j])
        if not 0.0 < square < np.inf:
            continue
        length = np.sqrt(square)
        for j in range(d):
            rounded[i, j] = np.int16(np.rint(np.float64(vectors[i, j]) / length * UNIT))
    return rounded


@kernel
def add_up(vectors: Int16, group: Int64, groups: int) -> Int64:
    """The sum of each group's vectors: int64, (groups, d).

    vectors : int16, (n, d). group : int64, (n), in [0, groups).
    """
    n, d = vectors.shape
    sums = np.zeros((groups, d), np.int64)
    for i in range(n):
        for j in range(d):
            sums[group[i], j] += vectors[i, j]
    return sums


def products(left: Int16, right: Int16) -> Float64:
    """All inner products, exact: float64, (n, m).

    left : int16, (n, d). right : int16, (m, d). No partial sum of directions exceeds 2^31, so that float64 holds all
    of them, and the matrix product is the same in whatever order it adds.
    """
    return left.astype(np.float64) @ right.astype(np.float64).T


def inverse_lengths(vectors: Int16) -> Float64:
    """One over the length of each vector: float64, (n); 0 for the zero vector. vectors : int16, (n, d)."""
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.int64).astype(np.float64)
    return np.where(squares > 0, 1.0 / np.sqrt(np.maximum(squares, 1.0)), 0.0)
