"""What a deduplicator is: it finds clusters of documents, of which one stays, or passages that stay elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis import seeds
from tamis.kernels.arrow import Int64
from tamis.steps import Batch, Columns, Component, Decisions, Map, Pool

SPANS = pa.list_(pa.struct([("start", pa.uint32()), ("end", pa.uint32())]))  # UTF-8 bytes [start, end) of the text
DECISION = (("duplicate", pa.bool_()), ("cluster", pa.uint64()), ("kept_by", pa.string()), ("size", pa.uint32()))


@dataclass(frozen=True, kw_only=True)
class Deduplicator(Component):
    """Parent of the deduplicators. Every document gets four columns, with the deduplicator's name before them:

    duplicate : whether another document of its cluster stays instead. cluster : the cluster's id, null outside one.
    kept_by : doc_id of the document that stays instead, null otherwise. size : documents in the cluster, 1 outside.
    keep : who stays: the smallest doc_id, the longest text (most bytes), or one drawn by the run's seed.
    """

    keep: Literal["smallest_id", "longest", "random"] = "smallest_id"

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Whether the run's seed matters: only to a draw."""
        return self.keep == "random"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("doc_id", "text")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {f"{name}_{suffix}": kind for suffix, kind in DECISION}

    def rank(self, batch: Batch, pool: Pool) -> Int64:
        """What `keep` compares: int64, (n), the lowest of a cluster stays, equal ones by doc_id."""
        if self.keep == "longest":
            return -np.diff(batch.text.offsets)
        if self.keep == "random":
            drawn = seeds.hash64(pool.seed, f"{pool.name}: keep", batch.doc_ids)
            return (drawn >> np.uint64(1)).astype(np.int64)
        return np.zeros(len(batch), np.int64)

    def decided(self, pool: Pool, decisions: Decisions) -> Map:
        """The last step: decisions about clusters become columns; the rest is nobody's duplicate."""
        return Map((), self.columns(pool.name), partial(_filled, pool.name), joins=decisions)


@dataclass(frozen=True, kw_only=True)
class SpanDeduplicator(Component):
    """Parent of those that find passages rather than documents. Four columns, with the deduplicator's name before them:

    spans : passages of the text that stay elsewhere, as bytes [start, end) of its UTF-8, sorted and apart; `tamis export`
    leaves them out. bytes : how many bytes they cover. duplicate : whether the whole document should go.
    kept_by : doc_id of the document that keeps the longest of the spans, null without any.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        return ("doc_id", "text")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        kinds = {"spans": SPANS, "bytes": pa.uint32(), "duplicate": pa.bool_(), "kept_by": pa.string()}
        return {f"{name}_{suffix}": kind for suffix, kind in kinds.items()}


def _filled(name: str, batch: Batch) -> Columns:
    return {
        f"{name}_duplicate": pc.fill_null(batch["duplicate"], False),
        f"{name}_cluster": batch["cluster"],
        f"{name}_kept_by": batch["kept_by"],
        f"{name}_size": pc.fill_null(batch["size"], 1),
    }


def decide_clusters(members: pa.Table, number: Int64, cluster: npt.NDArray[np.uint64]) -> pa.Table:
    """The decision columns and `row` of documents that are all in clusters.

    members : `rank` (int64), `doc_id` and `row` of m documents, in any order.
    number : int64, (m), the cluster of each, numbered from 0. cluster : uint64, (m), the id to publish.
    Documents that even share an id are interchangeable; the lowest row stays.
    """
    keys = members.select(["rank", "doc_id", "row"]).append_column("number", pa.array(number))
    order = pc.sort_indices(keys, [(name, "ascending") for name in ("number", "rank", "doc_id", "row")]).to_numpy()
    sorted_number = number[order]
    first = np.flatnonzero(np.diff(sorted_number, prepend=-1))
    survivor = order[first][number]
    is_duplicate = survivor != np.arange(len(number))
    return pa.table(
        {
            "row": members["row"],
            "duplicate": is_duplicate,
            "cluster": cluster,
            "kept_by": members["doc_id"].take(pa.array(survivor, mask=~is_duplicate)).cast(pa.string()),
            "size": np.bincount(number)[number].astype(np.uint32),
        }
    )
