"""What an embedder is: one vector per document."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa

from tamis.kernels.arrow import Float32, half_vectors
from tamis.steps import Batch, Columns, Component, Map, Pool, Steps


class Embedder(Component):
    """Parent of the embedders. One that needs nothing global defines `embed`; any other defines `steps` itself.

    The one column has the embedding's name and holds half floats.

    Vectors are computed and brought to length one in float32, then rounded to float16: one part in 2,048 of each
    number. A document without words is the zero vector.
    """

    @property
    @abstractmethod
    def width(self) -> int:
        """The length of every vector."""

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.list_(pa.float16(), self.width)}

    def embed(self, batch: Batch) -> Float32:
        """One vector per document, of length one or zero: float32, (n, width)."""
        raise NotImplementedError(
            f"{type(self).__name__}: define embed(batch), or steps(pool), got a batch of {len(batch)}"
        )

    def steps(self, pool: Pool) -> Steps:
        yield from ()
        return self.map(pool, self.embed)

    def map(self, pool: Pool, embed: Callable[[Batch], Float32]) -> Map:
        """The last step: writes what `embed` returns, rounded."""
        return Map(self.reads, self.columns(pool.name), partial(_rounded, pool.name, embed))


def _rounded(name: str, embed: Callable[[Batch], Float32], batch: Batch) -> Columns:
    return {name: half_vectors(embed(batch))}
