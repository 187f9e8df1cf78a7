# ruff: noqa: S608 - column names are quoted, values are parameters, and the connection only reads
"""Which documents the report reads for its page about duplicates: a sample by a hash of the id, and those it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from tamis.audit.likeness import Cosine, Measure, measure_of
from tamis.audit.reader import Run, Stage
from tamis.audit.view import quoted

SAMPLED = 200  # duplicates whose similarity with the document that stays is computed for the page
LARGEST = 5
MEMBERS = 3
NEAR = 3  # pairs shown on either side of what a semantic deduplicator asks for

Pairs = list[tuple[int, int]]  # rows of two documents


@dataclass(frozen=True)
class Plan:
    """What is to be read for one stage: rows of the sample, of the largest clusters and of near pairs.

    sample : rows of a duplicate and of the document that stays, and the size of their cluster.
    """

    stage: Stage
    measure: Measure
    sample: Sequence[tuple[int, int, int]]
    largest: Sequence[tuple[int, Sequence[int]]]
    near: Sequence[tuple[int, int]]

    @property
    def rows(self) -> set[int]:
        shown = {row for _, rows in self.largest for row in rows}
        return shown | {row for pair in ((one, other) for one, other, *_ in (*self.sample, *self.near)) for row in pair}

    @property
    def columns(self) -> set[str]:
        return {"doc_id", "text", *self.measure.reads}


def planned(run: Run, connection: duckdb.DuckDBPyConnection, stage: Stage) -> Plan:
    measure = measure_of(run, stage)
    sample = [] if stage.component == "exact" else _sample(connection, stage.name)
    return Plan(stage, measure, sample, _largest(connection, stage.name), _near_rows(run, connection, stage, measure))


def _sample(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[int, int, int]]:
    """Duplicates drawn by a hash of their ids, each with the document that stays and the size of the cluster."""
    duplicate, cluster, size = (quoted(f"{name}_{suffix}") for suffix in ("duplicate", "cluster", "size"))
    query = f"""
        SELECT d.row, k.row, k.size
        FROM (SELECT row, {cluster} AS cluster FROM documents WHERE {duplicate}
              ORDER BY md5(doc_id), row LIMIT {SAMPLED}) d
        JOIN (SELECT row, {cluster} AS cluster, {size} AS size FROM documents WHERE {size} > 1 AND NOT {duplicate}) k
        USING (cluster) ORDER BY 1"""
    return [(one, other, count) for one, other, count in connection.execute(query).fetchall()]


def _largest(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[int, list[int]]]:
    """Sizes of the largest clusters, and rows of some of their documents, the one that stays first."""
    size, cluster, duplicate = (quoted(f"{name}_{suffix}") for suffix in ("size", "cluster", "duplicate"))
    largest = connection.execute(
        f"SELECT {cluster}, {size} FROM documents WHERE {cluster} IS NOT NULL AND NOT {duplicate} "
        f"ORDER BY 2 DESC, 1 LIMIT {LARGEST}"
    ).fetchall()
    query = f"SELECT row FROM documents WHERE {cluster} = ? ORDER BY {duplicate}, doc_id, row LIMIT {MEMBERS}"
    return [(count, [row for (row,) in connection.execute(query, [key]).fetchall()]) for key, count in largest]


def _near_rows(run: Run, connection: duckdb.DuckDBPyConnection, stage: Stage, measure: Measure) -> Pairs:
    """Rows of the pairs that are only just alike enough, and of those that only just are not."""
    similarity, nearest = f"{stage.name}_similarity", f"{stage.name}_nearest"
    if not isinstance(measure, Cosine) or nearest not in run.columns:
        return []
    found: list[tuple[int, str]] = []
    for side, order in ((">", "ASC"), ("<=", "DESC")):
        query = (
            f"SELECT row, {quoted(nearest)} FROM documents WHERE {quoted(similarity)} {side} ? "
            f"ORDER BY {quoted(similarity)} {order}, doc_id LIMIT {NEAR}"
        )
        found += connection.execute(query, [measure.least]).fetchall()
    ids = sorted({doc_id for _, doc_id in found})
    query = "SELECT doc_id, min(row) FROM documents WHERE list_contains(?, doc_id) GROUP BY doc_id"
    rows = dict(connection.execute(query, [ids]).fetchall()) if ids else {}
    return [(row, rows[doc_id]) for row, doc_id in found if doc_id in rows]
