"""Passages that occur more than once: runs grouped by their hashes, who holds the first copy, what is struck."""

from typing import NamedTuple

import numpy as np

from tamis.kernels.arrow import Int64, Text, UInt64
from tamis.kernels.kernel import kernel
from tamis.kernels.spans import Spans, UInt32
from tamis.kernels.written import Written

UNSEEN = -2


class Marks(NamedTuple):
    """Marked runs of n documents, in m stretches; document i has document[i] to document[i + 1], by owner.

    document : int64, (n + 1). at, runs : uint32, (m): the runs that begin at tokens at, at + 1, ... at + runs - 1 of
    the document are marked; no run is in two stretches. until : uint32, (m), the first run is spared before token
    `until`, the next before until + 1 and so on; 0 spares none. owner : uint64, (m), who has the first copies.
    """

    document: Int64
    at: UInt32
    runs: UInt32
    until: UInt32
    owner: UInt64


class Struck(NamedTuple):
    """What n documents lose.

    spans : the passages, apart. left : int64, (n), how many tokens they leave.
    owner : uint64, (n), who has the first copy of most runs of the longest passage; 0 without any.
    """

    spans: Spans
    left: Int64
    owner: UInt64


class Stretches(NamedTuple):
    """s stretches of runs, wherever they are: stretch i has the runs runs[i] to runs[i + 1], one token after the other.

    key : uint64, (s). runs : int64, (s + 1). check : uint64, (r), a hash of each run.
    rank, row : uint64, (s), the document, and at : uint32, (s), the token in it that the first run begins with.
    """

    key: UInt64
    runs: Int64
    check: UInt64
    rank: UInt64
    row: UInt64
    at: UInt32


def first_copies(stretches: Stretches) -> tuple[Int64, Int64]:
    """Of each run, the first of those with its key and check: (stretch, run), int64, (r) each; -1 for a run alone.

    The first has the lowest (rank, row, token).
    """
    member = np.repeat(np.arange(len(stretches.key)), np.diff(stretches.runs))
    return _first_copies(stretches, member, np.argsort(stretches.check))


@kernel
def _first_copies(stretches: Stretches, member: Int64, order: Int64) -> tuple[Int64, Int64]:
    """The same, of runs in the order of their checks. member : int64, (r), the stretch of each run."""
    key, runs, check, rank, row, at = stretches
    stretch, run = np.full(len(check), UNSEEN, np.int64), np.full(len(check), -1, np.int64)
    a = 0
    while a < len(order):
        b = a + 1
        while b < len(order) and check[order[b]] == check[order[a]]:
            b += 1
        for x in range(a, b):  # all of one key, but for collisions: linear
            best = order[x]
            if stretch[best] != UNSEEN:
                continue
            mine, copies = key[member[best]], 0
            for y in range(x, b):
                other = order[y]
                i, j = member[other], member[best]
                if key[i] != mine:
                    continue
                copies += 1
                stretch[other] = -1
                here, there = at[i] + other - runs[i], at[j] + best - runs[j]
                if rank[i] != rank[j]:
                    is_earlier = rank[i] < rank[j]
                else:
                    is_earlier = row[i] < row[j] or (row[i] == row[j] and here < there)
                if is_earlier:
                    best = other
            for y in range(x, b):
                if copies > 1 and key[member[order[y]]] == mine:
                    stretch[order[y]], run[order[y]] = member[best], best
        a = b
    return stretch, run


@kernel
def later_copies(
    stretches: Stretches, first: tuple[Int64, Int64], n: int, is_all: bool
) -> tuple[Int64, UInt32, UInt32, UInt32, Int64]:
    """What to mark: (stretch, at, runs, until, stretch of the first copies), (m) each, as in `Marks`.

    first : what `first_copies` returned. With `is_all` first copies are marked too, and nothing is spared.
    """
    _, runs, _, _, row, at = stretches
    size = len(first[0])
    stretch, owner = np.empty(size, np.int64), np.empty(size, np.int64)
    begin, number, until = np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size, np.uint32)
    count = 0
    for i in range(len(row)):
        goes_on = False  # whether the run before is in the stretch of marks that was begun last
        for j in range(runs[i], runs[i + 1]):
            origin, copy = first[0][j], first[1][j]
            if origin < 0 or (copy == j and not is_all):
                goes_on = False
                continue
            spared = 0
            if row[origin] == row[i] and not is_all:
                spared = np.int64(at[origin]) + copy - runs[origin] + n
            if goes_on and owner[count - 1] == origin:
                expected = np.int64(until[count - 1])
                if spared == (expected + np.int64(number[count - 1]) if expected else 0):
                    number[count - 1] += np.uint32(1)
                    continue
            stretch[count], owner[count], goes_on = i, origin, True
            begin[count], number[count], until[count] = at[i] + j - runs[i], 1, spared
            count += 1
    return stretch[:count], begin[:count], number[:count], until[:count], owner[:count]


@kernel
def _covering(marks: Marks, d: int, size: int, n: int) -> tuple[Int64, Int64]:
    """How many stretches cover each of document d's `size` tokens, and the space after each: int64, (size + 1)."""
    token, space = np.zeros(size + 1, np.int64), np.zeros(size + 1, np.int64)
    for m in range(marks.document[d], marks.document[d + 1]):
        at, more = np.int64(marks.at[m]), np.int64(marks.runs[m]) - 1
        begin, end = max(at, np.int64(marks.until[m])), at + n  # of what the first run covers; the next lie one further
        token[begin] += 1
        token[end + more] -= 1
        if end > begin + 1:
            space[begin] += 1
            space[end - 1 + more] -= 1
    for i in range(size):
        token[i + 1] += token[i]
        space[i + 1] += space[i]
    return token, space


@kernel
def _owner_of(marks: Marks, d: int, begin: int, end: int) -> np.uint64:
    """Who has the first copy of most runs that begin between two tokens of document d; of such, the lowest number."""
    first = marks.document[d]
    best, most, runs = np.uint64(0), 0, 0
    for m in range(first, marks.document[d + 1]):
        if m == first or marks.owner[m] != marks.owner[m - 1]:
            runs = 0
        at = int(max(marks.at[m], marks.until[m]))
        runs += max(min(at + int(marks.runs[m]), end) - max(at, begin), 0)
        if runs > most:
            best, most = marks.owner[m], runs
    return best


@kernel
def struck_spans(text: Text, tokens: Written, marks: Marks, n: int) -> Struck:
    """The passages that the marked runs of n tokens cover.

    White space between two tokens is covered if a run covers both; passages that touch are one.
    """
    documents = len(tokens.document) - 1
    offsets, left = np.zeros(documents + 1, np.int64), np.zeros(documents, np.int64)
    owner = np.zeros(documents, np.uint64)
    most = np.int64(0)  # passages: no more than runs
    for m in range(len(marks.runs)):
        most += marks.runs[m]
    start, end, count = np.empty(most, np.uint32), np.empty(most, np.uint32), 0
    for d in range(documents):
        offsets[d + 1] = count
        left[d] = tokens.document[d + 1] - tokens.document[d]
        if marks.document[d] == marks.document[d + 1]:
            continue
        first, size = tokens.document[d], left[d]
        token, space = _covering(marks, d, size, n)
        longest, longest_from, longest_to, begun = np.int64(0), 0, 0, -1
        for i in range(size):
            if token[i] == 0:
                continue
            left[d] -= 1
            begun = i if begun < 0 else begun
            touches = token[i + 1] > 0 and tokens.end[first + i] == tokens.start[first + i + 1]
            if space[i] == 0 and not touches:
                start[count] = tokens.start[first + begun] - text.offsets[d]
                end[count] = tokens.end[first + i] - text.offsets[d]
                length = tokens.end[first + i] - tokens.start[first + begun]
                if length > longest:
                    longest, longest_from, longest_to = length, begun, i + 1
                count += 1
                begun = -1
        offsets[d + 1] = count
        owner[d] = _owner_of(marks, d, longest_from, longest_to)
    return Struck(Spans(offsets, start[:count], end[:count]), left, owner)
