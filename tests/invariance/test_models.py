"""Models of a run and what they say of documents: the same bytes however the corpus lies, whoever works, again."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def few(documents):
    """Fifty documents, some odd, none of them long; two without text."""
    short = documents.filter(pa.compute.less(pa.compute.binary_length(documents["text"]), 1200))
    return pa.concat_tables([short.slice(0, 48), documents.filter(documents["text"].is_null())])


@pytest.fixture(scope="module")
def specification(target):
    """corpus → a file whose stages train two models, score by them, and choose by ranks of the scores."""
    stages = [
        {"train": {"name": "prior", "on": {"random": {"tokens": 2048}}, "size": "tiny"}},
        {"train": {"name": "conditional", "from": "prior", "on": str(target), "tokens": 1024, "keep": 2}},
        {
            "score": [
                {"loss_reduction": {"prior": "prior", "conditional": "conditional"}},
                {"min_k": {"model": "prior"}},
            ]
        },
        {"score": {"perplexity": {"model": "prior"}}},
        {"score": {"influence": {"model": "conditional", "target": str(target), "sample_tokens": 1500}}},
        {
            "select": {
                "name": "best",
                "where": "rank(min_k) < 0.9",
                "by": {"top": {"score": "rank(loss_reduction) + 0.1 * zscore(influence)"}},
                "trust": ["zscore_influence"],
                "budget_documents": 20,
            }
        },
    ]
    return lambda corpus, **settings: {
        "corpus": {"paths": str(corpus), "max_bad_fraction": 0.05, **settings},
        "tokenizer": {"vocabulary": 400},
        "seed": 11,
        "stages": stages,
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, few, write_corpus):
    return write_corpus(tmp_path_factory.mktemp("few") / "pool", few, 2, with_empty=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, run_spec, corpus, specification):
    return run_spec(specification(corpus), tmp_path_factory.mktemp("reference"))


def digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.take(pa.array(range(table.num_rows))).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def assert_same_values(one, other):
    assert one.columns
    assert set(one.columns) == set(other.columns)
    for column in one.columns:
        assert digest(one.table([column])) == digest(other.table([column])), column


def weights(ran):
    """The weights of all models, wherever they lie."""
    files = ran.files("models")
    return sorted(digest for path, digest in files.items() if path.endswith(".safetensors"))


def test_the_reference_tells_documents_apart(reference):
    assert len(reference.kept("best")) == 20
    for column in ("loss_reduction", "min_k", "perplexity", "influence"):
        values = [value for value in reference.values(column).values() if value is not None]
        assert len(values) > 20, column
        assert len(set(values)) > len(values) / 2, column
    assert len(weights(reference)) >= 4, "two models, one that was kept on the way, a compass"


def test_a_second_run_has_the_same_bytes(reference, run_spec, corpus, specification, tmp_path):
    again = run_spec(specification(corpus), tmp_path)
    assert again.files("layers") == reference.files("layers")
    assert weights(again) == weights(reference)
    before = len(again.receipts())
    assert len(run_spec(specification(corpus), tmp_path).receipts()) == before, "nothing is done a third time"


def test_other_shards_in_another_order_move_no_value(reference, run_spec, specification, few, write_corpus, tmp_path):
    other = write_corpus(tmp_path / "pool", few, 3, backwards=True)
    ran = run_spec(specification(other), tmp_path)
    assert weights(ran) == weights(reference)
    assert_same_values(ran, reference)


def test_shuffled_documents_in_other_batches_move_no_value(
    reference, run_spec, specification, few, write_corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("tamis.corpus.BATCH_ROWS", 7)
    order = sorted(range(few.num_rows), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    other = write_corpus(tmp_path / "pool", few.take(pa.array(order)), 1)
    assert_same_values(run_spec(specification(other), tmp_path), reference)


@pytest.mark.dask
def test_two_dask_workers_give_the_same_bytes(reference, run_spec, specification, corpus, tmp_path, dask_workers):
    ran = run_spec(specification(corpus), tmp_path, dask_workers)
    assert ran.files("layers") == reference.files("layers")
    assert weights(ran) == weights(reference)


def test_another_model_redoes_what_reads_it_and_nothing_else(run_spec, specification, corpus, tmp_path):
    said = specification(corpus)
    first = run_spec(said, tmp_path)
    before, influence, min_k = len(first.receipts()), first.values("influence"), first.values("min_k")
    said["stages"][1]["train"]["tokens"] = 512
    ran = run_spec(said, tmp_path)
    redone = {receipt["label"].split(":")[0].split()[1] for receipt in ran.receipts()[before:]}
    assert redone >= {"conditional", "conditional_losses", "loss_reduction", "influence", "best"}
    assert redone <= {
        *("conditional", "conditional_losses", "loss_reduction", "rank_loss_reduction"),
        *("influence", "zscore_influence", "best"),
    }
    assert ran.values("min_k") == min_k
    assert ran.values("influence") != influence
