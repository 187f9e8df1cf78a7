"""Who stays of each cluster."""

import numpy as np

from tamis.kernels.arrow import Int64, Text, UInt64
from tamis.kernels.kernel import kernel


@kernel
def _is_before(ids: Text, i: int, j: int) -> bool:
    """Whether string i comes before string j, byte by byte."""
    a, a_end, b, b_end = ids.offsets[i], ids.offsets[i + 1], ids.offsets[j], ids.offsets[j + 1]
    while a < a_end and b < b_end:
        if ids.data[a] != ids.data[b]:
            return ids.data[a] < ids.data[b]  # type: ignore[no-any-return]
        a += 1
        b += 1
    return a == a_end and b < b_end  # type: ignore[no-any-return]


@kernel
def survivors(number: Int64, rank: UInt64, row: UInt64, ids: Text) -> Int64:
    """The place of each cluster's member with the least (rank, id, row): int64, (clusters).

    number : int64, (m), the cluster of each member, from 0. rank, row : uint64, (m).
    """
    clusters = 0
    for i in range(len(number)):
        clusters = max(clusters, number[i] + 1)
    best = np.full(clusters, -1, np.int64)
    for i in range(len(number)):
        j = best[number[i]]
        is_less = j < 0 or rank[i] < rank[j]
        if not is_less and rank[i] == rank[j]:
            is_less = _is_before(ids, i, j) or (row[i] < row[j] and not _is_before(ids, j, i))
        if is_less:
            best[number[i]] = i
    return best
