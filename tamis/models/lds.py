"""Linear datamodeling score: do scores of documents predict what training on them does to a loss?

Subsets of the corpus are trained on, one model each; what the scores predict for a subset (a mean or a sum over its
documents) is compared with what was measured (a loss) by rank. It is a mean over queries of Spearman's correlation
over subsets.
Source: Ilyas et al., Datamodels, 2022; Park et al., TRAK, 2023, section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A linear datamodeling score and its interval."""

    lds: float
    low: float
    high: float


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> Float64:
    """Spearman's rank correlation over the last axis: float64, of the axes before it; equal values share a rank.

    0 where x or y has no spread: what orders nothing predicts nothing. x, y : float64, (…, m), broadcast.
    Raises ValueError for fewer than two values, or NaN.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape[-1:] != y.shape[-1:] or not x.ndim or x.shape[-1] < 2:
        raise ValueError(f"spearman: expected two or more values, as many in x as in y, got {x.shape} and {y.shape}")
    return correlation(_ranks(x), _ranks(y))


def lds(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """The linear datamodeling score: the mean over queries of Spearman's correlation over subsets, in [-1, 1].

    predicted, actual : float64, (q, m), or (m,) for one query: a value per query and subset, larger where the other is
    expected to be larger. Raises ValueError if there are no queries, fewer than two subsets, or NaN.
    """
    predicted, actual = _paired(predicted, actual)
    return float(spearman(predicted, actual).mean())


def lds_interval(
    predicted: npt.ArrayLike, actual: npt.ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """The score with its percentile bootstrap interval, over subsets and, where there are several, over queries.

    The same numbers for the same seed, on any machine. predicted, actual : as in `lds`.
    Raises ValueError as `lds` does, or if `level` is not inside (0, 1), or `resamples` is below 100.
    Source: Efron, Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    predicted, actual = _paired(predicted, actual)
    if not 0 < level < 1 or resamples < 100:
        raise ValueError(
            f"lds_interval: expected a level between 0 and 1 and 100 resamples or more, got {level} and {resamples}"
        )
    queries, subsets = predicted.shape
    stream = np.random.Philox(key=np.array([seed % 2**64, 0], np.uint64))
    drawn = _drawn(stream, resamples, subsets)
    # the weight of each query in each resample: integers, so that sums of weights are exact
    weights = np.ones((resamples, queries), np.int64)
    if queries > 1:
        weights = np.stack([np.bincount(row, minlength=queries) for row in _drawn(stream, resamples, queries)])
    total = np.zeros(resamples)
    for query in range(queries):
        total += weights[:, query] * spearman(predicted[query][drawn], actual[query][drawn])
    low, high = np.quantile(total / queries, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(lds(predicted, actual), float(low), float(high))


def _paired(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Both as (q, m)."""
    one, other = np.atleast_2d(np.asarray(predicted, np.float64)), np.atleast_2d(np.asarray(actual, np.float64))
    if one.shape != other.shape or one.ndim != 2 or not len(one) or one.shape[1] < 2:
        raise ValueError(
            "lds: expected as many predictions as measurements, (queries, subsets) with two subsets or more, "
            f"got {one.shape} and {other.shape}"
        )
    return one, other


def _drawn(stream: np.random.Philox, rows: int, among: int) -> Index:
    """Numbers below `among`, drawn with replacement: int64, (rows, among)."""
    raw = stream.random_raw(rows * among).reshape(rows, among)
    return (raw % np.uint64(among)).astype(np.int64)


def correlation(x: Float64, y: Float64) -> Float64:
    """Of centred values over the last axis, 0 where one has no spread: float64, (…). x, y : float64, (…, m), integers.

    Every sum is exact below 2⁵³, so that the order of adding is nothing.
    """
    spread = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.asarray((x * y).sum(-1) / np.where(spread > 0, spread, 1.0), np.float64)


def _ranks(x: Float64) -> Float64:
    """Twice the rank of each value among the last axis, less its mean: integers as float64; ties share the mean."""
    if np.isnan(x).any():
        raise ValueError(f"spearman: NaN has no rank, got {int(np.isnan(x).sum())} of {x.size}; leave them out")
    order = np.argsort(x, axis=-1, kind="stable")
    ascending = np.take_along_axis(x, order, -1)
    last = x.shape[-1] - 1
    steps = np.diff(ascending, axis=-1) > 0
    edge = np.ones((*x.shape[:-1], 1), bool)
    place = np.arange(last + 1)
    first_equal = np.maximum.accumulate(np.where(np.concatenate([edge, steps], -1), place, 0), -1)
    ends = np.where(np.concatenate([steps, edge], -1), place, last)
    last_equal = np.minimum.accumulate(ends[..., ::-1], -1)[..., ::-1]
    ranks = np.empty(x.shape)
    np.put_along_axis(ranks, order, (first_equal + last_equal - last).astype(np.float64), -1)
    return ranks
