"""Peak memory of a worker against the number of shards, on the wide pass: it must not grow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from one_pass import STAGES
from overhead import _peak, _Within
from pool import need_shared, peak_megabytes, shards, table, text_bytes, write_spec

COPIES = (1, 4)


def main() -> None:
    need_shared()
    rows = []
    for copies in COPIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_run(Path(folder), copies))
    table(
        "peak memory: five components, 1 Dask worker, the pool once and four times over",
        ("shards", "MB of text", "largest worker peak MB", "driver peak MB"),
        rows,
    )


def _run(root: Path, copies: int) -> tuple[int, float, float, float]:
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.start import start
    from tamis.pipeline.workers import Dask, Task

    paths = shards(12)
    (root / "pool").mkdir()
    for copy in range(copies):
        for path in paths:
            (root / "pool" / f"{copy}-{Path(path).name}").symlink_to(path)
    spec = load_spec(write_spec(root / "stages.yaml", f"{root}/pool/*.parquet", STAGES, root / "run"))
    with Dask(1) as workers:
        start(spec, root / "run", _Within(workers), Progress(quiet=True))
        (outcome,) = workers.run([Task(_peak, (0,), "peak")])
    return len(paths) * copies, copies * text_bytes(paths) / 1e6, outcome.value, peak_megabytes()


if __name__ == "__main__":
    main()
