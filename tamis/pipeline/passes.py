"""What a worker does: one reading of a shard for everything that is ready, results to files, receipts back."""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.corpus import Shard, layer_file, publish, read_batches, read_layer, row_numbers, write_layer
from tamis.errors import TamisError
from tamis.expressions import Expression
from tamis.pipeline.exchange import decisions_for, emitted_table, write_sorted
from tamis.pipeline.folds import checked_summary, save_summary
from tamis.pipeline.layout import (
    CorpusRef,
    emitted_file,
    quarantine_file,
    summary_file,
)
from tamis.pipeline.program import ProgramSpec, Ref, Round, digest_of, replay
from tamis.steps import Batch, Columns, Exchange, Fold, Map, Step

SAMPLE_CHARACTERS = 200
QUARANTINE = "quarantine:"  # an input "quarantine:key,key": what these works failed on, as a column `quarantined`


@dataclass(frozen=True)
class Work:
    """One step of one program, as a pass carries it.

    results : those the program has already; index : which of the steps it waits for (-1: the map it returned).
    inputs : where each column it reads comes from: a layer's folder, or "" for the documents themselves.
    folder : where its output goes. joins : folder of the decisions that join the batch.
    """

    program: ProgramSpec
    results: tuple[Round, ...]
    index: int
    kind: str
    key: str
    folder: str
    inputs: Mapping[str, str]
    joins: str | None = None

    @property
    def label(self) -> str:
        return self.program.label

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Work:
        results = tuple(tuple(Ref(**ref) for ref in refs) for refs in values["results"])
        return cls(**{**values, "program": ProgramSpec(**values["program"]), "results": results})

    def step(self, run: Path) -> Step | Map:
        """The step itself, rebuilt from the program's options and stored results."""
        position = replay(self.program, self.results, run)
        step = position.returned if self.index < 0 else position.steps[self.index]
        assert isinstance(step, (Map, Fold, Exchange))
        return step


@dataclass(frozen=True)
class PassSpec:
    """All works that read one corpus together."""

    corpus: CorpusRef
    works: tuple[Work, ...]
    batch_rows: int | None = None

    def save(self, run: Path) -> str:
        """Writes the pass under its digest; the path relative to the run."""
        text = json.dumps(
            {
                "corpus": self.corpus.to_json(),
                "works": [work.to_json() for work in self.works],
                "batch_rows": self.batch_rows,
            }
        )
        path = f"passes/{digest_of(text)[:16]}.json"
        publish(run / path, text.encode())
        return path


@lru_cache(maxsize=16)
def load_pass(path: str) -> PassSpec:
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    works = tuple(Work.from_json(work) for work in values["works"])
    return PassSpec(CorpusRef.from_json(values["corpus"]), works, values["batch_rows"])


@dataclass(frozen=True)
class Receipt:
    """Proof of one finished file: what was made of which input, how much, and the digest of the result.

    rows : documents in; out : documents with a result (or rows sent, or decided); quarantined : the rest.
    """

    key: str
    unit: str
    input: str
    rows: int
    out: int
    quarantined: int
    bytes: int
    digest: str
    seconds: float
    worker: str
    label: str = ""
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A unit of work that raised, with what to tell the user; task: the whole task, if all of it was lost."""

    label: str
    error: str
    details: str
    task: Any = None


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def run_shards(run: str, pass_path: str, todo: tuple[int, ...], numbers: tuple[int, ...]) -> list[Receipt | Failure]:
    """One task: the works `todo` of a pass over some shards. A shard that raises fails alone."""
    spec = load_pass(str(Path(run) / pass_path))
    works = [spec.works[index] for index in todo]
    results: list[Receipt | Failure] = []
    for number in numbers:
        shard = spec.corpus.shards(Path(run))[number]
        try:
            results += _run_shard(Path(run), spec, works, shard)
        except Exception as error:  # noqa: BLE001 - the driver names the shard and goes on with the others
            where = f"shard {number} ({shard.label})"
            results.append(Failure(where, f"{type(error).__name__}: {error}", traceback.format_exc()))
    return results


def _run_shard(run: Path, spec: PassSpec, works: Sequence[Work], shard: Shard) -> list[Receipt]:
    began = time.perf_counter()
    outputs = [_output_for(work, run, shard) for work in works]
    sources = {column: folder for work in works for column, folder in work.inputs.items()}
    beside = Beside(run, sources, shard, works)
    position = 0
    unusable: list[dict[str, Any]] = []
    documents = read_batches(shard, spec.corpus.fields, beside.document_columns, spec.batch_rows)
    for record_batch, usable in documents:
        table = beside.join(record_batch, position)
        unusable += _unusable_rows(usable, shard, position)
        shared: dict[str, Batch] = {}
        for output in outputs:
            output.take(table, usable, shared, position, beside)
        position += record_batch.num_rows
    if position != shard.rows:
        raise OSError(
            f"{shard.label}: expected {shard.rows} documents, read {position}; the file changed under the run"
        )
    seconds = (time.perf_counter() - began) / max(1, len(outputs))
    receipts = [output.finish(seconds) for output in outputs]
    if "text" in beside.document_columns:
        _write_quarantine(run / quarantine_file(shard.number), unusable)
    return receipts


def _unusable_rows(usable: pa.BooleanArray, shard: Shard, position: int) -> list[dict[str, Any]]:
    if usable.true_count == len(usable):
        return []
    rows = np.flatnonzero(~np.asarray(usable))
    return [
        {
            "file": shard.label,
            "position": shard.first_record + position + int(i) + 1,
            "reason": "text is missing or not UTF-8",
            "sample": "",
            "row": position + int(i),
        }
        for i in rows
    ]


def _write_quarantine(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    if records:
        publish(path, b"".join(json.dumps(record).encode() + b"\n" for record in records))
    else:  # what an earlier run failed on may be fine now
        path.unlink(missing_ok=True)


def quarantined_rows(run: Path, shard: Shard, keys: Sequence[str]) -> pa.Array:
    """Which of a shard's documents are unusable, or made one of these works fail: bool, (rows)."""
    flags = np.zeros(shard.rows, bool)
    for path in [quarantine_file(shard.number), *(quarantine_file(shard.number, key) for key in keys)]:
        if (run / path).exists():
            for line in (run / path).read_text(encoding="utf-8").splitlines():
                flags[json.loads(line)["row"]] = True
    return pa.array(flags)


class Beside:
    """The columns of a shard that are not in the documents: layers, and decisions of exchanges."""

    def __init__(self, run: Path, sources: Mapping[str, str], shard: Shard, works: Sequence[Work] = ()) -> None:
        wanted = [column for column, folder in sources.items() if not folder]
        self.document_columns = list(dict.fromkeys([*wanted, "doc_id"]))  # ids name what fails
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
                returns = _joined_schema(work.step(run))
                self._decisions[work.joins] = decisions_for(run, work.joins, returns, shard.number, shard.rows)

    def join(self, batch: pa.RecordBatch, position: int) -> pa.RecordBatch:
        part = self._layers.slice(position, batch.num_rows)
        return _with_columns(batch, part)

    def decided(self, batch: pa.RecordBatch, folder: str, position: int) -> pa.RecordBatch:
        return _with_columns(batch, self._decisions[folder].slice(position, batch.num_rows))


def _joined_schema(step: Step | Map) -> pa.Schema:
    assert isinstance(step, (Map, Fold))
    assert step.joins is not None
    return pa.schema(list(step.joins.returns.items()))


def _with_columns(batch: pa.RecordBatch, table: pa.Table) -> pa.RecordBatch:
    arrays = [table.column(name).combine_chunks() for name in table.schema.names]
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], names=[*batch.schema.names, *table.schema.names])


class _Output:
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
        name = f"{self.work.program.where} | {self.work.joins}"
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
                "doc_id": batch["doc_id"][0].as_py(),
                "key": self.work.key,
            }
        )

    def compute(self, batch: Batch) -> Any:
        raise NotImplementedError

    def collect(self, batch: Batch, result: Any) -> None:
        raise NotImplementedError

    def write(self) -> tuple[int, str]:
        raise NotImplementedError

    def finish(self, seconds: float) -> Receipt:
        began = time.perf_counter()
        size, digest = self.write()
        _write_quarantine(self.run / quarantine_file(self.shard.number, self.work.key), self.failed)
        seconds += time.perf_counter() - began
        failed = len(self.failed)
        return Receipt(
            self.work.key, str(self.shard.number), self.shard.fingerprint, self.shard.rows, self.given - failed,
            failed, size, digest, round(seconds, 4), worker_name(), self.work.label,
            {"unusable": self.unusable, "left_out": self.left_out},
        )  # fmt: skip


class _MapOutput(_Output):
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
    from tamis.errors import ContractError

    if set(columns) != set(writes):
        raise ContractError(f"{label}: apply() promised the columns {sorted(writes)}, returned {sorted(columns)}")
    arrays = {}
    for name, kind in writes.items():
        values = columns[name]
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values)
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


class _FoldOutput(_Output):
    step: Fold

    def __init__(self, work: Work, run: Path, shard: Shard) -> None:
        super().__init__(work, run, shard)
        self.summary: Mapping[str, Any] | None = None

    def compute(self, batch: Batch) -> Mapping[str, Any]:
        return checked_summary(self.step.summarize(batch), self.step, self.work.label)

    def collect(self, batch: Batch, result: Mapping[str, Any]) -> None:
        del batch
        self.summary = result if self.summary is None else self.step.merge(self.summary, result)

    def write(self) -> tuple[int, str]:
        assert self.summary is not None  # a shard has at least one batch
        return save_summary(self.run / summary_file(self.work.folder, self.shard.number), self.summary)


class _ExchangeOutput(_Output):
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


_OUTPUTS: dict[str, Callable[[Work, Path, Shard], _Output]] = {
    "map": _MapOutput,
    "fold": _FoldOutput,
    "exchange": _ExchangeOutput,
}


def _output_for(work: Work, run: Path, shard: Shard) -> _Output:
    return _OUTPUTS[work.kind](work, run, shard)
