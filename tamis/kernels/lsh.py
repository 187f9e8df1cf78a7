"""What banding does to pairs of a similarity: the S-curve, its half point, the bands that suit a threshold."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
NODES = 64  # Gauss–Legendre; the integrands are polynomials of degree bands × rows, smooth at this scale


def candidate_share(similarity: npt.ArrayLike, bands: int, rows: int) -> Float64:
    """The chance that a pair of this Jaccard similarity shares a bucket: 1 - (1 - s^rows)^bands, same shape."""
    share: Float64 = 1 - (1 - np.asarray(similarity, np.float64) ** rows) ** bands
    return share


def half_point(bands: int, rows: int) -> float:
    """The similarity at which half of all pairs share a bucket: (1 - 2^(-1/bands))^(1/rows)."""
    return float((1 - 2.0 ** (-1 / bands)) ** (1 / rows))


@lru_cache(maxsize=64)  # components ask for every batch
def bands_for(threshold: float, k: int) -> tuple[int, int]:
    """(bands, rows) with bands × rows <= k that make least errors about a threshold.

    An error is a pair below the threshold that shares a bucket, or one above that does not, both weighed equally
    over similarities spread evenly. Source: Zhu et al. 2016, LSH Ensemble (datasketch's `MinHashLSH`).
    """
    x, weight = np.polynomial.legendre.leggauss(NODES)
    below, above = threshold * (x + 1) / 2, threshold + (1 - threshold) * (x + 1) / 2
    best, found = np.inf, (1, 1)
    for bands in range(1, k + 1):
        for rows in range(1, k // bands + 1):
            false_pairs = threshold / 2 * float(weight @ candidate_share(below, bands, rows))
            missed_pairs = (1 - threshold) / 2 * float(weight @ (1 - candidate_share(above, bands, rows)))
            if false_pairs + missed_pairs < best:
                best, found = false_pairs + missed_pairs, (bands, rows)
    return found
