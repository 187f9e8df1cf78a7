"""Bad documents and shards, full disks, second drivers, torn books, edited code: named, contained, repaired."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import LedgerError, RunFailedError, SpecError, TamisError


def trap(pool, own_components, kind="raise", budget=0.1, **options):
    return {
        "corpus": {"paths": str(pool), "max_bad_fraction": budget},
        "components": str(own_components),
        "stages": [
            {"score": ["length", {"trap": {"kind": kind, **options}}]},
            {"select": {"name": "everything", "by": "sample"}},
            {
                "select": {
                    "name": "long",
                    "where": "length > 1",
                    "by": {"top": {"score": "length"}},
                    "budget_documents": 1000,
                }
            },
        ],
    }


# ---- one bad document ----


def test_a_document_that_a_component_fails_on_is_null_and_quarantined_alone(
    run_spec, poisoned, own_components, tmp_path
):
    ran = run_spec(trap(poisoned, own_components), tmp_path)
    values = ran.values("trap")
    assert len(values) == 120
    assert [doc_id for doc_id, value in values.items() if value is None] == ["doc-bad"]
    assert ran.values("length")["doc-bad"] == len("there is poison in it"), "other scorers of the pass are not touched"
    (entry,) = ran.quarantine()
    assert entry["file"] == "part-02.parquet"
    assert entry["position"] == 11  # records count from one; the third shard begins with document 60
    assert entry["doc_id"] == "doc-bad"
    assert "ValueError: poison in the text" in entry["reason"]
    assert entry["sample"] == "there is poison in it"


def test_a_quarantined_document_is_in_no_arm(run_spec, poisoned, own_components, tmp_path):
    ran = run_spec(trap(poisoned, own_components), tmp_path)
    for arm in ("everything", "long"):
        assert "doc-bad" not in ran.kept(arm)
        assert ran.values(f"{arm}_reason")["doc-bad"] == "quarantined"
        assert ran.catalog["arms"][arm]["dropped"]["quarantined"] == 1
        assert len(ran.kept("everything")) == 119


def test_the_books_of_every_arm_balance(run_spec, poisoned, own_components, tmp_path):
    for arm in run_spec(trap(poisoned, own_components), tmp_path).catalog["arms"].values():
        assert arm["pool"] == arm["kept"] + sum(arm["dropped"].values())


def test_the_budget_of_bad_documents_decides_whether_the_run_fails(run_spec, poisoned, own_components, tmp_path):
    with pytest.raises(RunFailedError, match=r"score trap: 1 of 120 documents are bad \(0\.83%\), more than .*0\.00%"):
        run_spec(trap(poisoned, own_components, budget=0.0), tmp_path)
    run_spec(trap(poisoned, own_components, budget=1 / 120), tmp_path)


def test_on_bad_record_fail_allows_none(run_spec, poisoned, own_components, tmp_path):
    said = trap(poisoned, own_components)
    said["corpus"]["on_bad_record"] = "fail"
    with pytest.raises(RunFailedError, match="1 of 120 documents are bad"):
        run_spec(said, tmp_path)


def test_a_repaired_component_takes_its_document_out_of_quarantine(run_spec, poisoned, own_components, tmp_path):
    said = trap(poisoned, own_components, repaired=str(tmp_path / "repaired"))
    assert len(run_spec(said, tmp_path).quarantine()) == 1
    (tmp_path / "repaired").touch()
    ran = run_spec(said, tmp_path, redo=["trap"])
    assert ran.values("trap")["doc-bad"] == len("there is poison in it")
    assert "doc-bad" in ran.kept("everything")


# ---- one bad shard ----


def test_a_shard_with_corrupt_pages_fails_alone_and_resumes_when_repaired(run_spec, poisoned, own_components, tmp_path):
    path = poisoned / "part-01.parquet"
    good = path.read_bytes()
    table = pq.read_table(path)
    pq.write_table(table, path, compression="zstd")
    broken = bytearray(path.read_bytes())
    broken[200 : len(broken) // 2] = b"\x55" * (len(broken) // 2 - 200)
    path.write_bytes(broken)
    assert pq.ParquetFile(path).metadata.num_rows == 30, "its footer is valid"
    said = trap(poisoned, own_components)
    with pytest.raises(RunFailedError, match=r"shard 1 \(part-01\.parquet\)") as failed:
        run_spec(said, tmp_path)
    assert "part-01.parquet" in str(failed.value).splitlines()[0], "the first line names the file"
    layers = sorted(path.name for path in (tmp_path / "run" / "layers").glob("length-*/*.parquet"))
    assert layers == ["000000.parquet", "000002.parquet", "000003.parquet"]
    path.write_bytes(good)
    ran = run_spec(said, tmp_path)
    assert [r["unit"] for r in ran.receipts() if r["label"] == "score length"] == ["0", "2", "3", "1"]
    assert ran.files("layers") == run_spec(said, tmp_path / "undisturbed").files("layers")


def test_a_file_that_is_no_parquet_is_bad_by_the_budget(run_spec, poisoned, own_components, tmp_path):
    (poisoned / "part-01.parquet").write_bytes(b"PAR1 nothing at all")
    with pytest.raises(RunFailedError, match="the corpus: 1 of 91 documents are bad"):
        run_spec(trap(poisoned, own_components, budget=0.001), tmp_path)
    ran = run_spec(trap(poisoned, own_components, budget=0.05), tmp_path)
    (problem,) = ran.catalog["ingest"]["problems"]
    assert problem["file"] == "part-01.parquet"
    assert "not a readable Parquet file" in problem["reason"]


def test_a_file_that_shrank_between_runs_is_read_again(run_spec, poisoned, own_components, tmp_path):
    said = trap(poisoned, own_components)
    run_spec(said, tmp_path)
    pq.write_table(pq.read_table(poisoned / "part-03.parquet").slice(5), poisoned / "part-03.parquet")
    ran = run_spec(said, tmp_path)
    assert len(ran.values("trap")) == 115


# ---- a disk that does not take it ----


def test_a_layer_that_cannot_be_written_stops_the_run_and_it_resumes(run_spec, poisoned, own_components, tmp_path):
    said = trap(poisoned, own_components)
    whole = run_spec(said, tmp_path / "whole")
    (name,) = (path.name for path in (whole.folder / "layers").glob("length-*"))
    blocked = tmp_path / "run" / "layers" / name
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    with pytest.raises(RunFailedError, match=r"shard 0 \(part-00\.parquet\): .*Error.*then run again to resume"):
        run_spec(said, tmp_path)
    blocked.unlink()
    assert run_spec(said, tmp_path).files("layers") == whole.files("layers")


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from tamis.__main__ import main
main()
"""


def test_a_full_disk_stops_the_run_with_one_line_and_it_resumes(
    run_spec, poisoned, tamis, written, environment, tmp_path
):
    """A limit on the size of files stands for the full disk: a write fails after its first bytes."""
    said = {
        "corpus": str(poisoned),
        "stages": [{"score": ["length"]}, {"embed": {"hashed_ngrams": {"dimensions": 512, "as": "vector"}}}],
    }
    whole = run_spec(said, tmp_path / "whole")
    largest = max(path.stat().st_size for path in whole.folder.rglob("*.parquet"))
    written(tmp_path, said)
    full = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(largest // 2), "run", "stages.yaml", "--serial"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert full.returncode == 1, full.stderr
    assert "File too large" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "run" / "layers").rglob(".*.tmp")), "what could not be written is cleared away"
    again = tamis("run", "stages.yaml", "--serial", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    layers = {
        path.relative_to(whole.folder): path.read_bytes() for path in (whole.folder / "layers").rglob("*.parquet")
    }
    assert {
        path.relative_to(tmp_path / "run"): path.read_bytes()
        for path in (tmp_path / "run" / "layers").rglob("*.parquet")
    } == layers


# ---- the ledger ----


@pytest.fixture
def small(poisoned):
    return {"corpus": str(poisoned), "stages": [{"score": ["length"]}]}


def test_a_second_driver_is_refused_and_the_first_not_disturbed(run_spec, tamis, small, tmp_path):
    from tamis.pipeline.ledger import Ledger

    ran = run_spec(small, tmp_path)
    files = ran.files(".")
    with Ledger(ran.folder, write=True):
        with pytest.raises(
            LedgerError,
            match=r"another driver \(process \d+\) is working in this run; wait for it, or give --out another folder",
        ):
            run_spec(small, tmp_path)
        refused = tamis("run", tmp_path / "stages.yaml", "--serial", "--out", ran.folder, folder=tmp_path)
        assert refused.returncode == 1
        assert "another driver" in refused.stderr.splitlines()[-1]
    changed = {
        path for path, digest in ran.files(".").items() if files.get(path) != digest and not path.startswith("ledger/")
    }
    assert changed <= {"stages.yaml"}
    run_spec(small, tmp_path)


def last_segment(ran):
    return max(path for path in (ran.folder / "ledger").glob("*.jsonl") if path.stat().st_size)


def test_a_torn_last_line_is_dropped_and_its_work_done_again(run_spec, small, tmp_path):
    ran = run_spec(small, tmp_path)
    files, segment = ran.files("layers"), last_segment(ran)
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-40])
    torn = json.loads(whole.splitlines()[-1])
    ran = run_spec(small, tmp_path)
    assert ran.files("layers") == files
    new = [
        json.loads(line)
        for path in sorted((ran.folder / "ledger").glob("*.jsonl"))[1:]
        for line in path.read_text().splitlines()
    ]
    assert [(receipt["key"], receipt["unit"]) for receipt in new] == [(torn["key"], torn["unit"])]


def test_a_torn_line_in_the_middle_is_refused_with_its_place(run_spec, small, tmp_path):
    ran = run_spec(small, tmp_path)
    segment = last_segment(ran)
    lines = segment.read_text().splitlines(keepends=True)
    lines[2] = lines[2][:30] + "\n"
    segment.write_text("".join(lines))
    with pytest.raises(
        LedgerError, match=rf"{segment.name}:3: expected a receipt, got .*; restore the file or delete the run"
    ):
        run_spec(small, tmp_path)
    segment.write_text("")
    run_spec(small, tmp_path)  # the lock was given back


def test_books_that_do_not_balance_stop_the_run(run_spec, small, tmp_path):
    ran = run_spec(small, tmp_path)
    segment = last_segment(ran)
    lines = [json.loads(line) for line in segment.read_text().splitlines()]
    for values in lines:
        if values.get("label") == "score length" and values["unit"] == "2":
            values["out"] -= 1
    segment.write_text("".join(json.dumps(values) + "\n" for values in lines))
    with pytest.raises(
        LedgerError,
        match=r"score length, shard 2 \(part-02\.parquet\): the books do not balance: 30 documents in, 29 out",
    ):
        run_spec(small, tmp_path)


# ---- edited code ----


@pytest.fixture
def loud(poisoned, own_components, written, tmp_path):
    """A user's component in a run of the command line, and the file that holds it."""
    written(tmp_path, {"corpus": str(poisoned), "components": str(own_components), "stages": [{"score": ["loud"]}]})
    return own_components / "loud.py"


def values_of(folder, opened):
    return opened(folder / "run").values("loud")


def test_code_that_changed_under_the_same_version_stops_the_run_until_told(loud, tamis, opened, tmp_path):
    assert tamis("run", "stages.yaml", "--serial", folder=tmp_path).returncode == 0
    first = values_of(tmp_path, opened)
    loud.write_text(loud.read_text().replace('"!"', '"a"'))
    stopped = tamis("run", "stages.yaml", "--serial", folder=tmp_path)
    assert stopped.returncode == 1
    assert "score loud: its code changed" in stopped.stderr
    assert "--redo loud" in stopped.stderr
    assert "--accept-code" in stopped.stderr
    accepted = tamis("run", "stages.yaml", "--serial", "--accept-code", folder=tmp_path)
    assert accepted.returncode == 0, accepted.stderr
    assert values_of(tmp_path, opened) == first
    assert tamis("run", "stages.yaml", "--serial", folder=tmp_path).returncode == 0, (
        "what was accepted once stays accepted"
    )
    redone = tamis("run", "stages.yaml", "--serial", "--redo", "loud", folder=tmp_path)
    assert redone.returncode == 0, redone.stderr
    second = values_of(tmp_path, opened)
    assert second != first
    assert tamis("run", "stages.yaml", "--serial", folder=tmp_path).returncode == 0
    assert values_of(tmp_path, opened) == second, "what was redone stays redone"


def test_a_raised_version_and_comments_need_no_permission(loud, tamis, opened, tmp_path):
    assert tamis("run", "stages.yaml", "--serial", folder=tmp_path).returncode == 0
    first = values_of(tmp_path, opened)
    loud.write_text("# a comment\n" + loud.read_text())
    assert tamis("run", "stages.yaml", "--serial", folder=tmp_path).returncode == 0
    assert values_of(tmp_path, opened) == first
    raised = (
        loud.read_text()
        .replace('"!"', '"a"')
        .replace('    """Exclamation marks."""', '    """Exclamation marks."""\n\n    version = 2')
    )
    loud.write_text(raised)
    ran = tamis("run", "stages.yaml", "--serial", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert values_of(tmp_path, opened) != first


@pytest.mark.dask
def test_a_users_component_works_on_dask_workers(loud, run_spec, dask_workers, opened, tmp_path):
    said = json.loads((tmp_path / "stages.yaml").read_text())
    ran = run_spec(said, tmp_path / "dask", dask_workers)
    assert ran.values("loud") == run_spec(said, tmp_path / "serial").values("loud")
    assert sum(ran.values("loud").values()) > 10


@pytest.fixture(scope="module")
def scheduler():
    """A scheduler with one long-lived worker process, by address."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.dask
def test_a_long_lived_worker_runs_the_code_as_it_is_now(loud, scheduler, tamis, opened, tmp_path):
    first = tamis("run", "stages.yaml", "--scheduler", scheduler, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    before = values_of(tmp_path, opened)
    loud.write_text(
        loud.read_text()
        .replace('"!"', '"a"')
        .replace('    """Exclamation marks."""', '    """Exclamation marks."""\n\n    version = 2')
    )
    second = tamis("run", "stages.yaml", "--scheduler", scheduler, folder=tmp_path)
    assert second.returncode == 0, second.stderr
    assert values_of(tmp_path, opened) != before


def test_an_edited_component_is_seen_by_the_next_run_of_a_process(loud, run_spec, tmp_path):
    """Somebody who writes a component in a notebook edits and runs, again and again."""
    said = json.loads((tmp_path / "stages.yaml").read_text())
    before = run_spec(said, tmp_path / "same").values("loud")
    loud.write_text(loud.read_text().replace('"!"', '"a"'))
    with pytest.raises(LedgerError, match="score loud: its code changed"):
        run_spec(said, tmp_path / "same")
    assert run_spec(said, tmp_path / "same", redo=["loud"]).values("loud") != before


# ---- what cannot work at all ----


def test_a_corpus_without_files_says_so(run_spec, tmp_path):
    with pytest.raises(TamisError, match=r"nothing-here"):
        run_spec({"corpus": str(tmp_path / "nothing-here" / "*.parquet"), "stages": [{"score": ["length"]}]}, tmp_path)


def test_a_corpus_of_empty_shards_only_works(run_spec, documents, write_corpus, tmp_path):
    pool = write_corpus(tmp_path / "pool", documents.slice(0, 0), 2)
    said = {
        "corpus": str(pool),
        "stages": [
            {"deduplicate": "exact"},
            {"score": ["length"]},
            {"select": {"name": "a", "by": "sample", "budget_documents": 5}},
        ],
    }
    ran = run_spec(said, tmp_path)
    assert ran.table().num_rows == 0
    assert ran.catalog["arms"]["a"] == {"pool": 0, "kept": 0, "uses": 0, "dropped": {}}


def test_a_column_that_one_file_lacks_is_not_there_and_the_file_is_named(run_spec, poisoned, tmp_path):
    pq.write_table(pa.table({"id": ["x"], "text": ["y"]}), poisoned / "part-09.parquet")
    said = {
        "corpus": str(poisoned),
        "stages": [{"score": ["length"]}, {"select": {"name": "a", "where": "stars > 1", "by": "sample"}}],
    }
    with pytest.raises(SpecError, match="no column 'stars'"):
        run_spec(said, tmp_path)
    ran = run_spec({**said, "stages": said["stages"][:1]}, tmp_path)
    assert any("stars" in line and "part-09.parquet" in line for line in ran.lines)
