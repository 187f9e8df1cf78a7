# ruff: noqa: S608 - column names are quoted, and the connection only reads
"""The deduplicators of a run: which there are, what they found out, and their clusters as a view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tamis.audit.view import literal, quoted
from tamis.errors import SpecError
from tamis.steps import Component

if TYPE_CHECKING:
    from tamis.audit.reader import Run, Stage

CLUSTERS = ("duplicate", "cluster", "kept_by", "size")
SPANS = ("spans", "bytes", "duplicate", "kept_by")


def of_clusters(run: Run) -> list[Stage]:
    """The stages that put documents into clusters, of which one stays."""
    return [stage for stage in run.stages if all(f"{stage.name}_{suffix}" in run.columns for suffix in CLUSTERS)]


def of_spans(run: Run) -> list[Stage]:
    """The stages that strike passages."""
    return [stage for stage in run.stages if all(f"{stage.name}_{suffix}" in run.columns for suffix in SPANS)]


def component_of(stage: Stage) -> Component | None:
    """The stage's component, if it is one of tamis: a run is only read, so a user's own code is not run from here."""
    try:
        return stage.program().build()
    except SpecError:
        return None


def findings_of(run: Run, name: str) -> Mapping[str, Any]:
    """RUN/findings/<name>.json; empty if the stage published nothing."""
    path = run.path / "findings" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def findings_table(folder: Path) -> pa.Table:
    """Everything in RUN/findings: `stage` and `json`, both text, one row per file, by name."""
    paths = sorted((folder / "findings").glob("*.json"))
    columns = {"stage": [path.stem for path in paths], "json": [path.read_text(encoding="utf-8") for path in paths]}
    return pa.table(columns, pa.schema([(name, pa.string()) for name in columns]))


def clusters_query(run: Run) -> str:
    """A SELECT over `documents` with one row per cluster of every deduplicator; only what a query asks for is read."""
    parts = [_clusters_of(run, stage.name) for stage in of_clusters(run)]
    return " UNION ALL ".join(parts or [_NONE])


_NONE = (
    "SELECT NULL::VARCHAR AS stage, NULL::UBIGINT AS cluster, NULL::BIGINT AS size, NULL::VARCHAR AS survivor, "
    "NULL::BIGINT AS bytes, NULL::FLOAT AS similarity, NULL::VARCHAR[] AS members WHERE false"
)


def _clusters_of(run: Run, name: str) -> str:
    duplicate, cluster = quoted(f"{name}_duplicate"), quoted(f"{name}_cluster")
    has_similarity = f"{name}_similarity" in run.columns
    similarity = f"min({quoted(f'{name}_similarity')})" if has_similarity else "NULL::FLOAT"
    size = "sum(n_bytes)::BIGINT" if "n_bytes" in run.columns else "NULL::BIGINT"
    return (
        f"SELECT {literal(name)} AS stage, {cluster} AS cluster, count(*) AS size, "
        f"min(doc_id) FILTER (NOT {duplicate}) AS survivor, {size} AS bytes, {similarity} AS similarity, "
        f"list(doc_id ORDER BY {duplicate}, doc_id) AS members "
        f"FROM documents WHERE {cluster} IS NOT NULL GROUP BY {cluster}"
    )
