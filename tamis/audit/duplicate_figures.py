# ruff: noqa: S608 - column names are quoted, values are parameters, and the connection only reads
"""The report's numbers about clusters of duplicates.

Counts stream over the layers. Texts are read for a few documents only: a sample drawn by a hash of the id, and those
that are shown; all deduplicators together read them once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tamis.audit.deduplicators import component_of, findings_of, of_clusters
from tamis.audit.duplicate_sample import Plan, planned
from tamis.audit.likeness import Cosine, Measure, Values
from tamis.audit.reader import Run
from tamis.audit.view import quoted
from tamis.dedup.base import GUARDED, Deduplicator
from tamis.kernels.lsh import candidate_share

SIZES = ((2, 2), (3, 3), (4, 5), (6, 10), (11, 30), (31, 100), (101, 1000), (1001, 1 << 32))
SOURCES = 14
BEGINNING = 180
BINS = 40
PAIR = 2
CHAINED = 0.1  # of the duplicates, from which on the page warns
Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Share:
    """A count of a total, and its 95 % interval. Source: Wilson 1927."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        n, p = self.total, self.value
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Member:
    """A document that is shown: the beginning of its text, and its similarity with the one that stays, if computed."""

    doc_id: str
    text: str
    similarity: float | None = None


@dataclass(frozen=True)
class Cluster:
    """Some of a cluster's documents, the one that stays first."""

    size: int
    members: Sequence[Member]


@dataclass(frozen=True)
class SourceLoss:
    """is_warned : whether more than `warn_removed` of a source that is large enough are duplicates."""

    source: str
    documents: int
    removed: int
    is_warned: bool


@dataclass(frozen=True)
class Similarities:
    """Documents by similarity, in BINS equal steps from low to 1. least: what is asked of a pair."""

    counts: Sequence[int]
    low: float
    least: float | None
    of: str


@dataclass(frozen=True)
class Planted:
    """Copies planted with a similarity in [low, low + 0.05): how many shared a bucket, how many were confirmed."""

    low: float
    found: Share
    confirmed: int
    expected: float


@dataclass(frozen=True)
class Banding:
    """What bands of rows find of pairs, in theory and of planted copies."""

    bands: int
    rows: int
    half_point: float
    verify: str
    planted: Sequence[Planted]


@dataclass(frozen=True)
class EpsilonCurve:
    """The share of documents kept at each epsilon, and the epsilon that was used."""

    epsilons: Sequence[float]
    kept: Sequence[float]
    epsilon: float


@dataclass(frozen=True)
class Near:
    """Two documents whose similarity is just enough, or just not."""

    similarity: float
    is_enough: bool
    one: Member
    other: Member


@dataclass(frozen=True)
class ClusterFigures:
    """What one deduplicator found.

    unlike : of the sample, those less like the document that stays than the measure's least. chained : those of them in
    clusters of three or more, which may be there through others; two alone have met.
    """

    name: str
    component: str
    documents: int
    bytes: int
    clusters: int
    sizes: Sequence[tuple[str, int, int]]
    sources: Sequence[SourceLoss]
    warned_at: float | None
    largest: Sequence[Cluster]
    measure: Measure
    similarities: Similarities | None
    unlike: Share | None
    chained: Share | None
    banding: Banding | None
    curve: EpsilonCurve | None
    near: Sequence[Near]

    @property
    def is_chained(self) -> bool:
        """Whether clearly many duplicates are in clusters through others only."""
        return self.chained is not None and self.chained.interval[0] > CHAINED


def cluster_figures(run: Run, connection: duckdb.DuckDBPyConnection) -> list[ClusterFigures]:
    """The figures of every deduplicator that makes clusters; texts are read once for all of them."""
    plans = [planned(run, connection, stage) for stage in of_clusters(run)]
    rows = {row for plan in plans for row in plan.rows}
    columns = {column for plan in plans for column in plan.columns}
    columns |= {name for plan in plans if (name := f"{plan.stage.name}_similarity") in run.columns}
    documents = run.at(sorted(rows), sorted(columns)) if rows else {}
    return [_figures(run, connection, plan, documents) for plan in plans]


def _figures(
    run: Run, connection: duckdb.DuckDBPyConnection, plan: Plan, documents: Mapping[int, Values]
) -> ClusterFigures:
    name, component = plan.stage.name, component_of(plan.stage)
    warned_at = component.warn_removed if isinstance(component, Deduplicator) else None
    mark = quoted(f"{name}_duplicate")
    ((removed, removed_bytes),) = connection.execute(
        f"SELECT count(*), coalesce(sum(n_bytes), 0) FROM documents WHERE {mark}"
    ).fetchall()
    sizes = _sizes(connection, name)
    ordered = list(documents)
    place = {row: i for i, row in enumerate(ordered)}
    texts = [documents[row] for row in ordered]
    between = plan.measure.between(texts, [(place[one], place[other]) for one, other, _ in plan.sample])
    unlike = [size for (*_, size), value in zip(plan.sample, between, strict=True) if plan.measure.is_short(value)]
    known = [value for value in between if value is not None]
    is_asked = plan.measure.least is not None and bool(known)
    return ClusterFigures(
        name, plan.stage.component, removed, int(removed_bytes), sum(clusters for _, clusters, _ in sizes), sizes,
        _sources(connection, name, warned_at), warned_at,
        [_cluster(plan, count, [documents[row] for row in rows]) for count, rows in plan.largest],
        plan.measure, _similarities(run, connection, plan, known, removed),
        Share(len(unlike), len(known)) if is_asked else None,
        Share(sum(size > PAIR for size in unlike), len(known)) if is_asked else None,
        _banding(findings_of(run, name)), _curve(findings_of(run, name)),
        [_near(documents[one], documents[other], name, plan.measure) for one, other in plan.near],
    )  # fmt: skip


def _sizes(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[str, int, int]]:
    """Clusters and their documents, by size."""
    size = quoted(f"{name}_size")
    found = connection.execute(f"SELECT {size}, count(*) FROM documents WHERE {size} > 1 GROUP BY 1").fetchall()
    counts, sizes = Counter(dict(found)), []
    for low, high in SIZES:
        held = {n: count for n, count in counts.items() if low <= n <= high}
        if held:
            label = f"{low:,}" if low == high else f"{low:,} and more" if high == SIZES[-1][1] else f"{low:,}–{high:,}"
            sizes.append((label, sum(count // n for n, count in held.items()), sum(held.values())))
    return sizes


def _sources(connection: duckdb.DuckDBPyConnection, name: str, warned_at: float | None) -> list[SourceLoss]:
    """The sources that lose most, those that the run warned of first."""
    removed = f"count(*) FILTER ({quoted(f'{name}_duplicate')})"
    warned = "false" if warned_at is None else f"count(*) >= {GUARDED} AND {removed} > {warned_at!r} * count(*)"
    found = connection.execute(
        f"SELECT coalesce(source, 'no source'), count(*), {removed}, {warned} AS warned FROM documents "
        f"GROUP BY 1 HAVING {removed} > 0 ORDER BY warned DESC, 3 DESC, 1 LIMIT {SOURCES}"
    ).fetchall()
    return [SourceLoss(*row) for row in found]


def _similarities(
    run: Run, connection: duckdb.DuckDBPyConnection, plan: Plan, sampled: Sequence[float], removed: int
) -> Similarities | None:
    """By the run's own column where it has values; else by the sample."""
    name, least = quoted(f"{plan.stage.name}_similarity"), plan.measure.least
    if plan.stage.component == "exact":
        return None
    is_cosine = isinstance(plan.measure, Cosine)
    low = max(0.0, 1 - 4 * (1 - least)) if is_cosine and least is not None else 0.0
    if f"{plan.stage.name}_similarity" in run.columns:
        place = f"least(floor(({name} - {low!r}) / {1 - low!r} * {BINS}), {BINS - 1})::INT"
        chosen = "TRUE" if is_cosine else quoted(f"{plan.stage.name}_duplicate")
        counts = dict(
            connection.execute(
                f"SELECT {place}, count(*) FROM documents WHERE {name} >= {low!r} AND {chosen} GROUP BY 1"
            ).fetchall()
        )
        if counts:
            of = (
                "every document’s highest with an earlier one of its k-means cluster"
                if is_cosine
                else "every duplicate’s highest that the run confirmed"
            )
            return Similarities([counts.get(i, 0) for i in range(BINS)], low, least, of)
    if not sampled:
        return None
    bins = Counter(min(BINS - 1, int(value * BINS)) for value in sampled)
    which = "all" if len(sampled) == removed else f"{len(sampled):,} drawn of the"
    of = f"{which} {removed:,} duplicates with the document that stays instead, computed for this page"
    return Similarities([bins[i] for i in range(BINS)], 0.0, least, of)


def _banding(findings: Mapping[str, Any]) -> Banding | None:
    if "rows_per_band" not in findings:
        return None
    bands, rows = findings["bands"], findings["rows_per_band"]
    planted = [
        Planted(
            entry["low"], Share(entry["found"], entry["planted"]), entry["confirmed"],
            float(candidate_share(min(1.0, entry["low"] + 0.025), bands, rows)),
        )
        for entry in findings["canaries"]
    ]  # fmt: skip
    return Banding(bands, rows, findings["half_point"], findings["verify"], planted)


def _curve(findings: Mapping[str, Any]) -> EpsilonCurve | None:
    if "curve" not in findings:
        return None
    return EpsilonCurve(findings["curve"]["epsilon"], findings["curve"]["kept"], findings["epsilon"])


def _cluster(plan: Plan, count: int, documents: Sequence[Values]) -> Cluster:
    """A cluster's documents, each with its similarity to the first, but where all are equal anyway."""
    pairs = [] if plan.stage.component == "exact" else [(0, i) for i in range(1, len(documents))]
    similarities = [None, *plan.measure.between(documents, pairs)] + [None] * len(documents)
    return Cluster(count, [_member(values, found) for values, found in zip(documents, similarities, strict=False)])


def _member(values: Values, similarity: float | None = None) -> Member:
    return Member(values["doc_id"], (values["text"] or "")[:BEGINNING], similarity)


def _near(one: Values, other: Values, name: str, measure: Measure) -> Near:
    similarity = float(one[f"{name}_similarity"])
    return Near(similarity, not measure.is_short(similarity), _member(one), _member(other))
