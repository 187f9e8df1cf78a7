"""An exported arm leaves out what a deduplicator marked as standing elsewhere, and says how much that was."""

from __future__ import annotations

import io
import json

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tamis.errors import ColumnError, LedgerError
from tamis.pipeline.export import export
from tamis.pipeline.workers import Serial

FOOTER = "all rights reserved by the sieve makers of the world"
MENU = "home news recipes contact"
TEXTS = {
    "plain": "nothing in here stands anywhere else at all",
    "one": f"{MENU}\nsome words of my own, é\n{FOOTER}",
    "two": f"{MENU}\r\n日本語 and other words\n{FOOTER}\n",
    "three": f"{FOOTER}\n\n {MENU} !",
    "blank": "\n\n",
    "no words": "!!! ???",
    "null": None,
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, run_spec, write_corpus):
    """Two stages that mark lines, long ones only and short ones too; arms of all documents and of one."""
    folder = tmp_path_factory.mktemp("spans")
    table = pa.table({"id": list(TEXTS), "text": list(TEXTS.values()), "stars": range(len(TEXTS))})
    pool = write_corpus(folder / "pool", table, 4)
    by = [{"paragraph": {"min_words": 8}}, {"paragraph": {"min_words": 3, "as": "short", "threshold_document": 0.5}}]
    stages = [{"deduplicate": {"by": each}} for each in by]
    stages += [{"select": {"name": "all", "by": {"top": {"score": "stars"}}, "budget_documents": 100}}]
    stages += [{"select": {"name": "three", "where": "stars = 3", "by": "sample", "budget_documents": 9}}]
    return run_spec({"corpus": {"paths": str(pool), "max_bad_fraction": 0.5}, "stages": stages}, folder)


def exported(ran, folder, arm="all", form="parquet", **options):
    """(id → text, manifest, what the export says of itself)"""
    done = export(ran.folder, arm, folder, form, Serial(), **options)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *(file["file"] for file in manifest["files"])}
    rows = []
    for file in manifest["files"]:
        path = folder / file["file"]
        own = pq.read_table(path).to_pylist() if form == "parquet" else [orjson.loads(line) for line in lines_of(path)]
        assert len(own) == file["documents"]
        rows += own
    return {row["id"]: row["text"] for row in rows}, manifest, done


def lines_of(path):
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        yield from io.TextIOWrapper(stream, encoding="utf-8")


def cut(ran, *columns):
    """The documents as they should be exported: every byte in no span of these columns."""
    expected, bytes_left_out = {}, 0
    for doc_id, text in TEXTS.items():
        if text is None:
            continue
        raw = text.encode()
        gone = set()
        for column in columns:
            gone |= {i for span in ran.values(column)[doc_id] for i in range(span["start"], span["end"])}
        left = bytes(byte for i, byte in enumerate(raw) if i not in gone).decode()
        bytes_left_out += len(gone)
        if not gone or any(character.isalnum() for character in left):
            expected[doc_id] = left
    return expected, bytes_left_out


def test_the_stages_marked_what_they_should(ran):
    marked = {doc_id: bool(spans) for doc_id, spans in ran.values("short_spans").items() if spans is not None}
    assert sorted(marked) == sorted(set(TEXTS) - {"null"})
    assert 1 <= sum(marked.values()) <= 3
    lost = [doc_id for doc_id, gone in ran.values("short_duplicate").items() if gone]
    assert set(lost) <= {"one", "two", "three"}
    assert ran.values("paragraph_spans") != ran.values("short_spans")


@pytest.mark.parametrize("form", ["parquet", "jsonl.zst"])
def test_all_marked_passages_are_left_out_and_counted(ran, tmp_path, form):
    texts, manifest, done = exported(ran, tmp_path / "out", form=form)
    expected, left_out = cut(ran, "paragraph_spans", "short_spans")
    assert texts == expected
    assert left_out > 60
    assert manifest["spans"] == ["paragraph_spans", "short_spans"]
    assert manifest["left_out"] == dict(done.left_out)
    assert manifest["left_out"]["bytes"] == left_out
    assert manifest["left_out"]["documents"] == 6 - len(expected)
    assert done.documents == manifest["documents"] == len(texts)
    for name in ("spans", "bytes"):
        assert sum(file["left_out"][name] for file in manifest["files"]) <= manifest["left_out"][name]


def test_one_stage_can_be_chosen_and_the_text_can_stay_whole(ran, tmp_path):
    texts, manifest, _ = exported(ran, tmp_path / "long", spans=["paragraph"])
    assert (texts, manifest["left_out"]["bytes"]) == cut(ran, "paragraph_spans")
    assert manifest["spans"] == ["paragraph_spans"]
    texts, manifest, done = exported(ran, tmp_path / "whole", spans=())
    assert texts == {doc_id: text for doc_id, text in TEXTS.items() if text is not None}
    assert manifest["left_out"] == dict(done.left_out) == {"spans": 0, "bytes": 0, "documents": 0}


def test_a_document_that_is_nothing_but_marked_passages_is_not_written(run_spec, write_corpus, tmp_path):
    """Nor is a file that would hold nothing else; the books count it."""
    table = pa.table({"id": ["a", "b"], "text": [FOOTER, f"{FOOTER}\n --- \n"]})
    pool = write_corpus(tmp_path / "pool", table, 2)
    stages = [
        {"deduplicate": {"by": {"paragraph": {"min_words": 3}}}},
        {"select": {"name": "all", "by": "sample", "budget_documents": 9}},
    ]
    ran = run_spec({"corpus": {"paths": str(pool)}, "stages": stages}, tmp_path / "run")
    texts, manifest, done = exported(ran, tmp_path / "out")
    (kept_by,) = set(ran.values("paragraph_kept_by").values()) - {None}
    assert list(texts) == [kept_by]
    assert (done.documents, done.files, len(manifest["files"])) == (1, 1, 1)
    assert done.left_out["documents"] == done.left_out["spans"] == 1


def test_a_second_export_replaces_the_first(ran, tmp_path):
    whole, _, _ = exported(ran, tmp_path / "out", spans=())
    texts, _, _ = exported(ran, tmp_path / "out")
    assert texts != whole
    assert texts == cut(ran, "paragraph_spans", "short_spans")[0]


def test_books_that_do_not_balance_are_told(ran, tmp_path):
    catalog = ran.folder / "run.json"
    before = catalog.read_text("utf-8")
    try:
        told = json.loads(before)
        told["arms"]["all"]["uses"] += 1
        catalog.write_text(json.dumps(told), encoding="utf-8")
        with pytest.raises(LedgerError, match=r"the books do not balance: the arm uses \d documents, \d were written"):
            export(ran.folder, "all", tmp_path / "out", "parquet", Serial())
    finally:
        catalog.write_text(before, encoding="utf-8")


def test_a_stage_that_marks_nothing_is_refused(ran, tmp_path):
    with pytest.raises(ColumnError, match="no stage 'all' that marks spans; it has paragraph, short"):
        export(ran.folder, "all", tmp_path / "out", "parquet", Serial(), spans=["all"])


def test_the_command_line_tells_what_it_left_out(ran, tmp_path):
    from click.testing import CliRunner

    from tamis.__main__ import cli

    base = ["export", str(ran.folder), "--arm", "all", "--serial", "--to"]
    told = CliRunner().invoke(cli, [*base, str(tmp_path / "a")])
    assert told.exit_code == 0, told.output
    assert "left out " in told.output
    assert " passages, and " in told.output
    told = CliRunner().invoke(cli, [*base, str(tmp_path / "b"), "--keep-spans"])
    assert told.exit_code == 0
    assert "left out" not in told.output
    told = CliRunner().invoke(cli, [*base, str(tmp_path / "c"), "--keep-spans", "--spans", "short"])
    assert told.exit_code == 2
    assert "keep one of them" in told.output


def test_the_audit_of_marked_passages_works(ran):
    from tamis.audit.reader import open_run
    from tamis.audit.report import write_report
    from tamis.audit.why import why

    told = why(open_run(ran.folder), "one")
    assert "deduplicate short" in told
    page = write_report(open_run(ran.folder)).read_text("utf-8")
    assert "short" in page
