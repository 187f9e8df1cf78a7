import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tamis.kernels.spans import Spans, apart, covered_bytes, span_column, spans_of, united, without_spans

PAIRS = st.tuples(st.integers(0, 25), st.integers(0, 25)).map(sorted)
LISTS = st.lists(st.one_of(st.none(), st.lists(PAIRS, max_size=6)), max_size=6)
KIND = pa.list_(pa.struct([("start", pa.uint32()), ("end", pa.uint32())]))


def column(lists):
    return pa.array([pairs and [{"start": a, "end": b} for a, b in pairs] for pairs in lists], KIND)


def covered(pairs):
    """The bytes that the spans cover, one by one."""
    return {byte for a, b in pairs or () for byte in range(a, b)}


def runs(bytes_):
    """Those bytes as the fewest spans."""
    found = []
    for byte in sorted(bytes_):
        if found and found[-1][1] == byte:
            found[-1][1] += 1
        else:
            found.append([byte, byte + 1])
    return found


def listed(spans):
    pairs = list(zip(spans.start.tolist(), spans.end.tolist(), strict=True))
    return [[list(pair) for pair in pairs[a:b]] for a, b in zip(spans.document[:-1], spans.document[1:], strict=True)]


def cut_twin(string, pairs):
    """The text without the characters of which every byte is covered."""
    inside, kept, at = covered(pairs), "", 0
    for character in string:
        size = len(character.encode())
        if not inside.issuperset(range(at, at + size)):
            kept += character
        at += size
    return kept


@given(LISTS, st.integers(0, 2), st.integers(0, 2))
def test_a_column_of_spans_comes_back_from_a_slice_of_a_longer_one(lists, before, after):
    whole = column([[[1, 2]]] * before + lists + [[[3, 4]]] * after)
    spans = spans_of(whole.slice(before, len(lists)))
    assert listed(spans) == [pairs or [] for pairs in lists]
    assert span_column(spans).cast(KIND).to_pylist() == column([pairs or [] for pairs in lists]).to_pylist()


@given(LISTS)
def test_spans_apart_cover_the_same_bytes_and_touch_no_other(lists):
    sorted_lists = [sorted(pairs or []) for pairs in lists]
    spans = apart(spans_of(column(sorted_lists)))
    assert listed(spans) == [runs(covered(pairs)) for pairs in lists]
    assert covered_bytes(spans).tolist() == [len(covered(pairs)) for pairs in lists]


@given(st.lists(st.tuples(*[st.lists(PAIRS, max_size=4)] * 3), max_size=5), st.integers(1, 3))
def test_the_union_covers_what_any_stage_covers(documents, stages):
    parts = [spans_of(column([lists[stage] for lists in documents])) for stage in range(stages)]
    expected = [runs(set().union(*(covered(lists[stage]) for stage in range(stages)))) for lists in documents]
    assert listed(united(parts)) == expected


def test_parts_about_other_documents_are_refused():
    with pytest.raises(ValueError, match=r"got parts of \[1, 2\] documents"):
        united([spans_of(column([[]])), spans_of(column([[], []]))])


@given(st.data())
@example(None)
def test_what_is_left_is_that_of_the_twin(texts, sliced, data):
    strings = ["é" * 4 + "日本", "", "plain"] if data is None else data.draw(texts)
    lists = (
        [[[0, 1], [3, 6], [7, 9]]] * 3
        if data is None
        else [runs(covered(data.draw(st.lists(PAIRS, max_size=4)))) for _ in strings]
    )
    before = sliced(strings)
    after, left_out = without_spans(before, spans_of(column(lists)))
    expected = [cut_twin(string, pairs) for string, pairs in zip(strings, lists, strict=True)]
    found = [bytes(after.data[a:b]).decode() for a, b in zip(after.offsets[:-1], after.offsets[1:], strict=True)]
    assert found == expected
    assert left_out.tolist() == [
        len(string.encode()) - len(kept.encode()) for string, kept in zip(strings, expected, strict=True)
    ]
    assert not after.data.flags.writeable


def test_without_spans_nothing_changes_and_with_all_of_it_nothing_is_left(sliced):
    strings = ["a\nb", "", "日本"]
    none = Spans(np.zeros(4, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint32))
    text, left_out = without_spans(sliced(strings), none)
    assert bytes(text.data[: text.offsets[-1]]).decode() == "".join(strings)
    assert left_out.tolist() == [0, 0, 0]
    text, left_out = without_spans(sliced(strings), spans_of(column([[[0, 3]], [[0, 9]], [[0, 2**32 - 1]]])))
    assert text.offsets.tolist() == [0, 0, 0, 0]
    assert left_out.tolist() == [3, 0, 6]


def test_spans_of_other_documents_are_refused(sliced):
    with pytest.raises(ValueError, match="expected spans of 2 documents, got spans of 1"):
        without_spans(sliced(["a", "b"]), spans_of(column([[]])))
