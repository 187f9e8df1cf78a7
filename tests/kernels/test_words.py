import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.arrow import Text
from tamis.kernels.unicode import TABLE
from tamis.kernels.unicode_table import KIND, SPACE, WORD
from tamis.kernels.words import count_words, tokenize

WORD64 = 2**64 - 1
SAME_UNICODE = unicodedata.unidata_version == "14.0.0"


def facts(character):
    point = ord(character)
    return int(TABLE.entries[(int(TABLE.blocks[point >> 7]) << 7) | (point & 127)])


def lower(token):
    return "".join(chr(ord(character) + (facts(character) >> 12)) for character in token)


def mixed(h):
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & WORD64
    h = (h ^ h >> 27) * 0x94D049BB133111EB & WORD64
    return h ^ h >> 31


def hashed(token):
    raw, state = lower(token).encode("utf-8", "surrogatepass"), 0x9E3779B97F4A7C15
    for i in range(0, len(raw), 8):
        state = (state ^ int.from_bytes(raw[i : i + 8], "little")) * 0x9E3779B97F4A7C15 & WORD64
        state ^= state >> 29
    return mixed(state ^ len(raw))


def twin(string):
    """[(token, is a word)]"""
    tokens, previous = [], SPACE
    for character in string:
        kind = facts(character) & KIND
        if kind != SPACE and kind == previous:
            tokens[-1] = (tokens[-1][0] + character, kind == WORD)
        elif kind != SPACE:
            tokens.append((character, kind == WORD))
        previous = kind
    return tokens


def spelled(tokens, d):
    found = []
    for i in range(tokens.document[d], tokens.document[d + 1]):
        start = tokens.start[i]
        found.append((bytes(tokens.text.data[start : start + tokens.bytes[i]]).decode(), bool(tokens.is_word[i])))
    return found


@pytest.mark.parametrize("large", [False, True])
@given(st.data())
def test_tokens_are_those_of_the_twin(texts, sliced, large, data):
    strings = data.draw(texts)
    tokens = tokenize(sliced(strings, large))
    assert len(tokens) == len(strings)
    at = 0
    for d in range(len(strings)):
        text = bytes(tokens.text.data[tokens.text.offsets[d] : tokens.text.offsets[d + 1]]).decode()
        expected = twin(text)
        assert spelled(tokens, d) == expected
        for token, _ in expected:
            assert int(tokens.hash[at]) == hashed(token)
            assert tokens.chars[at] == len(token)
            at += 1
    assert at == len(tokens.hash)
    assert count_words(tokens).tolist() == [sum(word for _, word in spelled(tokens, d)) for d in range(len(strings))]


@pytest.mark.skipif(not SAME_UNICODE, reason="the committed table holds Unicode 14.0, this Python has another version")
@given(st.data())
def test_tokens_are_those_of_the_regular_expression(texts, sliced, data):
    strings = data.draw(texts)
    tokens = tokenize(sliced(strings))
    for d, string in enumerate(strings):
        expected = re.findall(r"\w+|[^\w\s]+", unicodedata.normalize("NFC", string))
        assert [token for token, _ in spelled(tokens, d)] == expected


@given(st.data())
def test_splitting_a_batch_changes_nothing(texts, sliced, data):
    strings = data.draw(texts)
    whole = tokenize(sliced(strings))
    apart = [tokenize(sliced([string])) for string in strings]
    assert whole.hash.tolist() == [h for tokens in apart for h in tokens.hash.tolist()]
    assert whole.document.tolist() == np.cumsum([0] + [len(tokens.hash) for tokens in apart]).tolist()


def test_case_normal_form_and_nothing_else_are_ignored(sliced):
    tokens = tokenize(sliced(["CAFÉ cafe\u0301 café", "cafe", "İ i", "Σ σ ς"]))
    assert len(set(tokens.hash[:3].tolist())) == 1
    assert tokens.hash[3] != tokens.hash[0]
    assert tokens.hash[4] == tokens.hash[5]
    assert tokens.hash[6] == tokens.hash[7] != tokens.hash[8]


def test_more_tokens_than_expected_make_room(sliced):
    strings = ["a. " * 50, "", ".a" * 4000, "word"]
    tokens = tokenize(sliced(strings))
    assert np.diff(tokens.document).tolist() == [100, 0, 8000, 1]


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_invalid_utf8_is_survived(raws):
    offsets = np.cumsum([0] + [len(raw) for raw in raws])
    tokens = tokenize(Text(offsets.astype(np.int64), np.frombuffer(b"".join(raws), np.uint8)))
    ends = tokens.start + tokens.bytes
    for d in range(len(raws)):
        part = slice(tokens.document[d], tokens.document[d + 1])
        assert (tokens.start[part] >= tokens.text.offsets[d]).all()
        assert (ends[part] <= tokens.text.offsets[d + 1]).all()


def test_two_gigabytes_are_refused():
    with pytest.raises(ValueError, match="less than 2 GiB"):
        tokenize(Text(np.array([0, 2**31]), np.broadcast_to(np.zeros(1, np.uint8), (2**31,))))
