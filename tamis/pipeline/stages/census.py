"""The first look at every document: its size."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tamis.steps import Batch, Columns, Component, Map, Pool, Steps

WRITES = {"n_bytes": pa.uint64()}


@dataclass(frozen=True)
class Census(Component):
    """Writes `n_bytes`, the UTF-8 bytes of the text; null for a document that cannot be used."""

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        del name
        return WRITES

    def steps(self, pool: Pool) -> Steps:
        del pool
        yield from ()
        return Map(("text",), WRITES, sizes)


def sizes(batch: Batch) -> Columns:
    return {"n_bytes": np.diff(batch.text.offsets).astype(np.uint64)}
