"""The whole tour as a user takes it: sample, check, run, status, why, sql, report, diff, export; from Python too."""

from __future__ import annotations

import io
import json
import time

import pyarrow.parquet as pq
import pytest
import zstandard

pytestmark = [pytest.mark.train, pytest.mark.slow]


def test_check_tells_the_plan_and_does_no_work(tamis, place):
    done = tamis("check", "stages.yaml", folder=place)
    assert done.returncode == 0, done.stderr
    for expected in (
        "columns",
        "passes",
        "importance",
        "curated_repeats",
        "n_tokens",
        "training",
        "core-seconds",
        "of text",
    ):
        assert expected in done.stdout


def test_the_run_tells_what_it_did(finished):
    told = (finished.parents[1] / "first-run.txt").read_text("utf-8")
    for expected in ("corpus: ", "pass 1: ", "MB/s", "train: ", "done: "):
        assert expected in told
    assert "Warning" not in told


def test_the_books_of_the_run_balance(finished):
    catalog = json.loads((finished / "run.json").read_text("utf-8"))
    assert catalog["finished"]
    for arm in ("curated", "random"):
        books = catalog["arms"][arm]
        assert books["pool"] == books["kept"] + sum(books["dropped"].values())
        assert 0 < books["kept"] < books["pool"]


def test_a_repeated_run_does_no_work(tamis, place, finished):
    def receipts():
        return [
            line
            for path in sorted((finished / "ledger").glob("*.jsonl"))
            for line in path.read_text("utf-8").splitlines()
        ]

    before, began = receipts(), time.monotonic()
    done = tamis("run", "stages.yaml", "--serial", "--limit", "1", folder=place)
    assert done.returncode == 0, done.stderr
    assert receipts() == before
    assert "pass" not in done.stderr
    assert time.monotonic() - began < 30


def test_the_comparison_is_complete(finished):
    verdict = json.loads((finished / "compare.json").read_text("utf-8"))
    arms = ["curated", "likely", "random"]
    assert verdict["arms"] == arms
    assert verdict["control"] == "random"
    sets = set(verdict["sets"])
    assert {"target", "pool"} <= sets
    assert {(run["arm"], run["seed"], run["set"]) for run in verdict["runs"]} == {
        (arm, seed, name) for arm in arms for seed in range(2) for name in sets
    }
    for run in verdict["runs"]:
        assert 0.1 < run["bits_per_byte"] < 10
        assert run["bytes"] == verdict["sets"][run["set"]]["bytes"]
    compared = {(entry["arm"], entry["set"]): entry for entry in verdict["comparisons"]}
    assert set(compared) == {(arm, name) for arm in arms[:2] for name in sets}
    for entry in compared.values():
        assert entry["low"] < entry["difference"] < entry["high"]
        assert entry["better"] == (entry["high"] < 0)
    assert set(verdict["overlap_left_out"]) == set(arms)
    assert len(verdict["training"]) == 6


def test_a_proxy_is_a_folder_that_other_tools_read(finished):
    models = [path.parent for path in (finished / "models").rglob("model.safetensors")]
    assert len(models) == 8, "a proxy for each of three arms and two seeds, and two that score"
    for model in models:
        assert (model / "config.json").exists()
        assert (model / "tokenizer.json").exists()
        assert not list(model.rglob("*.bin"))
        assert not list(model.rglob("*.pt"))


def test_status_lists_every_stage(tamis, place, finished):
    done = tamis("status", finished, folder=place)
    assert done.returncode == 0, done.stderr
    for stage in ("vector", "exact", "length", "repetition", "importance", "curated", "random", "compare"):
        assert stage in done.stdout


@pytest.fixture(scope="module")
def opened(finished):
    import tamis

    return tamis.open_run(finished)


def test_why_tells_of_a_kept_a_cut_and_a_duplicate_document(tamis, place, finished, opened):
    table = opened.table(["doc_id", "curated_repeats", "curated_reason", "exact_kept_by"]).to_pylist()
    kept = next(row["doc_id"] for row in table if row["curated_repeats"])
    cut = next(row["doc_id"] for row in table if row["curated_reason"] == "cut")
    duplicate = next(row for row in table if row["exact_kept_by"])
    for doc_id in (kept, cut):
        done = tamis("why", finished, doc_id, folder=place)
        assert done.returncode == 0, done.stderr
        assert doc_id in done.stdout
        assert "importance" in done.stdout
    done = tamis("why", finished, duplicate["doc_id"], folder=place)
    assert duplicate["exact_kept_by"] in done.stdout, "the document that displaced it is named"
    unknown = tamis("why", finished, "no such document", folder=place)
    assert unknown.returncode in (1, 2)
    assert "no such document" in unknown.stderr.splitlines()[0]


def test_sql_answers_and_refuses_what_is_not_a_question(tamis, place, finished):
    done = tamis(
        "sql", finished, "select count(*) as documents, sum(curated_repeats) as kept from documents", folder=place
    )
    assert done.returncode == 0, done.stderr
    books = json.loads((finished / "run.json").read_text("utf-8"))["arms"]["curated"]
    assert str(books["pool"]) in done.stdout.replace(",", "")
    assert str(books["kept"]) in done.stdout.replace(",", "")
    for refused in (
        "drop table documents",
        "copy (select 1) to 'x.csv'",
        "select * from read_text('/etc/hostname')",
        "attach 'x.db'",
        "select * from nowhere",
    ):
        done = tamis("sql", finished, refused, folder=place)
        assert done.returncode in (1, 2), refused
        assert "Traceback" not in done.stderr
    assert not (place / "x.csv").exists()
    assert not (place / "x.db").exists()


def test_the_report_opens_offline(tamis, place, finished):
    done = tamis("report", finished, folder=place)
    assert done.returncode == 0, done.stderr
    page = (finished / "report" / "index.html").read_text("utf-8")
    assert len(page) > 20_000
    assert "curated" in page
    for outside in ('src="http', "src='http", '<link rel="stylesheet" href="http', "@import url(http"):
        assert outside not in page


def test_diff_of_two_arms(tamis, place, finished):
    done = tamis("diff", f"{finished}:curated", f"{finished}:random", folder=place)
    assert done.returncode == 0, done.stderr
    assert "curated" in done.stdout
    assert "random" in done.stdout


def test_components_lists_and_describes(tamis, place):
    listed = tamis("components", folder=place)
    assert listed.returncode == 0
    for name in ("hashed_ngrams", "exact", "importance", "length", "top", "sample"):
        assert name in listed.stdout
    shown = tamis("components", "importance", folder=place)
    assert "buckets" in shown.stdout
    assert "Xie et al." in shown.stdout
    assert tamis("components", "importanse", folder=place).returncode == 2


def arm_of(opened, arm):
    table = opened.table(["doc_id", f"{arm}_repeats"]).to_pylist()
    return sorted(row["doc_id"] for row in table for _ in range(row[f"{arm}_repeats"] or 0))


def test_an_exported_arm_holds_its_documents_and_no_other(tamis, place, finished, opened):
    done = tamis(
        "export", finished, "--arm", "curated", "--to", "as-parquet", "--column", "importance", "--serial", folder=place
    )
    assert done.returncode == 0, done.stderr
    rows = [row for path in sorted((place / "as-parquet").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert sorted(row["id"] for row in rows) == arm_of(opened, "curated")
    scores = dict(
        zip(
            *(opened.table(["doc_id", "importance"])[name].to_pylist() for name in ("doc_id", "importance")),
            strict=True,
        )
    )
    assert all(row["importance"] == scores[row["id"]] for row in rows)
    manifest = json.loads((place / "as-parquet" / "manifest.json").read_text("utf-8"))
    assert manifest["documents"] == len(rows)
    done = tamis(
        "export", finished, "--arm", "curated", "--to", "as-lines", "--format", "jsonl.zst", "--serial", folder=place
    )
    assert done.returncode == 0, done.stderr
    lines = [
        json.loads(line) for path in sorted((place / "as-lines").glob("*.jsonl.zst")) for line in decompressed(path)
    ]
    assert sorted((row["id"], row["text"]) for row in lines) == sorted((row["id"], row["text"]) for row in rows)
    assert not list((place / "as-lines").glob("*.tmp"))


def decompressed(path):
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        yield from io.TextIOWrapper(stream, encoding="utf-8")


def test_exporting_what_does_not_exist_is_refused(tamis, place, finished):
    done = tamis("export", finished, "--arm", "curatd", "--to", "nowhere", "--serial", folder=place)
    assert done.returncode == 2
    assert "no arm 'curatd'" in done.stderr
    assert "curated" in done.stderr
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("do not touch")
    done = tamis("export", finished, "--arm", "curated", "--to", "mine", "--serial", folder=place)
    assert done.returncode == 1
    assert (place / "mine" / "thesis.txt").read_text() == "do not touch"


def test_from_python(place, finished):
    import tamis

    run = tamis.run(place / "stages.yaml", limit=1, serial=True, quiet=True)
    table = run.table(["doc_id", "importance"], where="length > 1000")
    assert 0 < table.num_rows < run.table(["doc_id"]).num_rows
    scored = tamis.score(["sieve flour sieve", "the market"], "importance", target=["sieve flour"])
    assert scored["importance"][0].as_py() > scored["importance"][1].as_py()
    assert tamis.score(["one two", ""], "length")["length"].to_pylist() == [7, 0]
