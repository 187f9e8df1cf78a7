"""Uniform: a number drawn for each document, for samples by a hash of the id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from tamis import seeds
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch, Pool, Steps


@dataclass(frozen=True)
class Uniform(Scorer):
    """A number strictly between 0 and 1, of the run's seed and the document's id alone: in any shard, the same.

    `where: uniform < 0.05` keeps a twentieth of the documents; samples nest, and stay what they are when the corpus
    grows. It is independent of what other stages draw.
    draw : another number gives another, independent draw with the same seed.
    """

    seeded: ClassVar[bool] = True

    draw: Annotated[int, Field(ge=0)] = 0

    @property
    def reads(self) -> Sequence[str]:
        return ("doc_id",)

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.float64()}

    def steps(self, pool: Pool) -> Steps:
        yield from ()
        return self.map(pool, partial(self._draw, pool.seed))

    def _draw(self, seed: int, batch: Batch) -> Scores:
        return seeds.uniform(seed, f"uniform {self.draw}", batch.doc_ids)
