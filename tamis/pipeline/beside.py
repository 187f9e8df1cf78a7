"""The columns of a shard that are not in its documents: layers, and decisions of exchanges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from tamis.corpus import Shard, layer_file, read_layer, row_numbers
from tamis.pipeline.exchange import decisions_for
from tamis.pipeline.quarantine import quarantined_rows
from tamis.pipeline.work import QUARANTINE, Work
from tamis.steps import Decisions, Exchange, Fold, Map, Step


class Beside:
    """The columns of a shard that are not in the documents: layers, and decisions of exchanges."""

    def __init__(self, run: Path, sources: Mapping[str, str], shard: Shard, works: Sequence[Work] = ()) -> None:
        self.document_columns = [column for column, folder in sources.items() if not folder]
        self._layers = pa.table({"row": row_numbers(shard.number, shard.rows)})
        for folder in sorted({folder for folder in sources.values() if folder}):
            if folder.startswith(QUARANTINE):
                keys = folder.removeprefix(QUARANTINE).split(",")
                self._layers = self._layers.append_column(
                    "quarantined", quarantined_rows(run, shard, [key for key in keys if key])
                )
                continue
            columns = [column for column, origin in sources.items() if origin == folder]
            layer = read_layer(run / folder / layer_file(shard.number), columns)
            for column in columns:
                self._layers = self._layers.append_column(column, layer.column(column))
        self._decisions: dict[str, pa.Table] = {}
        for work in works:
            if work.joins:
                self._decisions[work.joins] = decisions_for(run, _joined(work.step(run)), shard.number, shard.rows)

    def join(self, batch: pa.RecordBatch, position: int) -> pa.RecordBatch:
        part = self._layers.slice(position, batch.num_rows)
        return _with_columns(batch, part)

    def decided(self, batch: pa.RecordBatch, folder: str, position: int) -> pa.RecordBatch:
        return _with_columns(batch, self._decisions[folder].slice(position, batch.num_rows))


def _joined(step: Step | Map) -> Decisions:
    assert isinstance(step, (Map, Fold, Exchange))
    assert step.joins is not None
    return step.joins


def _with_columns(batch: pa.RecordBatch, table: pa.Table) -> pa.RecordBatch:
    arrays = [table.column(name).combine_chunks() for name in table.schema.names]
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], names=[*batch.schema.names, *table.schema.names])
