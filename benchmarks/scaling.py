"""1 → 2 workers on the same pass, against what two independent processes reach together on this machine."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

from one_pass import prepared
from pool import need_shared, shards, table, text_bytes

SHARDS = 12
ROUNDS = 5


def main() -> None:
    need_shared()
    from tamis.pipeline.workers import Dask, Task

    paths = shards(SHARDS)
    size = text_bytes(paths)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run, wide, _ = prepared(Path(folder), paths)
        with Dask(1) as one, Dask(2) as two, multiprocessing.get_context("spawn").Pool(2) as independent:
            contenders = {
                "1 Dask worker": lambda: _dask(one, Task, run, wide, 1),
                "2 Dask workers": lambda: _dask(two, Task, run, wide, 1),
                "2 independent processes, half the shards each": lambda: _independent(independent, run, wide),
            }
            for work in contenders.values():
                work()
            seconds: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(ROUNDS):
                for name, work in contenders.items():
                    began = time.perf_counter()
                    work()
                    seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    names = list(medians)
    share = [c / b for b, c in zip(seconds[names[1]], seconds[names[2]], strict=True)]
    rows = [(name, medians[name], min(seconds[name]), max(seconds[name]), size / medians[name] / 1e6) for name in names]
    rows.append(("2 workers / 1 worker", medians[names[0]] / medians[names[1]], "", "", ""))
    rows.append(
        ("2 workers as a share of 2 independent processes", statistics.median(share), min(share), max(share), "")
    )
    table(f"scaling: the wide pass over {size / 1e6:.0f} MB of text", ("", "median s", "min", "max", "MB/s"), rows)


def _dask(workers, task, run, wide, each) -> None:
    from tamis.pipeline.passes import run_shards
    from tamis.pipeline.work import Failure

    path, jobs = wide
    tasks = (
        task(run_shards, (run, path, tuple(range(jobs)), tuple(range(n, n + each))), "scaling")
        for n in range(0, SHARDS, each)
    )
    for outcome in workers.run(tasks):
        assert outcome.error is None, outcome.error
        assert not any(isinstance(item, Failure) for item in outcome.value), outcome.value


def _half(run: str, wide: tuple[str, int], numbers: tuple[int, ...]) -> None:
    from tamis.pipeline.passes import run_shards

    path, jobs = wide
    for number in numbers:
        run_shards(run, path, tuple(range(jobs)), (number,))


def _independent(processes, run, wide) -> None:
    halves = [tuple(range(0, SHARDS, 2)), tuple(range(1, SHARDS, 2))]
    processes.starmap(_half, [(run, wide, numbers) for numbers in halves])


if __name__ == "__main__":
    main()
