import contextlib
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels import unicode_table
from tamis.kernels.arrow import Text
from tamis.kernels.unicode import TABLE, decode, doubtful_runs, nfc

SAME_UNICODE = unicodedata.unidata_version == "14.0.0"


@pytest.mark.skipif(not SAME_UNICODE, reason="the committed table holds Unicode 14.0, this Python has another version")
def test_the_committed_table_is_what_its_script_writes():
    assert unicode_table.FILE.read_bytes() == unicode_table.table()


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a Unicode table"):
        unicode_table.load_table(tmp_path / "x.bin")


@given(st.data())
def test_normal_form_is_that_of_unicodedata_and_untouched_text_is_not_copied(texts, sliced, data):
    strings = data.draw(texts)
    text = sliced(strings)
    normal = nfc(text)
    expected = [unicodedata.normalize("NFC", string) for string in strings]
    if SAME_UNICODE:
        assert as_strings(normal) == expected
    if len(doubtful_runs(text, TABLE)[0]) == 0:
        assert normal is text


def test_quick_check_flags_every_text_that_is_not_normal(sliced):
    strings = ["cafe\u0301", "caf\u00e9", "q\u0307\u0323", "q\u0323\u0307", "\u1112\u1161", "\u212a", "plain", "\u0301"]
    text = sliced(strings)
    documents, starts, ends = doubtful_runs(text, TABLE)
    for number, string in enumerate(strings):
        assert number in documents or unicodedata.is_normalized("NFC", string)
    assert not {1, 6} & set(documents.tolist())
    assert text.data[starts[0] : ends[0]].tobytes().decode() == "e\u0301"


def test_nothing_moves_across_a_character_that_the_table_does_not_know(sliced):
    assert as_strings(nfc(sliced(["q\u0307\u0378\u0323 e\u0301"]))) == ["q\u0307\u0378\u0323 \u00e9"]


def test_invalid_bytes_keep_their_place():
    raw = np.frombuffer(b"e\xcc\x81 \xff\xc3", np.uint8)
    text = Text(np.array([0, 3, 6]), raw)
    assert nfc(text).data.tobytes()[:2] == "é".encode()
    assert nfc(text).data.tobytes()[2:] == raw.tobytes()[3:]


@given(st.binary(max_size=6))
def test_decoding_never_leaves_the_bytes_and_agrees_where_they_are_valid(raw):
    data, i, points = np.frombuffer(raw, np.uint8), 0, []
    while i < len(raw):
        point, size = decode(data, i, len(raw))
        assert 1 <= size <= len(raw) - i
        assert 0 <= point < 0x110000
        points.append(point)
        i += size
    with contextlib.suppress(UnicodeDecodeError):
        assert points == [ord(character) for character in raw.decode()]


def as_strings(text):
    return [bytes(text.data[a:b]).decode() for a, b in zip(text.offsets, text.offsets[1:], strict=False)]
