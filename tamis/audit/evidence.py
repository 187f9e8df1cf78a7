# ruff: noqa: S608 - column names are quoted, values are parameters, and the connection only reads
"""All that a run knows about one document: its values and where they stand, its duplicates, its fate in every arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.audit.deduplicators import component_of, of_spans
from tamis.audit.duplicates import Duplicates, duplicates_of
from tamis.audit.losses import Losses, losses_of
from tamis.audit.reader import Arm, Column, Run, Stage
from tamis.audit.view import quoted
from tamis.corpus import SHARD_BITS
from tamis.errors import ColumnError
from tamis.selectors.base import Selector
from tamis.steps import Batch

CLOSE = 0.85  # Jaro–Winkler similarity from which an id may be a misspelt one
BEGINNING = 300  # characters of a text that are shown
CODES = ("_cluster", "_repeats")  # numbers that have no order


@dataclass(frozen=True)
class Standing:
    """Where a number stands: the shares of documents below it and equal to it, in the pool and within its source."""

    below: float
    equal: float
    below_in_source: float | None


@dataclass(frozen=True)
class Cut:
    """How a document stands to an arm's cut. own, last: its priority, and that of the last document kept.

    rank : from 1, among the candidates that `where:` let through.
    """

    own: float
    last: float
    last_id: str
    rank: int
    candidates: int
    kept: int


@dataclass(frozen=True)
class Fate:
    """What an arm did. reason: the first one against it, None if it was kept (or not usable at all)."""

    arm: str
    repeats: int | None
    reason: str | None
    cut: Cut | None = None

    @property
    def kept(self) -> bool:
        return bool(self.repeats)


@dataclass(frozen=True)
class Evidence:
    """One document. record: its number in the file, from 1. values: all columns but the text."""

    doc_id: str
    row: int
    source: str | None
    file: str
    record: int
    values: Mapping[str, Any]
    text: str | None
    standings: Mapping[str, Standing]
    duplicates: Sequence[Duplicates]
    losses: Sequence[Losses]
    fates: Sequence[Fate]
    quarantine: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def evidence(run: Run, doc_id: str) -> list[Evidence]:
    """Everything about the documents with this id: usually one. Raises ColumnError with close ids if there is none."""
    with run.connect() as connection:
        found = connection.execute("SELECT row FROM documents WHERE doc_id = ? ORDER BY row", [doc_id]).fetchall()
        if not found:
            raise _unknown(run, connection, doc_id)
        rows = [row for (row,) in found]
        documents = run.at(rows, list(run.columns))
        duplicates = {row: duplicates_of(run, connection, values) for row, values in documents.items()}
        standings = {row: _standings(run, connection, values) for row, values in documents.items()}
    fates = {row: list[Fate]() for row in rows}
    for arm in run.arms.values():
        for row, cut in cuts(run, arm, documents).items():
            values = documents[row]
            fates[row].append(Fate(arm.name, values[arm.repeats], values[arm.reason], cut))
    return [_assembled(run, documents[row], standings[row], duplicates[row], fates[row]) for row in rows]


def _unknown(run: Run, connection: duckdb.DuckDBPyConnection, doc_id: str) -> ColumnError:
    likeness = "jaro_winkler_similarity(doc_id, ?)"
    query = f"SELECT doc_id, {likeness} AS likeness FROM documents ORDER BY likeness DESC, doc_id LIMIT 3"
    found = connection.execute(query, [doc_id]).fetchall()
    close = [repr(name) for name, likeness in found if likeness >= CLOSE]
    hint = f"did you mean {' or '.join(close)}?" if close else f"ids here look like {found[0][0]!r}" if found else ""
    bad = run.catalog.get("ingest", {}).get("bad", 0)
    lost = f"; {bad:,} records never became documents, see {run.path / 'quarantine'}" if bad else ""
    return ColumnError(f"{run.path}: no document {doc_id!r}; {hint}{lost}")


def _assembled(
    run: Run,
    values: dict[str, Any],
    standings: Mapping[str, Standing],
    duplicates: Sequence[Duplicates],
    fates: Sequence[Fate],
) -> Evidence:
    row = values["row"]
    shard = next(shard for shard in run.shards if shard.number == row >> SHARD_BITS)
    record = shard.first_record + (row & ((1 << SHARD_BITS) - 1)) + 1
    losses = [losses_of(run, stage, values) for stage in of_spans(run)]
    text = values.pop("text", None)
    about = [entry for entry in run.quarantine() if entry.get("row") == row]
    return Evidence(
        values["doc_id"], row, values["source"], shard.label, record, values, beginning(text), standings, duplicates,
        losses, fates, about,
    )  # fmt: skip


def beginning(text: str | None) -> str | None:
    return None if text is None else text[:BEGINNING]


def _standings(run: Run, connection: duckdb.DuckDBPyConnection, values: Mapping[str, Any]) -> dict[str, Standing]:
    """Where each of its numbers stands, by one reading of the layers."""
    numbers = [column for column in run.columns.values() if is_ranked(column) and _is_known(values[column.name])]
    if not numbers:
        return {}
    counts, parameters = [], list[Any]()
    for column in numbers:
        name, own = quoted(column.name), values[column.name]
        for of in ("", " AND source = $source"):
            counts.append(f"count(*) FILTER ({name} < $v{len(parameters)}{of})")
            counts.append(f"count(*) FILTER ({name} = $v{len(parameters)}{of})")
            counts.append(f"count(*) FILTER ({name} IS NOT NULL{of})")
        parameters.append(own)
    named = {f"v{i}": own for i, own in enumerate(parameters)} | {"source": values["source"]}
    (found,) = connection.execute(f"SELECT {', '.join(counts)} FROM documents", named).fetchall()
    pool, within = list(_threes(found))[::2], list(_threes(found))[1::2]
    return {
        column.name: Standing(p.below / p.total, p.equal / p.total, s.below / s.total if s.total else None)
        for column, p, s in zip(numbers, pool, within, strict=True)
    }


class _Counts(NamedTuple):
    below: int
    equal: int
    total: int


def _threes(values: Sequence[int]) -> Iterator[_Counts]:
    for start in range(0, len(values), 3):
        yield _Counts(*values[start : start + 3])


def is_ranked(column: Column) -> bool:
    """Whether a layer's column is a number that can be high or low."""
    return bool(column.layer) and column.is_number and not column.name.endswith(CODES)


def _is_known(value: Any) -> bool:
    return value is not None and value == value  # noqa: PLR0124 - NaN is not itself


# ---- the cut ----


def cuts(run: Run, arm: Arm, documents: Mapping[int, Mapping[str, Any]]) -> dict[int, Cut | None]:
    """How each of these documents stands to the arm's cut; None for what was dropped before it, or without a budget."""
    stage = next(stage for stage in run.stages if stage.verb == "select" and stage.name == arm.name)
    wanted = {row for row, values in documents.items() if values[arm.repeats] or values[arm.reason] == "cut"}
    selector = component_of(stage) if wanted else None
    if not isinstance(selector, Selector) or type(selector).steps is not Selector.steps:
        return dict.fromkeys(documents, None)
    if not (selector.budget_tokens or selector.budget_documents):
        return dict.fromkeys(documents, None)
    own = {row: _priority(stage, selector, _as_batch(run, selector, documents[row]))[0] for row in wanted}
    ranking = Ranking(own)
    for batch in run.batches([*_read(run, selector), arm.repeats, arm.reason]):
        ranking.take(_priority(stage, selector, batch), batch, arm)
    return {row: ranking.cut(row) if row in wanted else None for row in documents}


def _read(run: Run, selector: Selector) -> list[str]:
    return [name for name in dict.fromkeys(("doc_id", *selector.used)) if name in run.columns]


def _as_batch(run: Run, selector: Selector, values: Mapping[str, Any]) -> pa.RecordBatch:
    names = _read(run, selector)
    return pa.RecordBatch.from_arrays([pa.array([values[name]], run.columns[name].kind) for name in names], names=names)


def _priority(stage: Stage, selector: Selector, batch: pa.RecordBatch) -> npt.NDArray[np.float64]:
    return selector.priority(Batch(batch), stage.program().pool())


class Ranking:
    """The candidates of an arm against a few documents' priorities, batch by batch."""

    def __init__(self, own: Mapping[int, float]) -> None:
        self._own = dict(own)
        self._above = dict.fromkeys(own, 0)
        self._candidates = self._kept = 0
        self._last, self._last_id = np.inf, ""

    def take(self, priority: npt.NDArray[np.float64], batch: pa.RecordBatch, arm: Arm) -> None:
        kept = np.asarray(batch[arm.repeats].fill_null(0)) > 0
        reasons = batch[arm.reason]
        candidate = kept | np.asarray(pc.fill_null(pc.equal(reasons, "cut"), False))
        self._candidates += int(candidate.sum())
        self._kept += int(kept.sum())
        for row, own in self._own.items():
            self._above[row] += int((candidate & (priority > own)).sum())
        if kept.any():
            lowest = int(np.argmin(np.where(kept, priority, np.inf)))
            if priority[lowest] < self._last:
                self._last, self._last_id = float(priority[lowest]), batch["doc_id"][lowest].as_py()

    def cut(self, row: int) -> Cut:
        return Cut(float(self._own[row]), self._last, self._last_id, self._above[row] + 1, self._candidates, self._kept)
