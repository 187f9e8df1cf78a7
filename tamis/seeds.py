"""Randomness that belongs to a document: the same document meets the same fate in any shard, batch and order.

The number of a document is BLAKE2b with an 8-byte digest, read as a little-endian integer, of these bytes: the seed
as 8 bytes (little-endian, two's complement), the stream's name in UTF-8, one zero byte, the document's id in UTF-8.
"""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Text, UInt64
from tamis.kernels.blake2 import blake2b64
from tamis.kernels.log import log


def hash64(seed: int, stream: str, doc_ids: Text) -> UInt64:
    """One random integer per document: uint64, (n). `stream` names the decision; other names, other numbers.

    Raises ValueError for a stream with a zero byte or a seed beyond 64 bits.
    """
    if "\0" in stream:
        raise ValueError(f"hash64: a stream's name holds no zero byte, got {stream!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"hash64: a seed is a signed 64-bit integer, got {seed}")
    head = seed.to_bytes(8, "little", signed=True) + stream.encode() + b"\0"
    return blake2b64(np.frombuffer(head, np.uint8), doc_ids)


def uniform(seed: int, stream: str, doc_ids: Text) -> npt.NDArray[np.float64]:
    """One number in (0, 1) per document: float64, (n); the midpoints of 2⁵³ equal intervals, so never 0 or 1."""
    return ((hash64(seed, stream, doc_ids) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def within(hashes: UInt64, share: float) -> npt.NDArray[np.bool_]:
    """Which of these random integers fall in the lowest `share` of all: bool, (n). Shares nest, and 1 is everything."""
    return ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53 <= share


def gumbel(seed: int, stream: str, doc_ids: Text) -> npt.NDArray[np.float64]:
    """One standard Gumbel number per document: float64, (n), as -ln(-ln u) of `uniform`.

    The k largest of `log(weight) + gumbel` are a sample without replacement in proportion to the weights.
    Source: Gumbel-top-k, Vieira 2014; Kool, van Hoof, Welling 2019.
    """
    return -log(-log(uniform(seed, stream, doc_ids)))
