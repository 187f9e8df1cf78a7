"""One SELECT over the views of a run, and any small table as aligned plain text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from tamis.audit.reader import Run
from tamis.errors import SpecError

CELL_WIDTH = 60
ROWS = 50
BATCH_ROWS = 10_000
JOINERS = "\u200c\u200d"  # invisible, and part of how Persian, Hindi and others are written


def sql(run: Run, query: str, rows: int | None = None) -> pa.Table:
    """What a SELECT returns; at most `rows` rows of it, if given, without making the rest.

    There are three views: `documents`, with all columns of all layers; `clusters`, one row per cluster of every
    deduplicator (stage, cluster, size, survivor, bytes, similarity, members); `findings`, what stages found out about
    the whole corpus (stage, json).
    Raises SpecError for anything but one SELECT, and for one that DuckDB does not understand.
    """
    try:
        statements = duckdb.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(str(statement.type.name) for statement in statements) or "nothing"
            raise SpecError(f"sql: expected one SELECT over the view `documents`, got {kinds}; a run is only read")
        with run.connect() as connection:
            return _first(connection.sql(query).to_arrow_reader(BATCH_ROWS), rows)
    except duckdb.Error as error:
        raise SpecError(f"sql: {str(error).strip()}") from error


def _first(reader: pa.RecordBatchReader, rows: int | None) -> pa.Table:
    batches, count = [], 0
    for batch in reader:
        batches.append(batch)
        count += batch.num_rows
        if rows is not None and count >= rows:
            break
    return pa.Table.from_batches(batches, reader.schema).slice(0, rows)


def render(table: pa.Table, rows: int = ROWS, width: int = CELL_WIDTH) -> str:
    """The table as lines of text: numbers to the right, long cells cut, control characters made visible."""
    shown = table.slice(0, rows)
    right = [
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        for kind in table.schema.types
    ]
    columns = [[cell(value, width) for value in column.to_pylist()] for column in shown.columns]
    lines = aligned(table.schema.names, list(zip(*columns, strict=True)), right)
    if table.num_rows > rows:
        lines.append(f"… {table.num_rows - rows:,} more rows")
    return "\n".join(lines)


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Lines of a table: heads, a rule, then the rows, each column as wide as its widest cell."""
    widths = [max([len(head), *(len(row[i]) for row in rows)]) for i, head in enumerate(heads)]
    lines = [_line(heads, widths, right), "  ".join("─" * width for width in widths)]
    return [*lines, *(_line(row, widths, right) for row in rows)]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        text.rjust(width) if is_right else text.ljust(width)
        for text, width, is_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def cell(value: Any, width: int = CELL_WIDTH) -> str:
    """One value on one line of at most `width` characters."""
    if value is None:
        return "·"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = one_line(str(value))
    return text if len(text) <= width else text[: width - 1] + "…"


def one_line(text: str) -> str:
    """The text with every run of white space as one blank, and without what a terminal would obey."""
    return "".join(printable(character) for character in " ".join(text.split()))


def printable(character: str) -> str:
    """The character itself, or a replacement mark for control, direction and other invisible ones."""
    if character in JOINERS:
        return character
    return "�" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") else character
