"""Starting a run from Python or the command line: where it goes, and who works on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.pipeline.progress import Progress
from tamis.pipeline.run import Driver
from tamis.pipeline.spec import Spec
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
