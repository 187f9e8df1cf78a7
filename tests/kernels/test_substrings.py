import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.runs import BASES, fingerprints, hash_runs, runs_with
from tamis.kernels.substrings import Marks, Stretches, first_copies, later_copies, struck_spans
from tamis.kernels.unicode import TABLE
from tamis.kernels.unicode_table import KIND, SPACE
from tamis.kernels.written import Written, hash_bytes, is_unspaced, written

WORD64, PRIME = 2**64 - 1, 2**61 - 1
SMALL = st.lists(st.lists(st.integers(1, 3), max_size=40), max_size=5)


def kind_of(character):
    point = ord(character)
    return int(TABLE.entries[(int(TABLE.blocks[point >> 7]) << 7) | (point & 127)]) & KIND


NAMES = ("CJK UNIFIED", "CJK COMPAT", "HIRAGANA", "HENTAIGANA", "KATAKANA", "HALFWIDTH KATAKANA", "IDEOGRAPHIC")


def is_apart(character):
    return unicodedata.name(character, "").startswith(NAMES)


def token_twin(string, is_character):
    """[(start, end)] in bytes."""
    found, at, before = [], 0, None
    for character in string:
        size, kind = len(character.encode()), kind_of(character)
        apart = is_character or is_unspaced(ord(character))
        if kind != SPACE or is_character:
            if found and before == kind and not apart and found[-1][1] == at:
                found[-1] = (found[-1][0], at + size)
            else:
                found.append((at, at + size))
        at += size
        before = None if apart else kind
    return found


def mixed(h):
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & WORD64
    h = (h ^ h >> 27) * 0x94D049BB133111EB & WORD64
    return h ^ h >> 31


def absorbed(state, word):
    state = (state ^ word) * 0x9E3779B97F4A7C15 & WORD64
    return state ^ state >> 29


def hash_twin(raw):
    state = 0x9E3779B97F4A7C15
    for i in range(0, len(raw), 8):
        state = absorbed(state, int.from_bytes(raw[i : i + 8], "little"))
    return mixed(state ^ len(raw))


def run_twin(alone, joined, n, which):
    """The hash of one run from its tokens' hashes."""
    coefficients = [(alone[0] if i == 0 else joined[i]) >> (3 * which) & PRIME for i in range(n)]
    return mixed(sum(c * pow(int(BASES[which]), n - 1 - i, PRIME) for i, c in enumerate(coefficients)) % PRIME)


def tokens_of(documents):
    """Made tokens, one byte each, next to each other: lists of small integers → Written."""
    flat = np.array([token for document in documents for token in document], np.uint64)
    at = np.arange(len(flat))
    offsets = np.cumsum([0] + [len(document) for document in documents])
    return Written(offsets, at, at + 1, flat, flat)


def flattened(lists, kind=np.uint64):
    return np.cumsum([0] + [len(items) for items in lists]), np.array([x for items in lists for x in items], kind)


@pytest.mark.parametrize("is_character", [False, True])
@given(st.data())
def test_tokens_are_those_of_the_twin(texts, sliced, is_character, data):
    strings = data.draw(texts)
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(strings), max_size=len(strings))), bool)
    text = sliced(strings, data.draw(st.booleans()))
    tokens = written(text, wanted, is_character)
    for d, string in enumerate(strings):
        raw, part = string.encode(), slice(tokens.document[d], tokens.document[d + 1])
        expected = token_twin(string, is_character) if wanted[d] else []
        begin = text.offsets[d]
        assert list(zip(tokens.start[part] - begin, tokens.end[part] - begin, strict=True)) == expected
        assert tokens.alone[part].tolist() == [hash_twin(raw[start:end]) for start, end in expected]
        after = [0, *(end for _, end in expected)]
        assert tokens.joined[part].tolist() == [
            mixed(absorbed(hash_twin(raw[gap:start]), hash_twin(raw[start:end])))
            for gap, (start, end) in zip(after, expected, strict=False)
        ]


def test_han_and_kana_are_known_by_their_names():
    """Letters of these scripts that the table's Unicode version has; marks and unassigned code points aside."""
    for point in range(0x80, 0x32000):
        if chr(point).isalpha():
            assert is_unspaced(point) == is_apart(chr(point)), hex(point)


def test_tokens_by_example(sliced):
    strings = ["Don't  stop", "日本語です。", "cafe\u0301s"]
    assert [[string.encode()[a:b].decode() for a, b in token_twin(string, False)] for string in strings] == [
        ["Don", "'", "t", "stop"],
        ["日", "本", "語", "で", "す", "。"],
        ["cafe", "\u0301", "s"],
    ]
    assert len(written(sliced(strings), np.ones(3, bool), False).start) == 13


@given(st.binary(max_size=40), st.integers(0, 5))
def test_bytes_are_hashed_as_the_twin_does(raw, before):
    data = np.frombuffer(b"x" * before + raw, np.uint8)
    assert int(hash_bytes(data, before, len(data))) == hash_twin(raw)


@pytest.mark.parametrize("which", [0, 1])
@given(documents=st.lists(st.lists(st.integers(0, WORD64), max_size=9), max_size=4), n=st.integers(2, 5))
def test_runs_are_hashed_as_the_twin_does(which, documents, n):
    offsets, alone = flattened(documents)
    joined = alone * np.uint64(31) + np.uint64(7)
    hashes = hash_runs(Written(offsets, alone.astype(np.int64), alone.astype(np.int64), alone, joined), n, which)
    for d in range(len(documents)):
        for i in range(offsets[d], offsets[d + 1]):
            part = slice(i, i + n)
            has_room = i + n <= offsets[d + 1]
            expected = run_twin(alone[part].tolist(), joined[part].tolist(), n, which) if has_room else 0
            assert int(hashes[i]) == expected


def test_texts_that_collide_modulo_a_power_of_two_have_different_hashes(sliced):
    """A Thue-Morse sequence and its complement: equal for every base modulo 2^64."""
    signs = ["ab"[i.bit_count() % 2] for i in range(4096)]
    text = sliced([" ".join(signs), " ".join("b" if sign == "a" else "a" for sign in signs)])
    tokens = written(text, np.ones(2, bool), False)
    runs = [hash_runs(tokens, 4096, which)[[0, 4096]].tolist() for which in (0, 1)]
    assert runs[0][0] != runs[0][1]
    assert runs[1][0] != runs[1][1]


def lowest_twin(hashes, i, n, k):
    """(hash, place) of the lowest in the run that begins at i, the last of equal ones."""
    return min((hashes[j], -j) for j in range(i, i + n - k + 1))


@given(SMALL, st.integers(2, 9), st.data())
def test_fingerprints_are_those_of_the_twin(documents, n, data):
    k = data.draw(st.integers(1, n))
    offsets, hashes = flattened(documents)
    found, keys = fingerprints(offsets, hashes, n, k)
    for d, document in enumerate(documents):
        places = sorted({-lowest_twin(document, i, n, k)[1] for i in range(len(document) - n + 1)})
        expected = []
        for place in places:
            if expected[-2:] != [document[place]] * 2:
                expected.append(document[place])
        assert keys[found[d] : found[d + 1]].tolist() == expected


@given(SMALL, st.integers(2, 8))
def test_two_equal_runs_share_a_fingerprint_that_counts_twice(documents, n):
    """The guarantee of winnowing, also for runs that overlap: whatever is there twice is found by `runs_with`."""
    tokens, k = tokens_of(documents), (n + 1) // 2
    hashes = hash_runs(tokens, k, 0)
    offsets, keys = fingerprints(tokens.document, hashes, n, k)
    counts = Counter(keys.tolist())
    shared = flattened(
        [
            sorted(key for key in keys[offsets[d] : offsets[d + 1]].tolist() if counts[key] > 1)
            for d in range(len(documents))
        ]
    )
    document, _, first, number = runs_with(tokens.document, hashes, n, k, shared)
    found = {
        (d, i)
        for d, begin, count in zip(document.tolist(), first - tokens.document[document], number, strict=True)
        for i in range(begin, begin + count)
    }
    runs = [(d, i, tuple(tokens[i : i + n])) for d, tokens in enumerate(documents) for i in range(len(tokens) - n + 1)]
    often = Counter(run for _, _, run in runs)
    assert {(d, i) for d, i, run in runs if often[run] > 1} <= found


@given(SMALL, st.integers(2, 6), st.data())
def test_runs_with_a_shared_fingerprint_are_those_of_the_twin(documents, n, data):
    k = data.draw(st.integers(1, n))
    offsets, hashes = flattened(documents)
    shared = [sorted(data.draw(st.lists(st.integers(1, 3), max_size=3))) for _ in documents]
    expected = []  # (document, lowest hash, its place, runs)
    for d, tokens in enumerate(documents):
        for i in range(len(tokens) - n + 1):
            key, place = lowest_twin(tokens, i, n, k)
            if expected and expected[-1][:3] == (d, key, place):
                expected[-1][3].append(offsets[d] + i)
            elif key in shared[d]:
                expected.append((d, key, place, [offsets[d] + i]))
    found = runs_with(offsets, hashes, n, k, flattened(shared))
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [
        (d, key, runs[0], len(runs)) for d, key, _, runs in expected
    ]


STRETCHES = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=4)
    ),
    max_size=12,
)


def stretches_of(rows):
    """Stretches (key, rank, row, checks), each of which begins two tokens after the end of the last."""
    key, rank, row = (np.array([stretch[i] for stretch in rows], np.uint64) for i in range(3))
    runs, check = flattened([checks for *_, checks in rows])
    return Stretches(key, runs, check, rank, row, (runs[:-1] + 2 * np.arange(len(key))).astype(np.uint32))


def copies_twin(stretches):
    """[(stretch, token, its first copy's stretch and token or None)] of every run."""
    key, runs, check, rank, row, at = (column.tolist() for column in stretches_of(stretches))
    every = [(i, at[i] + j - runs[i], check[j]) for i in range(len(key)) for j in range(runs[i], runs[i + 1])]
    for i, token, mine in every:
        same = [(rank[o], row[o], other, o) for o, other, theirs in every if (key[o], theirs) == (key[i], mine)]
        yield i, token, (min(same)[3], min(same)[2]) if len(same) > 1 else None


@given(STRETCHES)
def test_first_copies_are_those_of_the_twin(stretches):
    stretches = sorted(stretches, key=lambda stretch: stretch[0])
    given = stretches_of(stretches)
    stretch, run = first_copies(given)
    found = [
        (owner, int(given.at[owner]) + place - int(given.runs[owner])) if owner >= 0 else None
        for owner, place in zip(stretch.tolist(), run.tolist(), strict=True)
    ]
    assert found == [first for _, _, first in copies_twin(stretches)]


@pytest.mark.parametrize("is_all", [False, True])
@given(stretches=STRETCHES, n=st.integers(2, 4))
def test_later_copies_are_those_of_the_twin(is_all, stretches, n):
    """Stretch by stretch the same runs, with the same owners, spared up to the same tokens."""
    stretches = sorted(stretches, key=lambda stretch: stretch[0])
    given = stretches_of(stretches)
    found = later_copies(given, first_copies(given), n, is_all)
    spelled = [
        (stretch, begin + m, until + m if until else 0, owner)
        for stretch, begin, number, until, owner in zip(*(column.tolist() for column in found), strict=True)
        for m in range(number)
    ]
    assert spelled == [
        (i, token, first[1] + n if given.row[first[0]] == given.row[i] and not is_all else 0, first[0])
        for i, token, first in copies_twin(stretches)
        if first and (is_all or first != (i, token))
    ]


def test_a_passage_of_many_runs_is_marked_in_one_stretch():
    given = stretches_of([(7, 1, 1, list(range(25))), (7, 2, 2, list(range(25))), (7, 2, 2, [0, 1, 2])])
    found = later_copies(given, first_copies(given), 50, False)
    assert [column.tolist() for column in found] == [[1, 2], [27, 54], [25, 3], [0, 0], [0, 0]]


@pytest.mark.parametrize("checks", [1, 2, 100_000])
def test_hundreds_of_thousands_of_copies_of_one_run_take_no_time(checks):
    """Quadratic work would take minutes."""
    n = 300_000
    same, rank = np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64)[::-1].copy()
    check = np.arange(n, dtype=np.uint64) % np.uint64(checks)
    stretch, run = first_copies(Stretches(same, np.arange(n + 1), check, rank, rank, same.astype(np.uint32)))
    assert stretch.tolist() == run.tolist() == [n - checks + i % checks for i in range(n)]


@given(st.data())
def test_spans_are_those_of_the_twin(sliced, data):
    words = st.lists(st.sampled_from(["a", "bb", "é", ",", " ", "  "]), max_size=25).map("".join)
    strings, n = data.draw(st.lists(words, max_size=3)), data.draw(st.integers(2, 4))
    marks = []  # (at, runs, until, owner)
    for string in strings:
        after, mine, size = 0, [], len(token_twin(string, False))
        while after + n <= size and data.draw(st.booleans()):
            at = data.draw(st.integers(after, size - n))
            after = data.draw(st.integers(at + 1, size - n + 1))
            mine.append((at, after - at, data.draw(st.integers(0, at + n - 1)), data.draw(st.integers(1, 3))))
        marks.append(sorted(data.draw(st.permutations(mine)), key=lambda mark: mark[3]))
    text = sliced(strings)
    tokens = written(text, np.ones(len(strings), bool), False)
    offsets, flat = flattened(marks)
    columns = flat.reshape(-1, 4).T
    found = struck_spans(text, tokens, Marks(offsets, *columns[:3].astype(np.uint32), columns[3].copy()), n)
    marks = [
        [(at + m, until + m if until else 0, owner) for at, runs, until, owner in mine for m in range(runs)]
        for mine in marks
    ]
    for d, string in enumerate(strings):
        spans, owner, left = span_twin(string, marks[d], n)
        part = slice(found.spans.document[d], found.spans.document[d + 1])
        assert list(zip(found.spans.start[part].tolist(), found.spans.end[part].tolist(), strict=True)) == spans
        assert (found.left[d], found.owner[d]) == (left, owner)


def span_twin(string, marks, n):
    """(spans, owner of the longest, tokens left) from marks (at, until, owner), byte by byte."""
    places = token_twin(string, False)
    covered = set()
    for at, until, _ in marks:
        covered.update(range(places[max(at, until)][0], places[at + n - 1][1]))
    spans = []
    for byte in sorted(covered):
        if spans and spans[-1][1] == byte:
            spans[-1] = (spans[-1][0], byte + 1)
        else:
            spans.append((byte, byte + 1))
    left = sum(start not in covered for start, _ in places)
    if not spans:
        return [], 0, left
    start, end = max(spans, key=lambda span: (span[1] - span[0], -span[0]))
    owners = Counter(owner for at, until, owner in marks if start <= places[max(at, until)][0] < end)
    return spans, min(owners, key=lambda owner: (-owners[owner], owner)), left
