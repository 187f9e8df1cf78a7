"""Spherical k-means as a program: one fold per round, exact, so that shards, batches and workers change nothing.

Everything is counted in the fixed-point directions of kernels/directions.py: sums are integers, and a document
goes to the centroid with the largest exact inner product. faiss finds it in float32, whose last bits depend on how
many documents are asked about at once; where the two best are closer than its error, the exact products decide.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis import seeds
from tamis.kernels.arrow import Float32, Int64, UInt64, vectors_of
from tamis.kernels.directions import Int16, add_up, directions, products
from tamis.steps import Batch, Fold, Summary

SAMPLE = 256  # documents per cluster that the centroids are fitted to; what faiss takes, too
CANDIDATES = 8  # documents per cluster among which the first centroids are looked for, so that summaries stay small
ROUNDING = 2.0**-22  # twice the bound on the error of a difference of two float32 products, per dimension
DOCUMENTS_AT_ONCE = 16384
FEW = 1 << 22  # multiplications that are over before faiss' threads have met


@dataclass(frozen=True)
class Clustering:
    """What k-means found: centroids (int16, (clusters, d)), and per round the mean cosine to the nearest centroid.

    documents : those with a direction. sampled : those that the centroids are fitted to.
    """

    centroids: Int16
    documents: int
    sampled: int
    cosines: tuple[float, ...]


def directions_of(of: str, batch: Batch) -> tuple[Int16, Int64]:
    """The directions of a column of vectors, and the places of the documents that have one: int16, (m, d), int64, (m).

    A document whose vector is missing, zero or not finite has none.
    """
    rounded = directions(vectors_of(batch[of]))
    place = np.flatnonzero(rounded.any(axis=1))
    return (rounded if len(place) == len(rounded) else rounded[place]), place


def spherical_kmeans(of: str, clusters: int | None, rounds: int) -> Generator[Fold, Summary, Clustering]:
    """Steps that find centroids of the column `of`: use with `yield from`.

    clusters : None is the square root of the number of documents. Fewer are found where fewer vectors differ, of eight
    documents per cluster.
    rounds : at most; it ends earlier when a round moves no centroid.
    The first centroids are the first different vectors in the order of a hash of doc_id; the rounds see a share of the
    documents, drawn by another, of about 256 per cluster. A centroid that nobody is nearest to stays where it is.
    """
    counted = yield Fold((of,), partial(_count, of))
    documents = int(counted["documents"])
    wanted = clusters or max(1, isqrt(documents))
    share = min(1.0, CANDIDATES * (wanted + 8) / max(1, documents))  # 8: one is found even for few clusters
    first = yield Fold(("doc_id", of), partial(_first, of, wanted, share), merge=partial(_earlier, wanted))
    centroids = first["vectors"]
    share = min(1.0, SAMPLE * wanted / max(1, documents))
    sampled, cosines = 0, []
    for _ in range(rounds if documents else 0):
        gathered = yield Fold(("doc_id", of), partial(_gather, of, share, centroids), merge=_together)
        moved = _moved(centroids, gathered)
        sampled = int(gathered["counts"].sum())
        cosines.append(float(gathered["product"]) / (max(1, sampled) * 32767.0**2))
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return Clustering(centroids, documents, sampled, tuple(cosines))


def nearest_centroids(vectors: Int16, centroids: Int16) -> tuple[Int64, Int64]:
    """The centroid with the largest inner product, the first of equal ones, and that product: int64, (n), int64, (n).

    vectors : int16, (n, d). centroids : int16, (k, d), at least one.
    """
    found = np.zeros(len(vectors), np.int64)
    if len(centroids) > 1:
        wide = centroids.astype(np.float32)
        for start in range(0, len(vectors), DOCUMENTS_AT_ONCE):
            part = slice(start, start + DOCUMENTS_AT_ONCE)
            found[part] = _nearest(vectors[part], wide, centroids)
    return found, np.einsum("ij,ij->i", vectors, centroids[found], dtype=np.int64)


def _nearest(vectors: Int16, wide: Float32, centroids: Int16) -> Int64:
    """By faiss where its float32 decides, by exact products for the rest. wide : the centroids in float32."""
    if vectors.size * len(centroids) <= FEW:
        return np.asarray(products(vectors, centroids).argmax(axis=1), np.int64)
    import faiss

    found, index = faiss.knn(vectors.astype(np.float32), wide, 2, metric=faiss.METRIC_INNER_PRODUCT)
    nearest = np.asarray(index[:, 0], np.int64)
    error = ROUNDING * vectors.shape[1] * _longest(vectors) * _longest(centroids)
    close = np.flatnonzero(found[:, 0] - found[:, 1] <= error)
    nearest[close] = products(vectors[close], centroids).argmax(axis=1)
    return nearest


def _longest(vectors: Int16) -> float:
    return float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.int64).max(initial=0)))


def fitted(hashes: UInt64, vectors: Int16, clusters: int, rounds: int) -> Int16:
    """Centroids of vectors in memory, by the same rules: int16, (clusters or fewer, d).

    hashes : uint64, (n), the order in which the first centroids are taken. vectors : int16, (n, d).
    """
    centroids = first_different(hashes, vectors, clusters)["vectors"]
    for _ in range(rounds):
        moved = _moved(centroids, _sums(vectors, centroids))
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def first_different(hashes: UInt64, vectors: Int16, most: int) -> dict[str, npt.NDArray[Any]]:
    """The first different vectors in the order of their smallest hash: hashes, uint64, (m), and vectors, int16, (m, d).

    The first of two sets together are the first of both their firsts: an exact merge.
    """
    order = np.argsort(hashes, kind="stable")
    rows = np.ascontiguousarray(vectors[order])
    raw = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, place = np.unique(raw, return_index=True)
    chosen = order[place]
    chosen = chosen[np.argsort(hashes[chosen], kind="stable")][:most]
    return {"hashes": hashes[chosen], "vectors": vectors[chosen]}


def _count(of: str, batch: Batch) -> Summary:
    return {"documents": np.array(len(directions_of(of, batch)[1]), np.int64)}


def _first(of: str, most: int, share: float, batch: Batch) -> Summary:
    vectors, place = directions_of(of, batch)
    hashes = seeds.hash64(0, "k-means: first centroids", batch.doc_ids)[place]
    low = seeds.within(hashes, share)
    return first_different(hashes[low], vectors[low], most)


def _earlier(most: int, one: Summary, other: Summary) -> Summary:
    both = {key: np.concatenate([one[key], other[key]]) for key in one}
    return first_different(both["hashes"], both["vectors"], most)


def _gather(of: str, share: float, centroids: Int16, batch: Batch) -> Summary:
    vectors, place = directions_of(of, batch)
    if share < 1:
        vectors = vectors[seeds.within(seeds.hash64(0, "k-means: sample", batch.doc_ids)[place], share)]
    return _sums(vectors, centroids)


def _sums(vectors: Int16, centroids: Int16) -> dict[str, npt.NDArray[Any]]:
    """What a round adds up for the centroids `at` that are nearest to somebody: int64 `sums` (m, d), `counts` (m)."""
    nearest, product = nearest_centroids(vectors, centroids)
    at, group = np.unique(nearest, return_inverse=True)
    counts = np.bincount(group, minlength=len(at)).astype(np.int64)
    return {
        "at": at,
        "sums": add_up(vectors, group, len(at)),
        "counts": counts,
        "product": np.array(product.sum(), np.int64),
    }


def _together(one: Summary, other: Summary) -> Summary:
    at, group = np.unique(np.concatenate([one["at"], other["at"]]), return_inverse=True)
    sums = add_up(np.concatenate([one["sums"], other["sums"]]), group, len(at))
    counts = add_up(np.concatenate([one["counts"], other["counts"]])[:, None], group, len(at))[:, 0]
    return {"at": at, "sums": sums, "counts": counts, "product": one["product"] + other["product"]}


def _moved(centroids: Int16, gathered: Summary) -> Int16:
    """The centroids after a round: the direction of each sum; a sum of nothing leaves a centroid where it was."""
    mean = directions(gathered["sums"].astype(np.float64))
    known = mean.any(axis=1)
    moved = centroids.copy()
    moved[gathered["at"][known]] = mean[known]
    return moved
