"""One reading of the text for five components, against plainly reading the same Parquet column. One core."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from pool import TARGETS, need_shared, peak_megabytes, shards, side_by_side, spread, table, text_bytes, write_spec

STAGES = f"""
  - embed: {{by: hashed_ngrams}}
  - deduplicate: {{by: exact}}
  - score: [length, repetition, importance: {{target: {TARGETS}/health_qa-train.parquet}}]
"""
SHARDS = 4


def main() -> None:
    need_shared()
    from tamis.pipeline.passes import run_shards
    from tamis.pipeline.work import Failure

    paths = shards(SHARDS)
    size = text_bytes(paths)
    with tempfile.TemporaryDirectory() as folder:
        run, wide, narrow = prepared(Path(folder), paths)

        def read() -> None:
            for path in paths:
                for _ in pq.ParquetFile(path).iter_batches(columns=["text"], batch_size=8192, use_threads=False):
                    pass

        def work(path: str, jobs: int) -> None:
            for result in run_shards(run, path, tuple(range(jobs)), tuple(range(SHARDS))):
                assert not isinstance(result, Failure), result

        scored = with_scores(run, wide[0], narrow[0])
        work(*wide)
        work(*scored)
        seconds = side_by_side(
            {
                "plain read of the text column": read,
                "one pass: census, length, repetition, importance fit, hashed_ngrams, exact keys": lambda: work(*wide),
                "one pass: the same with importance scored instead, fitted before": lambda: work(*scored),
                "importance score": lambda: work(*narrow),
            },
            rounds=5,
        )
    fastest = {name: size / min(times) / 1e6 for name, times in seconds.items()}
    both = size / (min(seconds[list(seconds)[1]]) + min(seconds["importance score"])) / 1e6
    rows = [(name, spread(times), fastest[name]) for name, times in seconds.items()]
    rows.append(("everything: the pass, and importance scored in a second reading", "", both))
    rows.append(("peak memory of this process, MB", "", peak_megabytes()))
    table(f"one pass over {size / 1e6:.0f} MB of text, one core, layers written", ("", "seconds", "MB/s"), rows)


def with_scores(run: str, wide: str, narrow: str) -> tuple[str, int]:
    """The wide pass with importance's map in the place of its fold."""
    from tamis.pipeline.work import PassSpec, load_pass

    first, second = load_pass(f"{run}/{wide}"), load_pass(f"{run}/{narrow}")
    kept = [work for work in first.works if work.program.name != "importance"]
    works = (*kept, *(work for work in second.works if work.program.name == "importance"))
    return PassSpec(first.corpus, works).save(Path(run)), len(works)


def prepared(root: Path, paths: list[str]) -> tuple[str, tuple[str, int], tuple[str, int]]:
    """A finished run, and its two passes that read the pool's text: (path, number of jobs) each."""
    from tamis.pipeline.execute import Executor
    from tamis.pipeline.plan import Pass
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.run import Driver
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.work import PassSpec
    from tamis.pipeline.workers import Serial

    (root / "pool").mkdir()
    for path in paths:
        (root / "pool" / Path(path).name).symlink_to(path)
    text_passes: list[tuple[str, int]] = []

    class Noting(Executor):
        def read(self, work: Pass) -> None:
            super().read(work)
            if work.text and work.over_pool:
                spec = PassSpec(work.corpus, tuple(job.work for job in work.jobs))
                text_passes.append((spec.save(self.run), len(work.jobs)))

    class NotingDriver(Driver):
        def executor(self) -> Executor:
            return Noting(self.run, self.workers, self.ledger, self.progress, self.pool.ref)

    spec = load_spec(write_spec(root / "stages.yaml", f"{root}/pool/*.parquet", STAGES, root / "run"))
    with Serial() as workers:
        NotingDriver(spec, root / "run", workers, Progress(quiet=True)).drive()
    wide, narrow = text_passes
    return str(root / "run"), wide, narrow


if __name__ == "__main__":
    main()
