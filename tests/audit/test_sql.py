import pyarrow as pa
import pytest

from tamis.audit.reader import Run
from tamis.audit.sql import render, sql
from tamis.errors import SpecError


def test_all_layers_are_joined_with_the_documents(run):
    table = sql(run, "select count(*) n, sum(n_bytes) b, count(*) filter (text is null) lost from documents")
    expected = sum(len(text.encode()) for text in run.table(["text"])["text"].to_pylist() if text is not None)
    assert table.to_pylist() == [{"n": 97, "b": expected, "lost": 1}]


def test_only_the_columns_of_the_query_are_read(run, monkeypatch):
    asked = []
    batches = Run.batches

    def watched(self, columns, where=None):
        asked.append(set(columns))
        return batches(self, columns, where)

    monkeypatch.setattr(Run, "batches", watched)
    sql(run, "select source, avg(length) from documents group by source")
    sql(run, "select count(*) from documents")
    sql(run, "select length from documents where source = 'web'")
    assert asked == [{"source", "length"}, {"row"}, {"source", "length"}]


def test_the_view_may_be_used_more_than_once_in_a_query(run):
    query = """
        select a.doc_id, b.text from documents a join documents b on a.exact_kept_by = b.doc_id
        where a.exact_duplicate order by a.doc_id"""
    assert sql(run, query)["doc_id"].to_pylist() == ["copy-b", "copy-c"]


@pytest.mark.parametrize(
    "condition",
    [
        "doc_id = 'copy-b'",
        "exact_size = 3 and source = 'web' and doc_id < 'copy-c'",
        "text like '%original text repeated%'",
    ],
)
def test_filters_that_are_pushed_down_keep_the_right_rows(run, condition):
    assert sql(run, f"select length from documents where {condition}")["length"].to_pylist() == [35]


def test_nan_is_null(run):
    assert sql(run, "select count(*) n from documents where stars > 100 or isnan(stars)")["n"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("drop table documents", "got DROP"),
        ("select 1; select 2", "expected one SELECT"),
        ("set threads = 1", "got SET"),
        ("copy (select 1) to 'x.csv'", "got COPY"),
        ("", "got nothing"),
        ("select nope from documents", "nope"),
        ("select from", "syntax error"),
        ("select * from read_csv('/etc/passwd')", "disabled"),
        ("select * from '/etc/passwd'", "does not exist"),
        ("select * from run", "does not exist"),
        ("select * from glob('/*')", "disabled"),
        ("select * from 'https://example.org/x.parquet'", "httpfs|does not exist|disabled"),
    ],
)
def test_nothing_but_a_select_over_the_run_is_done(run, query, message):
    with pytest.raises(SpecError, match=message):
        sql(run, query)


def test_the_first_rows_are_enough(run):
    assert sql(run, "select doc_id from documents", rows=3).num_rows == 3


def test_tables_are_printed_with_numbers_to_the_right():
    table = pa.table({"name": ["a", "bb\n\x1b[31mc"], "n": [1, 1000], "x": [0.5, None]})
    assert render(table).splitlines() == [
        "name          n    x",
        "─────────  ────  ───",
        "a             1  0.5",
        "bb �[31mc  1000    ·",
    ]


def test_long_tables_say_how_much_is_left_out():
    assert render(pa.table({"n": list(range(60))}), rows=10).splitlines()[-1] == "… 50 more rows"
