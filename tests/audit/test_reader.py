import json
import shutil

import pyarrow as pa
import pytest

from tamis.audit import reader
from tamis.audit.reader import open_run
from tamis.errors import ColumnError, ContractError, LedgerError, SpecError


def test_a_table_has_the_rows_of_the_documents_in_order(run):
    table = run.table(["row", "doc_id", "stars", "length", "best_repeats"])
    assert table.num_rows == 97
    assert table["doc_id"][:2].to_pylist() == ["doc-000", "doc-001"]
    assert table["row"].to_pylist() == sorted(table["row"].to_pylist())
    lengths = dict(zip(table["doc_id"].to_pylist(), table["length"].to_pylist(), strict=True))
    texts = run.table(["doc_id", "text"])
    for doc_id, text in zip(texts["doc_id"].to_pylist(), texts["text"].to_pylist(), strict=True):
        assert doc_id == "twice" or lengths[doc_id] == (len(text) if text is not None else None)


def test_where_sees_columns_that_are_not_asked_for(run):
    table = run.table("doc_id", where="exact_duplicate and source = 'web'")
    assert table["doc_id"].to_pylist() == ["copy-b", "copy-c"]


def test_where_is_checked(run):
    with pytest.raises(SpecError, match="row-wise"):
        run.table(["doc_id"], where="random() < 0.5")


def test_an_unknown_column_names_the_close_one(run):
    with pytest.raises(ColumnError, match=r"no column 'lenght'; did you mean 'length'\? there are row, "):
        run.table(["lenght"])


def test_layers_are_read_without_the_documents(copied, run, monkeypatch):
    def refuse(*_):
        raise AssertionError("the documents were opened")

    opened = open_run(copied)
    assert opened.columns
    monkeypatch.setattr(reader, "read_batches", refuse)
    assert opened.table(["row", "length"]).equals(run.table(["row", "length"]))


def test_documents_that_moved_away_are_named_and_layers_can_be_read(copied):
    corpus = json.loads((copied / "run.json").read_text())["corpus"]["path"]
    moved = (copied / corpus).read_text().replace("/corpus/", "/nowhere/")
    (copied / corpus).write_text(moved)
    renamed = copied.rename(copied.with_name("other"))  # shard lists are remembered by path
    run = open_run(renamed)
    assert run.table(["length"]).num_rows == 97
    with pytest.raises(ContractError, match=r"expected the documents of a\.parquet at .*nowhere"):
        run.table(["doc_id", "length"])


def test_arms_stages_and_receipts_are_there(run):
    assert list(run.arms) == ["best", "drawn"]
    assert run.arm("best").kept == 20
    assert run.arm("best").conjuncts == ("NOT exact_duplicate", "length > 40")
    assert {stage.label for stage in run.stages} >= {"deduplicate exact", "score length", "select best"}
    assert run.columns["length"].stage == "length"
    assert all(receipt.rows >= 0 for receipt in run.receipts())
    with pytest.raises(ColumnError, match="no arm 'worst'; there are best, drawn"):
        run.arm("worst")


def test_quarantine_names_rows(run):
    (entry,) = run.quarantine()
    (row,) = run.table(["row"], where="doc_id = 'lost'")["row"].to_pylist()
    assert entry["row"] == row
    assert "not UTF-8" in entry["reason"]


def test_what_is_not_a_run_is_refused_with_the_run_beside_it(audited_folder, tmp_path):
    with pytest.raises(LedgerError, match="expected a run directory"):
        open_run(tmp_path)
    with pytest.raises(LedgerError, match=f"did you mean {audited_folder}"):
        open_run(audited_folder.parent)


def test_a_run_without_columns_says_how_to_see_its_state(copied):
    (copied / "run.json").unlink()
    with pytest.raises(LedgerError, match="tamis status"):
        open_run(copied)


def test_an_unfinished_run_is_read_as_far_as_it_is(copied):
    catalog = json.loads((copied / "run.json").read_text())
    catalog["finished"] = False
    for name in [name for name in catalog["columns"] if name.startswith(("best", "drawn"))]:
        shutil.rmtree(copied / catalog["columns"].pop(name)["layer"], ignore_errors=True)
    (copied / "run.json").write_text(json.dumps(catalog))
    run = open_run(copied)
    assert run.arms == {}
    assert run.table(["length"]).num_rows == 97
    with pytest.raises(ColumnError, match="the run has not finished"):
        run.table(["best_repeats"])


def test_values_by_row_are_those_of_the_table(run):
    rows = run.table(["row"])["row"].to_pylist()[::17]
    found = run.at(rows, ["doc_id", "length"])
    table = run.table(["row", "doc_id", "length"])
    expected = {values["row"]: values for values in table.to_pylist() if values["row"] in rows}
    assert found == expected


def test_an_empty_selection_keeps_its_types(run):
    table = run.table(["doc_id", "length"], where="length > 1000000")
    assert table.num_rows == 0
    assert table.schema == pa.schema([("doc_id", pa.string()), ("length", pa.uint32())])
