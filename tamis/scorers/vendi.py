"""Vendi: how much one more document would add to the variety of the pool, or of an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.errors import ContractError
from tamis.kernels.arrow import Float32, vectors_of
from tamis.kernels.eigen import eigen
from tamis.kernels.gram import MOST_DOCUMENTS, fixed_point, gram, quadratic, sum_of
from tamis.kernels.spectrum import QUANTUM_FLOOR, Moments, gain_weights
from tamis.scorers.base import Scorer
from tamis.steps import Batch, Fold, Pool, Steps, Summary

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Vendi(Scorer):
    """What a document adds to n · ln(Vendi score) of n documents, to first order (nats); more is more varied.

    of : the column of vectors, as `embed` writes it. against : the arm whose n documents count, as often as it uses
    them; by default the pool. centred : measure from the mean of these documents instead of from zero, so that a
    direction all of them share counts nothing.
    A document gains at most ln(n + 1) + 1 less the entropy, which is exact for a vector unlike all others: directions
    that hold less than one document's part of all are taken to hold 1 / (e (n + 1)), and none less than 2^-28, the
    square of the unit to which vectors are rounded. A document without a vector has no score.
    Source: the derivative of the entropy of C = Σ x xᵀ / n, Friedman and Dieng 2023: -(xᵀ (ln C) x + H).
    """

    of: str = "vector"
    against: str | None = None
    centred: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,) if self.against is None else (self.of, f"{self.against}_repeats")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.float32()}

    def steps(self, pool: Pool) -> Steps:
        sums = yield Fold(self.reads, self._sum)
        if sums["uses"] >= MOST_DOCUMENTS:
            raise ContractError(
                f"{pool.name}: expected at most {MOST_DOCUMENTS:,} uses of documents, got {sums['uses']:,}"
            )
        found = Moments(int(sums["documents"]), int(sums["uses"]), sums["first"], sums["second"])
        return self.map(pool, partial(self._score, Gains(found, self.centred)))

    def _sum(self, batch: Batch) -> Summary:
        whole, known = fixed_point(vectors_of(batch[self.of]))
        repeats = np.where(known, self._repeats(batch), 0)
        return {
            "documents": np.array(np.count_nonzero(repeats), np.int64),
            "uses": np.array(repeats.sum(), np.int64),
            "first": sum_of(whole, repeats),
            "second": gram(whole, repeats),
        }

    def _repeats(self, batch: Batch) -> npt.NDArray[np.int64]:
        if self.against is None:
            return np.ones(len(batch), np.int64)
        column = pc.fill_null(batch[f"{self.against}_repeats"], 0).cast(pa.int64())
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def _score(self, gains: Gains, batch: Batch) -> pa.Array:
        found = gains.of(vectors_of(batch[self.of]))
        return pa.array(found.astype(np.float32), mask=np.isnan(found))


@dataclass(frozen=True)
class Gains:
    """What documents add to the variety of others; the eigenvectors are found once in a process, when they are used."""

    others: Moments
    centred: bool

    def of(self, vectors: Float32) -> Float64:
        """float64, (n); NaN for a vector without a direction, or if the others show no variety to add to."""
        if self._projection is None:
            return np.full(len(vectors), np.nan)
        return quadratic(vectors, *self._projection)[:, 0]

    @cached_property
    def _projection(self) -> tuple[Float64, Float64, Float64] | None:
        """(eigenvectors, centre, weights), or None if there are no others, or centred ones that are all alike."""
        centre = self.others.mean if self.centred else np.zeros(len(self.others.first))
        values, directions = eigen(self.others.covariance(centre if self.centred else None))
        if math.fsum(values) <= QUANTUM_FLOOR:
            return None
        floor = max(1 / (math.e * (self.others.uses + 1)), QUANTUM_FLOOR)
        return directions, centre, gain_weights(values, floor)[:, None]
