"""How well predictions order documents that a model was not fitted to: rank correlation, and the best tenth."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.models.lds import correlation, spearman

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

RESAMPLES = 1000
LEVEL = 0.95
TENTH = 10


class Rank(NamedTuple):
    """Spearman's rank correlation and its interval."""

    value: float
    low: float
    high: float


class Judgement(NamedTuple):
    """documents : how many. spearman : with its interval over documents. r2 : NaN if the truth has no spread.

    top_tenth : the share of the true best tenth that is in the predicted best tenth; by chance, 0.1.
    """

    documents: int
    spearman: Rank
    r2: float
    top_tenth: float

    @property
    def reliable(self) -> bool:
        """Whether the interval lies above 0: the order predicted has something to do with the true one."""
        return self.spearman.low > 0


def judged(predicted: Float64, actual: Float64) -> Judgement:
    """predicted, actual : float64, (n), two or more documents. Raises ValueError for fewer, or NaN."""
    mean = math.fsum(actual) / len(actual)
    spread = math.fsum((actual - mean) ** 2)
    return Judgement(
        len(actual),
        spearman_interval(predicted, actual),
        1 - math.fsum((actual - predicted) ** 2) / spread if spread > 0 else math.nan,
        top_share_found(predicted, actual),
    )


def top_share_found(predicted: Float64, actual: Float64) -> float:
    """The share of the true best tenth (at least one document) that is in the predicted best tenth.

    Of equal values it is drawn by lot which are among the best: what is meant is the mean over all such draws, which is
    a tenth where all are equal.
    """
    most = max(1, len(actual) // TENTH)
    return math.fsum(_among_best(predicted, most) * _among_best(actual, most)) / most


def _among_best(values: Float64, most: int) -> Float64:
    """The chance of each to be among the `most` largest, equal ones drawn by lot: float64, (n)."""
    edge = np.partition(values, -most)[-most]
    above, at = values > edge, values == edge
    share = (most - np.count_nonzero(above)) / np.count_nonzero(at)
    return np.asarray(above + at * share, np.float64)


def spearman_interval(x: Float64, y: Float64, level: float = LEVEL, seed: int = 0, resamples: int = RESAMPLES) -> Rank:
    """Spearman's correlation with its percentile bootstrap interval: `lds_interval` for many values, to the bit.

    Values are sorted once; a resample costs time and memory in proportion to their number n.
    x, y : float64, (n). Raises ValueError for fewer than two values, or NaN.
    """
    value = float(spearman(x, y))
    stream = np.random.Philox(key=np.array([seed % 2**64, 0], np.uint64))
    x_class, y_class = (np.unique(values, return_inverse=True)[1] for values in (x, y))
    found = np.empty(resamples)
    for resample in range(resamples):
        drawn = (stream.random_raw(len(x)) % np.uint64(len(x))).astype(np.int64)
        found[resample] = correlation(_ranks(x_class[drawn]), _ranks(y_class[drawn]))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Rank(value, float(low), float(high))


def _ranks(classes: Int64) -> Float64:
    """Twice the average rank of each, less its mean: integers as float64, (n), whose squares may add up to more than
    an int64 holds. classes : int64, (n), in the order of the values.
    """
    counts = np.bincount(classes)
    return np.asarray((2 * np.cumsum(counts) - counts - len(classes))[classes], np.float64)
