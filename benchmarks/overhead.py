"""What the engine costs per shard: an empty component over 2,000 tiny shards on Dask; and memory against shards."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pool import peak_megabytes, table, write_spec

EMPTY = '''
from dataclasses import dataclass
import numpy as np
from tamis.scorers.base import Scorer


@dataclass(frozen=True)
class Nothing(Scorer):
    """A score of zero."""

    def score(self, batch):
        return np.zeros(len(batch), np.float32)
'''


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] or [500, 2000]
    rows = [(count, *_run(count)) for count in counts]
    table(
        "engine overhead: an empty scorer over tiny shards of 10 documents, 2 Dask workers",
        (
            "shards",
            "seconds, whole run",
            "ms per shard, whole run",
            "driver peak MB",
            "largest worker peak MB",
            "ms per shard, resume with nothing to do",
        ),
        rows,
    )


def _run(count: int) -> tuple[float, float, float, float, float]:
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.start import start
    from tamis.pipeline.workers import Dask, Task

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "pool").mkdir()
        (root / "own").mkdir()
        (root / "own" / "nothing.py").write_text(EMPTY)
        for number in range(count):
            ids = [f"{number}-{i}" for i in range(10)]
            pq.write_table(
                pa.table({"id": ids, "text": ["some words " * 5] * 10}), root / "pool" / f"{number:05d}.parquet"
            )
        path = write_spec(root / "stages.yaml", f"{root}/pool/*.parquet", "  - score: [nothing]\n", root / "run")
        path.write_text(f"components: {root}/own\n" + path.read_text())
        spec = load_spec(path)
        with Dask(2) as workers:
            list(workers.run([Task(_warm, (i,), "warm") for i in range(4)]))
            quiet = _Within(workers)
            began = time.perf_counter()
            start(spec, root / "run", quiet, Progress(quiet=True))
            seconds = time.perf_counter() - began
            began = time.perf_counter()
            start(spec, root / "run", quiet, Progress(quiet=True))
            again = time.perf_counter() - began
            peaks = [outcome.value for outcome in workers.run([Task(_peak, (i,), "peak") for i in range(8)])]
        assert json.loads((root / "run" / "run.json").read_text())["finished"]
    return seconds, 1000 * seconds / count, peak_megabytes(), max(peaks), 1000 * again / count


class _Within:
    """Workers that are already started and stay so."""

    def __init__(self, workers) -> None:
        self._workers = workers
        self.run = workers.run
        self.slots = workers.slots

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        return


def _warm(number: int) -> int:
    import tamis.pipeline.passes  # noqa: F401

    time.sleep(0.2)
    return number


def _peak(number: int) -> float:
    time.sleep(0.05)
    return peak_megabytes() + 0 * number


if __name__ == "__main__":
    main()
