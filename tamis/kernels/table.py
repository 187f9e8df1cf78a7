"""An open-addressing hash table that is emptied by starting a new round, for small tables made millions of times."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.kernel import kernel


class Slots(NamedTuple):
    """s slots, s a power of two. A slot is taken in this round if its stamp is round[0].

    key : uint64, (s). value : int32, (s), free for the user. stamp : int64, (s). round : int64, (1).
    """

    key: UInt64
    value: npt.NDArray[np.int32]
    stamp: Int64
    round: Int64


@kernel
def slots_for(least: int) -> Slots:
    """An empty table of at least `least` slots, at least 16; use at most half of them."""
    size = 16
    while size < least:
        size *= 2
    return Slots(np.zeros(size, np.uint64), np.zeros(size, np.int32), np.zeros(size, np.int64), np.ones(1, np.int64))


@kernel
def find(slots: Slots, key: np.uint64, mask: int) -> int:
    """The slot that holds `key`, or the free one where it belongs. mask : slots in use this round, minus one."""
    at = np.int64(key >> np.uint64(32)) & mask
    while slots.stamp[at] == slots.round[0] and slots.key[at] != key:
        at = (at + 1) & mask
    return at  # type: ignore[return-value]
