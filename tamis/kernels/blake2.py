"""BLAKE2b-64 of many strings after a common beginning: the randomness that belongs to a document."""

import numpy as np

from tamis.kernels.arrow import Text, UInt8, UInt64
from tamis.kernels.kernel import kernel

BLOCK = 128
DIGEST = 8
START = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
PARAMETERS = np.uint64(0x01010000 | DIGEST)  # sequential mode, no key
ORDER = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.uint8,
)


@kernel
def _turn(x: np.uint64, right: int) -> np.uint64:
    return (x >> np.uint64(right)) | (x << np.uint64(64 - right))


@kernel
def _quarter(v: UInt64, a: int, b: int, c: int, d: int, x: np.uint64, y: np.uint64) -> None:
    v[a] += v[b] + x
    v[d] = _turn(v[d] ^ v[a], 32)
    v[c] += v[d]
    v[b] = _turn(v[b] ^ v[c], 24)
    v[a] += v[b] + y
    v[d] = _turn(v[d] ^ v[a], 16)
    v[c] += v[d]
    v[b] = _turn(v[b] ^ v[c], 63)


@kernel
def _compress(state: UInt64, v: UInt64, block: UInt64, length: int, is_last: bool) -> None:
    """`state` after one more block of 16 words, `length` bytes in all. v : room for 16 words."""
    v[:8] = state
    v[8:] = START
    v[12] ^= np.uint64(length)
    if is_last:
        v[14] = ~v[14]
    for r in range(12):
        o = ORDER[r]
        for i in range(4):
            _quarter(v, i, 4 + i, 8 + i, 12 + i, block[o[2 * i]], block[o[2 * i + 1]])
        for i in range(4):
            j = 8 + 2 * i
            _quarter(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, block[o[j]], block[o[j + 1]])
    for i in range(8):
        state[i] ^= v[i] ^ v[8 + i]


@kernel
def blake2b64(head: UInt8, text: Text) -> UInt64:
    """BLAKE2b with an 8-byte digest of `head` followed by each string, read as little-endian: uint64, (n).

    head : uint8, (any length).
    Source: RFC 7693.
    """
    out = np.empty(len(text.offsets) - 1, np.uint64)
    state, v, block = np.empty(8, np.uint64), np.empty(16, np.uint64), np.empty(16, np.uint64)
    for d in range(len(out)):
        begin = text.offsets[d] - len(head)
        length = text.offsets[d + 1] - begin
        state[:] = START
        state[0] ^= PARAMETERS
        at = 0
        while True:
            size = min(BLOCK, length - at)
            block[:] = 0
            for i in range(size):
                byte = head[at + i] if at + i < len(head) else text.data[begin + at + i]
                block[i >> 3] |= np.uint64(byte) << np.uint64(8 * (i & 7))
            at += size
            _compress(state, v, block, at, at == length)
            if at == length:
                break
        out[d] = state[0]
    return out
