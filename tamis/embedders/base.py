"""What an embedder is: one vector per document."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial

import pyarrow as pa

from tamis.kernels.arrow import Float32, half_vectors
from tamis.steps import Batch, Columns, Component, Map, Pool, Steps


class Embedder(Component):
    """Parent of the embedders. The one column has the embedding's name and holds half floats.

    Vectors are computed and brought to length one in float32, then rounded to float16: one part in 2,048 of each
    number. A document without words is the zero vector.
    """

    @property
    @abstractmethod
    def width(self) -> int:
        """The length of every vector."""

    @abstractmethod
    def embed(self, batch: Batch) -> Float32:
        """One vector per document, of length one or zero: float32, (n, width)."""

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.list_(pa.float16(), self.width)}

    def steps(self, pool: Pool) -> Steps:
        yield from ()
        return Map(self.reads, self.columns(pool.name), partial(self._write, pool.name))

    def _write(self, name: str, batch: Batch) -> Columns:
        return {name: half_vectors(self.embed(batch))}
