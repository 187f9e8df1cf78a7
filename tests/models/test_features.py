"""Columns as features: numbers and vectors of any Arrow type, with what is missing or not finite as NaN."""

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import ContractError
from tamis.models.features import NUMBER, VECTOR, Layout, layout, widths_in, widths_together

NAN = float("nan")


def plan(columns, **batches):
    """The layout that one batch shows."""
    return layout("here", columns, widths_in(columns, batches))


def features(column, width, kind=VECTOR):
    return Layout(("x",), (width,), (kind,)).arrays({"x": column})["x"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, 3], pa.uint64()), [1, NAN, 3]),
        (pa.array([True, False, None]), [1, 0, NAN]),
        (pa.array([0.5, NAN, float("inf")]), [0.5, NAN, NAN]),
        (pa.array([1e300, -1e300, None]), [NAN, NAN, NAN]),
        (pa.array([0.5, None, -2.0], pa.float16()), [0.5, NAN, -2]),
        (pa.chunked_array([[1.0], [2.0, None]]), [1, 2, NAN]),
    ],
    ids=["uint64", "bool", "infinity", "beyond float32", "half", "chunks"],
)
def test_numbers_are_one_feature(column, expected):
    found = features(column, 1, NUMBER)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32)[:, None])


ROWS = [[1.0, 2.0], None, [NAN, 4.0], [5.0, float("-inf")]]
EXPECTED = [[1, 2], [NAN, NAN], [NAN, 4], [5, NAN]]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize(
    "form", [pa.list_, pa.large_list, lambda value: pa.list_(value, 2)], ids=["list", "large", "fixed"]
)
def test_vectors_are_a_feature_per_number(form, kind):
    column = pa.array(ROWS, form(kind))
    padded = pa.concat_arrays([pa.array([[9.0, 9.0]], form(kind)), column, pa.array([None], form(kind))])
    for array in (column, padded.slice(1, 4), pa.chunked_array([column.slice(0, 1), column.slice(1)])):
        found = features(array, 2)
        assert found.dtype == (np.float16 if kind == pa.float16() else np.float32)
        np.testing.assert_array_equal(found, np.array(EXPECTED, found.dtype))


def test_integers_and_missing_numbers_within_vectors():
    np.testing.assert_array_equal(features(pa.array([[1, 2], None]), 2), np.array([[1, 2], [NAN, NAN]], np.float32))
    np.testing.assert_array_equal(features(pa.array([[1.0, None]]), 2), np.array([[1, NAN]], np.float32))


def test_a_matrix_holds_all_columns_and_then_what_is_missing():
    batch = {"v": pa.array([[1.0, 2.0], None, None], pa.list_(pa.float16(), 2)), "k": pa.array([7, 8, None])}
    found = plan(("v", "k"), **batch)
    assert found == Layout(("v", "k"), (2, 1), (VECTOR, NUMBER))
    assert found.numbers == ("k",)
    matrix, known = found.matrix(found.arrays(batch))
    assert matrix.dtype == np.float32
    expected = [[1, 2, 7, 0, 0], [NAN, NAN, 8, 1, 0], [NAN, NAN, NAN, 1, 1]]
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32))
    assert known.tolist() == [True, True, False]


def test_a_vector_with_one_number_is_not_missing():
    one = Layout(("v",), (2,), (VECTOR,))
    matrix, known = one.matrix(one.arrays({"v": pa.array([[NAN, 1.0]])}))
    assert matrix[0, 2] == 0
    assert known.all()


def test_widths_are_found_over_all_batches():
    lists = [pa.array(rows, pa.list_(pa.float32())) for rows in ([], [None], [[1.0, 2.0]], [[3.0, 4.0], None])]
    found = widths_in(("v",), {"v": lists[0]})
    for column in lists[1:]:
        found = widths_together(found, widths_in(("v",), {"v": column}))
    assert layout("here", ("v",), found) == Layout(("v",), (2,), (VECTOR,))


def test_a_column_without_any_vector_gives_no_feature_but_that():
    found = plan(("v",), v=pa.array([None, None], pa.list_(pa.float32())))
    assert found.widths == (0,)
    matrix, known = found.matrix(found.arrays({"v": pa.array([None], pa.list_(pa.float32()))}))
    assert matrix.tolist() == [[1]]
    assert not known.any()


def test_empty_lists_are_vectors_without_a_feature():
    column = pa.array([[], None], pa.list_(pa.float32()))
    found = plan(("v",), v=column)
    assert found.widths == (0,)
    assert found.arrays({"v": column})["v"].shape == (2, 0)


def test_vectors_of_another_length_than_those_of_the_fit_are_refused():
    """Also where the numbers of several would fill rows of the right length."""
    with pytest.raises(ContractError, match="features: expected vectors of 2 numbers, got 1; fit anew"):
        features(pa.array([[1.0], [2.0, 3.0, 4.0]]), 2)


def test_vectors_of_several_lengths_are_refused():
    one, other = (widths_in(("v",), {"v": pa.array([row])}) for row in ([1.0, 2.0], [1.0, 2.0, 3.0]))
    with pytest.raises(
        ContractError, match="here: features: expected vectors of one length in 'v', got 2 to 3 numbers"
    ):
        layout("here", ("v",), widths_together(one, other))


@pytest.mark.parametrize("column", [["a"], [["a"]], [[[1.0]]]], ids=["text", "texts", "matrix"])
def test_what_is_no_number_is_refused(column):
    with pytest.raises(ContractError, match="expected numbers or lists of numbers, got neither in 't'; leave it out"):
        plan(("k", "t"), k=pa.array([1]), t=pa.array(column))
