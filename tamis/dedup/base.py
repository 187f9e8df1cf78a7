"""What a deduplicator is: it finds clusters of documents, of which one stays, or passages that stay elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.errors import ContractError
from tamis.kernels.arrow import Int64, UInt64, strings_of, text_of
from tamis.kernels.order import ordered
from tamis.kernels.survivors import survivors
from tamis.steps import Batch, Columns, Component, Decisions, Fold, Map, Pool, Publish, Summary

SPANS = pa.list_(pa.struct([("start", pa.uint32()), ("end", pa.uint32())]))  # UTF-8 bytes [start, end) of the text
DECISION = (
    ("duplicate", pa.bool_()), ("cluster", pa.uint64()), ("kept_by", pa.string()), ("size", pa.uint32()),
    ("similarity", pa.float32()),
)  # fmt: skip
LAST = np.iinfo(np.uint64).max  # the rank of a document without a score or a preferred source
GUARDED = 100  # documents from which on the share that a source loses means something
SHOWN, NAMED = 1000, 10  # sources in the findings; sources in a message: a corpus may have a million of them


@dataclass(frozen=True)
class Best:
    """`keep: {best: COLUMN}`: the document with the highest number stays; one without a number goes first."""

    best: str


@dataclass(frozen=True)
class Prefer:
    """`keep: {prefer: [SOURCE, …]}`: a document of the source named first stays; sources not named come last."""

    prefer: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Deduplicator(Component):
    """Parent of the deduplicators. Every document gets five columns, with the deduplicator's name before them:

    duplicate : whether another document of its cluster stays instead. cluster : the cluster's id, null outside one.
    kept_by : doc_id of the document that stays instead, null otherwise. size : documents in the cluster, 1 outside.
    similarity : the highest similarity with another of its cluster that was confirmed, null where none was.
    keep : who stays: `smallest_id` the smallest doc_id, `longest` the most bytes, `random` one drawn by the run's seed,
    {best: COLUMN} the highest number, {prefer: [SOURCE, …]} the source named first. Equal ones by doc_id.
    per : a column; only documents with the same value of it can be duplicates of each other (a source, a dump).
    warn_removed, stop_removed : the share of a source of 100 documents or more that may be duplicates before the run
    says so, or stops.
    """

    said: ClassVar[tuple[str, ...]] = ("warn_removed", "stop_removed")

    keep: Literal["smallest_id", "longest", "random"] | Best | Prefer = "smallest_id"
    per: str | None = None
    warn_removed: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    stop_removed: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Whether the run's seed matters: only to a draw."""
        return self.keep == "random"

    @property
    def reads(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self.scoped, "doc_id", "text", *self.ranked)))

    @property
    def scoped(self) -> Sequence[str]:
        """Columns that `scope` needs."""
        return () if self.per is None else (self.per,)

    @property
    def ranked(self) -> Sequence[str]:
        """Columns that `rank` needs, beside the text or `n_bytes`."""
        if isinstance(self.keep, Best):
            return (self.keep.best,)
        return ("source",) if isinstance(self.keep, Prefer) else ()

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {f"{name}_{suffix}": kind for suffix, kind in DECISION}

    def rank(self, batch: Batch, pool: Pool) -> UInt64:
        """What `keep` compares: uint64, (n), the lowest of a cluster stays, equal ones by doc_id."""
        if isinstance(self.keep, Best):
            numbers = _numbers(batch[self.keep.best], self.keep.best)
            missing = np.isnan(numbers)
            return np.where(missing, LAST, ~ordered(np.where(missing, 0.0, numbers)))
        if isinstance(self.keep, Prefer):
            source = batch["source"].cast(pa.string())
            place = pc.index_in(source, pa.array(self.keep.prefer, pa.string())).cast(pa.uint64())
            return np.asarray(pc.fill_null(place, int(LAST)), np.uint64)
        if self.keep == "longest":
            has_text = "text" in batch.table.schema.names
            size = np.diff(batch.text.offsets) if has_text else np.asarray(pc.fill_null(batch["n_bytes"], 0))
            return ~size.astype(np.uint64)
        if self.keep == "random":
            return seeds.hash64(pool.seed, f"{pool.name}: keep", batch.doc_ids)
        return np.zeros(len(batch), np.uint64)

    def scope(self, batch: Batch) -> UInt64:
        """What keeps the keys of different values of `per` apart: uint64, (n), to be combined by exclusive or."""
        if self.per is None:
            return np.zeros(len(batch), np.uint64)
        return seeds.hash64(0, "per", text_of(pc.fill_null(batch[self.per].cast(pa.string()), "")))

    def settle(
        self, pool: Pool, decisions: Decisions, found: Mapping[str, Any] | None = None, lines: Sequence[str] = ()
    ) -> Generator[Any, Any, Map]:
        """The last steps: decisions about clusters become columns, and what each source loses is looked at.

        found : what else belongs into findings/<name>.json. lines : what else to say on the terminal.
        """
        counts = yield Fold(("source",), _count_sources, _merge_sources, joins=decisions)
        sources = _by_source(counts).to_pylist()
        findings = Publish(
            f"findings/{pool.name}.json",
            {"kind": "clusters", "sources": _largest(sources), "sources_in_all": len(sources), **(found or {})},
            (*lines, *_losses(sources, self.warn_removed)),
            "; ".join(_losses(sources, self.stop_removed)) or None,
        )
        return Map((), self.columns(pool.name), partial(_filled, pool.name), joins=decisions, findings=findings)


def _numbers(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """A column of numbers, truth values or times: float64, (n), NaN for a null. Raises ContractError for any other."""
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    if pa.types.is_timestamp(column.type) or pa.types.is_date64(column.type):
        column = column.cast(pa.int64())
    kind = column.type
    types = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    if not any(is_one(kind) for is_one in types):
        raise ContractError(f"keep: best: expected numbers or times in {name!r}, got {kind}; name another column")
    numbers: npt.NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def _count_sources(batch: Batch) -> Summary:
    """Documents and duplicates by source; documents without one have the source ''."""
    source = pc.fill_null(batch["source"].cast(pa.string()), "")
    removed = pc.fill_null(batch["duplicate"], False).cast(pa.int64())
    return _summary(pa.table({"source": source, "documents": np.ones(len(batch), np.int64), "removed": removed}))


def _merge_sources(one: Summary, other: Summary) -> Summary:
    return _summary(pa.concat_tables([_by_source(one), _by_source(other)]))


def _summary(counts: pa.Table) -> Summary:
    """Sums by source, sorted: int64, (s) each; names as bytes, uint8, and where each begins, int64, (s + 1)."""
    sums = counts.group_by("source").aggregate([("documents", "sum"), ("removed", "sum")]).sort_by("source")
    names = text_of(sums["source"])
    begin, end = int(names.offsets[0]), int(names.offsets[-1])
    return {
        "offsets": names.offsets - begin,
        "names": names.data[begin:end],
        "documents": sums["documents_sum"].to_numpy(),
        "removed": sums["removed_sum"].to_numpy(),
    }


def _by_source(counts: Summary) -> pa.Table:
    """The sums as a table: source, documents, removed."""
    names = strings_of(np.ascontiguousarray(counts["offsets"]), np.ascontiguousarray(counts["names"]))
    return pa.table({"source": names.cast(pa.string()), "documents": counts["documents"], "removed": counts["removed"]})


def _losses(sources: Sequence[Mapping[str, Any]], allowed: float | None) -> list[str]:
    """A line about each source that loses a larger share than is allowed."""
    if allowed is None:
        return []
    losing = [
        entry for entry in sources if entry["documents"] >= GUARDED and entry["removed"] > allowed * entry["documents"]
    ]
    lines = [
        f"source {entry['source']!r} loses {entry['removed']:,} of {entry['documents']:,} documents "
        f"({entry['removed'] / entry['documents']:.1%}), more than {allowed:.0%}"
        for entry in _largest(losing, NAMED)
    ]
    return [*lines, f"and so do {len(losing) - NAMED:,} more sources"] if len(losing) > NAMED else lines


def _largest(sources: Sequence[Mapping[str, Any]], most: int = SHOWN) -> list[Mapping[str, Any]]:
    """Those with most documents, in the order given."""
    ranked = sorted(range(len(sources)), key=lambda i: (-sources[i]["documents"], sources[i]["source"]))
    return [sources[i] for i in sorted(ranked[:most])]


def _filled(name: str, batch: Batch) -> Columns:
    return {
        f"{name}_duplicate": pc.fill_null(batch["duplicate"], False),
        f"{name}_cluster": batch["cluster"],
        f"{name}_kept_by": batch["kept_by"],
        f"{name}_size": pc.fill_null(batch["size"], 1),
        f"{name}_similarity": batch["similarity"],
    }


def decide_clusters(members: pa.Table, number: Int64) -> pa.Table:
    """The decision columns and `row` of documents that are all in clusters.

    members : `rank` (uint64), `doc_id`, `row` and `similarity` (float32) of m documents, in any order.
    number : int64, (m), the cluster of each, numbered from 0. A cluster's id is the least hash of a doc_id in it.
    Documents that even share an id are interchangeable; the lowest row stays.
    """
    ids = text_of(members["doc_id"])
    survivor = survivors(number, members["rank"].to_numpy(), members["row"].to_numpy(), ids)[number]
    cluster = np.full(int(number.max(initial=-1)) + 1, LAST, np.uint64)
    np.minimum.at(cluster, number, seeds.hash64(0, "cluster", ids))
    is_duplicate = survivor != np.arange(len(number))
    return pa.table(
        {
            "row": members["row"],
            "duplicate": is_duplicate,
            "cluster": cluster[number],
            "kept_by": members["doc_id"].take(pa.array(survivor, mask=~is_duplicate)).cast(pa.string()),
            "size": np.bincount(number)[number].astype(np.uint32),
            "similarity": members["similarity"],
        }
    )


@dataclass(frozen=True, kw_only=True)
class SpanDeduplicator(Component):
    """Parent of those that find passages rather than documents. Four columns, with the deduplicator's name before them:

    spans : passages of the text that stay elsewhere, as bytes [start, end) of its UTF-8, sorted and apart; `tamis
    export` leaves them out. bytes : how many bytes they cover. duplicate : whether the whole document should go.
    kept_by : doc_id of the document that keeps the longest of the spans, null without any.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        return ("doc_id", "text")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        kinds = {"spans": SPANS, "bytes": pa.uint32(), "duplicate": pa.bool_(), "kept_by": pa.string()}
        return {f"{name}_{suffix}": kind for suffix, kind in kinds.items()}


def ranks(batch: Batch) -> UInt64:
    """Who comes first where a passage stands in several documents: uint64, (n), the lowest keeps it.

    A hash of the id alone, so that no source loses more for how its ids begin. One order for all that find passages:
    what one of them leaves to an earlier document, another does not strike there.
    """
    return seeds.hash64(0, "paragraph: first", batch.doc_ids)
