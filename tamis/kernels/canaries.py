"""Planted copies: documents edited to a known similarity with themselves, to see how many of them are found."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import GOLDEN, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.shingles import Units, shingle_sets

LEVELS = np.arange(0.5, 1.0, 0.05)  # the similarities that are aimed at
BINS = 21  # of similarities 0.05 wide; the last holds 1


def planted_copies(units: Units, n: int, chosen: Int64, drawn: UInt64) -> tuple[Units, npt.NDArray[np.float64]]:
    """(copies, similarity): of each chosen document a copy with some units replaced, and its Jaccard similarity.

    chosen : int64, (c), places of documents. drawn : uint64, (c), a random number of each, which says how much of it
    is replaced and where. similarity : float64, (c), of the sets of shingles of n units, exact.
    """
    aimed = LEVELS[(drawn % np.uint64(len(LEVELS))).astype(np.int64)]
    lost = (1 - aimed) / (1 + aimed)  # the share of shingles that goes from one side and comes on the other
    replaced = 1 - (1 - lost) ** (1 / n)  # a unit that changes takes n shingles with it
    copies = _edited(units, chosen, drawn, replaced)
    ours, theirs = shingle_sets(taken(units, chosen), n), shingle_sets(copies, n)
    similarity = np.ones(len(chosen))
    for i in range(len(chosen)):
        one = ours[1][ours[0][i] : ours[0][i + 1]]
        other = theirs[1][theirs[0][i] : theirs[0][i + 1]]
        common = len(np.intersect1d(one, other, assume_unique=True))
        similarity[i] = common / max(1, len(one) + len(other) - common)
    return copies, similarity


def bin_of(similarity: npt.NDArray[np.float64]) -> Int64:
    """Which of the BINS a similarity falls in: int64, same shape."""
    return np.floor(similarity * (BINS - 1) + 1e-9).astype(np.int64)


@kernel
def taken(units: Units, chosen: Int64) -> Units:
    """The units of some documents. chosen : int64, (c), their places."""
    document = np.zeros(len(chosen) + 1, np.int64)
    for c in range(len(chosen)):
        document[c + 1] = document[c] + units.document[chosen[c] + 1] - units.document[chosen[c]]
    hashes = np.empty(document[-1], np.uint64)
    for c in range(len(chosen)):
        hashes[document[c] : document[c + 1]] = units.hash[units.document[chosen[c]] : units.document[chosen[c] + 1]]
    return Units(document, hashes)


@kernel
def _edited(units: Units, chosen: Int64, drawn: UInt64, replaced: npt.NDArray[np.float64]) -> Units:
    copies = taken(units, chosen)
    for c in range(len(chosen)):
        for i in range(copies.document[c], copies.document[c + 1]):
            number = mix(drawn[c] + np.uint64(i - copies.document[c] + 1) * GOLDEN)
            if np.float64(number >> np.uint64(11)) * 2.0**-53 < replaced[c]:
                copies.hash[i] = number
    return copies
