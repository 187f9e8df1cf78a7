"""The same documents, options and seed give the same values, however they lie on disk and whoever computes them."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def parts(values: dict[str, Any]) -> set[frozenset[str]]:
    """The clusters of documents, whatever they are called."""
    found: dict[Any, set[str]] = {}
    for doc_id, value in values.items():
        if value is not None:
            found.setdefault(value, set()).add(doc_id)
    return {frozenset(members) for members in found.values()}


def digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.take(pa.array(range(table.num_rows))).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def assert_same_values(one, other):
    """Every column of every document equal to the bit; clusters as partitions."""
    assert one.columns
    assert set(one.columns) == set(other.columns)
    mine, theirs = one.table(sorted(one.columns)), other.table(sorted(one.columns))
    for column in mine.schema.names:
        if column.endswith("_cluster"):
            assert parts(one.values(column)) == parts(other.values(column)), column
        else:
            assert digest(mine.select(["doc_id", column])) == digest(theirs.select(["doc_id", column])), column


@pytest.fixture(scope="module")
def specification(stages):
    """corpus → a file with all kinds of stages; one deduplicator draws, one keeps the longest."""
    more = [
        {"deduplicate": {"by": {"exact": {"keep": "random", "as": "drawn_lots"}}}},
        {"deduplicate": {"by": {"exact": {"keep": "longest", "as": "long_ones"}}}},
    ]

    def of(corpus, **settings):
        return {
            "corpus": {"paths": str(corpus), "max_bad_fraction": 0.05, **settings},
            "seed": 11,
            "stages": stages + more,
        }

    return of


@pytest.fixture(scope="module")
def reference(tmp_path_factory, run_spec, corpus, specification):
    """Three shards and an empty one, in this process."""
    return run_spec(specification(corpus), tmp_path_factory.mktemp("reference"))


def test_the_reference_decides_something(reference):
    """The other tests would be empty if it did not."""
    assert 0 < len(reference.kept("best")) < 200
    assert len(reference.kept("drawn")) == 40
    assert 10 < list(reference.values("exact_duplicate").values()).count(True) < 150
    assert len(set(reference.values("n_tokens").values())) > 50
    assert len([value for value in reference.values("importance").values() if value is not None]) > 250


def test_a_second_run_has_the_same_bytes(reference, run_spec, corpus, specification, tmp_path):
    again = run_spec(specification(corpus), tmp_path)
    assert again.files("layers") == reference.files("layers")
    assert again.files("models") == reference.files("models")
    assert again.catalog["arms"] == reference.catalog["arms"]


@pytest.mark.parametrize(("shards", "options"), [(1, {}), (3, {"backwards": True}), (7, {"with_empty": True})])
def test_other_shards_in_another_order_move_no_value(
    reference, run_spec, specification, documents, write_corpus, tmp_path, shards, options
):
    other = write_corpus(tmp_path / "pool", documents, shards, **options)
    assert_same_values(run_spec(specification(other), tmp_path), reference)


def test_shuffled_documents_move_no_value(reference, run_spec, specification, documents, write_corpus, tmp_path):
    order = sorted(range(documents.num_rows), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    other = write_corpus(tmp_path / "pool", documents.take(pa.array(order)), 2)
    assert_same_values(run_spec(specification(other), tmp_path), reference)


def test_another_size_of_shards_moves_no_value(reference, run_spec, specification, documents, write_corpus, tmp_path):
    one_file = write_corpus(tmp_path / "pool", documents, 1)
    ran = run_spec(specification(one_file, shard_bytes=30_000), tmp_path)
    assert "4 shards" not in ran.lines[0]
    assert len(ran.files(ran.catalog["columns"]["n_bytes"]["layer"])) > 4
    assert_same_values(ran, reference)


def test_another_number_of_documents_per_batch_moves_no_value(
    reference, run_spec, specification, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("tamis.corpus.BATCH_ROWS", 17)
    ran = run_spec(specification(corpus), tmp_path)
    assert ran.files("layers") == reference.files("layers")


@pytest.mark.dask
def test_two_dask_workers_give_the_same_bytes(reference, run_spec, specification, corpus, tmp_path, dask_workers):
    ran = run_spec(specification(corpus), tmp_path, dask_workers)
    assert ran.files("layers") == reference.files("layers")
    assert ran.files("models") == reference.files("models")
    assert len({receipt["worker"] for receipt in ran.receipts() if receipt["worker"]}) == 2, "both workers worked"


@pytest.mark.dask
def test_seven_shards_on_two_dask_workers_move_no_value(
    reference, run_spec, specification, documents, write_corpus, tmp_path, dask_workers
):
    other = write_corpus(tmp_path / "pool", documents, 7, backwards=True)
    assert_same_values(run_spec(specification(other), tmp_path, dask_workers), reference)


@pytest.mark.dask
def test_one_dask_worker_gives_the_same_bytes(reference, run_spec, specification, corpus, tmp_path):
    from tamis.pipeline.workers import Dask

    with Dask(1) as workers:
        ran = run_spec(specification(corpus), tmp_path, workers)
    assert ran.files("layers") == reference.files("layers")


def test_another_seed_moves_only_what_is_drawn(reference, run_spec, specification, corpus, tmp_path):
    other = run_spec({**specification(corpus), "seed": 12}, tmp_path)
    assert other.kept("drawn") != reference.kept("drawn")
    for column in ("importance", "exact_kept_by", "length", "overlap_ngrams", "vector"):
        assert digest(other.table([column])) == digest(reference.table([column])), column


def test_a_document_put_in_front_moves_no_decision_of_another(
    reference, run_spec, specification, documents, write_corpus, tmp_path
):
    """Its own words change counts, so it has none; every column of every other document stays as it was."""
    new = pa.table({"id": ["aaa new"], "text": [""], "source": ["web"], "stars": [0.0]}, schema=documents.schema)
    other = write_corpus(tmp_path / "pool", pa.concat_tables([new, documents]), 3)
    ran = run_spec(specification(other), tmp_path)
    for column in reference.columns:
        values = ran.values(column)
        values.pop("aaa new")
        expected = reference.values(column)
        if column.endswith("_cluster"):
            assert parts(values) == parts(expected)
        else:
            assert {key: str(value) for key, value in values.items()} == {
                key: str(value) for key, value in expected.items()
            }, column


def test_no_decision_reads_the_row_number(reference, run_spec, specification, documents, write_corpus, tmp_path):
    """Documents with equal texts and priorities are told apart by id alone, in whatever file they lie."""
    other = write_corpus(tmp_path / "pool", documents.slice(150), 1)
    pq.write_table(documents.slice(0, 150), other / "zzz.parquet")
    ran = run_spec(specification(other), tmp_path)
    for column in ("exact_kept_by", "drawn_lots_kept_by", "long_ones_kept_by", "best_repeats", "drawn_repeats"):
        assert digest(ran.table([column])) == digest(reference.table([column])), column
