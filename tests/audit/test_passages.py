"""Two texts word by word, against what must hold of any two texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.audit import passages
from tamis.audit.passages import PIECE, Part, compared

WORDS = st.lists(st.sampled_from(["a", "b", "C", "c", "d,", "d", "--", "天", "地"]), max_size=40).map(" ".join)


def words(parts, signs):
    return [word for part in parts if part.sign in signs for word in part.words]


@given(WORDS, WORDS)
def test_the_parts_are_the_two_texts(one, other):
    found = compared(one, other)
    assert words(found.parts, "=-") == PIECE.findall(one)
    assert words(found.parts, "=+") == PIECE.findall(other)


@given(WORDS, WORDS)
def test_every_word_is_counted_once(one, other):
    found = compared(one, other)
    assert found.common + found.only_one == len(PIECE.findall(one))
    assert found.common + found.only_other == len(PIECE.findall(other))


@given(WORDS)
def test_a_text_is_like_itself(text):
    found = compared(text, text)
    assert (found.only_one, found.only_other) == (0, 0)
    assert {part.sign for part in found.parts} <= {"="}


@given(WORDS, WORDS, WORDS, WORDS)
def test_texts_too_long_to_compare_are_still_shown_whole(head, one, other, tail):
    texts = [f"{head} {middle} {tail}" for middle in (one, other)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "COMPARED", 3)
        found = compared(*texts)
    assert words(found.parts, "=-") == PIECE.findall(texts[0])
    assert words(found.parts, "=+") == PIECE.findall(texts[1])
    assert sum(found.uncompared) <= sum(len(PIECE.findall(text)) for text in texts)


def test_an_edit_is_found_where_it_is():
    text = " ".join(f"w{i}" for i in range(50))
    found = compared(text, text.replace("w20", "other words here"))
    assert [part.sign for part in found.parts] == ["=", "-", "+", "="]
    assert found.parts[1:3] == [Part("-", ["w20"]), Part("+", ["other", "words", "here"])]
    assert (found.common, found.only_one, found.only_other) == (49, 1, 3)


def test_case_and_punctuation_keep_words_together_but_are_shown():
    found = compared("He said: Yes", "he said yes!")
    assert (found.common, found.only_one) == (3, 0)
    assert words(found.parts, "-") == ["He", "said:", "Yes"]
    assert words(found.parts, "+") == ["he", "said", "yes!"]


def test_short_words_in_common_do_not_cut_a_difference_to_pieces():
    found = compared("start of it one and two and three end of it all", "start of it uno and due and tre end of it all")
    assert [part.sign for part in found.parts] == ["=", "-", "+", "="]


def test_a_script_without_spaces_is_compared_by_character():
    found = compared("天地玄黄宇宙洪荒", "天地玄黑宇宙洪荒")
    assert words(found.parts, "-") == ["黄"]
    assert words(found.parts, "+") == ["黑"]
