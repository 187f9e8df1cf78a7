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
        return self._source.schema

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
        schema = pa.schema([self.source.schema.field(name) for name in self.wanted])
        return pa.RecordBatchReader.from_batches(schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self.source.batches(self.read):
            known = nan_is_null(batch)
            if self.filter is None:
                yield known.select(list(self.wanted))
            else:
                yield from pa.Table.from_batches([known]).filter(self.filter).select(list(self.wanted)).to_batches()


def nan_is_null(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its missing numbers as nulls: DuckDB ranks NaN above every number."""
    arrays = [
        pc.if_else(pc.is_nan(array), None, array) if pa.types.is_floating(array.type) else array
        for array in batch.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def connected(views: Mapping[str, Source]) -> duckdb.DuckDBPyConnection:
    """A database in memory with these views, and without files, network, extensions or other Python objects."""
    spill = Path(tempfile.gettempdir()) / f"tamis-duckdb-{os.getpid()}"  # made only when memory runs short
    connection = duckdb.connect(":memory:", config={"temp_directory": str(spill), "preserve_insertion_order": True})
    for name, source in views.items():
        connection.register(name, Documents(source))
    for setting in SETTINGS:
        connection.execute(setting)
    return connection
