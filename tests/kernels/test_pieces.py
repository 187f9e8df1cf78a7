"""Words between blanks and marks, and their numbers, against regular expressions and a dict."""

import re
import string

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.pieces import (
    LONGEST,
    add_numbered_rows,
    empty_numbers,
    next_words,
    number_words,
    room_for,
)

MARKS = re.escape(string.punctuation)
WORD = re.compile(rf"[{MARKS}]|[^ \t\n\r{MARKS}]+".encode())


def all_words(text, room):
    """(document, word) of all words, by as many calls as it takes with room for so many."""
    words, found = room_for(room), []
    document = at = 0
    while document < len(text):
        count, document, at = next_words(text, document, at, words)
        assert count == room or document == len(text)
        spans = zip(words.owner[:count], words.start[:count], words.end[:count], strict=True)
        found += [(int(owner), text.data[start:end].tobytes()) for owner, start, end in spans]
    return found


@given(st.data(), st.integers(1, 9), st.booleans())
def test_words_are_what_the_expression_finds(texts, sliced, data, room, large):
    strings = data.draw(texts)
    text = sliced(strings, large)
    assert all_words(text, room) == [
        (i, word) for i, each in enumerate(strings) for word in WORD.findall(each.encode())
    ]


def test_a_word_without_end_is_cut_between_characters(sliced):
    for letter in ("x", "é", "語", "😀"):
        whole = letter * 70_000
        found = [word for _, word in all_words(sliced([whole]), 10)]
        assert b"".join(found).decode() == whole
        assert all(LONGEST <= len(word) < LONGEST + 4 and word.decode() for word in found[:-1])
        assert len(found) > 1


@given(st.data(), st.integers(0, 5))
def test_equal_words_have_equal_numbers_in_order_of_appearance(texts, sliced, data, used):
    strings = data.draw(texts)
    text, words, numbers = sliced(strings), room_for(4096), empty_numbers(8192)
    known: dict[bytes, int] = {}
    for _ in range(2):  # the second time, all are known
        count, _, _ = next_words(text, 0, 0, words)
        fresh = np.zeros(count, np.int64)
        before = len(known)
        new = number_words(words, count, numbers, used + before, fresh)
        spelled = [text.data[words.start[w] : words.end[w]].tobytes() for w in range(count)]
        expected = [known.setdefault(word, used + len(known)) for word in spelled]
        assert words.number[:count].tolist() == expected
        assert new == len(known) - before
        assert [spelled[w] for w in fresh[:new]] == list(known)[before:]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=8), st.randoms())
def test_numbered_words_add_the_rows_of_their_ids(chosen, draw):
    table = np.array([[draw.uniform(-1, 1) for _ in range(2)] for _ in range(5)], np.float32)
    rows = [[draw.randrange(5) for _ in range(draw.randrange(3))] for _ in range(4)]
    expected = np.zeros((3, 2))
    for owner, number in chosen:
        for row in rows[number]:
            expected[owner] += table[row].astype(np.float64)
    words, found = room_for(max(1, len(chosen))), np.zeros((3, 2))
    for w, (owner, number) in enumerate(chosen):
        words.owner[w], words.number[w] = owner, number
    ids = np.array([row for each in rows for row in each], np.int32)
    add_numbered_rows(table, ids, np.cumsum([len(each) for each in rows]), words, len(chosen), found)
    assert (found == expected).all()
