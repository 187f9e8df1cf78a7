"""What a second run does again: what has changed, what reads it, and nothing else. The receipts tell."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def pool(tmp_path, documents, write_corpus):
    """A corpus of two shards of a hundred documents that a test may change."""
    return write_corpus(tmp_path / "pool", documents.slice(0, 200), 2)


@pytest.fixture
def own_target(tmp_path, target):
    """A target that a test may change."""
    path = tmp_path / "target.parquet"
    path.write_bytes(target.read_bytes())
    return path


def specification(pool, target, length="length", importance=None, **settings):
    return {
        "corpus": {"paths": str(pool), "max_bad_fraction": 0.1},
        "seed": 1,
        "stages": [
            {"deduplicate": "exact"},
            {"score": [length, {"importance": {"target": str(target), "buckets": 64, **(importance or {})}}]},
            {
                "select": {
                    "name": "long",
                    "where": "length > 20",
                    "by": {"top": {"score": "length"}},
                    "budget_documents": 30,
                }
            },
            {"select": {"name": "like", "by": {"top": {"score": "importance"}}, "budget_documents": 30}},
        ],
        **settings,
    }


def work_done(ran, before=0):
    """(stage, unit) of every receipt after the first `before` ones."""
    return [(receipt["label"].split(":")[0].split(" ")[-1], receipt["unit"]) for receipt in ran.receipts()[before:]]


def stages_redone(ran, before):
    return {stage for stage, _ in work_done(ran, before)}


@pytest.fixture
def first(run_spec, pool, own_target, tmp_path):
    """A finished run of the specification."""
    return run_spec(specification(pool, own_target), tmp_path)


def test_the_same_again_does_nothing(first, run_spec, pool, own_target, tmp_path):
    before, files = len(first.receipts()), first.files(".")
    again = run_spec(specification(pool, own_target), tmp_path)
    assert before > 20
    assert len(again.receipts()) == before
    changed = {path for path, digest in again.files(".").items() if files.get(path) != digest}
    assert {path for path in changed if not path.startswith("ledger/")} == set()
    assert not any(line.startswith("pass") for line in again.lines)


def test_another_time_stamp_redoes_no_layer(first, run_spec, pool, own_target, tmp_path):
    before = len(first.receipts())
    for path in [*pool.iterdir(), own_target]:
        os.utime(path, (1, 1))
    assert work_done(run_spec(specification(pool, own_target), tmp_path), before) == []


def test_a_corpus_that_moved_redoes_no_layer(first, run_spec, pool, own_target, tmp_path):
    """Layers belong to what documents say, so a new folder with the same files is new to the survey alone."""
    moved = pool.rename(tmp_path / "moved")
    ran = run_spec(specification(moved, own_target), tmp_path)
    assert ran.values("exact_kept_by") == first.values("exact_kept_by")


def test_one_option_redoes_its_layer_and_what_reads_it(first, run_spec, pool, own_target, tmp_path):
    before = len(first.receipts())
    ran = run_spec(specification(pool, own_target, importance={"ngrams": 1}), tmp_path)
    assert stages_redone(ran, before) == {"importance", "like"}


def test_an_arm_that_does_not_read_a_column_is_not_selected_again(first, run_spec, pool, own_target, tmp_path):
    before = len(first.receipts())
    ran = run_spec(specification(pool, own_target, importance={"ngrams": 1}), tmp_path)
    assert "long" not in stages_redone(ran, before)


def test_going_back_to_an_option_finds_its_results_again(first, run_spec, pool, own_target, tmp_path):
    run_spec(specification(pool, own_target, importance={"ngrams": 1}), tmp_path)
    before = len(first.receipts())
    assert work_done(run_spec(specification(pool, own_target), tmp_path), before) == []


def test_other_bytes_of_a_target_redo_what_was_fitted_to_it(first, run_spec, pool, own_target, tmp_path):
    before = len(first.receipts())
    pq.write_table(pa.table({"id": ["a"], "text": ["copper garden signal harvest"]}), own_target)
    ran = run_spec(specification(pool, own_target), tmp_path)
    assert stages_redone(ran, before) == {"importance", "like"}


def test_another_seed_redoes_only_what_draws(first, run_spec, pool, own_target, tmp_path):
    before = len(first.receipts())
    ran = run_spec(specification(pool, own_target, seed=2), tmp_path)
    assert stages_redone(ran, before) <= {"long", "like"}
    assert ran.values("importance").keys() == first.values("importance").keys()


def test_a_new_shard_redoes_nothing_old_in_mapped_layers(first, run_spec, pool, own_target, documents, tmp_path):
    before = len(first.receipts())
    old = {path: digest for path, digest in first.files("layers").items() if path.startswith(("length", "census"))}
    pq.write_table(documents.slice(200), pool / "part-zz.parquet")
    ran = run_spec(specification(pool, own_target), tmp_path)
    done = work_done(ran, before)
    for stage in ("length", "census"):
        assert [unit for name, unit in done if name == stage] == ["2"], stage
    assert {unit for name, unit in done if name == "importance"} >= {"0", "1", "2"}, (
        "what was counted over the pool is fitted again"
    )
    now = ran.files("layers")
    assert old.items() <= now.items()
    assert len(ran.values("length")) == documents.num_rows


def test_a_new_shard_before_the_others_keeps_their_numbers(first, run_spec, pool, own_target, documents, tmp_path):
    before = len(first.receipts())
    pq.write_table(documents.slice(200), pool / "aaa-first.parquet")
    ran = run_spec(specification(pool, own_target), tmp_path)
    assert [unit for name, unit in work_done(ran, before) if name == "length"] == ["2"]


def test_a_grown_corpus_equals_one_that_was_whole_from_the_start(
    first, run_spec, pool, own_target, documents, tmp_path
):
    pq.write_table(documents.slice(200), pool / "part-zz.parquet")
    grown = run_spec(specification(pool, own_target), tmp_path)
    whole = run_spec(specification(pool, own_target), tmp_path / "whole")
    assert grown.catalog["arms"] == whole.catalog["arms"]
    assert {
        path: value for path, value in whole.files("layers").items() if grown.files("layers").get(path) != value
    } == {}


def test_a_changed_shard_is_done_again_alone(first, run_spec, pool, own_target, documents, tmp_path):
    before = len(first.receipts())
    pq.write_table(documents.slice(250), pool / "part-01.parquet", row_group_size=40)
    ran = run_spec(specification(pool, own_target), tmp_path)
    assert [unit for name, unit in work_done(ran, before) if name == "length"] == ["1"]
    assert len(ran.values("length")) == 150


def test_a_removed_shard_leaves_the_arms(first, run_spec, pool, own_target, tmp_path):
    (pool / "part-01.parquet").unlink()
    ran = run_spec(specification(pool, own_target), tmp_path)
    assert ran.catalog["arms"]["like"]["pool"] == 100
    assert len(ran.values("like_repeats")) == 100


def test_a_lost_layer_file_is_made_again(first, run_spec, pool, own_target, tmp_path):
    files = first.files("layers")
    layer = first.folder / first.catalog["columns"]["length"]["layer"]
    (layer / "000001.parquet").unlink()
    ran = run_spec(specification(pool, own_target), tmp_path)
    assert ran.files("layers") == files


def test_a_cut_layer_file_is_made_again(first, run_spec, pool, own_target, tmp_path):
    files = first.files("layers")
    path = first.folder / first.catalog["columns"]["length"]["layer"] / "000000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert run_spec(specification(pool, own_target), tmp_path).files("layers") == files


def test_a_frozen_fit_is_kept_when_the_corpus_grows(run_spec, pool, own_target, documents, tmp_path):
    said = specification(pool, own_target, importance={"fit": "frozen"})
    first = run_spec(said, tmp_path)
    before, scores = len(first.receipts()), first.values("importance_features")
    old = first.table(["importance"])
    pq.write_table(documents.slice(200), pool / "part-zz.parquet")
    ran = run_spec(said, tmp_path)
    assert "merged" not in [unit for name, unit in work_done(ran, before) if name == "importance"]
    grown = ran.table(["importance"])
    known = pa.compute.is_in(grown["doc_id"], old["doc_id"].combine_chunks())
    assert [str(value) for value in grown.filter(known)["importance"].to_pylist()] == [
        str(value) for value in old["importance"].to_pylist()
    ]
    assert ran.values("importance_features").items() >= scores.items()
    assert len(ran.values("importance")) == documents.num_rows


def test_a_fit_that_is_not_frozen_follows_the_corpus(first, run_spec, pool, own_target, documents, tmp_path):
    old = first.values("importance")
    pq.write_table(documents.slice(200), pool / "part-zz.parquet")
    grown = run_spec(specification(pool, own_target), tmp_path).values("importance")
    assert any(grown[doc_id] != value for doc_id, value in old.items() if value == value and value is not None)


def test_where_restricts_what_is_scored(run_spec, pool, own_target, tmp_path):
    ran = run_spec(specification(pool, own_target, length={"length": {"where": "source = 'web'"}}), tmp_path)
    sources = {
        row["id"]: (row["source"], row["text"])
        for path in sorted(pool.iterdir())
        for row in pq.read_table(path).to_pylist()
    }
    for doc_id, length in ran.values("length").items():
        source, text = sources[doc_id]
        assert (length is not None) == (source == "web" and text is not None), doc_id


def test_where_restricts_what_is_fitted(run_spec, pool, own_target, documents, tmp_path, write_corpus):
    """Scores over part of the corpus equal those of a corpus that is that part."""
    part = documents.slice(0, 200).filter(pa.compute.equal(documents.slice(0, 200)["source"], "web"))
    alone = run_spec(specification(write_corpus(tmp_path / "web", part, 1), own_target), tmp_path / "alone")
    ran = run_spec(specification(pool, own_target, importance={"where": "source = 'web'"}), tmp_path)
    expected = {doc_id: str(value) for doc_id, value in alone.values("importance").items()}
    found = {doc_id: str(value) for doc_id, value in ran.values("importance").items()}
    assert {doc_id: found[doc_id] for doc_id in expected} == expected
    assert {value for doc_id, value in found.items() if doc_id not in expected} == {"None"}


def test_where_redoes_what_it_restricts_when_its_columns_change(run_spec, pool, own_target, tmp_path):
    said = specification(pool, own_target, importance={"where": "length > 100"})
    first = run_spec(said, tmp_path)
    before = len(first.receipts())
    changed = specification(
        pool, own_target, importance={"where": "length > 100"}, length={"length": {"where": "source = 'web'"}}
    )
    assert stages_redone(run_spec(changed, tmp_path), before) == {"length", "importance", "long", "like"}


def test_limit_takes_the_first_shards_and_the_rest_later(run_spec, pool, own_target, tmp_path):
    some = run_spec(specification(pool, own_target), tmp_path, limit=1)
    assert len(some.values("length")) == 100
    before = len(some.receipts())
    ran = run_spec(specification(pool, own_target), tmp_path)
    assert [unit for name, unit in work_done(ran, before) if name == "length"] == ["1"]
