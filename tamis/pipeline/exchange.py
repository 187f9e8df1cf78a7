"""Rows that travel to the rows with the same key, and decisions that travel back.

Each shard writes its rows once, sorted by key, as an uncompressed Arrow file; a partition is a range of keys, so
its slice of any shard is found by binary search in the memory-mapped key column. Each partition's task writes its
decisions sorted by `row`; a shard's slice of any partition is found in the same way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tamis.corpus import SHARD_BITS, publish
from tamis.errors import ContractError
from tamis.kernels.arrow import one_array
from tamis.pipeline.layout import decided_file
from tamis.steps import Columns, Exchange

PARTITION_ROWS = 4_000_000  # rows that one decide task holds in memory, on average


def partitions_for(rows: int) -> int:
    return max(1, -(-rows // PARTITION_ROWS))


def emitted_table(columns: Columns, rows: pa.Array, label: str) -> pa.Table:
    """What an exchange sends out for one batch, with `row`, checked."""
    if "key" not in columns:
        raise ContractError(f"{label}: emit() promised a column 'key' (uint64), returned {sorted(columns)}")
    arrays = {name: one_array(values) for name, values in columns.items()}
    wrong = {name: len(array) for name, array in arrays.items() if len(array) != len(rows)}
    if wrong:
        raise ContractError(f"{label}: emit() promised {len(rows)} values per column, returned {wrong}")
    return pa.table({**arrays, "row": rows, "key": arrays["key"].cast(pa.uint64())})


def write_sorted(path: Path, table: pa.Table, by: str) -> tuple[int, str]:
    """One Arrow file of one record batch, sorted by a uint64 column."""
    order = np.argsort(table.column(by).to_numpy(), kind="stable")
    batch = table.take(pa.array(order)).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_table(batch)
    return publish(path, sink.getvalue())


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _slice(table: pa.Table, by: str, start: int, stop: int) -> pa.Table:
    """The rows with start <= by < stop of a table sorted by `by`."""
    keys = table.column(by).to_numpy() if table.num_rows else np.zeros(0, np.uint64)
    first = int(np.searchsorted(keys, np.uint64(start)))
    last = table.num_rows if stop > np.iinfo(np.uint64).max else int(np.searchsorted(keys, np.uint64(stop)))
    return table.slice(first, last - first)


def _copied(table: pa.Table) -> pa.Table:
    """A table of its own memory: a process may not hold as many memory maps as a corpus has shards."""
    return table.take(pa.array(np.arange(table.num_rows)))


def decide_partition(
    exchange: Exchange, files: list[Path], partition: int, partitions: int, target: Path, label: str
) -> tuple[int, int, str]:
    """Decides about all rows whose key is in one range of keys: (decisions, bytes, digest)."""
    start, stop = (partition << 64) // partitions, ((partition + 1) << 64) // partitions
    slices = [_copied(_slice(_mapped(file), "key", start, stop)) for file in files]
    decided = exchange.decide(pa.concat_tables(slices).combine_chunks())
    expected = {"row": pa.uint64(), **exchange.returns}
    if set(decided.schema.names) != set(expected):
        raise ContractError(
            f"{label}: decide() promised the columns {sorted(expected)}, returned {sorted(decided.schema.names)}"
        )
    table = decided.select(list(expected)).cast(pa.schema(list(expected.items())))
    return table.num_rows, *write_sorted(target, table, "row")


def decisions_for(run: Path, folder: str, returns: pa.Schema, shard_number: int, rows: int) -> pa.Table:
    """The decisions about one shard's documents: `rows` rows in shard order, null where nothing was decided."""
    start, stop = shard_number << SHARD_BITS, (shard_number + 1) << SHARD_BITS
    files = sorted((run / folder).glob(Path(decided_file("", 0)).name.replace("00000", "*")))
    tables = [_slice(_mapped(file), "row", start, stop) for file in files]
    known = pa.concat_tables(tables) if tables else None
    place = np.full(rows, -1, np.int64)
    if known is not None and known.num_rows:
        place[known.column("row").to_numpy() - np.uint64(start)] = np.arange(known.num_rows)
    indices = pa.array(place, mask=place < 0)
    if known is None:
        return pa.table({field.name: pa.nulls(rows, field.type) for field in returns})
    return known.select(returns.names).take(indices)
