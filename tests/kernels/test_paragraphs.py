import unicodedata
from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.paragraphs import Paragraphs, Places, longest_of, paragraphs, shares, stand_earlier, sums
from tamis.kernels.words import tokenize

LINES = [
    "a b c",
    "A, b; c!",
    "",
    " \t",
    "a",
    "cafe\u0301 noir e\u0301",
    "café noir é",
    "x y z\r",
    "w " * 20,
    "!!",
    "日本 語",
]
POEMS = st.lists(st.lists(st.sampled_from(LINES), max_size=8).map("\n".join), max_size=5)
WORD64 = 2**64 - 1


def words_of(tokens, d):
    """(hash, newlines before it in the normal form) of each word of document d."""
    begin, stop = tokens.text.offsets[d], tokens.text.offsets[d + 1]
    text = bytes(tokens.text.data[begin:stop])
    part = range(tokens.document[d], tokens.document[d + 1])
    return [(int(tokens.hash[t]), text[: tokens.start[t] - begin].count(b"\n")) for t in part if tokens.is_word[t]]


def twin(string, words, min_words, n):
    """[(start, end, words, tuples of word hashes)] of the lines of the original text that are long enough."""
    found, at = [], 0
    for number, line in enumerate(string.encode().split(b"\n")):
        end = min(at + len(line) + 1, len(string.encode()))
        own = [word for word, place in words if place == number]
        if len(own) >= min_words:
            grams = [tuple(own[i : i + n]) for i in range(len(own) - n + 1)] if n and len(own) >= n else [tuple(own)]
            found.append((at, end, len(own), grams))
        at = end
    return found


@given(st.data(), st.integers(1, 4), st.sampled_from([None, 1, 2, 3, 7]))
def test_paragraphs_are_those_of_the_twin(texts, sliced, data, min_words, n):
    strings = data.draw(st.one_of(POEMS, texts))
    text = sliced(strings)
    tokens = tokenize(text)
    found = paragraphs(text, tokens, min_words, n)
    names, p = {}, 0
    for d, string in enumerate(strings):
        assert found.document[d] == p
        for start, end, words, grams in twin(string, words_of(tokens, d), min_words, n):
            assert (found.start[p], found.end[p], found.words[p]) == (start, end, words)
            hashes = found.hash[found.first[p] : found.first[p + 1]].tolist()
            assert len(hashes) == len(grams)
            for gram, digest in zip(grams, hashes, strict=True):
                assert names.setdefault(gram, digest) == digest
            p += 1
    assert p == found.document[-1] == len(found.start) == len(found.first) - 1
    assert len(set(names.values())) == len(names)


def test_lines_of_the_text_keep_their_place_where_the_normal_form_is_shorter(sliced):
    string = "e\u0301 e\u0301\ncafe\u0301 noir\n\u1112\u1161\u11ab\nend"
    assert len(unicodedata.normalize("NFC", string)) < len(string)
    text = sliced([string])
    found = paragraphs(text, tokenize(text), 1)
    raw = string.encode()
    lines = [raw[a:b].decode() for a, b in zip(found.start, found.end, strict=True)]
    assert lines == string.splitlines(keepends=True)


PLACES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=30
)


@given(PLACES, st.booleans())
def test_who_stands_earlier_is_what_the_twin_says(entries, within):
    entries.sort(key=lambda entry: entry[0])
    keys, order, row, start = (np.array([entry[i] for entry in entries], np.uint64) for i in range(4))
    places = Places(order, row, start.astype(np.uint32))
    later, earliest = stand_earlier(keys, places, np.array([entry[4] for entry in entries], np.bool_), within)
    groups = defaultdict(list)
    for entry in entries:
        if entry[4]:
            groups[entry[0]].append(entry[1:4])
    expected = {}
    for i, (key, *place, _) in enumerate(entries):
        first = min(groups[key], default=None)
        if first is not None and first < tuple(place) and (within or first[1] != place[1]):
            expected[i] = first
    assert later.tolist() == sorted(expected)
    assert [entries[j][1:4] for j in earliest] == [expected[i] for i in later.tolist()]
    assert all(entries[j][4] for j in earliest)


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 5)), max_size=8), max_size=4))
def test_shares_of_owners_add_up(documents):
    """Each document has the paragraphs 0 to 3; entries are (paragraph, owner, count)."""
    documents = [sorted(entries) for entries in documents]
    size = 4 * len(documents)
    bounds = np.arange(0, size + 1, 4)
    start = np.tile(np.arange(4, dtype=np.uint32), len(documents))
    found = Paragraphs(bounds, start, start, start, np.zeros(size + 1, np.int64), np.zeros(0, np.uint64))
    flat = np.array([entry for entries in documents for entry in entries], np.int64).reshape(-1, 3)
    ends = np.concatenate([[0], np.cumsum([len(entries) for entries in documents])]).astype(np.int64)
    contained, owners = shares(
        found, ends, flat[:, 0].astype(np.uint32), flat[:, 1].astype(np.uint64), flat[:, 2].astype(np.uint32)
    )
    for d, entries in enumerate(documents):
        for paragraph in range(4):
            totals = defaultdict(int)
            for place, owner, count in entries:
                if place == paragraph:
                    totals[owner] += count
            assert contained[4 * d + paragraph] == sum(totals.values())
            best = min(totals, key=lambda owner: (-totals[owner], owner)) if totals else 0
            assert owners[4 * d + paragraph] == best


@given(st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=5))
def test_sums_and_longest_are_those_of_python(lists):
    bounds = np.concatenate([[0], np.cumsum([len(values) for values in lists])]).astype(np.int64)
    values = np.array([value for part in lists for value in part], np.int64)
    assert sums(bounds, values).tolist() == [sum(part) for part in lists]
    for (a, b), place in zip(pairwise(bounds.tolist()), longest_of(bounds, values).tolist(), strict=True):
        assert place == (a + values[a:b].tolist().index(max(values[a:b])) if b > a else -1)
