"""Runs as DuckDB views that read lazily: only the columns a query uses, one batch at a time.

DuckDB scans anything that is a `pyarrow.dataset.Dataset`, and tells its `scanner` the columns and the filter. Its
own Parquet reader would need file access, which a query must not have, and cannot put shards and layers side by side.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tamis.kernels.arrow import widened

SETTINGS = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class Source(Protocol):
    """What a view needs of a run."""

    @property
    def schema(self) -> pa.Schema: ...

    def batches(self, columns: Sequence[str], where: str | None = None) -> Iterator[pa.RecordBatch]: ...


class Documents(ds.Dataset):  # type: ignore[misc]
    """The documents of a run as a dataset that is read anew by every scan."""

    def __init__(self, source: Source) -> None:  # the parent's refuses to be called
        self._source = source

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(field.name, widened(field.type)) for field in self._source.schema])

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> Scan:  # noqa: A002
        """A scan of these columns. `filter` may use others, which are then read too (by their mention in its text)."""
        schema = self.schema
        wanted = list(schema.names if columns is None else columns) or ["row"]
        mentioned = str(filter) if filter is not None else ""
        read = list(dict.fromkeys((*wanted, *(name for name in schema.names if name in mentioned))))
        return Scan(self._source, tuple(read), tuple(wanted), filter)


@dataclass(frozen=True)
class Scan:
    """One reading of some columns, as DuckDB asks of a scanner.

    pyarrow's own Scanner reads ahead in threads of its own, which crash the interpreter when a query with a LIMIT
    leaves them behind; this one reads when it is asked.
    """

    source: Source
    read: tuple[str, ...]
    wanted: tuple[str, ...]
    filter: Any

    def to_reader(self) -> pa.RecordBatchReader:
        kinds = self.source.schema
        schema = pa.schema([(name, widened(kinds.field(name).type)) for name in self.wanted])
        return pa.RecordBatchReader.from_batches(schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self.source.batches(self.read):
            known = as_duckdb_reads(batch)
            if self.filter is None:
                yield known.select(list(self.wanted))
            else:
                yield from pa.Table.from_batches([known]).filter(self.filter).select(list(self.wanted)).to_batches()


def as_duckdb_reads(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with missing numbers as nulls, for DuckDB ranks NaN above every number, and half floats widened."""
    arrays = [_as_duckdb_reads(array) for array in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _as_duckdb_reads(array: pa.Array) -> pa.Array:
    kind = widened(array.type)
    array = array if array.type == kind else array.cast(kind)
    return pc.if_else(pc.is_nan(array), None, array) if pa.types.is_floating(kind) else array


def connected(
    views: Mapping[str, Source], tables: Mapping[str, pa.Table] | None = None, queries: Mapping[str, str] | None = None
) -> duckdb.DuckDBPyConnection:
    """A database in memory with these views, and without files, network, extensions or other Python objects.

    tables : small ones, in memory. queries : views made of a SELECT over the others, read only when they are asked.
    """
    spill = Path(tempfile.gettempdir()) / f"tamis-duckdb-{os.getpid()}"  # made only when memory runs short
    connection = duckdb.connect(":memory:", config={"temp_directory": str(spill), "preserve_insertion_order": True})
    for name, source in views.items():
        connection.register(name, Documents(source))
    for name, table in (tables or {}).items():
        connection.register(name, table)
    for name, query in (queries or {}).items():
        connection.execute(f"CREATE TEMP VIEW {name} AS {query}")
    for setting in SETTINGS:
        connection.execute(setting)
    return connection


def quoted(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"
