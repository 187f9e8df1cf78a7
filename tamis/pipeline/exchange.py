"""Rows that travel to the rows with the same key, and decisions that travel back.

Each shard writes its rows once, sorted by key, as an uncompressed Arrow file; a partition is a range of keys, so
its slice of any file is found by binary search in the memory-mapped key column. Each partition's task writes its
decisions sorted by `row`; a shard's slice of any file is found in the same way. Where there are many files, groups of
them are bundled into one before they are read from, so that a task opens 1/64 of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from tamis.corpus import SHARD_BITS, publish
from tamis.errors import ContractError
from tamis.routing import beside_rows, sorted_by
from tamis.steps import Decisions, Exchange

RETURNED = "returned.json"  # in a folder of decisions: the files to read them from
PARTITION_BYTES = 64 << 20  # that one decide task holds in memory, on average


def partitions_for(size: int) -> int:
    """How many ranges of keys so many emitted bytes are decided in."""
    return max(1, -(-size // PARTITION_BYTES))


def write_sorted(path: Path, table: pa.Table, by: str) -> tuple[int, str]:
    """One Arrow file of one record batch, sorted by a uint64 column."""
    table = sorted_by(table, by)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return publish(path, sink.getvalue())


def bundle(files: list[Path], target: Path, by: str) -> tuple[int, str]:
    """Several files sorted by a column as one."""
    return write_sorted(target, pa.concat_tables(_mapped(file) for file in files), by)


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _slice(table: pa.Table, by: str, start: int, stop: int) -> pa.Table:
    """The rows with start <= by < stop of a table sorted by `by`."""
    keys = table.column(by).to_numpy() if table.num_rows else np.zeros(0, np.uint64)
    first = int(np.searchsorted(keys, np.uint64(start)))
    last = table.num_rows if stop > np.iinfo(np.uint64).max else int(np.searchsorted(keys, np.uint64(stop)))
    return table.slice(first, last - first)


def decide_partition(
    exchange: Exchange, files: list[Path], partition: int, partitions: int, target: Path, label: str
) -> tuple[int, int, str]:
    """Decides about all rows whose key is in one range of keys: (decisions, bytes, digest)."""
    start, stop = (partition << 64) // partitions, ((partition + 1) << 64) // partitions
    slices = [_slice(_mapped(file), "key", start, stop) for file in files]
    decided = exchange.decide(sorted_by(pa.concat_tables(slices), "key"))
    expected = {"row": pa.uint64(), **exchange.returns}
    if set(decided.schema.names) != set(expected):
        raise ContractError(
            f"{label}: decide() promised the columns {sorted(expected)}, returned {sorted(decided.schema.names)}"
        )
    table = decided.select(list(expected)).cast(pa.schema(list(expected.items())))
    return table.num_rows, *write_sorted(target, table, "row")


def decisions_for(run: Path, joins: Decisions, shard_number: int, rows: int) -> pa.Table:
    """The decisions about one shard's documents: `rows` rows in shard order, null where nothing was decided."""
    start, stop = shard_number << SHARD_BITS, (shard_number + 1) << SHARD_BITS
    tables = [_slice(_mapped(file), "row", start, stop) for file in returned_files(run / joins.key)]
    decided = sorted_by(pa.concat_tables(tables), "row")
    return beside_rows(decided, joins, start, rows)


def returned_files(folder: Path) -> list[Path]:
    """The files that hold an exchange's decisions, in order of keys."""
    return [folder / name for name in json.loads((folder / RETURNED).read_text(encoding="utf-8"))]
