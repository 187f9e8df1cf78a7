"""What the benchmarks of near-duplicates share: the setting, a run's files, and the kernels timed on text in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

T = TypeVar("T")
BANDS, ROWS, NGRAM = 14, 8, 5
STAGES = f"  - deduplicate: {{by: {{minhash: {{bands: {BANDS}, rows_per_band: {ROWS}, ngram: {NGRAM}}}}}}}\n"


def spec_of(folder: Path, shards: Path) -> Path:
    """A stages.yaml in a new folder, over the shards of another."""
    folder.mkdir(parents=True)
    path = folder / "stages.yaml"
    path.write_text(f"corpus: {{paths: '{shards}/*.parquet'}}\nout: {folder}/run\nseed: 17\nstages:\n{STAGES}")
    return path


def decisions_of(run: Path) -> pa.Table:
    """The documents of a finished run, with their clusters."""
    import tamis

    return tamis.open_run(run).table(["doc_id", "minhash_duplicate", "minhash_cluster"])


def on_core(core: int, work: Callable[[], T]) -> T:
    """What `work` returns, run in this process on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [core])
    try:
        return work()
    finally:
        os.sched_setaffinity(0, allowed)


def kernel_seconds(paths: list[str]) -> tuple[float, float]:
    """Seconds from text to hashed words, and from those to band keys; reading is left out."""
    from tamis.kernels.arrow import text_of
    from tamis.kernels.minhash import band_keys
    from tamis.kernels.wordhash import hash_words

    band_keys(hash_words(text_of(pa.array(["to compile"]))), NGRAM, BANDS, ROWS)
    hashing = keys = 0.0
    for column in _batches(paths):
        began = time.perf_counter()
        words = hash_words(text_of(column))
        between = time.perf_counter()
        band_keys(words, NGRAM, BANDS, ROWS)
        hashing += between - began
        keys += time.perf_counter() - between
    return hashing, keys


def _batches(paths: list[str]) -> Iterator[pa.Array]:
    """The text as a run reads it, batch by batch."""
    from tamis.corpus import Fields, read_batches, survey

    for path in paths:
        for shard in survey(path, path, Fields(), 256 << 20, digest=False).shards:
            for batch, _ in read_batches(shard, Fields(), ["text"]):
                yield batch["text"]
