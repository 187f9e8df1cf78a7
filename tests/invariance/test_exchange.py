"""Exchanges in a run: rows of any number per document, lists of decisions, joins of joins; however they are cut up."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pytest

from tamis.dedup.minhash import Minhash
from tamis.errors import RunFailedError
from tamis.inline import run_inline
from tamis.pipeline.workers import Serial

MEET = '''"""Who shares words with whom: every way in which an exchange may be used, in plain Python."""
import hashlib
from dataclasses import dataclass
from itertools import groupby
import numpy as np
import pyarrow as pa
from tamis.scorers.base import Scorer
from tamis.steps import Exchange, Fold, Map, Publish


def key(word):
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Meet(Scorer):
    """The rarest word that a document shares; the documents whose rarest it is too; the words that all those have."""

    wrong: str = ""

    def columns(self, name):
        return {name: pa.float32(), f"{name}_word": pa.string(), f"{name}_common": pa.list_(pa.string())}

    def steps(self, pool):
        returns = {"count": pa.uint32(), "word": pa.string()}
        shared = yield Exchange(("text",), self.send_words, self.count, returns, many=True)
        returns = {"friends": pa.uint32(), "common": pa.list_(pa.string()), "by": pa.string()}
        total = yield Fold((), self.total, joins=shared)
        met = yield Exchange(("text",), self.send_all, self.meet, returns, joins=shared)
        findings = Publish(f"{pool.name}.json", {"decisions": int(total["n"][0])})
        return Map((), self.columns(pool.name), lambda batch: self.tell(pool.name, batch), joins=met, findings=findings)

    def send_words(self, batch):
        """A row per word: none, one or many per document."""
        words = [sorted(set(text.lower().split())) for text in batch["text"].to_pylist()]
        columns = {
            "key": np.array([key(word) for found in words for word in found], np.uint64),
            "row": np.repeat(batch["row"].to_numpy(), [len(found) for found in words]),
            "word": pa.array([word for found in words for word in found], pa.string()),
        }
        if self.wrong == "no key":
            del columns["key"]
        if self.wrong == "lengths":
            columns["word"] = columns["word"].slice(1)
        return columns

    def count(self, table):
        found = []
        for _, rows in groupby(table.to_pylist(), key=lambda row: row["key"]):
            rows = list(rows)
            found += [{"row": row["row"], "count": len(rows), "word": row["word"]} for row in rows if len(rows) > 1]
        schema = pa.schema([("row", pa.uint64()), ("count", pa.uint32()), ("word", pa.string())])
        if self.wrong == "columns":
            schema = pa.schema([*schema][:2])
        return pa.Table.from_pylist(found, schema)

    def total(self, batch):
        return {"n": np.array([sum(len(words or ()) for words in batch["word"].to_pylist())])}

    def send_all(self, batch):
        """One row of those that share something, with all their words as a list."""
        chosen = [
            (row, min(zip(counts, words)), sorted(set(text.lower().split())))
            for row, counts, words, text in zip(*(batch[name].to_pylist() for name in ("row", "count", "word", "text")))
            if counts is not None
        ]
        return {
            "key": pa.array([key(rarest) for _, (_, rarest), _ in chosen], pa.uint64()),
            "row": pa.array([row for row, _, _ in chosen], pa.uint64()),
            "by": pa.array([rarest for _, (_, rarest), _ in chosen], pa.string()),
            "all": pa.array([words for _, _, words in chosen], pa.list_(pa.string())),
        }

    def meet(self, table):
        found = []
        for _, rows in groupby(table.to_pylist(), key=lambda row: row["key"]):
            rows = list(rows)
            common = sorted(set.intersection(*(set(row["all"]) for row in rows)))
            found += [
                {"row": row["row"], "friends": len(rows) - 1, "common": common, "by": row["by"]} for row in rows
            ] * (2 if self.wrong == "twice" else 1)
        kinds = {"row": pa.uint64(), "friends": pa.uint32(), "common": pa.list_(pa.string()), "by": pa.string()}
        return pa.Table.from_pylist(found, pa.schema(list(kinds.items())))

    def tell(self, name, batch):
        return {
            name: batch["friends"].cast(pa.float32()), f"{name}_word": batch["by"], f"{name}_common": batch["common"]
        }
'''


def expected_of(documents, chosen=lambda row: True):
    """{doc_id: (friends, word, common)} by the slow way; None for those with nothing to say about."""
    words = {
        row["id"]: sorted(set(row["text"].lower().split()))
        for row in documents.to_pylist()
        if row["text"] is not None and chosen(row)
    }
    counts: dict[str, int] = {}
    for found in words.values():
        for word in found:
            counts[word] = counts.get(word, 0) + 1
    rarest = {}
    for doc_id, found in words.items():
        if shared := [(counts[word], word) for word in found if counts[word] > 1]:
            rarest[doc_id] = min(shared)[1]
    told = dict.fromkeys(documents["id"].to_pylist(), (None, None, None))
    for doc_id, word in rarest.items():
        friends = [other for other in rarest if rarest[other] == word]
        common = sorted(set.intersection(*(set(words[other]) for other in friends)))
        told[doc_id] = (len(friends) - 1, word, common)
    return told


def told_by(ran):
    columns = [ran.values(name) for name in ("meet", "meet_word", "meet_common")]
    return {doc_id: tuple(values[doc_id] for values in columns) for doc_id in columns[0]}


@pytest.fixture(scope="module")
def some(documents):
    """Hundred documents with few words each, some with a null text, some without words."""
    texts = [text and " ".join(text.split()[:6]) for text in documents["text"].to_pylist()]
    shortened = documents.set_column(1, "text", pa.array(texts, pa.string()))
    nulls = pa.compute.is_null(shortened["text"])
    return pa.concat_tables([shortened.filter(nulls), shortened.filter(pa.compute.invert(nulls)).slice(0, 98)])


@pytest.fixture(scope="module")
def specification(tmp_path_factory):
    """(corpus, options of the stage) → a file with one stage of a user's component."""
    folder = tmp_path_factory.mktemp("components")
    (folder / "meet.py").write_text(MEET, encoding="utf-8")

    def of(corpus, **options):
        return {
            "corpus": {"paths": str(corpus), "max_bad_fraction": 0.1},
            "components": str(folder),
            "stages": [{"score": [{"meet": options}]}],
        }

    return of


@pytest.fixture(scope="module")
def reference(tmp_path_factory, run_spec, some, write_corpus, specification):
    """Seven shards, one partition, no bundles."""
    folder = tmp_path_factory.mktemp("reference")
    return run_spec(specification(write_corpus(folder / "pool", some, 7)), folder)


@pytest.fixture
def small_pieces(monkeypatch):
    """Many partitions of few bytes, in bundles of three files."""
    monkeypatch.setattr("tamis.pipeline.exchange.PARTITION_BYTES", 400)
    for module in ("execute", "gather", "folds"):
        monkeypatch.setattr(f"tamis.pipeline.{module}.GROUP_SHARDS", 3)


def units(ran, start):
    return {receipt["unit"] for receipt in ran.receipts() if receipt["unit"].startswith(start)}


def test_decisions_are_those_of_the_slow_way(reference, some):
    expected = expected_of(some)
    assert told_by(reference) == expected
    assert len({word for _, word, _ in expected.values()}) > 15
    assert [friends for friends, _, _ in expected.values()].count(None) > 5
    assert len(units(reference, "decided-")) == 1
    assert units(reference, "by-") == set()


def test_many_partitions_and_bundles_of_few_files_change_nothing(
    reference, run_spec, specification, some, write_corpus, small_pieces, tmp_path
):
    ran = run_spec(specification(write_corpus(tmp_path / "pool", some, 7)), tmp_path)
    assert ran.files("layers") == reference.files("layers")
    assert len(units(ran, "decided-")) > 64
    assert len(units(ran, "by-key-")) == 3, "of seven shards"
    assert len(units(ran, "by-row-")) > 20


def test_more_shards_than_are_opened_at_once(reference, run_spec, specification, some, write_corpus, tmp_path):
    """70 shards, two bundles; some of the shards have one document."""
    ran = run_spec(specification(write_corpus(tmp_path / "pool", some, 70, backwards=True)), tmp_path)
    assert told_by(ran) == told_by(reference)
    assert len(units(ran, "by-key-")) == 2


@pytest.mark.parametrize("shards", [1, 5])
def test_other_shards_and_an_empty_one(reference, run_spec, specification, some, write_corpus, tmp_path, shards):
    ran = run_spec(specification(write_corpus(tmp_path / "pool", some, shards, with_empty=True)), tmp_path)
    assert told_by(ran) == told_by(reference)


def test_shuffled_documents_in_batches_of_nine(
    reference, run_spec, specification, some, write_corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("tamis.corpus.BATCH_ROWS", 9)
    order = sorted(range(some.num_rows), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    ran = run_spec(specification(write_corpus(tmp_path / "pool", some.take(pa.array(order)), 2)), tmp_path)
    assert told_by(ran) == told_by(reference)


def test_nothing_to_send_and_nothing_to_decide(run_spec, specification, some, write_corpus, tmp_path):
    blank = some.slice(0, 20).set_column(1, "text", pa.array([" ", ""] * 10))
    ran = run_spec(specification(write_corpus(tmp_path / "pool", blank, 3, with_empty=True)), tmp_path)
    assert set(told_by(ran).values()) == {(None, None, None)}
    lonely = some.slice(0, 20).set_column(1, "text", pa.array([f"own{i}" for i in range(20)]))
    ran = run_spec(specification(write_corpus(tmp_path / "other", lonely, 3)), tmp_path / "b")
    assert set(told_by(ran).values()) == {(None, None, None)}


def test_where_says_which_documents_take_part(run_spec, specification, some, write_corpus, small_pieces, tmp_path):
    corpus = write_corpus(tmp_path / "pool", some, 4)
    ran = run_spec(specification(corpus, where="source = 'web' or source is null"), tmp_path)
    assert told_by(ran) == expected_of(some, lambda row: row["source"] in ("web", None))


# ---- loss and resumption ----


class Dying(Serial):
    """Dies after so many tasks, as a driver that is killed does: what was handed over has a receipt."""

    def __init__(self, tasks):
        super().__init__()
        self.left = tasks

    def run(self, tasks):
        for outcome in super().run(tasks):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield outcome


def test_a_run_that_dies_between_bundles_ends_with_the_same_bytes(
    reference, run_spec, specification, some, write_corpus, small_pieces, tmp_path
):
    said = specification(write_corpus(tmp_path / "pool", some, 7))
    ran, deaths = None, 0
    while ran is None:
        try:
            ran = run_spec(said, tmp_path, Dying(24))
        except KeyboardInterrupt:
            deaths += 1
    assert deaths > 4
    assert len(units(ran, "by-row-")) > 20, "more than a driver did in its life"
    assert ran.files("layers") == reference.files("layers")
    done = [(receipt["key"], receipt["unit"]) for receipt in ran.receipts()]
    assert len(set(done)) == len(done), "what had a receipt was not done again"


@pytest.mark.parametrize("name", ["by-key-00001.arrow", "by-row-00004.arrow", "00007.arrow"])
def test_a_lost_file_of_an_exchange_is_made_again(
    reference, run_spec, specification, some, write_corpus, small_pieces, tmp_path, name
):
    """Made again where it is needed: rows that were sent are, once there is something left to decide."""
    said = specification(write_corpus(tmp_path / "pool", some, 7))
    first = run_spec(said, tmp_path)
    (lost, *_) = sorted(path for path in (first.folder / "folds").rglob("*.arrow") if path.name.endswith(name))
    content = lost.read_bytes()
    folder = lost.parent
    lost.unlink()
    if name.startswith("by-key"):  # only a partition that is to be decided asks for it
        min(path for path in folder.glob("*.arrow") if not path.name.startswith("by-")).unlink()
    for layer in (first.folder / "layers").rglob("*.parquet"):
        layer.unlink()
    ran = run_spec(said, tmp_path)
    assert lost.read_bytes() == content
    assert ran.files("layers") == reference.files("layers")


# ---- promises that a component breaks ----


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("no key", r"score meet: emit\(\) promised a column 'key' \(uint64\), returned \['row', 'word'\]"),
        ("lengths", r"score meet: emit\(\) promised \d+ values per column, returned \{'word': \d+\}"),
        (
            "columns",
            r"score meet: decide\(\) promised the columns \['count', 'row', 'word'\], returned \['count', 'row'\]",
        ),
        ("twice", r"decide\(\) promised one decision about a row, returned more about the document \d+ of"),
    ],
)
def test_a_broken_promise_is_told(run_spec, specification, some, write_corpus, tmp_path, wrong, message):
    with pytest.raises(RunFailedError, match=message):
        run_spec(specification(write_corpus(tmp_path / "pool", some, 2), wrong=wrong), tmp_path)


# ---- minhash, which uses all of it ----

VERIFY = ("none", "signature", "exact")
OPTIONS = {"ngram": 2, "threshold": 0.6, "canaries": 0.3, "keep": "longest"}


@pytest.fixture(scope="module")
def deduplicating():
    """corpus → a file with minhash three times."""

    def of(corpus):
        named = [{"minhash": {**OPTIONS, "verify": verify, "as": f"m_{verify}"}} for verify in VERIFY]
        return {
            "corpus": {"paths": str(corpus), "max_bad_fraction": 0.1},
            "stages": [{"deduplicate": {"by": by}} for by in named],
        }

    return of


@pytest.fixture(scope="module")
def duplicates(documents):
    """{column: {doc_id: value}} of minhash on all documents in memory."""
    usable = documents.filter(documents["text"].is_valid()).rename_columns(["doc_id", "text", "source", "stars"])
    found: dict[str, dict[str, object]] = {}
    for verify in VERIFY:
        table = run_inline(Minhash(**OPTIONS, verify=verify), usable, f"m_{verify}")
        for name in table.column_names:
            values = dict.fromkeys(documents["id"].to_pylist())
            values.update(zip(usable["doc_id"].to_pylist(), table[name].to_pylist(), strict=True))
            found[name] = values
    assert 20 < list(found["m_exact_duplicate"].values()).count(True) < 150
    return found


def assert_found(ran, duplicates):
    for name, values in duplicates.items():
        assert ran.values(name) == values, name


def test_minhash_in_a_run_is_minhash_in_memory(run_spec, deduplicating, corpus, duplicates, tmp_path):
    assert_found(run_spec(deduplicating(corpus), tmp_path), duplicates)


def test_minhash_in_small_pieces(
    run_spec, deduplicating, documents, write_corpus, duplicates, small_pieces, monkeypatch, tmp_path
):
    monkeypatch.setattr("tamis.pipeline.exchange.PARTITION_BYTES", 8_000)
    ran = run_spec(deduplicating(write_corpus(tmp_path / "pool", documents, 7, backwards=True)), tmp_path)
    assert len(units(ran, "decided-")) > 16
    assert len(units(ran, "by-row-")) > 2
    assert_found(ran, duplicates)


def test_planted_copies_are_in_no_file_that_a_user_sees(run_spec, deduplicating, corpus, tmp_path):
    """Same layers, columns and findings but the recall, whether there are any or none."""
    said = deduplicating(corpus)
    with_copies = run_spec(said, tmp_path / "a")
    for stage in said["stages"]:
        stage["deduplicate"]["by"]["minhash"]["canaries"] = 0
    without = run_spec(said, tmp_path / "b")
    assert with_copies.columns == without.columns
    for column in without.columns:
        assert with_copies.values(column) == without.values(column), column
    for verify in VERIFY:
        one, other = (
            json.loads((ran.folder / "findings" / f"m_{verify}.json").read_text()) for ran in (with_copies, without)
        )
        assert sum(entry["planted"] for entry in one.pop("canaries")) > 30
        assert other.pop("canaries") == []
        assert one == other


@pytest.mark.dask
def test_minhash_on_two_dask_workers(
    run_spec, deduplicating, documents, write_corpus, duplicates, dask_workers, tmp_path
):
    ran = run_spec(deduplicating(write_corpus(tmp_path / "pool", documents, 5)), tmp_path, dask_workers)
    assert_found(ran, duplicates)
