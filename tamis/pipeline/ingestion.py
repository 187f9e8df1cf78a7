"""Conversion of JSON lines as tasks: planned, run on the workers, entered in the ledger, skipped when done before."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tamis import ingest
from tamis.corpus import Fields, publish
from tamis.errors import ContractError, LedgerError
from tamis.ingest import Chunk, Part, SourceFile
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.program import digest_of
from tamis.pipeline.work import Receipt, worker_name
from tamis.pipeline.workers import Task, Workers

INGEST_VERSION = 1


@dataclass(frozen=True)
class Converted:
    """The Parquet files that ingest wrote, and its books. refused : quarantine files of the lines left out."""

    files: tuple[SourceFile, ...]
    lines: int
    bad: int
    problems: list[dict[str, Any]]
    refused: list[Path]


def convert_files(
    name: str,
    sources: Sequence[SourceFile],
    fields: Fields,
    run: Path,
    workers: Workers,
    ledger: Ledger,
    shard_bytes: int,
    limit: int | None = None,
) -> Converted:
    """Converts every file that is not Parquet into RUN/documents; what an unchanged chunk gave before is kept."""
    chunks = ingest.plan(sources, shard_bytes)[:limit]
    split = [chunk for chunk in chunks if chunk.is_split]
    if split:
        counts = dict.fromkeys(range(len(split)), 0)
        plan = _save_plan(run, split)
        tasks = (Task(_count, (str(run), plan, i), "count lines") for i in range(len(split)))
        for outcome in workers.run(tasks):
            if outcome.error:
                raise ContractError(f"{name}: {outcome.error}")
            position, lines = outcome.value
            counts[position] = lines
        chunks = ingest.numbered(chunks, [counts[i] for i in range(len(split))])
    keys = [_chunk_key(name, chunk, fields, shard_bytes) for chunk in chunks]
    plan = _save_plan(run, chunks)
    columns = ingest.Fields(fields.text, fields.id, fields.source)
    tasks = (
        Task(
            _convert, (str(run), plan, i, key, shard_bytes, columns), f"ingest {chunks[i].parts[0].file.relative_name}"
        )
        for i, key in enumerate(keys)
        if not _is_done(ledger, run, key)
    )
    for outcome in workers.run(tasks):
        if outcome.error:
            raise ContractError(f"{outcome.task.label}: {outcome.error}")
        ledger.record(outcome.value)
    return _collected(ledger, run, keys)


def _chunk_key(name: str, chunk: Chunk, fields: Fields, shard_bytes: int) -> str:
    parts = [(asdict(part.file), part.start, part.end, part.first_line) for part in chunk.parts]
    return digest_of("ingest", INGEST_VERSION, name, parts, asdict(fields), shard_bytes)


def _save_plan(run: Path, chunks: Sequence[Chunk]) -> str:
    """Writes chunks under their digest, so that a task carries a path and a number, not a list of files."""
    values = [asdict(chunk) for chunk in chunks]
    path = f"documents/plan-{digest_of(values)[:12]}.json"
    publish(run / path, json.dumps(values).encode())
    return path


@lru_cache(maxsize=4)
def _load_plan(path: str) -> list[Chunk]:
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    return [
        Chunk(tuple(Part(**{**part, "file": SourceFile(**part["file"])}) for part in chunk["parts"]))
        for chunk in values
    ]


def _count(run: str, plan: str, position: int) -> tuple[int, int]:
    return position, ingest.count_lines(_load_plan(f"{run}/{plan}")[position])


def _books(run: Path, key: str) -> Path:
    return run / "documents" / f"{key[:12]}.json"


def _convert(run: str, plan: str, position: int, key: str, shard_bytes: int, columns: ingest.Fields) -> Receipt:
    """One task: a chunk of JSON lines into shards, a quarantine file and its books."""
    began = time.perf_counter()
    root = Path(run)
    chunk = _load_plan(f"{run}/{plan}")[position]
    folders = {"folder": root / "documents", "quarantine": root / "quarantine"}
    result = ingest.convert(chunk, stem=key[:12], target_bytes=shard_bytes, fields=columns, **folders)
    files = [part.file.relative_name for part in chunk.parts]
    size, digest = publish(_books(root, key), json.dumps({**asdict(result), "files": files}).encode())
    facts = {"blank": result.blank, "ids_made": result.ids_made}
    seconds = round(time.perf_counter() - began, 4)
    books = (result.lines, result.rows, result.quarantined)
    return Receipt(key, "ingest", key, *books, size, digest, seconds, worker_name(), f"ingest {files[0]}", facts)


def _is_done(ledger: Ledger, run: Path, key: str) -> bool:
    if ledger.get(key, "ingest") is None or not _books(run, key).exists():
        return False
    outputs = json.loads(_books(run, key).read_text(encoding="utf-8"))["outputs"]
    return all((run / "documents" / output["name"]).exists() for output in outputs)


def _collected(ledger: Ledger, run: Path, keys: Sequence[str]) -> Converted:
    files: list[SourceFile] = []
    problems: list[dict[str, Any]] = []
    refused: list[Path] = []
    lines = bad = 0
    for key in keys:
        receipt = ledger.get(key, "ingest")
        books = json.loads(_books(run, key).read_text(encoding="utf-8"))
        if receipt is None or receipt.rows != receipt.out + receipt.quarantined + receipt.facts["blank"]:
            raise LedgerError(f"ingest of {books['files'][0]}: the books do not balance: {receipt}; report this")
        lines += receipt.rows - receipt.facts["blank"]
        bad += receipt.quarantined
        if books["quarantine"]:
            refused.append(run / "quarantine" / books["quarantine"])
            problems.append(
                {
                    "file": ", ".join(books["files"][:3]),
                    "rows": receipt.quarantined,
                    "reason": f"see quarantine/{books['quarantine']}",
                    "position": None,
                }
            )
        for output in books["outputs"]:
            path = run / "documents" / output["name"]
            files.append(SourceFile(str(path), output["name"], path.stat().st_size, key))
    return Converted(tuple(files), lines, bad, problems, refused)
