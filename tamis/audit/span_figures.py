# ruff: noqa: S608 - column names are quoted, and the connection only reads
"""The report's numbers about passages that were struck."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from tamis.audit.deduplicators import of_spans
from tamis.audit.reader import Run, Stage
from tamis.audit.view import quoted

SOURCES = 14
REPEATED = 8
BEGINNING = 240
SCANNED = 256 << 20  # bytes of text that are read for repeated passages, of shards in the order of a hash
REMEMBERED = 200_000  # passages that are counted at a time; beyond, those seen once are forgotten
# Of a document's bytes, what is left: label, least (included), most (excluded).
LEFT = (
    ("nothing", -1.0, 1e-9),
    ("less than 10 %", 1e-9, 0.1),
    ("10–50 %", 0.1, 0.5),
    ("50–90 %", 0.5, 0.9),
    ("90 % or more", 0.9, 2.0),
)


@dataclass(frozen=True)
class SourceBytes:
    """documents : of the source; touched : with a passage struck."""

    source: str
    documents: int
    touched: int
    bytes: int
    struck: int


@dataclass(frozen=True)
class Repeated:
    """A passage that was struck `count` times in what was scanned."""

    text: str
    bytes: int
    count: int


@dataclass(frozen=True)
class SpanFigures:
    """What one deduplicator of passages struck. lengths: (label, passages, bytes); left: (label, documents)."""

    name: str
    component: str
    documents: int
    passages: int
    bytes: int
    flagged: int
    sources: Sequence[SourceBytes]
    lengths: Sequence[tuple[str, int, int]]
    left: Sequence[tuple[str, int]]
    repeated: Sequence[Repeated]
    scanned: int
    is_whole: bool


def span_figures(run: Run, connection: duckdb.DuckDBPyConnection) -> list[SpanFigures]:
    """The figures of every deduplicator that strikes passages."""
    return [_figures(run, connection, stage) for stage in of_spans(run)]


def _figures(run: Run, connection: duckdb.DuckDBPyConnection, stage: Stage) -> SpanFigures:
    name = stage.name
    struck, duplicate = quoted(f"{name}_bytes"), quoted(f"{name}_duplicate")
    classes = [
        f"count(*) FILTER (1 - {struck} / n_bytes >= {least!r} AND 1 - {struck} / n_bytes < {most!r})"
        for _, least, most in LEFT
    ]
    ((documents, size, flagged, *left),) = connection.execute(
        f"SELECT count(*), coalesce(sum({struck}), 0), count(*) FILTER ({duplicate}), {', '.join(classes)} "
        f"FROM documents WHERE {struck} > 0"
    ).fetchall()
    lengths = _lengths(connection, name)
    repeated, scanned, is_whole = repeated_passages(run, name)
    return SpanFigures(
        name, stage.component, documents, sum(count for _, count, _ in lengths), int(size), flagged,
        _sources(connection, name), lengths, list(zip([label for label, _, _ in LEFT], left, strict=True)),
        repeated, scanned, is_whole,
    )  # fmt: skip


def _sources(connection: duckdb.DuckDBPyConnection, name: str) -> list[SourceBytes]:
    struck = quoted(f"{name}_bytes")
    found = connection.execute(
        f"SELECT coalesce(source, 'no source'), count(*), count(*) FILTER ({struck} > 0), "
        f"coalesce(sum(n_bytes), 0)::BIGINT, coalesce(sum({struck}), 0)::BIGINT AS lost FROM documents "
        f"GROUP BY 1 HAVING lost > 0 ORDER BY lost DESC, 1 LIMIT {SOURCES}"
    ).fetchall()
    return [SourceBytes(*row) for row in found]


def _lengths(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[str, int, int]]:
    """Passages and their bytes, by length in powers of two."""
    spans = f"SELECT unnest({quoted(f'{name}_spans')}) AS span FROM documents WHERE {quoted(f'{name}_bytes')} > 0"
    length = '(span."end" - span.start)'
    found = connection.execute(
        f"SELECT floor(log2({length}))::INT, count(*), sum({length})::BIGINT FROM ({spans}) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return [(f"{2**power:,}–{2 ** (power + 1) - 1:,}", count, size) for power, count, size in found]


def repeated_passages(run: Run, name: str) -> tuple[list[Repeated], int, bool]:
    """The passages that cost most bytes, how many bytes of text were read for it, and whether that was all of it."""
    counts: dict[bytes, list[int]] = {}
    texts: dict[bytes, str] = {}
    scanned = 0
    numbers = sorted((shard.number for shard in run.shards), key=_hash)
    for at, number in enumerate(numbers):
        for batch in run.batches(["text", f"{name}_spans"], shards=[number]):
            scanned += batch["text"].nbytes
            for passage in _passages(batch, f"{name}_spans"):
                key = hashlib.blake2b(passage, digest_size=16).digest()
                if key in counts:
                    counts[key][0] += 1
                else:
                    counts[key] = [1, len(passage)]
                    texts[key] = passage[: 4 * BEGINNING].decode("utf-8", "replace")[:BEGINNING]
            if len(counts) > REMEMBERED:
                counts = {key: value for key, value in counts.items() if value[0] > 1}
                texts = {key: texts[key] for key in counts}
        if scanned > SCANNED and at + 1 < len(numbers):
            break
    largest = sorted(counts, key=lambda key: (-counts[key][0] * counts[key][1], key))[:REPEATED]
    return [Repeated(texts[key], counts[key][1], counts[key][0]) for key in largest], scanned, at + 1 == len(numbers)


def _hash(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=8).digest()


def _passages(batch: pa.RecordBatch, spans: str) -> Iterator[bytes]:
    """The bytes of every passage of the batch, without white space at its ends."""
    lengths = batch[spans].value_lengths().fill_null(0)
    for index in lengths.to_numpy(zero_copy_only=False).nonzero()[0].tolist():
        text = batch["text"][index].as_py()
        if text is not None:
            content = text.encode()
            for span in batch[spans][index].as_py():
                yield content[span["start"] : span["end"]].strip()
