"""Repetition against a plain reading of Gopher's table, and its promises."""

import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.scorers.repetition import GOPHER, Repetition

SUFFIXES = [suffix for suffix, _ in GOPHER]


def plain(string):
    """The thirteen shares of one document, written for reading."""
    lines = [line.strip() for line in string.split("\n") if line.strip()]
    paragraphs = [part.split("\n") for part in re.split(r"\n\s*\n", string) if part.strip()]
    paragraphs = ["\n".join(line.strip() for line in part if line.strip()) for part in paragraphs]
    words = re.findall(r"\w+", unicodedata.normalize("NFC", string).lower())
    shares = []
    for items in (lines, paragraphs):
        copies = [item for i, item in enumerate(items) if item in items[:i]]
        characters = [sum(map(len, item.split("\n"))) for item in items]
        copied = [sum(map(len, item.split("\n"))) for item in copies]
        shares += [len(copies) / len(items), sum(copied) / sum(characters)]
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        inside = set()
        if n <= 4 and grams:
            gram, count = max(Counter(grams).items(), key=lambda item: (item[1], len("".join(item[0]))))
            starts = [i for i in range(len(grams)) if grams[i] == gram] if count > 1 else []
        else:
            starts = [i for i in range(len(grams)) if grams[i] in grams[:i]]
        for i in starts:
            inside.update(range(i, i + n))
        shares.append(sum(len(words[i]) for i in inside) / sum(map(len, words)))
    return shares


SENTENCES = st.lists(
    st.sampled_from(["The cat sat.", "a b c d e f g h i j k", "Yes\n", "No!\n\n", "ÉCOLE d'été", "one two one two"]),
    min_size=1,
    max_size=20,
).map(" ".join)


@given(st.lists(SENTENCES, min_size=1, max_size=4))
def test_shares_are_those_of_the_plain_reading(run, batches, texts):
    table = run(Repetition(), batches(texts))
    for i, text in enumerate(texts):
        expected = plain(text)
        found = [table[f"x{suffix}"][i].as_py() for suffix in SUFFIXES]
        assert found == pytest.approx(expected, abs=1e-6)
        of_characters = [
            share
            for suffix, share in zip(SUFFIXES, expected, strict=True)
            if suffix not in ("_dup_lines", "_dup_paragraphs")
        ]
        assert table["x"][i].as_py() == pytest.approx(max(of_characters), abs=1e-6)
        assert table["x_gopher"][i].as_py() == all(s <= limit for s, (_, limit) in zip(expected, GOPHER, strict=True))


def test_a_text_said_twice_is_half_repetition(run, batches):
    sentence = "no two of these twelve words are equal so only copies can repeat"
    table = run(Repetition(), batches([sentence, f"{sentence}\n{sentence}", f"{sentence}\n\n{sentence}"]))
    assert table["x"].to_pylist()[0] == 0
    assert table["x_dup_10gram"].to_pylist() == [0, 0.5, 0.5]
    assert table["x_dup_lines"].to_pylist() == [0, 0.5, 0.5]
    assert table["x_dup_paragraphs"].to_pylist() == [0, 0, 0.5]
    assert table["x_gopher"].to_pylist() == [True, False, False]


def test_shares_are_between_zero_and_one_even_where_phrases_overlap(run, batches):
    table = run(Repetition(), batches(["ha " * 100, "ha ha", "ha"]))
    assert table["x_top_2gram"].to_pylist() == [1, 0, 0]
    assert table["x_dup_5gram"][0].as_py() == pytest.approx(0.99)


def test_no_words_no_shares(run, batches):
    table = run(Repetition(), batches(["", " \n", "... !!!"]))
    assert np.isnan(table["x"].to_numpy()).all()
    assert table["x_gopher"].to_pylist() == [False] * 3


@pytest.mark.parametrize("cuts", [(1,), (0, 3), (1, 2)])
def test_splitting_into_batches_changes_nothing(run, batches, cuts):
    texts = ["a b a b", "x\nx", "one"]
    assert run(Repetition(), batches(texts, cuts=cuts)).equals(run(Repetition(), batches(texts)))
