"""Vectors between Arrow and numpy: what was written is read, whatever the slice, the chunks and the nulls."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.arrow import half_vectors, vectors_of, widened
from tamis.kernels.pooling import add_rows

NUMBERS = st.one_of(st.none(), st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=3))


@given(st.lists(NUMBERS, max_size=9), st.sampled_from([pa.float16(), pa.float32(), pa.float64()]), st.data())
def test_vectors_are_read_as_plain_python_reads_them(rows, kind, data):
    begin = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(begin, len(rows)))
    whole = pa.array(rows, pa.list_(kind, 3))
    chunked = pa.chunked_array([whole.slice(begin, 1), whole.slice(begin, end - begin)], whole.type)
    expected = [[np.nan] * 3 if row is None else row for row in rows]
    for array, wanted in ((whole.slice(begin, end - begin), expected[begin:end]),
                          (chunked, expected[begin : begin + 1] + expected[begin:end])):  # fmt: skip
        found = vectors_of(array)
        assert found.dtype == np.float32
        assert found.shape == (len(wanted), 3)
        assert np.array_equal(found, np.array(wanted, np.float32).reshape(-1, 3), equal_nan=True)


def test_float32_vectors_are_not_copied():
    values = np.arange(6, dtype=np.float32)
    array = pa.FixedSizeListArray.from_arrays(pa.array(values), 3)
    assert np.shares_memory(vectors_of(array), values)
    assert np.shares_memory(vectors_of(array.slice(1)), values)


@pytest.mark.parametrize("array", [pa.array([[1.0]]), pa.array([1.0]), pa.array([[1]], pa.list_(pa.int8(), 1))])
def test_other_columns_are_refused(array):
    with pytest.raises(TypeError, match=r"vectors_of: expected a fixed size list of floats, got .*; cast it first"):
        vectors_of(array)


@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2), max_size=5))
def test_half_vectors_are_rounded_to_nearest(rows):
    vectors = np.array(rows, np.float32).reshape(-1, 2)
    column = half_vectors(vectors)
    assert column.type == pa.list_(pa.float16(), 2)
    assert (np.abs(vectors_of(column) - vectors) <= np.maximum(np.abs(vectors) * 2.0**-11, 2.0**-25)).all()


def test_only_half_floats_are_widened():
    assert widened(pa.list_(pa.float16(), 4)) == pa.list_(pa.float32(), 4)
    assert widened(pa.list_(pa.list_(pa.float16()))) == pa.list_(pa.list_(pa.float32()))
    assert widened(pa.float16()) == pa.float32()
    for kind in (pa.float64(), pa.string(), pa.list_(pa.int64()), pa.list_(pa.float64(), 2)):
        assert widened(kind) == kind


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 4), max_size=6)), max_size=6), st.randoms())
def test_rows_are_added_in_reading_order(pieces, draw):
    table = np.array([[draw.uniform(-1, 1) for _ in range(3)] for _ in range(5)], np.float32)
    expected = [[0.0] * 3 for _ in range(4)]
    for owner, ids in pieces:
        for row in ids:
            expected[owner] = [total + float(value) for total, value in zip(expected[owner], table[row], strict=True)]
    found = np.zeros((4, 3))
    ids = np.array([row for _, each in pieces for row in each], np.int32)
    ends = np.cumsum([len(each) for _, each in pieces], dtype=np.int64)
    add_rows(table, ids, ends, np.array([owner for owner, _ in pieces], np.int64), found)
    assert found.tolist() == expected
