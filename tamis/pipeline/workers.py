"""Where tasks run: in this process, or on a Dask cluster. The only file that knows Dask."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from tamis.errors import SpecError, TamisError
from tamis.pipeline.gpus import gpus, take

RETRIES = 2
WINDOW_PER_WORKER = 4  # futures in flight per worker: enough to never starve one, few enough for the scheduler
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)


@dataclass(frozen=True)
class Task:
    """A function by reference and small arguments: paths and numbers, never documents."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    label: str
    gpu: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its value, or why it failed after its retries."""

    task: Task
    value: Any = None
    error: str | None = None
    details: str = ""


class Workers(Protocol):
    """A place to run tasks."""

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""
        ...

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """The outcomes of all tasks, in any order, with a bounded number of tasks in flight."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Serial:
    """Tasks one after the other in this process: for small corpora, tests and debuggers."""

    slots = 1

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        for task in tasks:
            yield self._attempt(task)

    def _attempt(self, task: Task) -> Outcome:
        for attempt in range(RETRIES + 1):
            try:
                return Outcome(task, task.function(*task.arguments))
            except Exception as error:  # noqa: BLE001 - the driver decides what a failed task means
                if isinstance(error, TamisError) or attempt == RETRIES:
                    return _failed(task, error, traceback.format_exc())
                time.sleep(0.1 * 2**attempt)
        raise AssertionError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


def _failed(task: Task, error: BaseException, details: str) -> Outcome:
    return Outcome(task, error=f"{type(error).__name__}: {error}", details=details)


class Dask:
    """Tasks on a Dask cluster: a LocalCluster, an existing scheduler, or any cluster class by import path.

    workers : processes of a LocalCluster; this machine's GPUs go to the first of them, one each.
    scheduler : address of a running scheduler.
    cluster, options : a class such as dask_jobqueue.SLURMCluster and its arguments.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        scheduler: str | None = None,
        cluster: str | None = None,
        options: Mapping[str, Any] | None = None,
        dashboard: bool = False,
    ) -> None:
        self._wanted = workers or os.cpu_count() or 1
        self._scheduler = scheduler
        self._cluster_class = cluster
        self._options = dict(options or {})
        self._dashboard = dashboard

    def __enter__(self) -> Self:
        import dask
        from distributed import Client

        dask.config.set({"distributed.nanny.pre-spawn-environ": {**ONE_THREAD, "PYTHONSAFEPATH": "1"}})
        self._cluster = None if self._scheduler else self._start()
        self._client = Client(self._scheduler or self._cluster, set_as_default=False)
        if self._cluster_class and "n_workers" not in self._options:
            self._cluster.scale(self._wanted)  # type: ignore[union-attr]
        return self

    def _start(self) -> Any:
        if self._cluster_class:
            return _cluster_class(self._cluster_class)(**self._options)
        from distributed import LocalCluster

        gpus()  # what is wrong with the environment is told here, and not by every worker
        return LocalCluster(
            n_workers=self._wanted,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787" if self._dashboard else "127.0.0.1:0",  # None would still take 8787
            scheduler_kwargs={"dashboard": self._dashboard},
            silence_logs=40,
            preload=[__name__],
            **self._options,
        )

    @property
    def slots(self) -> int:
        return max(1, sum(int(worker["nthreads"]) for worker in self._workers()))

    def _workers(self) -> list[Any]:
        return list(self._client.scheduler_info(n_workers=-1)["workers"].values())

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        from distributed import as_completed

        waiting: deque[Task] = deque()
        source = iter(tasks)
        in_flight: dict[Any, tuple[Task, int]] = {}
        gpus = self._has_gpu_workers()

        def submit(task: Task, attempt: int) -> Any:
            resources = {"GPU": 1} if task.gpu and gpus else None
            future = self._client.submit(
                task.function,
                *task.arguments,
                pure=False,
                resources=resources,
                key=f"{task.label}-{id(task)}-{attempt}-{time.monotonic_ns()}",
            )
            in_flight[future] = (task, attempt)
            return future

        completed = as_completed(loop=self._client.loop)
        window = WINDOW_PER_WORKER * self.slots
        while True:
            while (
                len(in_flight) < window and (task := waiting.popleft() if waiting else next(source, None)) is not None
            ):
                completed.add(submit(task, 0))
            if not in_flight:
                return
            future = next(completed)
            task, attempt = in_flight.pop(future)
            error = (
                future.exception() if future.status != "cancelled" else RuntimeError("the scheduler cancelled the task")
            )
            if error is None:
                yield Outcome(task, future.result())
            elif isinstance(error, TamisError) or attempt >= RETRIES or type(error).__name__ == "KilledWorker":
                details = "".join(traceback.format_exception(error))
                yield _failed(task, error, details)
            else:
                completed.add(submit(task, attempt + 1))
            future.release()

    def _has_gpu_workers(self) -> bool:
        return any(worker.get("resources", {}).get("GPU") for worker in self._workers())

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def dask_setup(worker: Any) -> None:
    """Dask calls this as a local worker starts, before it registers: it takes its GPU, if there is one for it.

    Ctrl-C is the driver's business alone, and so are the messages.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # heartbeats that fail while the driver leaves
    devices, number = gpus(), int(worker.name)
    if devices and take(devices, number):
        worker.state.total_resources["GPU"] = worker.state.available_resources["GPU"] = 1


def _cluster_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"cluster: expected the import path of a Dask cluster class, got {path!r} ({error}); "
            "write, for example, dask_jobqueue.SLURMCluster"
        ) from error
