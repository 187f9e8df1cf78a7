"""A chunk of JSON lines becomes Parquet shards and a quarantine file, all of them or none."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.ingest.chunks import Chunk, Part
from tamis.ingest.documents import BadLineError, Fields, Row, parse, second_look
from tamis.ingest.lines import Block, blocks

SCHEMA = pa.schema([
    pa.field("doc_id", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    *(pa.field(name, pa.string()) for name in ("source", "url", "metadata")),
])  # fmt: skip
GROUP_BYTES = 16 << 20  # JSON text per row group
GROUP_ROWS = 1 << 16
SLACK = 1.25  # of the target size a shard may reach before the next one begins, so that a chunk leaves no crumbs
SAMPLE = 200  # characters of a bad line in its quarantine entry
BLANK = b" \t\r"


@dataclass(frozen=True)
class Output:
    """One shard that was written: its file name, its documents, and their UTF-8 bytes of text."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class ChunkResult:
    """The books of a chunk: lines = rows + quarantined + blank. bytes: UTF-8 text of its documents.

    ids_made : documents that had no id. quarantine : file name of the quarantine entries, None if there are none.
    A file that breaks off counts one more line, quarantined, for what is missing.
    """

    rows: int
    bytes: int
    lines: int
    blank: int
    quarantined: int
    ids_made: int
    outputs: tuple[Output, ...]
    quarantine: str | None


def convert(
    chunk: Chunk,
    folder: Path,
    stem: str,
    *,
    target_bytes: int,
    fields: Fields | None = None,
    quarantine: Path | None = None,
) -> ChunkResult:
    """Write a chunk to `folder` as `stem-000.parquet`, `stem-001.parquet`, … with SCHEMA, and return the books.

    A shard holds about `target_bytes` of JSON text; no documents, no shard. Quarantine entries go to `stem.jsonl` in
    the folder `quarantine` (by default `folder`). Every file is written beside its place and renamed at the end.

    Raises ValueError for a part of a file whose lines were not counted.
    """
    unnumbered = [part.file.url for part in chunk.parts if part.first_line is None]
    if unnumbered:
        raise ValueError(f"convert: {unnumbered[0]} is cut, so its chunks need line numbers; see count_lines, numbered")
    with _publishing() as drafts:
        task = _Conversion(drafts, folder, stem, target_bytes, fields or Fields(), quarantine or folder)
        for part in chunk.parts:
            task.take(part)
        return task.finish()


class _Drafts:
    """Files that appear together when all is well, and leave nothing behind otherwise."""

    def __init__(self) -> None:
        self.places: dict[Path, Path] = {}  # where a file is written → where it belongs
        self.open = ExitStack()  # the files that are being written

    def begin(self, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        self.places[draft] = place
        return draft


@contextmanager
def _publishing() -> Iterator[_Drafts]:
    drafts = _Drafts()
    try:
        with drafts.open:
            yield drafts
        for draft, place in drafts.places.items():
            draft.replace(place)
    finally:
        for draft in drafts.places:
            draft.unlink(missing_ok=True)


@dataclass
class _Conversion:
    """A chunk on its way: the rows of the next row group, the open shard, the open quarantine, the counts."""

    drafts: _Drafts
    folder: Path
    stem: str
    target_bytes: int
    fields: Fields
    quarantine: Path

    rows: list[Row] = field(default_factory=list)
    rows_bytes: int = 0  # JSON text of `rows`
    shard: pq.ParquetWriter | None = None
    shard_bytes: int = 0  # JSON text in `shard`
    outputs: list[Output] = field(default_factory=list)
    refused: IO[str] | None = None
    lines: int = 0
    blank: int = 0
    quarantined: int = 0
    ids_made: int = 0

    def take(self, part: Part) -> None:
        """Read all lines of a part."""
        assert part.first_line is not None
        number = part.first_line
        for block in blocks(part):
            if block.reason is None:
                self._read(block, number, part.file.relative_name)
            else:
                self._refuse(block.reason, block.lines[0], part.file.relative_name, number, block.offset)
            self.lines += len(block.lines)
            number += len(block.lines)

    def finish(self) -> ChunkResult:
        """Write the last rows and balance the books."""
        self._write_group()
        rows = sum(output.rows for output in self.outputs)
        assert self.lines == rows + self.quarantined + self.blank, "the books of a chunk must balance"
        return ChunkResult(
            rows=rows,
            bytes=sum(output.bytes for output in self.outputs),
            lines=self.lines,
            blank=self.blank,
            quarantined=self.quarantined,
            ids_made=self.ids_made,
            outputs=tuple(self.outputs),
            quarantine=f"{self.stem}.jsonl" if self.refused is not None else None,
        )

    def _read(self, block: Block, number: int, name: str) -> None:
        """The hot loop: one row, blank line or quarantine entry per line."""
        offset = block.offset
        for line in block.lines:
            try:
                row = parse(line, self.fields)
            except ValueError as error:
                maybe = self._recover(line, error, name, number, offset)
                if maybe is not None:
                    self._keep(maybe, len(line), name, number)
            else:
                self._keep(row, len(line), name, number)
            number += 1
            offset += len(line) + 1

    def _keep(self, row: Row, size: int, name: str, number: int) -> None:
        if row[0] is None:
            row = (f"{name}:{number}", *row[1:])
            self.ids_made += 1
        self.rows.append(row)
        self.rows_bytes += size
        if self.rows_bytes >= GROUP_BYTES or len(self.rows) == GROUP_ROWS:
            self._write_group()

    def _recover(self, line: bytes, error: ValueError, name: str, number: int, offset: int) -> Row | None:
        """The row of a line that did not parse at first; None if it is blank or went to the quarantine."""
        if not line.strip(BLANK):
            self.blank += 1
            return None
        try:
            return second_look(line, error, self.fields)
        except BadLineError as reason:
            self._refuse(str(reason), line, name, number, offset)
            return None

    def _refuse(self, reason: str, line: bytes, name: str, number: int, offset: int) -> None:
        if self.refused is None:
            draft = self.drafts.begin(self.quarantine / f"{self.stem}.jsonl")
            self.refused = self.drafts.open.enter_context(draft.open("w", encoding="utf-8"))
        sample = line[: 4 * SAMPLE].decode("utf-8", "replace")[:SAMPLE]
        entry = {"file": name, "position": {"line": number, "byte": offset}, "reason": reason, "sample": sample}
        self.refused.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.quarantined += 1

    def _write_group(self) -> None:
        if not self.rows:
            return
        if self.shard is None:
            self._open_shard()
        assert self.shard is not None
        columns = [pa.array(column, pa.string()) for column in zip(*self.rows, strict=True)]
        self.shard.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
        text = pc.sum(pc.binary_length(columns[1])).as_py()
        last = self.outputs[-1]
        self.outputs[-1] = Output(last.name, last.rows + len(self.rows), last.bytes + text)
        self.shard_bytes += self.rows_bytes
        self.rows, self.rows_bytes = [], 0
        if self.shard_bytes >= SLACK * self.target_bytes:
            self.shard.close()
            self.shard, self.shard_bytes = None, 0

    def _open_shard(self) -> None:
        name = f"{self.stem}-{len(self.outputs):03}.parquet"
        writer = pq.ParquetWriter(
            self.drafts.begin(self.folder / name),
            SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=["source"],
            write_statistics=["source"],  # the smallest and largest of all texts help nobody
        )
        self.shard = self.drafts.open.enter_context(writer)
        self.outputs.append(Output(name, 0, 0))
