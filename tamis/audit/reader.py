"""A run directory, opened for reading: its columns, arms, shards and receipts, and any part of them as a table.

Nothing here writes to a run. A shard's documents and its layers have the same rows in the same order, so they are
put side by side by position, one batch at a time, and only the columns that were asked for are read.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.audit.deduplicators import clusters_query, findings_table
from tamis.audit.view import connected
from tamis.corpus import SHARD_BITS, Shard, layer_file, open_parquet, read_batches, read_layer, row_numbers
from tamis.errors import ColumnError, ContractError, LedgerError
from tamis.expressions import Expression
from tamis.pipeline.layout import CorpusRef
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.program import ProgramSpec
from tamis.pipeline.work import Receipt

SLICE_ROWS = 1 << 16  # documents per batch where no text is read
OWN = ("row", "doc_id", "source")  # columns that every run has, whatever its files hold


@dataclass(frozen=True)
class Column:
    """A column of a run. layer: its folder, "" for what the documents bring. stage: the name of what made it, or ""."""

    name: str
    kind: pa.DataType
    layer: str
    stage: str

    @property
    def is_number(self) -> bool:
        return bool(pa.types.is_integer(self.kind) or pa.types.is_floating(self.kind))


@dataclass(frozen=True)
class Stage:
    """A program of the run. keys: of all its works over the pool, in the order in which they were done.

    model : the folder of what it trained last, relative to the run, if it trained anything.
    """

    verb: str
    component: str
    name: str
    options: Mapping[str, Any]
    where: str | None
    keys: tuple[str, ...]
    finished: bool
    seed: int
    model: str | None = None

    @property
    def label(self) -> str:
        return self.program().label

    def program(self) -> ProgramSpec:
        """What rebuilds its component."""
        options = json.dumps(self.options, sort_keys=True)
        return ProgramSpec(self.verb, self.component, self.name, options, self.where, self.seed)


@dataclass(frozen=True)
class Arm:
    """A selection: documents in the pool, kept, and dropped by first reason (empty until the run has finished)."""

    name: str
    where: str | None
    pool: int
    kept: int
    dropped: Mapping[str, int]

    @property
    def conjuncts(self) -> tuple[str, ...]:
        return Expression(self.where).conjuncts if self.where else ()

    @property
    def repeats(self) -> str:
        return f"{self.name}_repeats"

    @property
    def reason(self) -> str:
        return f"{self.name}_reason"


def open_run(path: str | Path) -> Run:
    """The run in this folder. Raises LedgerError if it is not a run directory, or one without any result yet."""
    folder = Path(path)
    catalog = folder / "run.json"
    if not catalog.is_file():
        if (folder / "ledger").is_dir():
            raise LedgerError(f"{folder}: this run has no columns yet; `tamis status {folder}` shows how far it is")
        near = sorted(child.parent for child in folder.glob("*/run.json")) if folder.is_dir() else []
        hint = f"did you mean {near[0]}?" if near else "give the folder that `out:` names in stages.yaml"
        raise LedgerError(f"{folder}: expected a run directory with a run.json in it, found none; {hint}")
    return Run(folder, json.loads(catalog.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Run:
    """A run directory. `catalog` is its run.json; a run that goes on is seen as it was when it was opened."""

    path: Path
    catalog: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return bool(self.catalog["finished"])

    @cached_property
    def corpus(self) -> CorpusRef:
        return CorpusRef.from_json(self.catalog["corpus"])

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        return tuple(shard for _, shard in sorted(self.corpus.shards(self.path).items()))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        seed = int(self.catalog["seed"])
        return tuple(
            Stage(
                values["verb"], values["component"], values["name"], values["options"], values["where"],
                tuple(values["keys"]), values["finished"], seed, values.get("model"),
            )
            for values in self.catalog["stages"]
        )  # fmt: skip

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The selections that can be read, by name, in stage order."""
        arms = {}
        for stage in self.stages:
            if stage.verb == "select" and f"{stage.name}_repeats" in self.columns:
                counts = self.catalog["arms"].get(stage.name, {"pool": 0, "kept": 0, "dropped": {}})
                where = stage.options.get("where")
                arms[stage.name] = Arm(stage.name, where, counts["pool"], counts["kept"], counts["dropped"])
        return arms

    def arm(self, name: str) -> Arm:
        """Raises ColumnError if there is no such arm."""
        if name not in self.arms:
            raise ColumnError(f"{self.path}: no arm {name!r}; there are {', '.join(self.arms) or 'none'}")
        return self.arms[name]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """All columns, `row` first, then those of the documents, then layer by layer."""
        makers = {key[:8]: stage.name for stage in self.stages for key in stage.keys}
        held = {name: values["layer"] for name, values in self.catalog["columns"].items()}
        documents = self._document_kinds()
        layers = {layer: self._layer_schema(layer) for layer in sorted({layer for layer in held.values() if layer})}
        found = {"row": Column("row", pa.uint64(), "", "")}
        for name, layer in held.items():
            kind = layers[layer].field(name).type if layer else documents[name]
            found[name] = Column(name, kind, layer, makers.get(layer[-8:], "") if layer else "")
        return found

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, column.kind) for column in self.columns.values()])

    def _document_kinds(self) -> dict[str, pa.DataType]:
        try:
            with open_parquet(self.shards[0].url) as file:
                schema = file.schema_arrow
        except OSError:  # the documents moved away; layers can still be read
            kinds = {name: pa.string() for name, values in self.catalog["columns"].items() if not values["layer"]}
        else:
            kinds = {ours: schema.field(theirs).type for ours, theirs in self.corpus.fields.of(schema.names).items()}
        return {**kinds, "doc_id": pa.string(), "source": pa.string(), "text": pa.string()}

    def _layer_schema(self, layer: str) -> pa.Schema:
        return pq.read_schema(self.path / layer / layer_file(self.shards[0].number))

    def column(self, name: str) -> Column:
        """Raises ColumnError, with the columns there are, if there is no such column."""
        if name in self.columns:
            return self.columns[name]
        close = difflib.get_close_matches(name, list(self.columns), 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        unfinished = "" if self.finished else " (the run has not finished)"
        raise ColumnError(f"{self.path}: no column {name!r}{unfinished}; {hint}there are {', '.join(self.columns)}")

    # ---- documents ----

    def batches(
        self, columns: Sequence[str], where: str | None = None, shards: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Batches of all shards (or of those numbers) in order, with these columns, where `where` is true."""
        expression = Expression(where) if where else None
        needed = tuple(dict.fromkeys((*columns, *(expression.columns if expression else ()))))
        schema = pa.schema([(name, self.column(name).kind) for name in needed])
        for shard in self.shards if shards is None else [shard for shard in self.shards if shard.number in shards]:
            for batch in self._shard_batches(shard, schema):
                if expression is not None:
                    passed = pc.fill_null(expression.over(batch).cast(pa.bool_()), False)
                    batch = batch.filter(passed)  # noqa: PLW2901
                yield batch.select(list(columns))

    def _shard_batches(self, shard: Shard, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The columns of one shard, documents and layers put side by side by position."""
        beside = self._beside(shard, schema.names)
        own = [name for name in schema.names if name not in beside.schema.names]
        if not own:
            for start in range(0, max(1, shard.rows), SLICE_ROWS):
                yield _side_by_side((), beside.slice(start, SLICE_ROWS), schema)
            return
        position = 0
        try:
            for batch, _ in read_batches(shard, self.corpus.fields, own, None if "text" in own else SLICE_ROWS):
                yield _side_by_side((batch,), beside.slice(position, batch.num_rows), schema)
                position += batch.num_rows
        except OSError as error:
            raise ContractError(
                f"{self.path}: expected the documents of {shard.label} at {shard.url}, got: {error}; "
                "put them back, or ask only for columns of layers"
            ) from error
        if position != shard.rows:
            raise ContractError(
                f"{shard.url}: expected {shard.rows:,} documents as in the run, got {position:,}; the file has changed"
            )

    def _beside(self, shard: Shard, names: Sequence[str]) -> pa.Table:
        beside = pa.table({"row": row_numbers(shard.number, shard.rows)})
        wanted = [self.columns[name] for name in names if self.columns[name].layer]
        for layer in dict.fromkeys(column.layer for column in wanted):
            columns = [column.name for column in wanted if column.layer == layer]
            table = read_layer(self.path / layer / layer_file(shard.number), columns)
            for name in columns:
                beside = beside.append_column(name, table.column(name))
        return beside

    def table(self, columns: Sequence[str] | str, where: str | None = None) -> pa.Table:
        """These columns of the documents for which `where` (a DuckDB boolean expression) is true.

        Raises ColumnError for an unknown column, SpecError for an expression that is not one.
        """
        names = [columns] if isinstance(columns, str) else list(columns)
        schema = pa.schema([(name, self.column(name).kind) for name in names])
        return pa.Table.from_batches(list(self.batches(names, where)), schema)

    def at(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """The values of a few documents, by row."""
        schema = pa.schema([(name, self.column(name).kind) for name in dict.fromkeys(("row", *columns))])
        wanted, found = pa.array(sorted(set(rows)), pa.uint64()), dict[int, dict[str, Any]]()
        numbers = {row >> SHARD_BITS for row in rows}
        for shard in self.shards:
            if shard.number in numbers:
                for batch in self._shard_batches(shard, schema):
                    chosen = batch.filter(pc.is_in(batch["row"], wanted))
                    found |= {values["row"]: values for values in chosen.to_pylist()}
        return found

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the views `documents`, `clusters` and `findings`, which reaches nothing else."""
        return connected(
            {"documents": self}, {"findings": findings_table(self.path)}, {"clusters": clusters_query(self)}
        )

    # ---- the books ----

    def receipts(self) -> Iterator[Receipt]:
        """Receipts of all finished work, the latest per work and shard."""
        yield from Ledger(self.path).receipts()

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """What is in quarantine for this run's stages: file, position, reason, sample, and `row` where it is known."""
        keys = {key[:8] for stage in self.stages for key in stage.keys}
        numbers = {f"{shard.number:06d}": shard.number for shard in self.shards}
        for path in sorted((self.path / "quarantine").glob("*.jsonl")):
            number, _, key = path.stem.partition(".")
            if number in numbers and (not key or key in keys):
                with path.open(encoding="utf-8") as lines:
                    for line in lines:
                        values = json.loads(line)
                        yield {**values, "row": numbers[number] << SHARD_BITS | values["row"]}
        yield from self.catalog.get("ingest", {}).get("problems", ())


def _side_by_side(batches: Sequence[pa.RecordBatch], part: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    arrays = {name: batch.column(name) for batch in batches for name in batch.schema.names}
    arrays |= {name: _one(part.column(name)) for name in part.schema.names}
    columns = [arrays[field.name] for field in schema]
    cast = [
        array if array.type == field.type else array.cast(field.type)
        for array, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(cast, schema=schema)


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
