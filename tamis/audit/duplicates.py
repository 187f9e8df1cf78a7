# ruff: noqa: S608 - column names are quoted, values are parameters, and the connection only reads
"""Why a document is a duplicate: the one that stays, or those it stands for, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tamis.audit.deduplicators import of_clusters
from tamis.audit.likeness import Measure, measure_of
from tamis.audit.reader import Run, Stage
from tamis.audit.view import quoted

PAIR = 2
MEMBERS = 8  # of those that a survivor stands for


@dataclass(frozen=True)
class Relative:
    """Another document of the cluster. stored: its similarity column; similarity: with the document asked about, now.

    is_chained : the two are not alike enough to have met by themselves, and there are others to join them.
    """

    doc_id: str
    text: str | None
    stored: float | None
    similarity: float | None
    is_chained: bool


@dataclass(frozen=True)
class Duplicates:
    """What a deduplicator says about a document.

    kept_by : the document that stays instead, None if this one stays. stored: the highest similarity with another
    document of the cluster that the run confirmed, None if it confirmed none. nearest : the document of that
    similarity, where the run noted it. relatives : the one that stays; or, if this one does, the first it stands for.
    """

    stage: str
    component: str
    cluster: int | None
    size: int
    kept_by: str | None
    stored: float | None
    nearest: str | None
    measure: Measure
    text: str | None
    relatives: Sequence[Relative]


def duplicates_of(run: Run, connection: duckdb.DuckDBPyConnection, values: Mapping[str, Any]) -> list[Duplicates]:
    """What every deduplicator says about one document. values: all its columns, the text included."""
    stages = of_clusters(run)
    measures = {stage.name: measure_of(run, stage) for stage in stages}
    rows = {stage.name: _relatives(connection, stage, values) for stage in stages}
    wanted = [row for found in rows.values() for row in found]
    columns = {"doc_id", "text", *(name for measure in measures.values() for name in measure.reads)}
    columns |= {name for stage in stages if (name := f"{stage.name}_similarity") in run.columns}
    documents = run.at(wanted, sorted(columns)) if wanted else {}
    return [
        _told(stage, values, measures[stage.name], [documents[row] for row in rows[stage.name]]) for stage in stages
    ]


def _relatives(connection: duckdb.DuckDBPyConnection, stage: Stage, values: Mapping[str, Any]) -> list[int]:
    """The rows of the document that stays, or of the first for which this one stays."""
    cluster, duplicate = quoted(f"{stage.name}_cluster"), quoted(f"{stage.name}_duplicate")
    if values[f"{stage.name}_cluster"] is None:
        return []
    chosen = f"NOT {duplicate}" if values[f"{stage.name}_kept_by"] is not None else duplicate
    query = f"SELECT row FROM documents WHERE {cluster} = ? AND {chosen} ORDER BY doc_id, row LIMIT {MEMBERS}"
    return [row for (row,) in connection.execute(query, [values[f"{stage.name}_cluster"]]).fetchall()]


def _told(
    stage: Stage, values: Mapping[str, Any], measure: Measure, relatives: Sequence[Mapping[str, Any]]
) -> Duplicates:
    name = stage.name
    similarities = measure.between([values, *relatives], [(0, i) for i in range(1, len(relatives) + 1)])
    has_others = (values[f"{name}_size"] or 1) > PAIR
    others = [
        Relative(
            other["doc_id"],
            other["text"],
            other.get(f"{name}_similarity"),
            similarity,
            has_others and measure.is_short(similarity),
        )
        for other, similarity in zip(relatives, similarities, strict=True)
    ]
    return Duplicates(
        name, stage.component, values[f"{name}_cluster"], values[f"{name}_size"] or 1, values[f"{name}_kept_by"],
        values.get(f"{name}_similarity"), values.get(f"{name}_nearest"), measure, values["text"], others,
    )  # fmt: skip
