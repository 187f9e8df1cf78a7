# ruff: noqa: S608 - column names are quoted, and the connection only reads
"""How a number is distributed among the documents that an arm keeps and among those that it drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from tamis.audit.charts import Scale
from tamis.audit.reader import Arm, Column, Run
from tamis.audit.view import quoted

BINS = 48
TAIL = 0.003  # of the documents lie beyond each end of the axis, and are drawn at it
LONG_TAIL = 8  # counts whose upper end is this many times their median get a logarithmic axis


@dataclass(frozen=True)
class ArmCounts:
    """Documents per bin that an arm keeps and drops, and the medians of both."""

    arm: Arm
    kept: Sequence[int]
    dropped: Sequence[int]
    kept_median: float | None
    dropped_median: float | None


@dataclass(frozen=True)
class Distribution:
    """A column over the pool. missing: documents without a value."""

    column: Column
    scale: Scale
    missing: int
    arms: Sequence[ArmCounts]


def distributions(run: Run, connection: duckdb.DuckDBPyConnection, columns: Sequence[Column]) -> list[Distribution]:
    """One reading for the axes and medians of all columns, then one for each column's bins."""
    arms = list(run.arms.values())
    if not columns or not arms:
        return []
    found = []
    for column, (scale, missing, medians) in zip(columns, _axes(connection, columns, arms), strict=True):
        if scale is None:  # no value at all
            continue
        counts = _counts(connection, column, scale, arms)
        found.append(
            Distribution(
                column, scale, missing, [ArmCounts(arm, *counts[i], *medians[i]) for i, arm in enumerate(arms)]
            )
        )
    return found


Medians = Sequence[tuple[float | None, float | None]]


def _axes(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], arms: Sequence[Arm]
) -> list[tuple[Scale | None, int, Medians]]:
    chosen = []
    for column in columns:
        name = f"{quoted(column.name)}::DOUBLE"
        chosen += [f"approx_quantile({name}, {q})" for q in (TAIL, 0.5, 1 - TAIL)]
        chosen += [f"min({name})", f"max({name})", f"count(*) - count({name})"]
        for arm in arms:
            is_kept = f"coalesce({quoted(arm.repeats)}, 0) > 0"
            chosen += [f"approx_quantile({name}, 0.5) FILTER ({is_kept})"]
            chosen += [f"approx_quantile({name}, 0.5) FILTER (NOT {is_kept})"]
    (values,) = connection.execute(f"SELECT {', '.join(chosen)} FROM documents").fetchall()
    width = 6 + 2 * len(arms)
    axes: list[tuple[Scale | None, int, Medians]] = []
    for i, column in enumerate(columns):
        low, median, high, least, most, missing, *medians = values[i * width : (i + 1) * width]
        scale = None
        if least is not None:
            low, high = (low, high) if high > low else (least, most)
            is_log = pa.types.is_integer(column.kind) and least >= 0 and high > LONG_TAIL * max(median, 1)
            scale = Scale(low, high if high > low else low + 1, bool(is_log), BINS)
        axes.append((scale, missing, list(zip(medians[::2], medians[1::2], strict=True))))
    return axes


def _counts(
    connection: duckdb.DuckDBPyConnection, column: Column, scale: Scale, arms: Sequence[Arm]
) -> list[tuple[list[int], list[int]]]:
    """Per arm: documents kept and dropped, by bin."""
    name = f"{quoted(column.name)}::DOUBLE"
    start, stop = scale.ends
    value = f"ln(1 + greatest({name}, 0))" if scale.is_log else name
    place = f"least(greatest(floor(({value} - ({start!r})) / ({(stop - start)!r}) * {BINS}), 0), {BINS - 1})::INT"
    kept = [f"coalesce({quoted(arm.repeats)}, 0) > 0 AS k{i}" for i, arm in enumerate(arms)]
    query = f"SELECT {place} AS bin, {', '.join(kept)}, count(*) FROM documents WHERE {name} IS NOT NULL GROUP BY ALL"
    counts: list[tuple[list[int], list[int]]] = [([0] * BINS, [0] * BINS) for _ in arms]
    for index, *is_kept, documents in connection.execute(query).fetchall():
        for (of_kept, of_dropped), chosen in zip(counts, is_kept, strict=True):
            (of_kept if chosen else of_dropped)[index] += documents
    return counts
