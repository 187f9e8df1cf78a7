"""Documents on disk: shards, the columns that layers add to them, and the only Parquet reader and writer."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.errors import ContractError

BATCH_BYTES = 6 << 20  # text per batch: malloc keeps token arrays of this size, and gives larger ones back
BATCH_ROWS = 8192
LAYER_GROUP_ROWS = 1 << 16
RESERVED = ("row", "quarantined", "n_bytes", "n_tokens")  # columns that the engine makes
SHARD_BITS = 32  # row = shard number << 32 | index in the shard


@dataclass(frozen=True)
class Fields:
    """How a source names the columns that tamis knows: text, id, source; every other column keeps its name.

    A column whose name would then stand for two things is not used (see `hidden`).
    """

    text: str = "text"
    id: str = "id"
    source: str = "source"

    def of(self, available: Sequence[str]) -> dict[str, str]:
        """Our column name → the file's, for a file with these columns."""
        ours = {"text": self.text, "doc_id": self.id, "source": self.source}
        taken = {*ours, *ours.values(), *RESERVED}
        own = {name: theirs for name, theirs in ours.items() if theirs in available}
        return {**own, **{name: name for name in available if name not in taken}}

    def hidden(self, available: Sequence[str]) -> list[str]:
        """Columns of the file that cannot be used, because tamis has another column of that name."""
        used = self.of(available).values()
        return [name for name in available if name not in used]


@dataclass(frozen=True)
class Shard:
    """A Parquet file, or a range of its row groups: immutable, numbered, known by its content.

    bytes : uncompressed size of its row groups. label : path relative to the corpus, for made ids and quarantine.
    first_record : number of its first row in the file. fingerprint : digest of the file and the range.
    """

    number: int
    url: str
    label: str
    group_start: int
    group_stop: int
    first_record: int
    rows: int
    bytes: int
    fingerprint: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def batch_rows(self) -> int:
        """Documents per batch: a function of the shard only, so that batched models are reproducible."""
        return max(1, min(BATCH_ROWS, BATCH_BYTES * max(1, self.rows) // max(1, self.bytes)))


@dataclass(frozen=True)
class SurveyedFile:
    """What a look at one Parquet file found: its shards (not yet numbered), or why it cannot be read."""

    url: str
    columns: Mapping[str, str]  # name → Arrow type
    shards: tuple[Shard, ...]
    rows: int
    problem: str | None = None


def open_parquet(url: str) -> pq.ParquetFile:
    """A Parquet file at a path or any fsspec URL."""
    if "://" not in url:
        return pq.ParquetFile(url)
    return pq.ParquetFile(fsspec.open(url, "rb").open())


def content_digest(url: str) -> str:
    """BLAKE2b-128 of a file's bytes, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    with fsspec.open(url, "rb") as file:
        while block := file.read(8 << 20):
            digest.update(block)
    return digest.hexdigest()


def survey(url: str, label: str, fields: Fields, target_bytes: int, *, digest: bool = True) -> SurveyedFile:
    """The shards of one Parquet file: row groups packed to about `target_bytes` of uncompressed content each.

    digest : whether to read the whole file for the digest of its content, without which no result can be kept.
    Raises OSError if the store fails; a file that is no Parquet file is a `problem`.
    """
    try:
        with open_parquet(url) as file:
            columns = {field.name: str(field.type) for field in file.schema_arrow}
            if fields.text not in columns:
                return _unreadable(url, columns, file.metadata.num_rows, f"no column {fields.text!r}")
            kind = file.schema_arrow.field(fields.text).type
            if not _is_text(kind):
                return _unreadable(url, columns, file.metadata.num_rows, f"column {fields.text!r} is {kind}")
            content = content_digest(url) if digest else ""
            ranges = _group_ranges(file.metadata, target_bytes)
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # pyarrow's own complaints carry no number
            raise
        return _unreadable(url, {}, 0, f"not a readable Parquet file: {str(error).splitlines()[0]}")
    named = hashlib.blake2b(repr((fields.text, fields.id, fields.source)).encode(), digest_size=4).hexdigest()
    shards = tuple(
        Shard(-1, url, label, start, stop, first, count, size, f"{content}:{start}-{stop}:{named}")
        for start, stop, first, count, size in ranges
    )
    return SurveyedFile(url, columns, shards, rows)


def _unreadable(url: str, columns: Mapping[str, str], rows: int, problem: str) -> SurveyedFile:
    return SurveyedFile(url, columns, (), rows, problem)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_string_view,
        )
    )


def _group_ranges(metadata: pq.FileMetaData, target_bytes: int) -> list[tuple[int, int, int, int, int]]:
    """(start, stop, first record, rows, bytes) of consecutive row groups; always at least one range."""
    ranges, start, first, rows, size = [], 0, 0, 0, 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if rows and size + group.total_byte_size > target_bytes:
            ranges.append((start, index, first, rows, size))
            start, first, rows, size = index, first + rows, 0, 0
        rows += group.num_rows
        size += group.total_byte_size
    return [*ranges, (start, metadata.num_row_groups, first, rows, size)]


def read_batches(
    shard: Shard, fields: Fields, columns: Sequence[str], batch_rows: int | None = None
) -> Iterator[tuple[pa.RecordBatch, pa.BooleanArray]]:
    """The shard's documents, batch by batch, with the columns asked for, and which of them are usable.

    `doc_id` is always a string (made from file and record number where the source has none). `text` is valid
    UTF-8; a document whose text is null or is not UTF-8 stays in its place with a null text and is not usable.
    Raises ColumnError if a column is not in the file.
    """
    with open_parquet(shard.url) as file:
        names = fields.of(file.schema_arrow.names)
        wanted = [name for name in columns if name in names]
        missing = [name for name in columns if name not in names and name not in ("doc_id", "source")]
        if missing:
            raise ContractError(
                f"{shard.label}: expected the columns {missing}, the file has {sorted(names)}; "
                "give all files of a corpus the same columns"
            )
        record = shard.first_record
        batches = file.iter_batches(
            batch_size=batch_rows or shard.batch_rows,
            row_groups=list(range(shard.group_start, shard.group_stop)),
            columns=[names[name] for name in wanted],
            use_threads=False,
        )
        nothing = pa.RecordBatch.from_pylist([], file.schema_arrow).select([names[name] for name in wanted])
        for batch in chain(batches, () if shard.rows else (nothing,)):  # a shard without rows is one empty batch
            yield _canonical(batch, wanted, names, columns, shard, record)
            record += batch.num_rows


def _canonical(
    batch: pa.RecordBatch,
    wanted: Sequence[str],
    names: Mapping[str, str],
    columns: Sequence[str],
    shard: Shard,
    record: int,
) -> tuple[pa.RecordBatch, pa.BooleanArray]:
    arrays = {name: batch.column(names[name]) for name in wanted}
    usable = pa.array(np.ones(batch.num_rows, bool))
    if not columns:
        return batch.select([]), usable  # it still knows how many rows it has
    if "text" in arrays:
        arrays["text"] = _utf8(arrays["text"])
        usable = arrays["text"].is_valid()
    if "doc_id" in columns:
        arrays["doc_id"] = _ids(arrays.get("doc_id"), batch.num_rows, shard, record)
    if "source" in columns:
        arrays["source"] = _source(arrays.get("source"), batch.num_rows)
    return pa.RecordBatch.from_arrays([arrays[name] for name in columns], names=list(columns)), usable


def _source(array: pa.Array | None, rows: int) -> pa.Array:
    """Sources as strings; null where there is none, or what is no text or number."""
    if array is None or pa.types.is_nested(array.type):
        return pa.nulls(rows, pa.string())
    return (_utf8(array) if _is_text(array.type) else array).cast(pa.string())


def _utf8(array: pa.Array) -> pa.Array:
    """The strings of a text column as Arrow `string`/`large_string`, null where the bytes are not UTF-8."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    large = pa.types.is_large_binary(array.type) or pa.types.is_large_string(array.type)
    string, binary = (pa.large_string(), pa.large_binary()) if large else (pa.string(), pa.binary())
    try:
        if array.type == binary:
            return array.cast(string)
        array.validate(full=True)
    except pa.ArrowInvalid:
        values = [_decoded(value) for value in array.cast(binary).to_pylist()]
        return pa.array(values, type=string)
    else:
        return array


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _ids(array: pa.Array | None, rows: int, shard: Shard, record: int) -> pa.StringArray:
    """Ids as strings; a missing or empty one becomes `relative path:record number` (from 1, as ingest counts)."""
    if array is not None:
        if not (_is_text(array.type) or pa.types.is_integer(array.type)):
            raise ContractError(
                f"{shard.label}: ids must be strings or integers, got {array.type}; name another `id:` column"
            )
        array = _utf8(array) if _is_text(array.type) else array
        array = array.cast(pa.string())
        if not array.null_count and not pc.any(pc.equal(array, "")).as_py():
            return array
    made = pa.array([f"{shard.label}:{record + i + 1}" for i in range(rows)], pa.string())
    if array is None:
        return made
    return pc.if_else(pc.fill_null(pc.equal(array, ""), True), made, array)


def row_numbers(shard_number: int, rows: int) -> pa.Array:
    """The join key of all layers: uint64, shard number << 32 | index."""
    return pa.array(np.arange(rows, dtype=np.uint64) + (np.uint64(shard_number) << np.uint64(SHARD_BITS)))


def layer_file(shard_number: int) -> str:
    return f"{shard_number:06d}.parquet"


def write_layer(path: Path, table: pa.Table) -> tuple[int, str]:
    """Writes one layer file whole or not at all; its size and the BLAKE2b-128 of its bytes."""
    repetitive = [field.name for field in table.schema if pa.types.is_string(field.type)]  # reasons, survivors
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=LAYER_GROUP_ROWS,
        compression="zstd",
        compression_level=1,
        use_dictionary=repetitive or False,  # on numbers and vectors it only costs time
    )
    return publish(path, sink.getvalue())


def publish(path: Path, content: Any) -> tuple[int, str]:
    """Writes bytes beside, then renames: a file with this name is always complete. Size and digest of the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    view = memoryview(content)
    return view.nbytes, hashlib.blake2b(view, digest_size=16).hexdigest()


def read_layer(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of one layer file."""
    return pq.read_table(path, columns=list(columns), use_threads=False, partitioning=None)
