"""Sums of the rows of a table, picked by number: what a bag of tokens adds up to."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32, Int64
from tamis.kernels.kernel import kernel


@kernel
def add_rows(
    table: Float32, ids: npt.NDArray[np.int32], ends: Int64, owners: Int64, sums: npt.NDArray[np.float64]
) -> None:
    """Adds to row `owners[i]` of `sums` the rows of `table` that piece i picks, in reading order.

    table : float32, (rows, d). ids : int32, (t), rows of the table. ends : int64, (p), where each piece ends in `ids`.
    owners : int64, (p). sums : float64, (n, d), changed: a document's sum does not depend on how it was cut in pieces.
    """
    begin = 0
    for piece in range(len(ends)):
        total = sums[owners[piece]]
        for t in range(begin, ends[piece]):
            row = table[ids[t]]
            for j in range(len(row)):
                total[j] += row[j]
        begin = ends[piece]
