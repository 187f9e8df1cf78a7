"""Embedders: what lies in a layer, who reads it, and models of sentences against the libraries they come from."""

import numpy as np
import pyarrow as pa
import pytest

from tamis.audit.reader import open_run
from tamis.audit.sql import sql
from tamis.kernels.arrow import vectors_of


@pytest.fixture(scope="module")
def embedded(run_spec, corpus, tmp_path_factory):
    """A run with vectors, and a score of the documents for which an expression over vectors is true."""
    stages = [
        {"embed": {"hashed_ngrams": {"dimensions": 16, "as": "vector"}}},
        {"score": [{"length": {"where": "vector[1] > 0"}}]},
        {"score": [{"repetition": {"where": "source = 'web'"}}]},
    ]
    spec = {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "stages": stages}
    return open_run(run_spec(spec, tmp_path_factory.mktemp("embedded")).folder)


def test_a_layer_holds_half_floats_that_a_query_sees_as_floats(embedded):
    held = embedded.table(["vector", "text"])
    assert held["vector"].type == pa.list_(pa.float16(), 16)
    vectors = vectors_of(held["vector"])
    assert np.isnan(vectors).all(axis=1).tolist() == held["text"].is_null().to_pylist()
    table = sql(embedded, "select vector, array_inner_product(vector, vector) as square from documents")
    assert np.array_equal(vectors_of(table["vector"]), vectors, equal_nan=True)
    squares = np.array(table["square"].to_pylist(), float)
    assert np.nan_to_num(squares, nan=0) == pytest.approx(np.nan_to_num((vectors**2).sum(axis=1)), abs=1e-5)
    assert set(np.round(squares[~np.isnan(squares)], 2)) == {0, 1}


def test_an_expression_may_look_into_vectors(embedded):
    table = embedded.table(["vector", "length"])
    positive = vectors_of(table["vector"])[:, 0] > 0
    assert 0 < positive.sum() < len(positive)
    assert (np.array(table["length"].is_valid()) == positive).all()
    assert embedded.table(["doc_id"], where="vector[1] > 0").num_rows == positive.sum()
