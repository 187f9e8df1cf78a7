"""What becomes of a step's results over one shard: a layer, a summary, or rows that are sent out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.corpus import Shard, layer_file, row_numbers, write_layer
from tamis.errors import ContractError, TamisError
from tamis.expressions import Expression
from tamis.kernels.arrow import one_array
from tamis.pipeline.beside import Beside
from tamis.pipeline.exchange import write_sorted
from tamis.pipeline.folds import checked_summary, save_summary
from tamis.pipeline.layout import emitted_file, quarantine_file, summary_file
from tamis.pipeline.quarantine import write_quarantine
from tamis.pipeline.work import FAMILIES_THAT_FAIL, Receipt, Work, worker_name
from tamis.routing import emitted_table
from tamis.steps import Batch, Columns, Exchange, Fold, Map

SAMPLE_CHARACTERS = 200  # of a document's text in its quarantine entry


class Output(ABC):
    """Collects one work's results over the batches of a shard; documents it fails on are set aside one by one."""

    def __init__(self, work: Work, run: Path, shard: Shard) -> None:
        self.work, self.run, self.shard = work, run, shard
        self.step = work.step(run)
        self.where = Expression(work.program.where) if work.program.where else None
        self.failed: list[dict[str, Any]] = []
        self.given = self.unusable = self.left_out = 0

    def take(
        self, table: pa.RecordBatch, usable: pa.BooleanArray, shared: dict[str, Batch], position: int, beside: Beside
    ) -> None:
        """Applies the step to the usable documents of one batch that its `where:` lets through."""
        if self.work.joins:
            table = beside.decided(table, self.work.joins, position)
        by_size = "text" not in self.work.inputs and self.work.program.verb in FAMILIES_THAT_FAIL
        if by_size:
            usable = pc.and_(usable, table.column("n_bytes").is_valid())
        name = f"{self.work.program.where} | {self.work.joins} | {by_size}"
        if name not in shared:
            chosen = usable
            if self.where is not None:
                chosen = pc.and_(usable, pc.fill_null(self.where.over(table).cast(pa.bool_()), False))
            shared[name] = Batch(table if chosen.true_count == len(chosen) else table.filter(chosen))
        batch = shared[name]
        self.given += len(batch)
        self.unusable += len(usable) - usable.true_count
        self.left_out += usable.true_count - len(batch)
        self.guarded(batch)

    def guarded(self, batch: Batch) -> None:
        """Collects the step's result; where it raises, halves the batch until the one document is found."""
        try:
            result = self.compute(batch)
        except (TamisError, MemoryError, OSError):
            raise
        except Exception as error:
            if len(batch) <= 1:
                if len(batch) == 0:
                    raise
                self.set_aside(batch, error)
                return
            half = len(batch) // 2
            self.guarded(Batch(batch.table.slice(0, half)))
            self.guarded(Batch(batch.table.slice(half)))
        else:
            self.collect(batch, result)

    def set_aside(self, batch: Batch, error: Exception) -> None:
        row = int(batch["row"][0].as_py()) & 0xFFFFFFFF
        text = batch["text"][0].as_py() if "text" in batch.table.schema.names else ""
        self.failed.append(
            {
                "file": self.shard.label,
                "position": self.shard.first_record + row + 1,
                "reason": f"{self.work.label}: {type(error).__name__}: {error}",
                "sample": text[:SAMPLE_CHARACTERS],
                "row": row,
                "doc_id": batch["doc_id"][0].as_py() if "doc_id" in batch.table.schema.names else None,
                "key": self.work.key,
            }
        )

    @abstractmethod
    def compute(self, batch: Batch) -> Any:
        """The step's result for one batch, checked."""

    @abstractmethod
    def collect(self, batch: Batch, result: Any) -> None:
        """Keeps one batch's result."""

    @abstractmethod
    def write(self) -> tuple[int, str]:
        """Writes all that was collected; the size and digest of the file."""

    def finish(self, seconds: float, corpus: str) -> Receipt:
        began = time.perf_counter()
        size, digest = self.write()
        write_quarantine(self.run / quarantine_file(corpus, self.shard.number, self.work.key), self.failed)
        seconds += time.perf_counter() - began
        failed = len(self.failed)
        return Receipt(
            self.work.key, str(self.shard.number), self.shard.fingerprint, self.shard.rows, self.given - failed,
            failed, size, digest, round(seconds, 4), worker_name(), self.work.label,
            {"unusable": self.unusable, "left_out": self.left_out},
        )  # fmt: skip


class _MapOutput(Output):
    step: Map

    def __init__(self, work: Work, run: Path, shard: Shard) -> None:
        super().__init__(work, run, shard)
        self.rows: list[pa.Array] = []
        self.columns: dict[str, list[pa.Array]] = {name: [] for name in self.step.writes}

    def compute(self, batch: Batch) -> dict[str, pa.Array]:
        return checked_columns(self.step.apply(batch), self.step.writes, len(batch), self.work.label)

    def collect(self, batch: Batch, result: dict[str, pa.Array]) -> None:
        self.rows.append(batch["row"])
        for name, array in result.items():
            self.columns[name].append(array)

    def write(self) -> tuple[int, str]:
        table = scattered(self.columns, self.step.writes, self.rows, self.shard)
        return write_layer(self.run / self.work.folder / layer_file(self.shard.number), table)


def checked_columns(columns: Columns, writes: Mapping[str, pa.DataType], rows: int, label: str) -> dict[str, pa.Array]:
    """What a map returned, as Arrow arrays of the promised types. Raises ContractError if it is something else."""
    if set(columns) != set(writes):
        raise ContractError(f"{label}: apply() promised the columns {sorted(writes)}, returned {sorted(columns)}")
    arrays = {}
    for name, kind in writes.items():
        values = columns[name]
        array = one_array(values)
        if len(array) != rows:
            raise ContractError(f"{label}: apply() promised {rows} values of {name!r}, returned {len(array)}")
        arrays[name] = array if array.type == kind else array.cast(kind)
    return arrays


def scattered(
    columns: Mapping[str, Sequence[pa.Array]], writes: Mapping[str, pa.DataType], rows: Sequence[pa.Array], shard: Shard
) -> pa.Table:
    """A whole shard's layer from the rows that have values: null elsewhere, in shard order, with `row`."""
    known = pa.chunked_array(rows, pa.uint64()) if rows else pa.chunked_array([], pa.uint64())
    arrays = {name: pa.chunked_array(columns[name], kind).combine_chunks() for name, kind in writes.items()}
    if len(known) != shard.rows:
        place = np.full(shard.rows, -1, np.int64)
        place[known.to_numpy() & np.uint64(0xFFFFFFFF)] = np.arange(len(known))
        indices = pa.array(place, mask=place < 0)
        arrays = {name: array.take(indices) for name, array in arrays.items()}
    return pa.table({**arrays, "row": row_numbers(shard.number, shard.rows)})


class _FoldOutput(Output):
    step: Fold

    def __init__(self, work: Work, run: Path, shard: Shard) -> None:
        super().__init__(work, run, shard)
        self.summaries: list[tuple[int, Mapping[str, Any]]] = []  # (batches in it, summary), the larger ones first

    def compute(self, batch: Batch) -> Mapping[str, Any]:
        return checked_summary(self.step.summarize(batch), self.step, self.work.label)

    def collect(self, batch: Batch, result: Mapping[str, Any]) -> None:
        """Merges like with like: a summary that grows with what is in it is not merged anew with every batch."""
        del batch
        batches = 1
        while self.summaries and self.summaries[-1][0] == batches:
            batches, result = 2 * batches, self.step.merge(self.summaries.pop()[1], result)
        self.summaries.append((batches, result))

    def write(self) -> tuple[int, str]:
        summary = self.summaries.pop()[1]  # a shard has at least one batch
        while self.summaries:
            summary = self.step.merge(self.summaries.pop()[1], summary)
        return save_summary(self.run / summary_file(self.work.folder, self.shard.number), summary)


class _ExchangeOutput(Output):
    step: Exchange

    def __init__(self, work: Work, run: Path, shard: Shard) -> None:
        super().__init__(work, run, shard)
        self.tables: list[pa.Table] = []

    def compute(self, batch: Batch) -> pa.Table:
        return emitted_table(self.step.emit(batch), batch["row"], self.work.label)

    def collect(self, batch: Batch, result: pa.Table) -> None:
        del batch
        self.tables.append(result)

    def write(self) -> tuple[int, str]:
        table = pa.concat_tables(self.tables)
        return write_sorted(self.run / emitted_file(self.work.folder, self.shard.number), table, "key")


OUTPUTS: dict[str, Callable[[Work, Path, Shard], Output]] = {
    "map": _MapOutput,
    "fold": _FoldOutput,
    "exchange": _ExchangeOutput,
}


def output_for(work: Work, run: Path, shard: Shard) -> Output:
    """What collects the results of a work over one shard."""
    return OUTPUTS[work.kind](work, run, shard)
