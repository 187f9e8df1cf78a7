"""Rows that travel to the rows with the same key, and decisions that come back to the documents they are about."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tamis.errors import ContractError
from tamis.kernels.arrow import one_array
from tamis.steps import Columns, Decisions


def emitted_table(columns: Columns, rows: pa.Array, label: str) -> pa.Table:
    """What an exchange sends out for one batch, with `key` and `row`. Raises ContractError if it is not as promised."""
    if "key" not in columns:
        raise ContractError(f"{label}: emit() promised a column 'key' (uint64), returned {sorted(columns)}")
    arrays = {name: one_array(values) for name, values in columns.items()}
    arrays.setdefault("row", rows)
    expected = len(arrays["row"])
    wrong = {name: len(array) for name, array in arrays.items() if len(array) != expected}
    if wrong:
        raise ContractError(f"{label}: emit() promised {expected} values per column, returned {wrong}")
    return pa.table({**arrays, "row": arrays["row"].cast(pa.uint64()), "key": arrays["key"].cast(pa.uint64())})


def sorted_by(table: pa.Table, column: str) -> pa.Table:
    """The table in the order of a uint64 column, in one piece; in which order equal ones come is nobody's business.

    numpy's own sort is several times as fast as a stable one.
    """
    table = table.combine_chunks()
    keys = table.column(column).to_numpy()
    if len(keys) == 0 or (keys[1:] >= keys[:-1]).all():
        return table
    return table.take(pa.array(np.argsort(keys))).combine_chunks()


def beside_rows(decided: pa.Table, joins: Decisions, first_row: int, rows: int) -> pa.Table:
    """Decisions as columns beside the documents `first_row` to `first_row + rows`: null where nothing was decided.

    decided : with `row`, in its order; if a row may have several, the columns are lists, in no order of their own.
    Raises ContractError if a row has several that may not.
    """
    about = decided.column("row").to_numpy() - np.uint64(first_row)
    chosen = decided.select(joins.joined.names)
    if not joins.many:
        if (twice := np.flatnonzero(about[1:] == about[:-1])).size:
            raise ContractError(
                "exchange: decide() promised one decision about a row, returned more about the document "
                f"{int(about[twice[0]])} of a shard; say `many=True` if that is meant"
            )
        place = np.full(rows, -1, np.int64)
        place[about] = np.arange(len(about))
        return chosen.take(pa.array(place, mask=place < 0))
    counts = np.bincount(about.astype(np.int64), minlength=rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    nothing = pa.array(counts == 0)
    columns = [
        pa.ListArray.from_arrays(offsets, one_array(chosen.column(name)).cast(kind), mask=nothing)
        for name, kind in joins.returns.items()
    ]
    return pa.table(columns, schema=joins.joined)
