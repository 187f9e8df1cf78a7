"""Prototypes: how far a document is from the middle of the documents that resemble it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from tamis.clustering import directions_of, nearest_centroids, spherical_kmeans
from tamis.kernels.directions import Int16, inverse_lengths
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch, Pool, Steps


@dataclass(frozen=True)
class Prototypes(Scorer):
    """1 - cosine of a document's vector to the nearest centroid of spherical k-means, and which centroid that is.

    Low values are prototypical documents, of which there are many like it; SSL prototypes keep the high ones. The
    centroids are fitted to the documents that the stage's `where:` lets through, so that after deduplication they are
    not drawn to what was there many times. A document whose vector is zero or missing has no score.
    of : the column of vectors. clusters : None is the square root of the number of documents.
    rounds : of k-means, at most.
    Source: Sorscher et al. 2022, Beyond neural scaling laws; Tirumala et al. 2023, D4.
    """

    extra: ClassVar[str | None] = "dedup"
    needs: ClassVar[tuple[str, ...]] = ("faiss",)

    of: str = "vector"
    clusters: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    rounds: Annotated[int, Field(ge=1, le=1000)] = 20

    @property
    def reads(self) -> Sequence[str]:
        return ("doc_id", self.of)

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.float32(), f"{name}_centroid": pa.uint32()}

    def steps(self, pool: Pool) -> Steps:
        found = yield from spherical_kmeans(self.of, self.clusters, self.rounds)
        return self.map(pool, partial(self._score, found.centroids))

    def _score(self, centroids: Int16, batch: Batch) -> Scores:
        vectors, place = directions_of(self.of, batch)
        distance, centroid = np.full(len(batch), np.nan, np.float32), np.full(len(batch), -1, np.int64)
        if len(place):
            nearest, product = nearest_centroids(vectors, centroids)
            cosine = product * inverse_lengths(vectors) * inverse_lengths(centroids)[nearest]
            distance[place], centroid[place] = np.maximum(1 - cosine, 0), nearest
        return {"": distance, "_centroid": pa.array(centroid, mask=centroid < 0)}
