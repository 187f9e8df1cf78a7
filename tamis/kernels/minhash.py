"""MinHash: k numbers per document that agree with those of another as often as their shingles do, cut into bands.

Permutation i of the upper 32 bits x of a shingle's 64-bit hash is `(x ^ salt[i]) * multiplier[i] mod 2³²`, with fixed
odd multipliers: one-to-one, and the wrap-around is the definition. Its minimum over a document's shingles is the
document's i-th number. 32 bits are enough here: shingles are told apart by 64 bits before, two of a document's
n shingles share a number in n²/2³³ cases, and eight registers' lanes go through one instruction.
Source: Broder 1997, On the resemblance and containment of documents; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, section 3.4 (bands).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import UInt64
from tamis.kernels.bits import GOLDEN, absorb, longest, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.shingles import Units, fill_shingles

UInt32 = npt.NDArray[np.uint32]
LANES = 16  # shingles are padded to a multiple with a copy of one of them: no minimum changes, no remainder is left


class Family(NamedTuple):
    """k permutations: salt and multiplier, uint32, (k) each."""

    salt: UInt32
    multiplier: UInt32


@kernel
def family_of(k: int) -> Family:
    """The first k permutations: the same on any machine, in any version."""
    salt, multiplier = np.empty(k, np.uint32), np.empty(k, np.uint32)
    for i in range(k):
        drawn = mix(np.uint64(i + 1) * GOLDEN)
        salt[i] = np.uint32(drawn >> np.uint64(32))
        multiplier[i] = np.uint32(drawn | np.uint64(1))
    return Family(salt, multiplier)


@kernel
def _shortened(units: Units, d: int, n: int, grams: UInt64, out: UInt32) -> int:
    """The upper halves of a document's shingles in `out`, padded; how many there are with the padding."""
    count = fill_shingles(units, d, n, grams)
    for i in range(count):
        out[i] = np.uint32(grams[i] >> np.uint64(32))
    padded = -(-count // LANES) * LANES
    for i in range(count, padded):
        out[i] = out[0]
    return padded


@kernel
def _minimum(x: UInt32, count: int, salt: np.uint32, multiplier: np.uint32) -> np.uint32:
    best = np.uint32(0xFFFFFFFF)
    for i in range(count):
        best = min(best, np.uint32((x[i] ^ salt) * multiplier))
    return best


@kernel
def signatures(units: Units, n: int, k: int) -> UInt32:
    """The k minima of each document over its shingles of n units: uint32, (documents, k); all ones without shingles."""
    family = family_of(k)
    out = np.empty((len(units.document) - 1, k), np.uint32)
    size = longest(units.document)
    grams, x = np.empty(size, np.uint64), np.empty(size + LANES, np.uint32)
    for d in range(len(out)):
        count = _shortened(units, d, n, grams, x)
        for i in range(k):
            out[d, i] = _minimum(x, count, family.salt[i], family.multiplier[i])
    return out


@kernel
def band_keys(units: Units, n: int, bands: int, rows: int) -> UInt64:
    """One bucket key per band of each document's signature: uint64, (documents, bands).

    A band takes in `rows` of the bands × rows minima, and its own number. The keys of a document without units mean
    nothing.
    """
    family = family_of(bands * rows)
    out = np.empty((len(units.document) - 1, bands), np.uint64)
    size = longest(units.document)
    grams, x = np.empty(size, np.uint64), np.empty(size + LANES, np.uint32)
    for d in range(len(out)):
        count = _shortened(units, d, n, grams, x)
        for band in range(bands):
            key = mix(np.uint64(band + 1))
            for i in range(band * rows, (band + 1) * rows):
                key = absorb(key, np.uint64(_minimum(x, count, family.salt[i], family.multiplier[i])))
            out[d, band] = mix(key)
    return out
