"""JSON lines through a whole run: ways in which pipelines were seen to lose documents silently, hostile files."""

from __future__ import annotations

import gzip
import json

import pytest

from tamis.errors import ContractError, RunFailedError, TamisError


def said(paths, budget=0.01, **more):
    stages = [
        {"deduplicate": "exact"},
        {"score": "length"},
        {"select": {"name": "all", "where": "not exact_duplicate", "by": "sample"}},
    ]
    return {"corpus": {"paths": str(paths), "max_bad_fraction": budget}, "stages": stages, **more}


def lines(count, text="document number {0}"):
    return [b'{"id": "%d", "text": "%s"}' % (index, text.format(index).encode()) for index in range(count)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ---- six silent losses ----


def test_one_invalid_byte_in_100_000_documents_costs_one(run_spec, tmp_path):
    documents = lines(100_000)
    documents[3000] = documents[3000].replace(b"number", b"num\xffber")
    ran = run_spec(said(write(tmp_path / "docs.jsonl", b"\n".join(documents))), tmp_path)
    assert ran.catalog["arms"]["all"]["pool"] == 99_999
    assert ran.catalog["ingest"]["bad"] == 1
    (entry,) = ran.quarantine()
    assert entry["position"]["line"] == 3001


def test_one_malformed_line_of_ten_is_counted_and_the_budget_decides(run_spec, tmp_path):
    documents = lines(10)
    documents[4] = documents[4][:-3]
    path = write(tmp_path / "docs.jsonl", b"\n".join(documents))
    with pytest.raises(RunFailedError, match=r"1 of 10 documents are bad \(10\.00%\)"):
        run_spec(said(path), tmp_path)
    ran = run_spec(said(path, 0.1), tmp_path)
    assert len(ran.kept("all")) == 9
    assert len(ran.quarantine()) == 1


@pytest.mark.parametrize("lost", ["emitted", "decided", "layer"])
def test_a_lost_file_of_the_duplicates_is_made_again_and_not_taken_for_no_duplicates(run_spec, tmp_path, lost):
    for shard in range(4):
        write(
            tmp_path / "docs" / f"{shard}.jsonl",
            b"\n".join(b'{"id": "%d-%d", "text": "text number %d"}' % (shard, i, i % 38) for i in range(50)),
        )
    said_ = said(
        tmp_path / "docs" / "*.jsonl", corpus={"paths": str(tmp_path / "docs" / "*.jsonl"), "shard_bytes": 2000}
    )
    first = run_spec(said_, tmp_path)
    assert len(first.kept("all")) == 38
    layer = first.folder / first.catalog["columns"]["exact_duplicate"]["layer"]
    victims = {
        "layer": list(layer.glob("*.parquet")),
        "emitted": list(first.folder.rglob("exact-*/0*.arrow")),
        "decided": list(first.folder.rglob("decided-*.arrow")),
    }
    assert victims[lost]
    min(victims[lost]).unlink()
    if lost != "layer":  # what is made of it must be needed again
        for path in layer.glob("*.parquet"):
            path.unlink()
    again = run_spec(said_, tmp_path)
    assert again.values("exact_kept_by") == first.values("exact_kept_by")
    assert again.kept("all") == first.kept("all")


@pytest.mark.parametrize("size", [400, 5000, 1 << 20])
def test_other_tasks_and_a_document_in_front_remove_the_same_duplicates(run_spec, tmp_path, size):
    documents = [b'{"id": "d%03d", "text": "text number %d"}' % (i, i % 150) for i in range(200)]
    path = write(tmp_path / "docs.jsonl", b"\n".join(documents))
    specification = said(path)
    specification["corpus"]["shard_bytes"] = size
    ran = run_spec(specification, tmp_path)
    assert ran.kept("all") == {f"d{i:03d}" for i in range(150)}
    write(path, b"\n".join([b'{"id": "new", "text": "something else"}', *documents]))
    assert run_spec(specification, tmp_path).kept("all") == {f"d{i:03d}" for i in range(150)} | {"new"}


PICKY = '''"""Raises on one document."""
from dataclasses import dataclass
import numpy as np
from tamis.scorers.base import Scorer


@dataclass(frozen=True)
class Picky(Scorer):
    """One for every text but one."""

    def score(self, batch):
        if any(text == "document number 2500" for text in batch["text"].to_pylist()):
            raise RuntimeError("not this one")
        return np.ones(len(batch), np.float32)
'''


def test_one_document_that_raises_in_5000_costs_no_batch(run_spec, tmp_path):
    write(tmp_path / "own" / "picky.py", PICKY.encode())
    specification = said(write(tmp_path / "docs.jsonl", b"\n".join(lines(5000))), components=str(tmp_path / "own"))
    specification["stages"].insert(0, {"score": "picky"})
    ran = run_spec(specification, tmp_path)
    assert ran.catalog["arms"]["all"]["kept"] == 4999
    assert ran.catalog["arms"]["all"]["dropped"] == {"quarantined": 1}
    assert [doc_id for doc_id, value in ran.values("picky").items() if value is None] == ["2500"]


def test_relative_paths_work_from_anywhere_and_nothing_found_is_an_error(tamis, tmp_path):
    write(tmp_path / "deep" / "documents" / "a.jsonl.gz", gzip.compress(b"\n".join(lines(10))))
    write(tmp_path / "deep" / "stages.yaml", json.dumps({**said("documents/*.gz"), "out": "run"}).encode())
    done = tamis("run", "deep/stages.yaml", "--serial", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "deep" / "run" / "run.json").read_text())["arms"]["all"]["kept"] == 10
    write(tmp_path / "stages.yaml", json.dumps(said("documents/*.gz")).encode())
    done = tamis("run", "stages.yaml", "--serial", folder=tmp_path)
    assert done.returncode in (1, 2)
    assert "documents/*.gz" in done.stderr.splitlines()[0]


# ---- ids ----


def test_ids_are_strings_and_are_not_guessed_into_numbers(run_spec, tmp_path):
    ids = ["007", "1234567890123456789", "12345678901234567890123", "2024-01-31", "1e5", "NaN", "true", "null"]
    path = write(
        tmp_path / "docs.jsonl", "\n".join(json.dumps({"id": each, "text": f"text of {each}"}) for each in ids).encode()
    )
    assert run_spec(said(path), tmp_path).values("length").keys() == set(ids)


def test_shared_ids_are_counted_and_said(run_spec, tmp_path):
    path = write(tmp_path / "docs.jsonl", b"\n".join(b'{"id": "one", "text": "text %d"}' % i for i in range(3)))
    ran = run_spec(said(path), tmp_path)
    assert json.loads((ran.folder / "identities.json").read_text())["documents_with_shared_id"] == 3
    assert any("id" in line and "3" in line for line in ran.lines[-3:])


def test_documents_without_ids_are_called_by_file_and_record(run_spec, tmp_path):
    path = write(tmp_path / "docs.jsonl", b"\n".join(b'{"text": "text %d"}' % i for i in range(3)))
    assert run_spec(said(path), tmp_path).values("length").keys() == {f"docs.jsonl:{i}" for i in (1, 2, 3)}


# ---- the command line's status ----


def test_the_budget_decides_the_exit_status(tamis, tmp_path):
    documents = lines(20)
    documents[3] = b"{not json"
    write(tmp_path / "docs.jsonl", b"\n".join(documents))
    for budget, status in ((0.0, 1), (0.01, 1), (0.05, 0), (1.0, 0)):
        write(tmp_path / f"{budget}.yaml", json.dumps({**said("docs.jsonl", budget), "out": f"run-{budget}"}).encode())
        done = tamis("run", f"{budget}.yaml", "--serial", folder=tmp_path)
        assert done.returncode == status, (budget, done.stderr)
        if status:
            assert "1 of 20 documents are bad (5.00%)" in done.stderr.splitlines()[-1]


def test_jsonl_resumes_without_converting_again(run_spec, tmp_path):
    path = write(tmp_path / "docs.jsonl", b"\n".join(lines(50)))
    first = run_spec(said(path), tmp_path)
    before = len(first.receipts())
    assert len(run_spec(said(path), tmp_path).receipts()) == before
    write(path, b"\n".join(lines(51)))
    ran = run_spec(said(path), tmp_path)
    assert ran.catalog["arms"]["all"]["kept"] == 51


def test_a_corpus_of_no_documents_at_all_says_so(run_spec, tmp_path):
    for name, content in (("empty.jsonl", b""), ("blank.jsonl", b"\n\n"), ("bad.jsonl", b"{nothing\n")):
        with pytest.raises(TamisError, match=r"expected documents in .*, got none|documents are bad"):
            run_spec(said(write(tmp_path / name, content), 1.0), tmp_path / name.replace(".", "-"))


# ---- the dirty files ----

NOTHING_TO_READ = ("truncated.jsonl.zst", "empty.jsonl", "empty.jsonl.gz", "truncated.parquet", "wrong_schema.parquet")


@pytest.fixture(scope="module")
def expected(shared):
    return {
        values["file"]: values
        for values in map(json.loads, (shared / "dirty" / "expected.jsonl").read_text("utf-8").splitlines())
    }


@pytest.mark.shared
def test_every_dirty_file_gives_its_documents_or_says_why_not(run_spec, shared, expected, tmp_path):
    for name, truth in expected.items():
        specification = said(shared / "dirty" / name, 1.0)
        if name in NOTHING_TO_READ:
            with pytest.raises(ContractError):
                run_spec(specification, tmp_path / name)
            continue
        ran = run_spec(specification, tmp_path / name)
        books = ran.catalog["arms"]["all"]
        assert books["pool"] == books["kept"] + sum(books["dropped"].values()), name
        in_place = name.endswith(".parquet")
        lengths = ran.table(["length"])["length"]
        usable = len(lengths) - lengths.null_count
        if truth["docs_valid"] is not None:
            assert usable == truth["docs_valid"], name
        if truth["lines_bad"] is not None:
            assert len(ran.quarantine()) == truth["lines_bad"], name
        bad = books["pool"] - usable if in_place else ran.catalog["ingest"]["bad"]
        assert bad == len(ran.quarantine()), name


@pytest.mark.shared
def test_without_a_budget_every_bad_document_stops_the_run(run_spec, shared, expected, tmp_path):
    stopped = set()
    for name in expected:
        if name in NOTHING_TO_READ:
            continue
        try:
            run_spec(said(shared / "dirty" / name, 0.0), tmp_path / name)
        except RunFailedError:
            stopped.add(name)
    bad = {name for name, truth in expected.items() if truth["lines_bad"]}
    assert bad <= stopped
    good = {name for name, truth in expected.items() if truth["lines_bad"] == 0 and name not in NOTHING_TO_READ}
    assert good.isdisjoint(stopped)


@pytest.mark.shared
def test_all_dirty_lines_together_lose_no_good_neighbour(run_spec, shared, expected, tmp_path):
    readable = [name for name in expected if ".jsonl" in name]
    specification = said("", 1.0)
    specification["corpus"]["paths"] = [str(shared / "dirty" / name) for name in readable]
    ran = run_spec(specification, tmp_path)
    least = sum(expected[name]["docs_valid"] or 0 for name in readable)
    assert ran.catalog["arms"]["all"]["pool"] >= least
    assert ran.catalog["ingest"]["seen"] == ran.catalog["arms"]["all"]["pool"] + ran.catalog["ingest"]["bad"]
    assert len(ran.quarantine()) == ran.catalog["ingest"]["bad"]
