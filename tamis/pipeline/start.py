"""Starting a run from Python or the command line: where it goes, and who works on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.pipeline.progress import Progress
from tamis.pipeline.run import Driver
from tamis.pipeline.spec import Spec, load_spec
from tamis.pipeline.workers import Dask, Serial, Workers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def workers_for(
    workers: int | None = None,
    scheduler: str | None = None,
    cluster: str | None = None,
    cluster_options: Mapping[str, Any] | None = None,
    *,
    serial: bool = False,
    dashboard: bool = False,
) -> Workers:
    """This process for `serial` (or a machine with one core), a Dask cluster otherwise."""
    wanted = workers or os.cpu_count() or 1
    if serial or (wanted == 1 and not scheduler and not cluster):
        return Serial()
    return Dask(workers, scheduler=scheduler, cluster=cluster, options=cluster_options, dashboard=dashboard)


def start(
    spec: Spec,
    out: Path,
    workers: Workers,
    progress: Progress,
    *,
    limit: int | None = None,
    redo: Sequence[str] = (),
    accept_code: bool = False,
) -> None:
    """Runs or resumes a specification in a folder."""
    with workers:
        Driver(spec, out, workers, progress, limit=limit, redo=redo, accept_code=accept_code).drive()


def run(
    stages: str | Path,
    out: str | Path | None = None,
    *,
    limit: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    serial: bool = False,
    quiet: bool = False,
) -> Any:
    """Runs or resumes a stages.yaml; the finished run, opened.

    Raises SpecError for an invalid file and RunFailedError when some work failed; what is done is kept.
    """
    from tamis.audit.reader import open_run

    spec = load_spec(stages)
    folder = Path(out) if out else spec.out
    start(spec, folder, workers_for(workers, scheduler, serial=serial), Progress(quiet=quiet), limit=limit)
    return open_run(folder)
