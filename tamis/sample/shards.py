"""A pool in shards and a target kept apart, byte for byte the same for the same documents."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.sample.documents import Document
from tamis.sample.environment import hash_of

POOL_SHARDS = 6
TRAIN = ("target", "train.parquet")
VALID = ("target", "valid.parquet")
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "url", "metadata")])


def write(folder: Path, documents: Sequence[Document]) -> dict[str, Any]:
    """Shards of the pool and the target, and what the manifest says of them."""
    words = [" ".join(re.findall(r"\w+", document.text.lower())) for document in documents]
    elsewhere = {text for text, document in zip(words, documents, strict=True) if not document.in_domain}
    parts: dict[tuple[str, str], list[Document]] = {TRAIN: [], VALID: []}
    parts.update({("pool", f"pool-{shard:02}.parquet"): [] for shard in range(POOL_SHARDS)})
    for text, document in zip(words, documents, strict=True):
        parts[_part(document, text, unique=text not in elsewhere)].append(document)
    files = {"/".join(part): _write_shard(folder.joinpath(*part), rows) for part, rows in parts.items()}
    return {
        "pool": len(documents) - len(parts[TRAIN]) - len(parts[VALID]),
        "train": len(parts[TRAIN]),
        "valid": len(parts[VALID]),
        "bytes": sum(len(document.text.encode()) for document in documents),
        "sources": dict(Counter(document.package.name for document in documents).most_common()),
        "files": files,
    }


def _part(document: Document, words: str, *, unique: bool) -> tuple[str, str]:
    """The file a document belongs to: half of the domain is target, and 15 % of that is held out."""
    draw = hash_of(words) % 200
    if document.in_domain and unique and draw < 100:
        return VALID if draw < 15 else TRAIN
    return "pool", f"pool-{hash_of(document.id) % POOL_SHARDS:02}.parquet"


def _write_shard(path: Path, documents: Sequence[Document]) -> int:
    """The size of the Parquet file that now stands at `path`."""
    table = pa.Table.from_pylist([document.row() for document in documents], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["source"], row_group_size=4096)
    content = sink.getvalue()
    publish(path, content)
    return int(content.size)


def publish(path: Path, content: bytes | pa.Buffer) -> None:
    """The file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)
