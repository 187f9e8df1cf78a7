"""JSON lines into Parquet shards, one core: plain, gzip, zstd; MB/s of text."""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import zstandard
from pool import need_shared, shards, spread, table

ROUNDS = 3


def main() -> None:
    need_shared()
    from tamis.ingest import convert, count_lines, expand, numbered, plan

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows, lines = [], []
        for path in shards(4):
            for row in pq.read_table(path, columns=["id", "text", "source", "url"]).to_pylist():
                lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        plain = b"".join(lines)
        text = sum(len(json.loads(line)["text"].encode()) for line in lines)
        (root / "a.jsonl").write_bytes(plain)
        (root / "b.jsonl.gz").write_bytes(gzip.compress(plain, 6))
        (root / "c.jsonl.zst").write_bytes(zstandard.compress(plain, 3))
        for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
            seconds = []
            for turn in range(ROUNDS):
                began = time.process_time()
                chunks = plan(expand([str(root / name)]), 64 << 20)
                chunks = numbered(chunks, [count_lines(chunk) for chunk in chunks if chunk.is_split])
                for number, chunk in enumerate(chunks):
                    convert(chunk, root / f"out-{name}-{turn}", str(number), target_bytes=64 << 20)
                seconds.append(time.process_time() - began)
            rows.append((name, spread(seconds), text / min(seconds) / 1e6))
    table(
        f"ingest of {text / 1e6:.0f} MB of text as JSON lines, one core (process time)",
        ("", "seconds", "MB/s of text"),
        rows,
    )


if __name__ == "__main__":
    main()
