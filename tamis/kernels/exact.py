"""Keys of normalised documents: equal words in equal order, whatever the case, punctuation and spacing."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import UInt64
from tamis.kernels.bits import GOLDEN, MIX_A, MIX_B, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.ngrams import extend
from tamis.kernels.words import Tokens


@kernel
def exact_keys(tokens: Tokens) -> tuple[UInt64, UInt64, npt.NDArray[np.bool_]]:
    """(high, low, has words): 128 bits of each document's lower-cased words, and whether it has any.

    uint64, (n) each and bool, (n). A document without words has key 0, which says nothing: it equals nobody.
    The key takes in 64-bit word hashes: two documents that differ in one word alone collide with that word's hash.
    """
    n = len(tokens.document) - 1
    high, low, has_words = np.zeros(n, np.uint64), np.zeros(n, np.uint64), np.zeros(n, np.bool_)
    for d in range(n):
        a, b, words = GOLDEN, MIX_B, np.uint64(0)
        for i in range(tokens.document[d], tokens.document[d + 1]):
            if tokens.is_word[i]:
                a = extend(a, tokens.hash[i])
                b = (b + tokens.hash[i]) * MIX_A
                b ^= b >> np.uint64(32)
                words += np.uint64(1)
        if words:
            high[d], low[d], has_words[d] = mix(a ^ words), mix(b + words), True
    return high, low, has_words
