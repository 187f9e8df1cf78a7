"""Who stays among similar items in a given order: all pairs of a group, block by block of the similarity matrix."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32, Int64
from tamis.kernels.directions import Float64, Int16, inverse_lengths, products
from tamis.kernels.kernel import kernel

Bools = npt.NDArray[np.bool_]
Mode = Literal["reference", "greedy", "components"]

BLOCK = 1024  # items: 8 MB of products at once, and long enough for the matrix product to run at full speed
NOBODY = np.float32(-2.0)  # below every cosine


class Links(NamedTuple):
    """What is known of n items in order, once all pairs have been compared.

    similarity : float32, (n), the largest cosine with an earlier item; NOBODY for the first.
    nearest : int64, (n), the first earlier item that has it; the first item's own place for itself.
    parent : int64, (n), the earlier item for whose sake an item goes, its own place if it stays.
    """

    similarity: Float32
    nearest: Int64
    parent: Int64


def linked(vectors: Int16, mode: Mode, above: float, block: int = BLOCK) -> Links:
    """Compares every item with all earlier ones; cosines are exact to float32, whatever the blocks.

    vectors : int16, (n, d), directions. above : an item is near another if their cosine is larger than this.
    mode : "reference", an item near any earlier one goes for the nearest; "greedy", it goes for the nearest of those
    that stay; "components", chains of near items are one set, and all but its first go.
    Source: Abbas et al. 2023, SemDeDup, and its published code, for "reference".
    """
    n, least = len(vectors), float32_below(above)
    scale = inverse_lengths(vectors)
    similarity, nearest = np.full(n, NOBODY), np.arange(n)
    to_kept, kept_near = np.full(n, NOBODY), np.arange(n)
    parent, gone = np.arange(n), np.zeros(n, np.bool_)
    for top in range(0, n, block):
        rows = slice(top, top + block)
        for left in range(0, top + 1, block):
            cosines = _cosines(vectors, scale, rows, slice(left, left + block))
            if left == top:
                cosines[~np.tri(len(cosines), k=-1, dtype=np.bool_)] = NOBODY
            _keep_largest(cosines, left, similarity[rows], nearest[rows])
            if mode == "components":
                unite(cosines > least, top, left, parent)
            if mode == "greedy":
                if left == top:
                    gone[rows] = to_kept[rows] > least
                    drop_near_kept(cosines > least, gone[rows])
                cosines[:, gone[left : left + block]] = NOBODY
                _keep_largest(cosines, left, to_kept[rows], kept_near[rows])
    if mode == "reference":
        parent = np.where(similarity > least, nearest, parent)
    if mode == "greedy":
        parent = np.where(gone, kept_near, parent)
    return Links(similarity, nearest, parent)


def float32_below(number: float) -> np.float32:
    """The largest float32 that is not above a number: the same float32 are larger than either."""
    rounded = np.float32(number)
    return rounded if float(rounded) <= number else np.nextafter(rounded, np.float32(-np.inf))


def _cosines(vectors: Int16, scale: Float64, rows: slice, columns: slice) -> Float32:
    exact = products(vectors[rows], vectors[columns])
    exact *= scale[rows][:, None]
    exact *= scale[columns]
    return exact.astype(np.float32)


def _keep_largest(cosines: Float32, left: int, largest: Float32, place: Int64) -> None:
    """Puts into `largest` and `place` the largest cosine of each row where it beats what is there."""
    found = cosines.argmax(axis=1)
    value = cosines[np.arange(len(cosines)), found]
    better = value > largest
    largest[better] = value[better]
    place[better] = left + found[better]


@kernel
def drop_near_kept(near: Bools, gone: Bools) -> None:
    """Marks in `gone`, one after the other, the items that are near an earlier one that is not gone.

    near : bool, (n, n), of which the part below the diagonal counts. gone : bool, (n), changed in place.
    """
    for j in range(len(gone)):
        for i in range(j):
            if near[j, i] and not gone[i]:
                gone[j] = True
                break


@kernel
def unite(near: Bools, top: int, left: int, parent: Int64) -> None:
    """Joins the sets of each near pair; of two sets, the smaller root becomes the root of both.

    near : bool, (n, m): whether item `top + r` is near item `left + c`.
    parent : int64, one per item of the whole, not larger than the item itself; changed in place.
    """
    n, m = near.shape
    for r in range(n):
        for c in range(m):
            if not near[r, c]:
                continue
            a, b = top + r, left + c
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a < b:
                parent[b] = a
            else:
                parent[a] = b


@kernel
def roots(parent: Int64) -> Int64:
    """Where the links of each item end: int64, (n). parent : int64, (n), an earlier item, or itself for a root."""
    found = np.empty(len(parent), np.int64)
    for i in range(len(parent)):
        found[i] = i if parent[i] == i else found[parent[i]]
    return found
