"""What an embedder is: one vector per document."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.steps import Batch, Columns, Component, Map, Pool, Steps


class Embedder(Component):
    """Parent of the embedders. The one column has the embedding's name and holds float32 vectors."""

    @property
    @abstractmethod
    def width(self) -> int:
        """The length of every vector."""

    @abstractmethod
    def embed(self, batch: Batch) -> npt.NDArray[np.float32]:
        """One vector per document: float32, (n, width)."""

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.list_(pa.float32(), self.width)}

    def steps(self, pool: Pool) -> Steps:
        yield from ()
        return Map(self.reads, self.columns(pool.name), partial(self._write, pool.name))

    def _write(self, name: str, batch: Batch) -> Columns:
        vectors = np.ascontiguousarray(self.embed(batch), np.float32)
        return {name: pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.width)}
