"""`tamis check`: the whole plan, played through on a few documents, so that what it prints is what will happen."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.corpus import Shard, publish, read_batches
from tamis.errors import SpecError
from tamis.ingest import is_parquet
from tamis.pipeline.documents import Desk, Prepared, first_of, prepare
from tamis.pipeline.execute import Executor
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.passes import run_shards
from tamis.pipeline.plan import Job, Pass, Stage, Trains
from tamis.pipeline.program import ProgramSpec, Ref, digest_of
from tamis.pipeline.progress import Progress, human_bytes
from tamis.pipeline.run import Driver
from tamis.pipeline.spec import CorpusSpec, Spec
from tamis.pipeline.work import PassSpec
from tamis.pipeline.workers import Serial
from tamis.steps import Publish, Train

SAMPLE_BYTES = 2 << 20
SAMPLE_ROWS = 1000
TOLD = 8  # trainings of one stage in a row that are told one by one
TIMED = 3  # repetitions of a pass over the sample, the fastest counts


def rehearse(spec: Spec) -> str:
    """Validates a specification and tells its columns, passes, bytes and seconds per core.

    Every step runs for real on up to 1,000 documents of the first shard, in a temporary folder; nothing is trained.
    """
    with tempfile.TemporaryDirectory(prefix="tamis-check-") as folder:
        root = Path(folder)
        survey = root / "survey"
        with Ledger(survey, write=True) as ledger:
            corpus = spec.corpus
            try:
                in_place = is_parquet(first_of(corpus.paths))
                desk = Desk(survey, Serial(), ledger, corpus.shard_bytes, None if in_place else 1, digest=False)
                pool = prepare("pool", corpus.paths, corpus.fields, desk)
            except SpecError as error:
                raise spec.fail(corpus.line, f"corpus: {error}") from error
        small, share = _small_corpus(pool, spec, root)
        programs = tuple(_scaled(program, share) for program in spec.programs)
        rehearsed = replace(spec, corpus=small, programs=programs)
        driver = _Rehearsal(rehearsed, root / "run", Serial(), Progress(quiet=True))
        driver.drive()
        return _told(spec, pool, driver, partial=not in_place)


def _scaled(program: ProgramSpec, share: float) -> ProgramSpec:
    """A select stage with a budget in proportion to the sample, so that it cuts as it will cut the corpus."""
    options = json.loads(program.options)
    budgets = {key: max(1, int(value * share)) for key, value in options.items() if key.startswith("budget_") and value}
    return replace(program, options=json.dumps({**options, **budgets}, sort_keys=True))


def _small_corpus(pool: Prepared, spec: Spec, root: Path) -> tuple[CorpusSpec, float]:
    """A Parquet file with the first documents of the corpus, under its own column names; their share of all bytes."""
    shard = max(pool.shards[:8], key=lambda each: each.rows)
    columns = [name for name in pool.columns if name != "row"]
    rows = max(1, min(SAMPLE_ROWS, SAMPLE_BYTES * shard.rows // max(1, shard.bytes)))
    batch, _ = next(iter(read_batches(shard, pool.ref.fields, columns, rows)))
    fields = pool.ref.fields
    back = {"text": fields.text, "doc_id": fields.id, "source": fields.source}
    table = pa.Table.from_batches([batch]).rename_columns([back.get(name, name) for name in columns])
    pq.write_table(table, root / "sample.parquet")
    share = batch.num_rows / max(1, sum(each.rows for each in pool.shards))
    small = replace(spec.corpus, paths=(str(root / "sample.parquet"),), fields=fields, max_bad_fraction=1.0)
    return replace(small, on_bad_record="quarantine"), share


class _Rehearsal(Driver):
    """A driver whose executor pretends to train, and times the passes that read text."""

    def executor(self) -> Executor:
        self.told: list[tuple[str, str, float]] = []  # what, kind, seconds per byte of text
        return _Pretender(self.run, self.workers, self.ledger, self.progress, self.pool.ref, self.told)

    def _publish(self, stage: Stage, found: Publish) -> None:
        """A sample says nothing about the corpus: what is found in it is not told, and stops nothing."""


class _Pretender(Executor):
    pretends = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments[:-1])
        self._told: list[tuple[str, str, float]] = arguments[-1]

    def read(self, work: Pass) -> None:
        super().read(work)
        kind = "beside" if not work.over_pool else "text" if work.text else "columns"
        self._told.append((work.label, kind, self._seconds_per_byte(work) if kind == "text" else 0.0))

    def _seconds_per_byte(self, work: Pass) -> float:
        path = PassSpec(work.corpus, tuple(job.work for job in work.jobs)).save(self.run)
        numbers = tuple(shard.number for shard in work.shards)
        best = float("inf")
        for _ in range(TIMED):
            began = time.perf_counter()
            run_shards(str(self.run), path, tuple(range(len(work.jobs))), numbers)
            best = min(best, time.perf_counter() - began)
        return best / max(1, sum(shard.bytes for shard in work.shards))

    def train(self, work: Trains, shards: Sequence[Shard]) -> Iterator[tuple[Job, Ref]]:
        real = []
        for job in work.jobs:
            step = job.step
            assert isinstance(step, Train)
            if isinstance(step.pretend, Mapping):
                publish(self.run / job.work.folder / "result.json", json.dumps(dict(step.pretend)).encode())
                self._say(job, step.pretend)
                yield job, Ref("train", job.work.folder, digest_of(step.pretend))
            else:
                real.append(job)
        if real:
            for job, ref in super().train(Trains(tuple(real)), shards):
                self._say(job, json.loads((self.run / ref.path / "result.json").read_text(encoding="utf-8")))
                yield job, ref

    def _say(self, job: Job, result: Mapping[str, Any]) -> None:
        assert isinstance(job.step, Train)
        self._told.append((f"{job.stage.spec.name}: {job.step.label}", "train", float(result.get("_seconds", 0.0))))


def _gathered(told: Sequence[tuple[str, str, float]]) -> Iterator[tuple[str, str, float, int]]:
    """What is told, and how often in a row: equal passes that read no text of the pool, many trainings of one stage."""
    for (stage, kind), entries in groupby(told, key=lambda entry: (entry[0].split(":")[0], entry[1])):
        same = list(entries)
        if kind in ("columns", "beside"):
            yield stage, kind, 0.0, len(same)
            continue
        if kind != "train" or len(same) <= TOLD:
            yield from ((*each, 1) for each in same)
            continue
        first, last = (each[0].removeprefix(f"{stage}: ") for each in (same[0], same[-1]))
        yield f"{stage}: {len(same)} steps, {first} to {last}", kind, sum(cost for _, _, cost in same), 1


def _told(spec: Spec, pool: Prepared, driver: _Rehearsal, *, partial: bool) -> str:
    """Partial : the pool is only a first part of the corpus, because the rest is not converted yet."""
    rows, size = sum(shard.rows for shard in pool.shards), sum(shard.bytes for shard in pool.shards)
    corpus = f"{rows:,} documents in {len(pool.shards)} shards, {human_bytes(size)}"
    part = " (the first shard of JSON lines; the figures below are for it alone)" if partial else ""
    lines = [f"{spec.file}: {len(spec.programs)} programs over {corpus}{part}", *pool.notes, "", "columns"]
    columns = [
        (name, kind, each.label) for each in spec.programs for name, kind in each.build().columns(each.name).items()
    ]
    width = 2 + max((len(name) for name, _, _ in columns), default=0)
    lines += [f"  {name:<{width}}{kind!s:<38}{label}" for name, kind, label in columns]
    notes = [f"  {program.name}: {note}" for program in spec.programs for note in program.build().notes()]
    lines += ["", "settings", *notes] if notes else []
    lines += ["", "passes"]
    total = 0.0
    training = 0.0
    number = 1
    for label, kind, cost, times in _gathered(driver.told):
        seconds = cost * size if kind != "train" else 0.0
        total += seconds
        training += cost if kind == "train" else 0.0
        read = {
            "text": f"{human_bytes(size)} of text, about {seconds:,.1f} core-seconds",
            "columns": "columns only",
            "beside": "targets",
            "train": f"training, about {cost:,.0f} core-seconds" if cost else "training",
        }[kind]
        lines.append(f"  {number:>2}  {label}: {read}{f', {times} times' if times > 1 else ''}")
        number += times
    readings = sum(kind == "text" for _, kind, _ in driver.told)
    said = "once" if readings == 1 else f"{readings} times"
    besides = f", and about {training:,.0f} of training" if training else ", training aside"
    return "\n".join([*lines, "", f"the text is read {said}, about {total:,.0f} core-seconds in all{besides}"])
