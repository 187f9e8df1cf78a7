# ruff: noqa: S608 - column names are quoted, values are parameters, and the connection only reads
"""How two selections differ: which documents, from which sources, how long, with which scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tamis.audit.evidence import is_ranked
from tamis.audit.reader import Run
from tamis.audit.sql import aligned, cell, one_line
from tamis.audit.view import connected, quoted
from tamis.errors import ColumnError

EXAMPLES = 3
SOURCES = 20
TEXT_WIDTH = 160


@dataclass(frozen=True)
class Side:
    """One of the two selections. name: A or B; view: of its run's documents."""

    name: str
    run: Run
    arm: str
    view: str

    @property
    def title(self) -> str:
        return f"{self.name} = {self.run.path}:{self.arm}"


def diff(run_a: Run, arm_a: str | None, run_b: Run, arm_b: str | None) -> str:
    """The comparison of two arms, of one run or of two, as text. Documents are the same if their ids are.

    A run with a single arm needs no name for it. Raises ColumnError if a run has no such arm.
    """
    a, b = Side("A", run_a, _arm(run_a, arm_a), "a"), Side("B", run_b, _arm(run_b, arm_b), "b")
    with connected({"a": run_a, "b": run_b}) as connection:
        _pair(connection, a, b)
        parts = [
            [a.title, b.title],
            _overlap(connection, a, b),
            _sources(connection, a, b),
            _numbers(connection, a, b),
            *(_examples(connection, here, there) for here, there in ((a, b), (b, a))),
        ]
    return "\n\n".join("\n".join(part) for part in parts)


def _arm(run: Run, name: str | None) -> str:
    if name is None and len(run.arms) != 1:
        raise ColumnError(f"{run.path}: expected RUN:ARM; the arms are {', '.join(run.arms) or 'none'}")
    return run.arm(name or next(iter(run.arms))).name


def _size(*runs: Run) -> tuple[str, str]:
    """How selections are weighed, as column and unit: by tokens where all of them counted those, else by bytes."""
    return ("n_tokens", "tokens") if all("n_tokens" in run.columns for run in runs) else ("n_bytes", "bytes")


def _pair(connection: duckdb.DuckDBPyConnection, a: Side, b: Side) -> None:
    """A view `pairs`: every document that either arm keeps, with `in_a`, `in_b`, its source and its size."""
    size, _ = _size(a.run, b.run)
    if _same_documents(a.run, b.run):
        of_b = "" if a.run.path.resolve() == b.run.path.resolve() else " JOIN b USING (row)"
        kept_b = f"{'a' if not of_b else 'b'}.{quoted(f'{b.arm}_repeats')}"
        documents = (
            f"SELECT a.doc_id, a.source, a.{size} AS size, "
            f"coalesce(a.{quoted(f'{a.arm}_repeats')}, 0) AS in_a, coalesce({kept_b}, 0) AS in_b FROM a{of_b}"
        )
    else:
        documents = f"""
            SELECT coalesce(x.doc_id, y.doc_id) AS doc_id, coalesce(x.source, y.source) AS source,
                   coalesce(x.size, y.size) AS size, coalesce(x.times, 0) AS in_a, coalesce(y.times, 0) AS in_b
            FROM ({_kept(a, size)}) x FULL JOIN ({_kept(b, size)}) y USING (doc_id)"""
    connection.execute(f"CREATE VIEW pairs AS SELECT * FROM ({documents}) WHERE in_a > 0 OR in_b > 0")


def _same_documents(one: Run, other: Run) -> bool:
    return one.corpus.digest == other.corpus.digest and [s.number for s in one.shards] == [
        s.number for s in other.shards
    ]


def _kept(side: Side, size: str) -> str:
    """The documents of an arm, one for each id."""
    times = quoted(f"{side.arm}_repeats")
    return (
        f"SELECT doc_id, any_value(source) AS source, sum({size}) AS size, max({times}) AS times "
        f"FROM {side.view} WHERE {times} > 0 GROUP BY doc_id"
    )


def _rows(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = connection.execute(query, list(parameters)).fetchall()
    return found


def _overlap(connection: duckdb.DuckDBPyConnection, a: Side, b: Side) -> list[str]:
    groups = ("in_a > 0", "in_b > 0", "in_a > 0 AND in_b > 0", "in_a > 0 OR in_b > 0")
    sums = [f"coalesce(sum({mass}) FILTER ({kept}), 0)::HUGEINT" for mass in ("1", "size") for kept in groups]
    (found,) = _rows(connection, f"SELECT {', '.join(sums)} FROM pairs")
    rows = []
    for label, (in_a, in_b, both, either) in (("documents", found[:4]), (_size(a.run, b.run)[1], found[4:])):
        jaccard = f"{both / either:.3f}" if either else "·"
        rows.append([label, *(f"{int(n):,}" for n in (in_a, in_b, both, in_a - both, in_b - both)), jaccard])
    return aligned(("overlap", "A", "B", "both", "only A", "only B", "Jaccard"), rows, [False, *[True] * 6])


def _sources(connection: duckdb.DuckDBPyConnection, a: Side, b: Side) -> list[str]:
    """Shares of the sources, the largest change first."""
    _, unit = _size(a.run, b.run)
    query = """
        SELECT source, sum(size) FILTER (in_a > 0), sum(size) FILTER (in_b > 0), count(*) FILTER (in_a > 0),
               count(*) FILTER (in_b > 0)
        FROM pairs GROUP BY source"""
    (totals,) = _rows(connection, "SELECT sum(size) FILTER (in_a > 0), sum(size) FILTER (in_b > 0) FROM pairs")
    total_a, total_b = (float(total or 0) or 1.0 for total in totals)
    changes = f"SELECT *, coalesce(#3, 0) / {total_b} - coalesce(#2, 0) / {total_a} AS change FROM ({query})"
    found = _rows(connection, f"{changes} ORDER BY abs(change) DESC, source LIMIT {SOURCES}")
    rows = [
        [cell(source), f"{float(in_a or 0) / total_a:.1%}", f"{float(in_b or 0) / total_b:.1%}",
         f"{float(change) * 100:+.1f}", f"{documents_a:,}", f"{documents_b:,}"]
        for source, in_a, in_b, documents_a, documents_b, change in found
    ]  # fmt: skip
    heads = ("source", f"A, % of {unit}", f"B, % of {unit}", "change, points", "A documents", "B documents")
    return aligned(heads, rows, [False, *[True] * 5])


def _numbers(connection: duckdb.DuckDBPyConnection, a: Side, b: Side) -> list[str]:
    """Length and scores: medians, means, and the difference of means in standard deviations."""
    shared = [c.name for c in a.run.columns.values() if is_ranked(c) and _is_number_in(b.run, c.name)]
    moments = [_moments(connection, side, shared) for side in (a, b)]
    rows = []
    for name, one, other in zip(shared, *moments, strict=True):
        spread = ((one[2] or 0) ** 2 + (other[2] or 0) ** 2) ** 0.5 / 2**0.5
        shift = f"{(other[1] - one[1]) / spread:+.2f}" if spread and None not in (one[1], other[1]) else "·"
        numbers = [cell(value) for value in (one[0], other[0], one[1], other[1])]
        rows.append([name, *numbers, shift])
    heads = ("column", "median A", "median B", "mean A", "mean B", "shift, sd")
    return aligned(heads, rows, [False, *[True] * 5])


def _is_number_in(run: Run, name: str) -> bool:
    return name in run.columns and is_ranked(run.columns[name])


def _moments(connection: duckdb.DuckDBPyConnection, side: Side, names: Sequence[str]) -> list[tuple[Any, Any, Any]]:
    chosen = [
        f"approx_quantile({c}, 0.5)::DOUBLE, avg({c}::DOUBLE), stddev_samp({c}::DOUBLE)" for c in map(quoted, names)
    ]
    if not chosen:
        return []
    times = quoted(f"{side.arm}_repeats")
    (found,) = _rows(connection, f"SELECT {', '.join(chosen)} FROM {side.view} WHERE {times} > 0")
    return [(found[i], found[i + 1], found[i + 2]) for i in range(0, len(found), 3)]


def _examples(connection: duckdb.DuckDBPyConnection, here: Side, there: Side) -> list[str]:
    """A few documents that only one arm has: the same ones every time, whatever the order of the files."""
    only = f"in_{here.name.lower()} > 0 AND in_{there.name.lower()} = 0"
    query = f"SELECT doc_id FROM pairs WHERE {only} ORDER BY md5(doc_id), doc_id LIMIT {EXAMPLES}"
    ids = [doc_id for (doc_id,) in _rows(connection, query)]
    lines = [f"only in {here.name} ({here.arm})" + ("" if ids else ": nothing")]
    for doc_id in ids:
        (text,) = _rows(connection, f"SELECT text FROM {here.view} WHERE doc_id = ? LIMIT 1", [doc_id])[0]
        line = one_line(text or "")
        lines.append(f"  {one_line(doc_id)}")
        lines.append(f"    “{line[:TEXT_WIDTH]}{'…' if len(line) > TEXT_WIDTH else ''}”")
    return lines
