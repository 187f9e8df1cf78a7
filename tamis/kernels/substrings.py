"""Runs of tokens that occur more than once: tokens as they are written, hashes of all runs of a length, fingerprints.

A *run* of n tokens is what lies between the start of its first token and the end of its last: their bytes and the
white space between them. A run is hashed as a polynomial modulo the prime 2^61 - 1 whose coefficients are the hashes
of its tokens, each but the first with the white space before it, so the next run takes three multiplications
whatever n. Two runs of equal length that differ have equal hashes for at most n in 2^61 bases (Karp and Rabin 1987);
modulo 2^64 some texts of two words would collide for every base (Thue-Morse sequences of 2,048 tokens).
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from tamis.kernels.arrow import Int64, Text, UInt8, UInt64
from tamis.kernels.bits import GOLDEN, MIX_B, absorb, load8, load_tail, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.spans import Spans, UInt32
from tamis.kernels.unicode import TABLE, decode, entry_of
from tamis.kernels.unicode_table import KIND, SPACE, Table
from tamis.kernels.words import BELOW, Bool

PRIME = np.uint64(2**61 - 1)
BASES = (GOLDEN >> np.uint64(3), MIX_B >> np.uint64(3))  # of the two hashes of a run; any two numbers below the prime
SHIFTS = (np.uint64(0), np.uint64(3))  # which 61 bits of a token's hash each takes in: together all 64

UNSEEN = -2

LEAST_BYTES_PER_TOKEN = 3  # first guess, untouched memory costs nothing; English prose has about 5


class Written(NamedTuple):
    """t tokens of n documents as they are written; document i has tokens document[i] to document[i + 1].

    document : int64, (n + 1), from 0. start, end : int64, (t), the token is `data[start:end]` of the text.
    alone : uint64, (t), a hash of its bytes. joined : uint64, (t), one of the white space before it and its bytes.
    """

    document: Int64
    start: Int64
    end: Int64
    alone: UInt64
    joined: UInt64


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


def written(text: Text, wanted: Bool, is_character: bool) -> Written:
    r"""The tokens of the documents that are wanted; the others have none.

    Tokens are `\w+|[^\w\s]+` of the text as it is, not of a normal form, except that each Han or kana character is one
    token: those scripts put no spaces between words. With `is_character` every code point is a token, white space too.
    """
    document = np.zeros(len(text) + 1, np.int64)
    capacity = int(text.offsets[-1] - text.offsets[0]) // (1 if is_character else LEAST_BYTES_PER_TOKEN) + 64
    while True:
        out = Written(document, *_room(capacity))
        count = _write(text, TABLE, wanted, is_character, out)
        if count <= capacity:
            return Written(document, *(column[:count] for column in out[1:]))  # type: ignore[arg-type]
        capacity *= LEAST_BYTES_PER_TOKEN


def _room(capacity: int) -> tuple[Int64, Int64, UInt64, UInt64]:
    places, hashes = np.empty((2, capacity), np.int64), np.empty((2, capacity), np.uint64)
    return places[0], places[1], hashes[0], hashes[1]


@kernel
def hash_bytes(data: UInt8, i: int, end: int) -> np.uint64:
    """A hash of data[i:end]; of equal lengths up to eight bytes, no two are equal."""
    state, length = GOLDEN, np.uint64(end - i)
    while i < end:
        state = absorb(state, load8(data, i) if i + 8 <= end else load_tail(data, i, end))
        i += 8
    return mix(state ^ length)


@kernel
def is_unspaced(point: int) -> bool:
    """Whether a code point is a Han, Hiragana or Katakana letter: of a script without spaces between words."""
    return (
        0x3005 <= point <= 0x3007
        or 0x3040 <= point <= 0x30FF
        or 0x31F0 <= point <= 0x31FF
        or 0x3400 <= point <= 0x4DBF
        or 0x4E00 <= point <= 0x9FFF
        or 0xF900 <= point <= 0xFAFF
        or 0xFF66 <= point <= 0xFF9F
        or 0x1AFF0 <= point <= 0x1B16F
        or 0x20000 <= point <= 0x3FFFF
    )


@kernel
def _wide(data: UInt8, i: int, end: int, table: Table) -> tuple[int, int, bool]:
    """(class, bytes, whether it is always a token of its own) of the code point at data[i]."""
    point, size = decode(data, i, end)
    return entry_of(table, point) & KIND, size, is_unspaced(point)


@kernel
def _write(text: Text, table: Table, wanted: Bool, is_character: bool, out: Written) -> int:
    """Fills `out`; the number of tokens, or more than there is room for if they did not fit."""
    data, count, room = text.data, 0, len(out.start)
    kinds = np.empty(128, np.int32)  # of ASCII: calls with arrays cost more than the look-up
    for byte in range(128):
        kinds[byte] = entry_of(table, byte) & KIND
    nothing = mix(GOLDEN)  # the hash of no bytes
    whole = len(data) - 8  # eight bytes can be read at once up to here
    for d in range(len(wanted)):
        i, end = text.offsets[d], text.offsets[d + 1]
        if not wanted[d]:
            i = end
        after = i  # the end of the last token
        while i < end:
            byte = int(data[i])
            kind, size, is_apart = (kinds[byte], 1, False) if byte < 0x80 else _wide(data, i, end, table)
            start = i
            i += size
            if kind == SPACE and not is_character:
                continue
            is_apart |= is_character
            while i < end and not is_apart:
                byte = int(data[i])
                other, size, stops = (kinds[byte], 1, False) if byte < 0x80 else _wide(data, i, end, table)
                if other != kind or stops:
                    break
                i += size
            if count == room:
                return room + 1
            length, gap = i - start, start - after
            if length <= 8 and start <= whole:
                alone = mix(absorb(GOLDEN, load8(data, start) & BELOW[length]) ^ np.uint64(length))
            else:
                alone = hash_bytes(data, start, i)
            if gap == 0:
                before = nothing
            elif gap == 1:
                before = mix(absorb(GOLDEN, np.uint64(data[after])) ^ np.uint64(1))
            else:
                before = hash_bytes(data, after, start)
            out.start[count], out.end[count] = start, i
            out.alone[count], out.joined[count] = alone, mix(absorb(before, alone))
            count += 1
            after = i
        out.document[d + 1] = count
    return count


@intrinsic  # type: ignore[untyped-decorator]
def _times(_: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """The product of two uint64 below 2^61, as a number below 2^62 with the same remainder modulo 2^61 - 1."""

    def generate(_: Any, builder: Any, __: Any, values: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(values[0], wide), builder.zext(values[1], wide))
        low = builder.and_(builder.trunc(product, word), ir.Constant(word, 2**61 - 1))
        return builder.add(low, builder.trunc(builder.lshr(product, ir.Constant(wide, 61)), word))

    return types.uint64(types.uint64, types.uint64), generate


@kernel
def _reduced(x: np.uint64) -> np.uint64:
    """The remainder modulo 2^61 - 1."""
    x = (x & PRIME) + (x >> np.uint64(61))
    return x - PRIME if x >= PRIME else x


@kernel
def hash_runs(tokens: Written, n: int, which: int) -> UInt64:
    """The hash of the run of n tokens that begins at each token: uint64, (t); 0 where the document ends before.

    which : 0 or 1, which of two independent hashes.
    """
    out = np.zeros(len(tokens.alone), np.uint64)
    base, shift = BASES[which], SHIFTS[which]
    lead = np.uint64(1)
    for _ in range(n - 1):
        lead = _reduced(_times(lead, base))
    for d in range(len(tokens.document) - 1):
        first, end = tokens.document[d], tokens.document[d + 1]
        if end - first < n:
            continue
        rest = np.uint64(0)  # of all but the run's first token
        for i in range(first + 1, first + n):
            rest = _reduced(_times(rest, base) + (tokens.joined[i] >> shift & PRIME))
        for i in range(first, end - n + 1):
            out[i] = mix(_reduced(_times(tokens.alone[i] >> shift & PRIME, lead) + rest))
            if i + n < end:
                leaves = _reduced(_times(tokens.joined[i + 1] >> shift & PRIME, lead))
                rest = _reduced(_times(rest, base) + (tokens.joined[i + n] >> shift & PRIME) + PRIME - leaves)
    return out


@kernel
def lowest(hashes: UInt64, i: int, width: int, at: int) -> int:
    """The place of the lowest of hashes[i:i + width], the last of equal ones. at : the place for i - 1, or below i."""
    last = i + width - 1
    if at < i:
        at = i
        for j in range(i + 1, last + 1):
            if hashes[j] <= hashes[at]:
                at = j
    elif hashes[last] <= hashes[at]:
        at = last
    return at


@kernel
def fingerprints(document: Int64, hashes: UInt64, n: int, k: int) -> tuple[Int64, UInt64]:
    """(document, keys): the lowest hash of k tokens in each run of n tokens: int64, (documents + 1) and uint64, (f).

    Document i has keys[document[i]:document[i + 1]], one per place that is lowest for some run; of more than two equal
    ones in a row, two. Two equal runs have equal lowest hashes at different places, whatever surrounds them, since of
    equal hashes the last counts.
    document : int64, (documents + 1), tokens. hashes : uint64, (t), of the runs of k tokens.
    Source: Schleimer, Wilkerson, Aiken 2003, Winnowing (its window is n - k + 1).
    """
    offsets, out, count = np.zeros(len(document), np.int64), np.empty(len(hashes), np.uint64), 0
    for d in range(len(document) - 1):
        begun, at = count, -1
        for i in range(document[d], document[d + 1] - n + 1):
            place = lowest(hashes, i, n - k + 1, at)
            if place == at:
                continue
            at = place
            key = hashes[at]
            if count < begun + 2 or out[count - 1] != key or out[count - 2] != key:
                out[count] = key
                count += 1
        offsets[d + 1] = count
    return offsets, out[:count]


@kernel
def _is_among(values: UInt64, low: int, high: int, key: np.uint64) -> bool:
    """Whether the key is in values[low:high], which are sorted."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < key:
            low = middle + 1
        elif values[middle] > key:
            high = middle
        else:
            return True
    return False


@kernel
def runs_with(
    document: Int64, hashes: UInt64, n: int, k: int, shared: tuple[Int64, UInt64]
) -> tuple[Int64, UInt64, Int64, Int64]:
    """The runs of n tokens whose lowest hash is among those shared: stretches of runs that have it at the same place.

    Returns (documents, lowest hashes, first runs: the token that each begins with, numbers of runs), (s) each.
    document, hashes, n, k : as for `fingerprints`. Tokens count through all documents.
    shared : (int64, (documents + 1); uint64, (s)): document i has shared[1][shared[0][i]:shared[0][i + 1]], sorted.
    """
    size = len(hashes)
    whose, key = np.empty(size, np.int64), np.empty(size, np.uint64)
    first, runs, count = np.empty(size, np.int64), np.zeros(size, np.int64), 0
    for d in range(len(document) - 1):
        at, is_shared = -1, False
        for i in range(document[d], document[d + 1] - n + 1):
            place = lowest(hashes, i, n - k + 1, at)
            if place != at:
                at = place
                is_shared = _is_among(shared[1], shared[0][d], shared[0][d + 1], hashes[at])
                if is_shared:
                    whose[count], key[count], first[count] = d, hashes[at], i
                    count += 1
            if is_shared:
                runs[count - 1] += 1
    return whose[:count], key[:count], first[:count], runs[:count]


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
