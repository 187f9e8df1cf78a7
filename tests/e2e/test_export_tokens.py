"""An arm as tokens for a trainer: what is in the files, read as a trainer would, is the arm's text and nothing else."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import ContractError
from tamis.models.tokenizer import END, Tokenizer, train_tokenizer
from tamis.pipeline.export import export
from tamis.pipeline.token_files import TokenShard
from tamis.pipeline.workers import Serial

tokenizers = pytest.importorskip("tokenizers")

FOOTER = "all rights reserved by the sieve makers of the world"


@pytest.fixture(scope="module")
def ran(tmp_path_factory, run_spec, documents, write_corpus):
    """Arms of all documents and of few; a footer that several have; a document that spells the end token."""
    folder = tmp_path_factory.mktemp("tokens")
    texts = [
        text and (f"{text}\n{FOOTER}" if number % 5 == 0 else text)
        for number, text in enumerate(documents["text"].to_pylist())
    ]
    texts[7] = f"before {END} after"
    table = documents.set_column(1, "text", pa.array(texts, pa.string()))
    stages = [
        {"deduplicate": {"by": {"paragraph": {"min_words": 8}}}},
        {"score": "length"},
        {"select": {"name": "all", "by": "sample"}},
        {"select": {"name": "few", "by": "sample", "where": "length < 2000", "budget_tokens": 3000}},
    ]
    said = {
        "corpus": {"paths": str(write_corpus(folder / "pool", table, 3)), "max_bad_fraction": 0.05},
        "stages": stages,
    }
    return run_spec({**said, "tokenizer": {"vocabulary": 400}}, folder)


def exported(ran, folder, arm="all", **options):
    """(id → text by ids and positions, manifest): checked against sizes, digests and the stream itself."""
    done = export(ran.folder, arm, folder, "tokens", options.pop("workers", Serial()), **options)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    about = manifest["tokens"]
    tokenizer = Tokenizer.load(folder)
    texts, names = {}, {"manifest.json", *about["tokenizer"]}
    for file in manifest["files"]:
        path = folder / file["file"]
        stream = np.memmap(path, np.dtype(about["dtype"]).newbyteorder("<"), "r")
        beside = pq.read_table(folder / file["beside"])
        assert (len(stream), beside.num_rows) == (file["tokens"], file["documents"])
        assert path.stat().st_size == file["bytes"]
        assert hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() == file["digest"]
        ends = np.flatnonzero(stream == about["end"])
        assert (ends + 1).tolist() == beside["start"].to_pylist(), (
            "an end token opens each document, and is nowhere else"
        )
        for row in beside.select(["id", "start", "tokens"]).to_pylist():
            texts[row["id"]] = tokenizer.decode(stream[row["start"] : row["start"] + row["tokens"]].tolist())
        assert len(stream) == sum(beside["tokens"].to_pylist()) + beside.num_rows
        names |= {file["file"], file["beside"]}
    assert {path.name for path in folder.iterdir()} == names
    assert done.tokens == about["count"] == sum(file["tokens"] for file in manifest["files"])
    assert done.documents == len(texts)
    return texts, manifest


def expected(ran, tmp_path, arm="all", **options):
    """What an export as Parquet holds."""
    export(ran.folder, arm, tmp_path, "parquet", Serial(), **options)
    rows = [row for path in sorted(tmp_path.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["id"]: row["text"] for row in rows}


@pytest.mark.parametrize("options", [{}, {"spans": ()}], ids=["cut", "whole"])
@pytest.mark.parametrize("arm", ["all", "few"])
def test_the_tokens_are_those_of_the_arms_documents(ran, tmp_path, arm, options):
    texts, manifest = exported(ran, tmp_path / "out", arm, **options)
    assert texts == expected(ran, tmp_path / "parquet", arm, **options)
    assert set(texts) <= ran.kept(arm)
    assert len(texts) + manifest["left_out"]["documents"] == len(ran.kept(arm))
    assert manifest["tokens"]["vocabulary"] == 400
    assert manifest["tokens"]["dtype"] == "uint16"


def test_passages_are_left_out_and_counted(ran, tmp_path):
    cut, told = exported(ran, tmp_path / "cut")
    whole, _ = exported(ran, tmp_path / "whole", spans=())
    assert told["left_out"]["spans"] > 20
    assert sum(map(len, cut.values())) < sum(map(len, whole.values()))


def test_a_document_that_spells_the_end_token_does_not_end_there(ran, tmp_path):
    texts, _ = exported(ran, tmp_path / "out", spans=())
    assert f"before {END} after" in texts.values()


def test_columns_come_along_beside_the_tokens(ran, tmp_path):
    exported(ran, tmp_path / "out", "few", columns=("length",))
    beside = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.documents.parquet")))
    assert beside.column_names == ["id", "source", "stars", "length", "start", "tokens"]
    lengths = ran.values("length")
    assert beside["length"].to_pylist() == [lengths[doc_id] for doc_id in beside["id"].to_pylist()]


def test_files_joined_and_closed_are_the_rows_that_our_own_training_takes(ran, tmp_path):
    from tamis.models.packing import pack, pack_stream

    texts, manifest = exported(ran, tmp_path / "out")
    streams = [np.fromfile(tmp_path / "out" / file["file"], "<u2") for file in manifest["files"]]
    end = manifest["tokens"]["end"]
    ids, offsets = Tokenizer.load(tmp_path / "out").encode(list(texts.values()))
    assert pack_stream(np.concatenate([*streams, [end]]), 64).tolist() == pack(ids, offsets, 64, end).tolist()


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.dask
def test_workers_move_no_byte(ran, tmp_path, dask_workers):
    exported(ran, tmp_path / "one")
    exported(ran, tmp_path / "two", workers=dask_workers)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_a_second_export_replaces_the_first_and_other_files_are_left_alone(ran, tmp_path):
    exported(ran, tmp_path / "out")
    few, _ = exported(ran, tmp_path / "few", "few")
    with pytest.raises(ContractError, match="expected a new folder, or one with this export in it; it holds all-"):
        export(ran.folder, "few", tmp_path / "out", "tokens", Serial())
    with pytest.raises(ContractError, match=r"it holds few-000000\.bin"):
        export(ran.folder, "few", tmp_path / "few", "parquet", Serial())
    (tmp_path / "few" / "few-000009.bin").write_bytes(b"of an older run")
    again, _ = exported(ran, tmp_path / "few", "few")
    assert again == few


# ---- the tokenizer ----


def test_another_tokenizer_may_be_named(ran, tmp_path):
    train_tokenizer(["a tamis is a drum sieve"], 300, tmp_path / "own")
    texts, manifest = exported(ran, tmp_path / "out", "few", tokenizer=str(tmp_path / "own"))
    assert texts == expected(ran, tmp_path / "parquet", "few")
    assert manifest["tokens"]["vocabulary"] < 300
    by_name, _ = exported(ran, tmp_path / "named", "few", tokenizer="tokens")
    assert by_name == texts


def test_a_run_without_tokenizer_asks_for_one(run_spec, corpus, tmp_path):
    stages = [{"select": {"name": "all", "by": "sample", "budget_documents": 9}}]
    ran = run_spec({"corpus": {"paths": str(corpus), "max_bad_fraction": 0.05}, "stages": stages}, tmp_path / "run")
    with pytest.raises(ContractError, match=r"\(none has a tokenizer\); found none that the run made itself; name one"):
        export(ran.folder, "all", tmp_path / "out", "tokens", Serial())
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        ContractError, match=r"a folder with tokenizer\.json, .*got 'tokins'; name one with --tokenizer"
    ):
        export(ran.folder, "all", tmp_path / "out", "tokens", Serial(), tokenizer="tokins")


def test_the_command_line(ran, tmp_path):
    from click.testing import CliRunner

    from tamis.__main__ import cli

    base = ["export", str(ran.folder), "--arm", "few", "--serial", "--to", str(tmp_path / "out")]
    told = CliRunner().invoke(cli, [*base, "--format", "tokens"])
    assert told.exit_code == 0, told.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert f" files, {manifest['tokens']['count']:,} tokens, " in told.output
    refused = CliRunner().invoke(cli, [*base, "--tokenizer", "tokens"])
    assert refused.exit_code == 2
    assert "expected --format tokens beside it, got parquet" in refused.output


# ---- one shard ----


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    train_tokenizer(["a tamis is a drum sieve, and so is a sieve with a drum"], 280, folder)
    return folder


@given(
    st.lists(
        st.lists(st.tuples(st.text("ab tamis é\n", max_size=30), st.integers(0, 3)), max_size=6), min_size=1, max_size=4
    )
)
def test_a_document_stands_as_often_as_it_is_used(small, parts):
    tables = [
        (
            pa.table(
                {
                    "doc_id": pa.array([f"{i}.{j}" for j in range(len(part))], pa.string()),
                    "text": pa.array([text for text, _ in part], pa.string()),
                }
            ),
            np.array([times for _, times in part], np.int64),
        )
        for i, part in enumerate(parts)
    ]
    shard = TokenShard.of(tables, small)
    tokenizer = Tokenizer.load(small)
    stream, uses = [], []
    for i, part in enumerate(parts):
        for j, (text, times) in enumerate(part):
            for _ in range(times):
                ids = tokenizer.encode([text])[0].tolist()
                uses.append({"doc_id": f"{i}.{j}", "start": len(stream) + 1, "tokens": len(ids)})
                stream += [tokenizer.end, *ids]
    assert shard.stream.tolist() == stream
    assert shard.documents.to_pylist() == uses
    assert shard.content == b"".join(number.to_bytes(2, "little") for number in stream)


def test_large_vocabularies_take_four_bytes(tmp_path):
    words = {END: 0, **{f"w{number}": number for number in range(1, 70_000)}}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=END))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.save(str(tmp_path / "tokenizer.json"))
    table = pa.table({"doc_id": ["a"], "text": ["w69999 w7"]})
    shard = TokenShard.of([(table, np.array([1]))], tmp_path)
    assert shard.content == b"".join(number.to_bytes(4, "little") for number in (0, 69_999, 7))
