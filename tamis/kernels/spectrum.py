"""Vendi scores: how many different things a collection holds, from the eigenvalues of its similarities.

With C the mean of x xᵀ over n vectors of length one, the eigenvalues of C are those of the matrix of all n × n inner
products divided by n, and zeros; so a d × d matrix tells what an n × n one would.
Source: Friedman and Dieng 2023, The Vendi Score; Pasarkar and Dieng 2023, Cousins of the Vendi Score (orders).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64
from tamis.kernels.eigen import eigenvalues
from tamis.kernels.gram import BITS, unpacked
from tamis.kernels.log import log

Float64 = npt.NDArray[np.float64]

FLOOR = 1e-12  # eigenvalues below it are rounding of a float64 matrix
QUANTUM_FLOOR = 2.0 ** (-2 * BITS)  # below it, rounding of the vectors, which adds 2^-28 / 12 in every direction


@dataclass(frozen=True)
class Moments:
    """Sums over vectors of length one, some of them more than once, as whole numbers.

    documents : vectors with a repeat of one or more. uses : the sum of the repeats.
    first : int64, (d), as `sum_of` makes it. second : int64, (d (d + 1) / 2), as `gram` makes it.
    """

    documents: int
    uses: int
    first: Int64
    second: Int64

    def __add__(self, other: Moments) -> Moments:
        """The sums over both sets of vectors, exactly."""
        return Moments(
            self.documents + other.documents,
            self.uses + other.uses,
            self.first + other.first,
            self.second + other.second,
        )

    @property
    def mean(self) -> Float64:
        """The mean vector: float64, (d)."""
        return self.first.astype(np.float64) / float(max(self.uses, 1) << BITS)

    def covariance(self, centre: Float64 | None = None) -> Float64:
        """The mean of (x - centre)(x - centre)ᵀ, or of x xᵀ: float64, (d, d)."""
        second = unpacked(self.second, len(self.first)) / max(self.uses, 1)
        if centre is None or self.uses == 0:
            return second
        cross = np.outer(self.mean, centre)
        return np.asarray(second - cross - cross.T + np.outer(centre, centre))


def spectrum(matrix: Float64, floor: float = FLOOR) -> Float64:
    """The eigenvalues of a positive semi-definite matrix as shares of their sum, the largest first: float64, (r).

    matrix : float64, (d, d), symmetric: similarities of d things, or a covariance. Shares below `floor` are left
    out, and the others add up to 1. Nothing is left of a matrix of zeros.
    Raises ValueError if an eigenvalue is so far below zero that it cannot be rounding.
    """
    values = eigenvalues(matrix)
    total = math.fsum(values)
    if len(values) and values[-1] < -1e-6 * max(values[0], 0.0) - 1e-12:
        raise ValueError(
            f"spectrum: expected no negative eigenvalue, got {values[-1]:g}; similarities must be a kernel"
        )
    if not total > 0:
        return np.zeros(0)
    shares = values / total
    kept = shares[shares >= floor]
    return np.asarray(kept / math.fsum(kept))


def entropy(shares: Float64) -> float:
    """-Σ p ln p in nats of shares that add up to 1; zeros count nothing."""
    present = shares[shares > 0]
    return -math.fsum(present * log(np.ascontiguousarray(present)))


def vendi(shares: Float64, order: float = 1.0) -> float:
    """The effective number of different things at one order, from 0 (their rank) to inf (1 / the largest share).

    shares : as `spectrum` gives them; of none the number is 0. It never rises with the order: low orders see what
    is rare, high orders what is repeated. Raises ValueError for an order below 0.
    Source: VS_q = (Σ p^q)^(1 / (1 - q)), the Hill number of the eigenvalues.
    """
    if not order >= 0:
        raise ValueError(f"vendi: an order is 0 or more, got {order}")
    if len(shares) == 0:
        return 0.0
    if order == math.inf:
        return float(1.0 / shares.max())
    if order == 1:
        return math.exp(entropy(shares))
    if order == 0:
        return float(len(shares))
    largest = float(shares.max())  # taken out, so that no power underflows
    return math.exp((order * math.log(largest) + math.log(np.sum((shares / largest) ** order))) / (1.0 - order))


def within(parts: Sequence[Float64], floor: float = FLOOR) -> float:
    """The effective number within parts of a collection: the geometric mean of their own, weighted by their shares.

    parts : float64, (d, d) each, sums of x xᵀ over the documents of one part. The whole collection's number divided
    by this one is the number between parts. Between parts whose vectors are orthogonal it is exp of the entropy of
    the parts' shares.
    Source: the conditional entropy S(X | T) = S(X, T) - S(T) of kernels, with 1 for equal and 0 for other parts.
    """
    traces = np.array([np.trace(part) for part in parts])
    if not traces.sum() > 0:
        return 0.0
    known = zip(traces / traces.sum(), parts, strict=True)
    return math.exp(sum(share * entropy(spectrum(part, floor)) for share, part in known if share > 0))


def gain_weights(values: Float64, floor: float) -> Float64:
    """What a document's squared coordinate on each eigenvector adds to n · ln VS, to first order: float64, (d).

    values : eigenvalues of a covariance, the largest first, not scaled. One more document z changes ln VS by
    Σⱼ wⱼ (eⱼ · z)² / (n + 1), with wⱼ = -(ln pⱼ + H) / t, t the sum of the values and p their shares; a share below
    `floor` counts as `floor`.
    """
    total = math.fsum(values)
    if not total > 0:
        return np.zeros(len(values))
    shares = np.maximum(values / total, 0.0)
    return np.asarray(-(log(np.maximum(shares, floor)) + entropy(shares)) / total)


def influence_weights(values: Float64, order: float, floor: float = QUANTUM_FLOOR) -> Float64:
    """The same for ln VS at any order above 0: float64, (d); zeros at order 0, where nothing changes by little.

    The sum of the squares of what documents add, divided by n², estimates the variance of ln VS.
    Source: the derivative of ln Σ p^q / (1 - q); Efron 1982, The Jackknife, the Bootstrap, chapter 6.
    """
    total = math.fsum(values)
    if not total > 0 or order == 0:
        return np.zeros(len(values))
    shares = np.maximum(values / total, floor)
    if order == 1:
        return gain_weights(values, floor)
    if order == math.inf:
        tilt = np.where(np.arange(len(values)) == 0, 1.0 - 1.0 / shares[0], 1.0)
    else:
        tilt = order / (1.0 - order) * (shares ** (order - 1.0) / np.sum(shares**order) - 1.0)
    return np.asarray(tilt / total)
