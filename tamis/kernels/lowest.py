"""Sums over a document's tokens, each in its own order: what a document comes out as does not depend on its company."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32, Int64
from tamis.kernels.kernel import kernel

Float64 = npt.NDArray[np.float64]

TENTHS = 10


@kernel
def sums_of(values: Float32, starts: Int64, ends: Int64) -> Float64:
    """The sum of values[starts[i]:ends[i]], from first to last: float64, (n); 0 for nothing.

    values : float32. starts, ends : int64, (n).
    """
    out = np.zeros(len(starts), np.float64)
    for i in range(len(starts)):
        for t in range(starts[i], ends[i]):
            out[i] += np.float64(values[t])
    return out


@kernel
def lowest_means(losses: Float32, offsets: Int64) -> Float32:
    """Mean log-probability of the least likely tenth of a document's tokens, of two tenths, … of all: float32, (n, 10).

    losses : float32, minus the log-probability of each token. offsets : int64, (n + 1), of the documents. j tenths of
    T tokens are max(1, ⌈j T / 10⌉). NaN for a document without tokens.
    Source: Shi et al. 2024, Detecting pretraining data from large language models (Min-K%), where ⌊k T⌋ may be none.
    """
    n = len(offsets) - 1
    out = np.full((n, TENTHS), np.nan, np.float32)
    for i in range(n):
        ranked = np.sort(losses[offsets[i] : offsets[i + 1]])
        tokens = len(ranked)
        total, taken = 0.0, 0
        for j in range(TENTHS if tokens else 0):
            wanted = ((j + 1) * tokens + TENTHS - 1) // TENTHS
            while taken < wanted:
                total += np.float64(ranked[tokens - 1 - taken])
                taken += 1
            out[i, j] = -total / taken
    return out
