"""What documents that share a bucket have to do with each other: candidate pairs, their similarity, planted copies."""

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64, UInt8, UInt64
from tamis.kernels.bits import GOLDEN, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.table import find, slots_for

GIANT = 200  # members from which on a bucket has several anchors
ANCHORS = 4
FOUND = np.uint8(1)


@kernel
def _anchors(order: UInt64, row: UInt64, planted: UInt8, begin: int, end: int, most: int, out: Int64) -> int:
    """Places of the members (planted copies aside) with the lowest (order, row), lowest first; how many."""
    count = 0
    for i in range(begin, end):
        if planted[i]:
            continue
        at = count
        while at > 0 and (order[i], row[i]) < (order[out[at - 1]], row[out[at - 1]]):
            at -= 1
        if at < most:
            count = min(count + 1, most)
            for j in range(count - 1, at, -1):
                out[j] = out[j - 1]
            out[at] = i
    return count


@kernel
def star_edges(key: UInt64, row: UInt64, order: UInt64, planted: UInt8) -> tuple[UInt64, UInt64]:
    """(row, anchor) for all members of buckets of two or more: uint64, (e) each.

    key : uint64, (m), sorted. planted : uint8, (m), not 0 for what is no document. A bucket's anchor is its member
    with the lowest `order`; giant ones have several, and every member has an edge to each that comes before it.
    An anchor has an edge to itself.
    """
    size = 0
    first, last = np.empty(0, np.uint64), np.empty(0, np.uint64)
    anchors = np.empty(ANCHORS, np.int64)
    for turn in range(2):  # count, then fill
        if turn:
            first, last = np.empty(size, np.uint64), np.empty(size, np.uint64)
        size, begin = 0, 0
        while begin < len(key):
            end, members = begin, 0
            while end < len(key) and key[end] == key[begin]:
                members += planted[end] == 0
                end += 1
            if members > 1:
                count = _anchors(order, row, planted, begin, end, ANCHORS if members > GIANT else 1, anchors)
                for i in range(begin, end):
                    if planted[i]:
                        continue
                    for j in range(count):
                        if turn:
                            first[size], last[size] = row[i], row[anchors[j]]
                        size += 1
                        if i == anchors[j]:
                            break
            begin = end
    return first, last


@kernel
def unique_edges(first: UInt64, last: UInt64) -> tuple[UInt64, UInt64]:
    """Each edge once, in the order in which they first occur: uint64, (e) each."""
    slots = slots_for(2 * len(first))
    mask = len(slots.key) - 1
    kept_first, kept_last = np.empty(len(first), np.uint64), np.empty(len(first), np.uint64)
    count = 0
    for e in range(len(first)):
        at = np.int64(mix(first[e] * GOLDEN ^ last[e])) & mask
        while slots.stamp[at] and (kept_first[slots.value[at]] != first[e] or kept_last[slots.value[at]] != last[e]):
            at = (at + 1) & mask
        if slots.stamp[at] == 0:
            slots.stamp[at], slots.value[at] = 1, count
            kept_first[count], kept_last[count] = first[e], last[e]
            count += 1
    return kept_first[:count], kept_last[:count]


@kernel
def planted_hits(key: UInt64, row: UInt64, planted: UInt8) -> tuple[UInt64, UInt8]:
    """(row, planted) of every planted copy, with the bit FOUND where its original is in the bucket: (c) each.

    A document has one planted copy at most.
    """
    count = 0
    for i in range(len(key)):
        count += planted[i] != 0
    rows, codes = np.empty(count, np.uint64), np.empty(count, np.uint8)
    count, begin = 0, 0
    while begin < len(key):
        end, copies = begin, count
        while end < len(key) and key[end] == key[begin]:
            if planted[end]:
                rows[copies], codes[copies] = row[end], planted[end]
                copies += 1
            end += 1
        if copies > count:
            _find_originals(row[begin:end], planted[begin:end], rows[count:copies], codes[count:copies])
        count, begin = copies, end
    return rows, codes


@kernel
def _find_originals(row: UInt64, planted: UInt8, copies: UInt64, codes: UInt8) -> None:
    """Gives the copies in one bucket the bit FOUND where their original is a member."""
    slots = slots_for(2 * len(copies))
    mask = len(slots.key) - 1
    for c in range(len(copies)):
        at = find(slots, mix(copies[c]), mask)
        slots.stamp[at], slots.key[at], slots.value[at] = slots.round[0], mix(copies[c]), c
    for i in range(len(row)):
        if planted[i] == 0:
            at = find(slots, mix(row[i]), mask)
            if slots.stamp[at] == slots.round[0]:
                codes[slots.value[at]] |= FOUND


@kernel
def similarities(hub: UInt64, row: UInt64, start: Int64, values: UInt64, as_sets: bool) -> npt.NDArray[np.float32]:
    """How similar each document is to its group's hub: float32, (m); NaN for the hub itself, or if it is not there.

    hub, row : uint64, (m), grouped by hub; the hub is any member with row == hub. start : int64, (m + 1), where each
    member's values lie. as_sets : the Jaccard similarity of two sets of values; otherwise the share of places at
    which the values are equal.
    """
    out = np.full(len(row), np.nan, np.float32)
    begin = 0
    slots = slots_for(16)
    while begin < len(row):
        end, at = begin, -1
        while end < len(row) and hub[end] == hub[begin]:
            if row[end] == hub[end]:
                at = end
            end += 1
        if at >= 0:
            held = values[start[at] : start[at + 1]]
            if as_sets:
                if 2 * len(held) > len(slots.key):
                    slots = slots_for(2 * len(held))
                slots.round[0] += 1
                mask = len(slots.key) - 1
                for value in held:
                    place = find(slots, value, mask)
                    slots.stamp[place], slots.key[place] = slots.round[0], value
            for i in range(begin, end):
                if row[i] == hub[i]:
                    continue
                mine = values[start[i] : start[i + 1]]
                common = 0
                if as_sets:
                    for value in mine:
                        common += slots.stamp[find(slots, value, mask)] == slots.round[0]
                    total = len(held) + len(mine) - common
                else:
                    total = len(held)
                    for j in range(total):
                        common += held[j] == mine[j]
                out[i] = common / total if total else np.nan
        begin = end
    return out
