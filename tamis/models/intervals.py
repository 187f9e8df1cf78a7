"""Paired t-intervals over seeds: is one arm better than another, or did it only have the better seeds?"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_TINY = 1e-300  # keeps Lentz's continued fraction away from 0/0
_EXACT = 1e-16


def paired_interval(a: Float64, b: Float64, level: float = 0.95) -> tuple[float, float, float]:
    """(mean of a − b, low, high): Student's t-interval of the differences, pair i being seed i of both arms.

    One seed gives no interval: low and high are NaN, since nothing is known about the spread.
    a, b : float64, (s). Raises ValueError if they do not pair up, are empty, or `level` is not inside (0, 1).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"paired_interval: expected one value per seed in both arms, got {a.shape} and {b.shape}")
    if not 0 < level < 1:
        raise ValueError(f"paired_interval: level must lie between 0 and 1, got {level}")
    differences = a - b
    mean, seeds = float(differences.mean()), len(a)
    if seeds == 1:
        return mean, math.nan, math.nan
    half = t_quantile((1 + level) / 2, seeds - 1) * float(differences.std(ddof=1)) / math.sqrt(seeds)
    return mean, mean - half, mean + half


def t_quantile(probability: float, freedom: float) -> float:
    """The t with P(T ≤ t) = probability, for Student's distribution with `freedom` degrees; relative error ≤ 1e-12.

    Raises ValueError unless 0 < probability < 1 and freedom > 0.
    """
    if not 0 < probability < 1 or not freedom > 0:
        raise ValueError(f"t_quantile: needs 0 < probability < 1 and freedom > 0, got {probability} and {freedom}")
    tail = min(probability, 1 - probability)
    if tail == 0.5:
        return 0.0
    low, high = 0.0, 1.0
    while _upper_tail(high, freedom) > tail:
        low, high = high, 2 * high
    while high - low > 1e-15 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _upper_tail(middle, freedom) > tail else (low, middle)
    return math.copysign((low + high) / 2, probability - 0.5)


def _upper_tail(t: float, freedom: float) -> float:
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for a, b > 0 and 0 ≤ x ≤ 1.

    Source: DLMF 8.17.22 (continued fraction), evaluated by the modified Lentz method.
    """
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + factor * d)
            c = _away(1 + factor / c)
            value *= c * d
        if abs(c * d - 1) < 4 * _EXACT:
            break
    return value


def _away(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
