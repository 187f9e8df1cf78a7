"""Near duplicates by MinHash: documents that share most of their shingles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tamis import seeds
from tamis.dedup.base import DECISION, Deduplicator, decide_clusters
from tamis.kernels.arrow import Int64, UInt64, flattened
from tamis.kernels.bits import spread
from tamis.kernels.buckets import FOUND, planted_hits, similarities, star_edges, unique_edges
from tamis.kernels.canaries import BINS, bin_of, planted_copies, taken
from tamis.kernels.lsh import bands_for, candidate_share, half_point
from tamis.kernels.minhash import band_keys, signatures
from tamis.kernels.shingles import Units, characters_of, shingle_sets
from tamis.kernels.union import Forest, forest_of, labels_of
from tamis.steps import Batch, Columns, Exchange, Fold, Pool, Steps, Summary

BANDS, ROWS_PER_BAND = 14, 8  # FineWeb's: half of all pairs at similarity 0.685 share a bucket
CONFIRMED = np.uint8(2)  # the bit of a planted copy that verification would accept
CANDIDATE = {"other": pa.uint64(), "planted": pa.uint8()}
CONFIRMATION = {"other": pa.uint64(), "similarity": pa.float32()}


@dataclass(frozen=True, kw_only=True)
class Minhash(Deduplicator):
    """Documents that share a bucket of MinHash-LSH, directly or through others.

    unit, ngram : what is compared: the sets of shingles of `ngram` words (runs of letters, digits and _, lower-cased,
    in normal form C) or, for scripts without spaces, of that many characters of words. A document of fewer has one
    shingle, of all its units; one without any is nobody's duplicate.
    bands, rows_per_band : pairs of similarity s share a bucket with probability 1 - (1 - s^rows_per_band)^bands.
    Neither: 14 × 8, or, with `threshold`, the bands of at most `num_perm` permutations that err least about it.
    verify : `signature` keeps a pair only if its estimated similarity, `exact` only if the Jaccard similarity of its
    shingles, is at least `threshold` (if there is none: the similarity at which half of all pairs share a bucket).
    canaries : the share of documents of which an edited copy of known similarity is sent along, to measure how many are
    found; the copies take no part in any decision.
    Source: Broder 1997; Penedo et al. 2024, The FineWeb Datasets (14 × 8 on 5-grams of words).
    """

    unit: Literal["word", "character"] = "word"
    ngram: Annotated[int, Field(ge=1, le=100)] = 5
    bands: Annotated[int, Field(ge=1, le=4096)] | None = None
    rows_per_band: Annotated[int, Field(ge=1, le=256)] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    num_perm: Annotated[int, Field(ge=2, le=4096)] = BANDS * ROWS_PER_BAND
    verify: Literal["none", "signature", "exact"] = "none"
    canaries: Annotated[float, Field(ge=0, le=1)] = 0.002

    def __post_init__(self) -> None:
        if (self.bands is None) != (self.rows_per_band is None):
            raise ValueError(
                f"bands: expected both bands and rows_per_band or neither, got {self.bands} and {self.rows_per_band}"
            )

    @property
    def banding(self) -> tuple[int, int]:
        """(bands, rows per band)."""
        if self.bands and self.rows_per_band:
            return self.bands, self.rows_per_band
        return (BANDS, ROWS_PER_BAND) if self.threshold is None else bands_for(self.threshold, self.num_perm)

    @property
    def least_similarity(self) -> float:
        """What verification asks of a pair."""
        return self.threshold if self.threshold is not None else half_point(*self.banding)

    def notes(self) -> Sequence[str]:
        bands, rows = self.banding
        half = f"half of all pairs share a bucket at similarity {half_point(bands, rows):.3f}"
        shares = ", ".join(f"{candidate_share(s, bands, rows):.3g} at {s}" for s in (0.6, 0.7, 0.8, 0.9))
        checked = "unverified" if self.verify == "none" else f"{self.verify} similarity >= {self.least_similarity:.3g}"
        return (f"{bands} bands of {rows} rows: {half} ({shares}); {checked}",)

    def steps(self, pool: Pool) -> Steps:
        reads = tuple(dict.fromkeys((*self.scoped, "doc_id", "text")))
        candidates = yield Exchange(reads, self._emit, self._candidates, CANDIDATE, many=True)
        edges = candidates
        if self.verify != "none":
            edges = yield Exchange(
                ("doc_id", "text"), self._send_shingles, self._confirm, CONFIRMATION, joins=candidates, many=True
            )
        forest, planted = yield [
            Fold((), _forest, _merge_forests, joins=edges),
            Fold((), _count_planted, joins=candidates),
        ]
        narrow = tuple(dict.fromkeys(("doc_id", "n_bytes", *self.ranked)))
        members = partial(self._emit_members, pool, Forest(forest["node"], forest["root"]))
        verified = None if self.verify == "none" else edges
        decisions = yield Exchange(narrow, members, decide_members, dict(DECISION), joins=verified)
        return (yield from self.settle(pool, decisions, *self._recall(planted["counts"])))

    # ---- candidates ----

    def units(self, batch: Batch) -> Units:
        """What the documents' shingles are made of."""
        return batch.words if self.unit == "word" else characters_of(batch.tokens)

    def _emit(self, batch: Batch) -> Columns:
        bands, rows = self.banding
        units = self.units(batch)
        keys = band_keys(units, self.ngram, bands, rows) ^ self.scope(batch)[:, None]
        some = np.flatnonzero(np.diff(units.document))
        copies, codes, chosen = self._plant(units, batch)
        copied = band_keys(copies, self.ngram, bands, rows) ^ self.scope(batch)[chosen][:, None]
        documents = np.concatenate([some, chosen])
        columns = {
            "key": np.concatenate([keys[some].ravel(), copied.ravel()]),
            "row": np.repeat(np.asarray(batch["row"])[documents], bands),
            "planted": np.repeat(np.concatenate([np.zeros(len(some), np.uint8), codes]), bands),
        }
        if self.verify != "none":  # then it matters who a bucket's anchor is, and it may not be by position
            columns["order"] = np.repeat(seeds.hash64(0, "minhash: anchor", batch.doc_ids)[documents], bands)
        return columns

    def _plant(self, units: Units, batch: Batch) -> tuple[Units, np.ndarray[Any, np.dtype[np.uint8]], Int64]:
        """(copies, codes, places of the originals): a code says the similarity's bin, and whether it is enough."""
        drawn = seeds.hash64(0, "minhash: canary", batch.doc_ids)
        is_chosen = seeds.within(drawn, self.canaries) & (np.diff(units.document) > self.ngram)
        chosen = np.flatnonzero(is_chosen)
        copies, similarity = planted_copies(units, self.ngram, chosen, spread(drawn[chosen]))
        seen = similarity
        if self.verify == "signature":
            k = int(np.prod(self.banding))
            mine, theirs = signatures(taken(units, chosen), self.ngram, k), signatures(copies, self.ngram, k)
            seen = (mine == theirs).mean(axis=1)
        enough = np.ones(len(chosen), bool) if self.verify == "none" else seen >= self.least_similarity
        return copies, ((bin_of(similarity) + 1) << 2 | enough * CONFIRMED).astype(np.uint8), chosen

    def _candidates(self, table: pa.Table) -> pa.Table:
        """Edges between documents that share a bucket, and what became of the planted copies."""
        key, row, planted = (table[name].to_numpy() for name in ("key", "row", "planted"))
        hits, codes = planted_hits(key, row, planted)
        if self.verify == "none":
            forest = forest_of(*star_edges(key, row, row, planted))
            apart = forest.node != forest.root
            first, last = forest.node[apart], forest.root[apart]
        else:
            first, last = unique_edges(*star_edges(key, row, table["order"].to_numpy(), planted))
        return pa.table(
            {
                "row": np.concatenate([first, hits]),
                "other": np.concatenate([last, hits]),
                "planted": np.concatenate([np.zeros(len(first), np.uint8), codes]),
            }
        )

    # ---- verification ----

    def _send_shingles(self, batch: Batch) -> Columns:
        """The shingles, or the signature, of each candidate, to every anchor that it has an edge to."""
        lengths, others = flattened(batch["other"])
        real = np.asarray(flattened(batch["planted"])[1]) == 0
        document = np.repeat(np.arange(len(batch), dtype=np.uint64), lengths)[real]
        document, hub = unique_edges(document, np.asarray(others)[real])  # partitions may have found the same edge
        places, at = np.unique(document.astype(np.int64), return_inverse=True)
        units = self.units(Batch(batch.table.take(pa.array(places))))
        if self.verify == "exact":
            start, values = shingle_sets(units, self.ngram)
        else:
            k = int(np.prod(self.banding))
            values = signatures(units, self.ngram, k).astype(np.uint64).ravel()
            start = np.arange(len(places) + 1) * k
        sent = pa.LargeListArray.from_arrays(pa.array(start, pa.int64()), pa.array(values))
        return {
            "key": spread(hub),
            "hub": hub,
            "row": np.asarray(batch["row"])[places][at],
            "shingles": sent.take(pa.array(at)),
        }

    def _confirm(self, table: pa.Table) -> pa.Table:
        """The edges to anchors that are similar enough, and for each anchor its best one."""
        hub, row = table["hub"].to_numpy(), table["row"].to_numpy()
        lengths, values = flattened(table["shingles"].combine_chunks())
        start = np.concatenate([[0], np.cumsum(lengths)])
        similarity = similarities(hub, row, start, np.asarray(values), self.verify == "exact")
        enough = np.flatnonzero(similarity >= np.float32(self.least_similarity))
        anchors, place = np.unique(hub[enough], return_inverse=True)
        best = np.zeros(len(anchors), np.float32)
        np.maximum.at(best, place, similarity[enough])
        return pa.table(
            {
                "row": np.concatenate([row[enough], anchors]),
                "other": np.concatenate([hub[enough], anchors]),
                "similarity": np.concatenate([similarity[enough], best]),
            }
        )

    # ---- clusters ----

    def _emit_members(self, pool: Pool, forest: Forest, batch: Batch) -> Columns:
        places, roots = labels_of(forest, np.asarray(batch["row"]))
        members = Batch(batch.table.take(pa.array(places)))
        similarity = pa.nulls(len(places), pa.float32())
        if self.verify != "none":
            lengths, values = flattened(members["similarity"])
            known = np.flatnonzero(lengths)
            most = np.full(len(places), np.nan, np.float32)
            if len(known):
                most[known] = np.maximum.reduceat(np.asarray(values), (np.cumsum(lengths) - lengths)[known])
            similarity = pa.array(most, mask=lengths == 0)
        return {
            "key": spread(roots),
            "row": members["row"],
            "rank": self.rank(members, pool),
            "doc_id": members["doc_id"],
            "similarity": similarity,
        }

    def _recall(self, counts: Int64) -> tuple[dict[str, Any], list[str]]:
        """What the planted copies tell, for the findings and for the terminal."""
        bands, rows = self.banding
        canaries = [
            {
                "low": float(i / (BINS - 1)),
                "planted": int(counts[i, 0]),
                "found": int(counts[i, 1]),
                "confirmed": int(counts[i, 2]),
            }
            for i in np.flatnonzero(counts[:, 0])
        ]
        content = {
            "bands": bands,
            "rows_per_band": rows,
            "half_point": half_point(bands, rows),
            "verify": self.verify,
            "least_similarity": self.least_similarity if self.verify != "none" else None,
            "canaries": canaries,
        }
        above = [entry for entry in canaries if entry["low"] >= 0.8]
        found, planted = sum(entry["confirmed"] for entry in above), sum(entry["planted"] for entry in above)
        line = f"{found:,} of {planted:,} planted copies of similarity 0.8 or more were found"
        return content, [line] if planted else []


def _forest(batch: Batch) -> Summary:
    """The spanning forest of the edges that the batch's documents have."""
    lengths, others = flattened(batch["other"])
    rows = np.repeat(np.asarray(batch["row"]), lengths)
    last = np.asarray(others).astype(np.uint64)
    if "planted" in batch.table.schema.names:
        real = np.asarray(flattened(batch["planted"])[1]) == 0
        rows, last = rows[real], last[real]
    return forest_of(rows, last)._asdict()


def _merge_forests(one: Summary, other: Summary) -> Summary:
    first, last = (np.concatenate([one[name], other[name]]) for name in ("node", "root"))
    return forest_of(first, last)._asdict()


def _count_planted(batch: Batch) -> Summary:
    """Planted copies by similarity: all, those that shared a bucket with their original, those also confirmed."""
    lengths, values = flattened(batch["planted"])
    codes: UInt64 = np.asarray(values).astype(np.uint64)
    copy = codes >= 4
    document, codes = np.repeat(np.arange(len(batch)), lengths)[copy], codes[copy].astype(np.int64)
    _, first, at = np.unique(document, return_index=True, return_inverse=True)
    found = np.zeros(len(first), bool)
    np.logical_or.at(found, at, (codes & int(FOUND)) > 0)
    codes = codes[first]
    counts = np.zeros((BINS, 3), np.int64)
    confirmed = found & ((codes & int(CONFIRMED)) > 0)
    for column, chosen in enumerate((np.ones(len(found), bool), found, confirmed)):
        np.add.at(counts[:, column], (codes[chosen] >> 2) - 1, 1)
    return {"counts": counts}


def decide_members(table: pa.Table) -> pa.Table:
    """Decisions about the members of whole clusters, sorted by cluster."""
    keys = table["key"].to_numpy()
    number = np.cumsum(np.diff(keys, prepend=keys[:1]) != 0)
    return decide_clusters(table.combine_chunks(), number.astype(np.int64))
