"""Keys of normalised documents: equal words in equal order, whatever the case, punctuation and spacing."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import UInt64
from tamis.kernels.bits import GOLDEN, MIX_A, MIX_B, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.ngrams import extend
from tamis.kernels.shingles import Units


@kernel
def exact_keys(words: Units) -> tuple[UInt64, UInt64, npt.NDArray[np.bool_]]:
    """(high, low, has words): 128 bits of each document's lower-cased words, and whether it has any.

    uint64, (n) each and bool, (n). A document without words has key 0, which says nothing: it equals nobody.
    The key takes in 64-bit word hashes: two documents that differ in one word alone collide with that word's hash.
    """
    n = len(words.document) - 1
    high, low, has_words = np.zeros(n, np.uint64), np.zeros(n, np.uint64), np.zeros(n, np.bool_)
    for d in range(n):
        a, b = GOLDEN, MIX_B
        begin, end = words.document[d], words.document[d + 1]
        for i in range(begin, end):
            a = extend(a, words.hash[i])
            b = (b + words.hash[i]) * MIX_A
            b ^= b >> np.uint64(32)
        if end > begin:
            count = np.uint64(end - begin)
            high[d], low[d], has_words[d] = mix(a ^ count), mix(b + count), True
    return high, low, has_words
