"""A run from Python: started or resumed, and opened for reading."""

from __future__ import annotations

from pathlib import Path

from tamis.audit.reader import Run, open_run
from tamis.pipeline.progress import Progress
from tamis.pipeline.spec import load_spec
from tamis.pipeline.start import start, workers_for


def run(
    stages: str | Path,
    out: str | Path | None = None,
    *,
    limit: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    serial: bool = False,
    quiet: bool = False,
) -> Run:
    """Runs or resumes a stages.yaml; the finished run, opened.

    Raises SpecError for an invalid file and RunFailedError when some work failed; what is done is kept.
    """
    spec = load_spec(stages)
    folder = Path(out) if out else spec.out
    start(spec, folder, workers_for(workers, scheduler, serial=serial), Progress(quiet=quiet), limit=limit)
    return open_run(folder)
