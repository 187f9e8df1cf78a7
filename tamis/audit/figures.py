# ruff: noqa: S608 - column names are quoted, and the connection only reads
"""The numbers of the report: every one comes from an aggregation that streams over the run's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from tamis.audit.reader import Arm, Column, Run
from tamis.audit.view import quoted
from tamis.expressions import Expression

SOURCES = 24  # the largest by bytes are shown one by one
KEPT = "kept"
UNUSABLE = "not usable"


@dataclass(frozen=True)
class Mass:
    """How much of a corpus: tokens are None where the run did not count them."""

    documents: int = 0
    bytes: int = 0
    tokens: int | None = None

    def __add__(self, other: Mass) -> Mass:
        tokens = None if self.tokens is None and other.tokens is None else (self.tokens or 0) + (other.tokens or 0)
        return Mass(self.documents + other.documents, self.bytes + other.bytes, tokens)

    @property
    def weight(self) -> int:
        """Tokens, or bytes where there are none."""
        return self.bytes if self.tokens is None else self.tokens


@dataclass(frozen=True)
class Step:
    """One line of a funnel: what went (or stayed) here, and what was left after it."""

    label: str
    mass: Mass
    left: Mass


@dataclass(frozen=True)
class Funnel:
    """An arm, from the pool to what it keeps. by_source: source → fate → mass; `fates` in the order of the steps."""

    arm: Arm
    pool: Mass
    steps: Sequence[Step]
    kept: Mass
    uses: int
    fates: Sequence[str]
    by_source: dict[str, dict[str, Mass]] = field(default_factory=dict)

    def source_pool(self, source: str) -> Mass:
        return sum(self.by_source.get(source, {}).values(), Mass())

    def source_kept(self, source: str) -> Mass:
        return self.by_source.get(source, {}).get(KEPT, Mass())


def largest_sources(connection: duckdb.DuckDBPyConnection) -> list[str | None]:
    query = (
        f"SELECT source FROM documents GROUP BY source ORDER BY sum(n_bytes) DESC NULLS LAST, source LIMIT {SOURCES}"
    )
    return [source for (source,) in connection.execute(query).fetchall()]


def funnel(run: Run, connection: duckdb.DuckDBPyConnection, arm: Arm, sources: Sequence[str | None]) -> Funnel:
    """An arm's funnel by one reading of its columns."""
    tokens = "sum(n_tokens)" if "n_tokens" in run.columns else "NULL"
    repeats, reason = quoted(arm.repeats), quoted(arm.reason)
    query = f"""
        SELECT CASE WHEN source IN (SELECT unnest(?)) THEN source WHEN source IS NULL THEN 'no source'
                    ELSE 'all other sources' END AS origin,
               CASE WHEN {repeats} > 0 THEN '{KEPT}' ELSE coalesce({reason}, '{UNUSABLE}') END AS fate,
               count(*), coalesce(sum(n_bytes), 0), {tokens}, coalesce(sum({repeats}), 0)
        FROM documents GROUP BY ALL"""
    cells = connection.execute(query, [[source for source in sources if source is not None]]).fetchall()
    by_source: dict[str, dict[str, Mass]] = {}
    totals: dict[str, Mass] = {}
    for origin, fate, documents, size, counted, _ in cells:
        mass = Mass(documents, int(size), None if tokens == "NULL" else int(counted or 0))
        by_source.setdefault(origin, {})[fate] = mass
        totals[fate] = totals.get(fate, Mass()) + mass
    pool = sum(totals.values(), Mass())
    fates = sorted(totals, key=lambda fate: fate_order(arm, fate))
    steps, left = [], pool
    for fate in fates:
        if fate != KEPT:
            left = _less(left, totals[fate])
            steps.append(Step(fate, totals[fate], left))
    uses = sum(int(row[5]) for row in cells)
    return Funnel(arm, pool, steps, totals.get(KEPT, Mass()), uses, fates, by_source)


def fate_order(arm: Arm, fate: str) -> tuple[int, str]:
    """Conditions as they are written, then what could not be used, then the cut, then what was kept."""
    wheres = [f"where: {text}" for text in arm.conjuncts]
    rest = [UNUSABLE, "quarantined", "no score", "no cluster", "cluster not taken", "cut", KEPT]
    known = [*wheres, *rest]
    return (known.index(fate) if fate in known else len(wheres), fate)


def _less(one: Mass, other: Mass) -> Mass:
    tokens = None if one.tokens is None else one.tokens - (other.tokens or 0)
    return Mass(one.documents - other.documents, one.bytes - other.bytes, tokens)


# ---- which columns matter ----


def used_numbers(run: Run, limit: int) -> list[Column]:
    """Numbers that decided: what the arms read, then each scorer's own column, then the size."""
    names: list[str] = []
    for stage in run.stages:
        if stage.verb == "select":
            for text in (stage.options.get("where"), stage.options.get("score")):
                names += Expression(text).columns if isinstance(text, str) else ()
    names += [stage.name for stage in run.stages if stage.verb == "score"]
    names.append("n_tokens" if "n_tokens" in run.columns else "n_bytes")
    columns = [run.columns[name] for name in dict.fromkeys(names) if name in run.columns]
    return [column for column in columns if column.is_number][:limit]


@dataclass(frozen=True)
class Flag:
    """A yes-or-no column: the share of documents for which it is true, in the pool and in each arm."""

    column: Column
    pool: float | None
    arms: Sequence[float | None]


def flags(run: Run, connection: duckdb.DuckDBPyConnection) -> list[Flag]:
    columns = [column for column in run.columns.values() if column.layer and str(column.kind) == "bool"]
    if not columns:
        return []
    filters = ["TRUE", *(f"{quoted(arm.repeats)} > 0" for arm in run.arms.values())]
    chosen = [f"avg({quoted(column.name)}::INT) FILTER ({text})" for column in columns for text in filters]
    (found,) = connection.execute(f"SELECT {', '.join(chosen)} FROM documents").fetchall()
    width = len(filters)
    return [Flag(column, found[i * width], found[i * width + 1 : (i + 1) * width]) for i, column in enumerate(columns)]
