"""Semantic duplicates: documents whose vectors point almost the same way as another's (SemDeDup)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.clustering import Clustering, directions_of, fitted, nearest_centroids, spherical_kmeans
from tamis.dedup.base import DECISION, Deduplicator, decide_clusters
from tamis.kernels.arrow import Float32, Int64, UInt64
from tamis.kernels.directions import Int16, inverse_lengths
from tamis.kernels.order import ordered
from tamis.kernels.pairs import NOBODY, Links, Mode, float32_below, linked, roots
from tamis.steps import Batch, Columns, Exchange, Fold, Pool, Steps, Summary

EPSILON = 0.05
MEASURED = 10  # keep_fraction is measured on one cluster in so many,
MEASURED_CLUSTERS = 200  # and on so many at least
SPLIT_ROUNDS = 5
RETURNS = {**dict(DECISION), "nearest": pa.string()}
# 16 steps per octave from 2**-14 to 1, all of them exact
EPSILONS = np.append(np.ravel(2.0 ** np.arange(-14, 0)[:, None] * (1 + np.arange(16) / 16)), 1.0)


@dataclass(frozen=True, kw_only=True)
class Semantic(Deduplicator):
    """Documents that are nearer than `epsilon` to an earlier one of their cluster, by 1 - cosine of the vectors `of`.

    clusters : of spherical k-means; only documents of one cluster are compared, so that the work is documents squared
    over clusters. None is the square root of the number of documents, at which finding clusters and comparing within
    them cost about the same; 1,000 at a million documents. rounds : of k-means, at most.
    epsilon : a document is near another if their cosine is larger than 1 - epsilon. It means something else for every
    embedder; None is 0.05, for sentence embeddings of the MiniLM kind.
    keep_fraction : chooses epsilon instead, so that about this share of the documents stays: from the curve over a
    tenth of the clusters, 200 at least. mode "reference" only.
    mode : "reference", a document near any earlier one goes, though that one may itself go; "greedy", it goes if it is
    near one that stays; "components", chains of near documents are one cluster, of which `keep` chooses one.
    order : what is earlier: "hard", far from the centroid first; "easy", near it first; "random", by the run's
    seed; "keep", whom `keep` would keep. Equal ones are in the order of a hash of doc_id, or of doc_id for "keep".
    largest_cluster : larger ones are split by k-means of their own before documents are compared.
    similarity is the largest cosine with any earlier document of the k-means cluster, whether or not one of the two is
    a duplicate; one more column, nearest, has that document's id. Documents whose vector is zero or missing are
    nobody's duplicates and have neither.
    Source: Abbas et al. 2023, SemDeDup: data-efficient learning at web-scale through semantic deduplication.
    """

    extra: ClassVar[str | None] = "dedup"
    needs: ClassVar[tuple[str, ...]] = ("faiss",)

    of: str = "vector"
    clusters: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    rounds: Annotated[int, Field(ge=1, le=1000)] = 10
    epsilon: Annotated[float, Field(gt=0, le=1)] | None = None
    keep_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    mode: Mode = "reference"
    order: Literal["hard", "easy", "random", "keep"] = "hard"
    largest_cluster: Annotated[int, Field(ge=2)] = 50_000

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.keep_fraction is not None:
            raise ValueError("keep_fraction chooses epsilon, got both; give one of them")
        if self.keep_fraction is not None and self.mode != "reference":
            raise ValueError(
                f"keep_fraction needs mode: reference, whose curve it reads, got {self.mode}; give epsilon"
            )
        if self.keep != Deduplicator.keep and not self._uses_keep:
            raise ValueError(
                f"keep: {self.keep} needs order: keep or mode: components, got {self.order} and {self.mode}"
            )

    @property
    def _uses_keep(self) -> bool:
        return self.order == "keep" or self.mode == "components"

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Whether the run's seed matters: to a random order, or to a draw of who stays."""
        return self.order == "random" or (self._uses_keep and self.keep == "random")

    @property
    def reads(self) -> Sequence[str]:
        size = ("n_bytes",) if self.keep == "longest" else ()
        return tuple(dict.fromkeys(("doc_id", self.of, *self.scoped, *self.ranked, *size)))

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {f"{name}_{suffix}": kind for suffix, kind in RETURNS.items()}

    def steps(self, pool: Pool) -> Steps:
        found: Clustering = yield from spherical_kmeans(self.of, self.clusters, self.rounds)
        epsilon = self.epsilon or EPSILON
        if self.keep_fraction is not None:
            some = max(MEASURED_CLUSTERS, -(-len(found.centroids) // MEASURED))
            measured = yield self._exchange(pool, found.centroids, some, 1.0)
            epsilon = chosen_epsilon((yield Fold((), _tally, joins=measured)), self.keep_fraction)
        decisions = yield self._exchange(pool, found.centroids, len(found.centroids), epsilon)
        findings = self._findings(found, epsilon, (yield Fold((), _tally, joins=decisions)))
        settled = yield from self.settle(pool, decisions, findings, [self._line(findings)])
        return replace(settled, apply=partial(_with_nearest, pool.name, settled.apply))

    def _exchange(self, pool: Pool, centroids: Int16, some: int, epsilon: float) -> Exchange:
        """Decisions about the documents of the first `some` clusters; their order is a hash's, so that it is a draw."""
        emit, decide = partial(self._emit, pool, centroids, some), partial(self._decide, epsilon)
        return Exchange(self.reads, emit, decide, RETURNS)

    def _emit(self, pool: Pool, centroids: Int16, some: int, batch: Batch) -> Columns:
        vectors, place = directions_of(self.of, batch)
        cluster, product = nearest_centroids(vectors, centroids)
        sent = cluster < some
        vectors, place, cluster, product = vectors[sent], place[sent], cluster[sent], product[sent]
        taken = pa.array(place)
        rank = self.rank(batch, pool)[place] if self._uses_keep else np.zeros(len(place), np.uint64)
        spread = np.uint64(((1 << 64) - 1) // max(1, len(centroids)))
        return {
            "key": (cluster.astype(np.uint64) * spread) ^ self.scope(batch)[place],
            "row": batch["row"].take(taken),
            "doc_id": batch["doc_id"].take(taken),
            "rank": rank,
            "order": self._order(pool, batch, place, rank, product * inverse_lengths(vectors)),
            "hash": seeds.hash64(0, "semantic", batch.doc_ids)[place],
            "vector": packed(vectors),
        }

    def _order(self, pool: Pool, batch: Batch, place: Int64, rank: UInt64, cosine: npt.NDArray[np.float64]) -> UInt64:
        """What makes a document earlier: uint64, (m), the lowest first."""
        if self.order == "random":
            return seeds.hash64(pool.seed, f"{pool.name}: order", batch.doc_ids)[place]
        if self.order == "keep":
            return rank
        return ordered(cosine) if self.order == "hard" else ~ordered(cosine)

    def _decide(self, epsilon: float, table: pa.Table) -> pa.Table:
        """Decisions about all documents of some clusters, one cluster after the other."""
        names = ("key", "order", *(("hash",) if self.order != "keep" else ()), "doc_id", "row")
        table = table.take(pc.sort_indices(table, [(name, "ascending") for name in names]))
        vectors, hashes = unpacked(table["vector"]), table["hash"].to_numpy()
        n = table.num_rows
        all_ = Links(np.full(n, NOBODY), np.arange(n), np.arange(n))
        _, starts = np.unique(table["key"].to_numpy(), return_index=True)
        for start, stop in pairwise((*starts, n)):
            for part in parts(hashes[start:stop], vectors[start:stop], self.largest_cluster):
                place = start + part
                links = linked(vectors[place], self.mode, 1 - epsilon)
                all_.similarity[place] = links.similarity
                all_.nearest[place], all_.parent[place] = place[links.nearest], place[links.parent]
        return self._decisions(table, all_)

    def _decisions(self, table: pa.Table, links: Links) -> pa.Table:
        """A row per document: `similarity` and `nearest` for all but the first, the rest for those in clusters."""
        first, root = links.similarity == NOBODY, roots(links.parent)
        size = np.bincount(root, minlength=len(root))[root]
        if self.mode != "components":  # whose rank is what `keep` says
            rank = pa.array((root != np.arange(len(root))).astype(np.uint64))
            table = table.set_column(table.schema.get_field_index("rank"), "rank", rank)
        table = table.append_column("similarity", pa.array(links.similarity, mask=first))
        nearest = table["doc_id"].take(pa.array(links.nearest, mask=first)).cast(pa.string())
        table = table.append_column("nearest", nearest).combine_chunks()
        together, alone = (table.filter(pa.array(chosen)) for chosen in (size > 1, size == 1))
        _, number = np.unique(root[size > 1], return_inverse=True)
        decided = decide_clusters(together, number).append_column("nearest", together["nearest"])
        single = {"duplicate": np.zeros(alone.num_rows, np.bool_), "size": np.ones(alone.num_rows, np.uint32)}
        kept = {name: alone[name] for name in ("row", "similarity", "nearest")}
        return pa.concat_tables([decided, pa.table({**kept, **single})], promote_options="default")

    def _findings(self, found: Clustering, epsilon: float, tally: Summary) -> dict[str, Any]:
        return {
            "documents": int(tally["documents"]),
            "kept": int(tally["documents"]) - int(tally["duplicates"]),
            "clusters": len(found.centroids),
            "fitted_to": found.sampled,
            "mean_cosine": found.cosines,
            "keep_fraction": self.keep_fraction,
            "epsilon": epsilon,
            "curve": {"epsilon": EPSILONS.tolist(), "kept": curve(tally).tolist()},
        }

    def _line(self, found: Mapping[str, Any]) -> str:
        wanted = "" if self.keep_fraction is None else f", {self.keep_fraction:.1%} were asked for"
        return (
            f"{found['documents']:,} documents in {found['clusters']:,} clusters; at epsilon "
            f"{found['epsilon']:g} {found['kept'] / max(1, found['documents']):.1%} stay{wanted}"
        )


def packed(vectors: Int16) -> pa.FixedSizeBinaryArray:
    """Directions as an Arrow column that travels without a copy. vectors : int16, (n, d)."""
    width = vectors.shape[1] * vectors.dtype.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(vectors), [None, pa.py_buffer(np.ascontiguousarray(vectors))]
    )


def unpacked(column: pa.ChunkedArray) -> Int16:
    """The directions that `packed` made a column of: int16, (n, d)."""
    array = column.combine_chunks()
    width = column.type.byte_width // 2
    content = array.buffers()[1]
    flat = np.frombuffer(content, np.int16) if content is not None else np.zeros(0, np.int16)
    return flat[array.offset * width : (array.offset + len(array)) * width].reshape(len(array), width)


def parts(hashes: UInt64, vectors: Int16, largest: int) -> Iterator[Int64]:
    """The items of a cluster in groups of at most `largest` that lie together: int64, (m), each in ascending order.

    Near items may come apart only where a centroid's border runs between them, as between clusters; equal ones never
    do, so that a group of equal items may be larger.
    """
    n = len(vectors)
    waiting = [np.arange(n)]
    while waiting:
        items = waiting.pop()
        if len(items) <= largest:
            yield items
            continue
        centroids = fitted(hashes[items], vectors[items], -(-2 * len(items) // largest), SPLIT_ROUNDS)
        nearest, _ = nearest_centroids(vectors[items], centroids)
        found = [items[nearest == each] for each in np.unique(nearest)]
        if len(found) == 1:
            yield items
        else:
            waiting += found


def curve(tally: Summary) -> npt.NDArray[np.float64]:
    """The share of documents that mode "reference" keeps at each of EPSILONS: float64, (224 and one)."""
    return 1 - tally["near"] / max(1, int(tally["documents"]))


def chosen_epsilon(tally: Summary, keep_fraction: float) -> float:
    """The epsilon at which a share of the documents stays, between the two steps of the curve that enclose it."""
    found = np.interp(keep_fraction, curve(tally)[::-1], EPSILONS[::-1])
    return float(f"{found:.6g}")  # what is printed is what is used


def _tally(batch: Batch) -> Summary:
    """Documents, duplicates, and how many are near an earlier one at each epsilon; all int64."""
    known = batch["duplicate"].drop_null()
    similarity: Float32 = np.sort(batch["similarity"].drop_null().to_numpy())
    above = np.array([float32_below(1 - epsilon) for epsilon in EPSILONS], np.float32)
    return {
        "documents": np.array(len(known), np.int64),
        "duplicates": np.array(known.true_count, np.int64),
        "near": len(similarity) - np.searchsorted(similarity, above, side="right").astype(np.int64),
    }


def _with_nearest(name: str, apply: Callable[[Batch], Columns], batch: Batch) -> Columns:
    return {**apply(batch), f"{name}_nearest": batch["nearest"]}
