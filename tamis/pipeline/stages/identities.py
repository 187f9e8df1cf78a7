"""How many documents share an id with another one: counted exactly, reported, never repaired."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tamis import seeds
from tamis.steps import Batch, Columns, Component, Exchange, Fold, Pool, Publish, Steps, Summary

RETURNS = {"namesakes": pa.uint32()}


@dataclass(frozen=True)
class Identities(Component):
    """Publishes identities.json: documents, and documents whose id (as a 64-bit hash) another one has too."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("doc_id",)

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        del name
        return {}

    def steps(self, pool: Pool) -> Steps:
        del pool
        shared = yield Exchange(("doc_id",), emit, decide, RETURNS)
        counts = yield Fold(("doc_id",), count, joins=shared)
        shared = int(counts["documents_with_shared_id"])
        lines = [f"{shared:,} documents share their id with another one"] if shared else []
        return Publish("identities.json", {name: int(value) for name, value in counts.items()}, lines)


def emit(batch: Batch) -> Columns:
    return {"key": seeds.hash64(0, "identity", batch.doc_ids)}


def decide(table: pa.Table) -> pa.Table:
    key = table.column("key").to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])[: len(key)])
    counts = np.diff(starts, append=len(key))
    namesakes = np.repeat(counts, counts)
    shared = np.flatnonzero(namesakes > 1)
    return pa.table(
        {"row": table.column("row").take(pa.array(shared)), "namesakes": namesakes[shared].astype(np.uint32)}
    )


def count(batch: Batch) -> Summary:
    shared = len(batch) - batch["namesakes"].null_count
    return {"documents": np.array(len(batch), np.int64), "documents_with_shared_id": np.array(shared, np.int64)}
