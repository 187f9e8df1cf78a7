"""`tamis check`: the whole plan, played through on a few documents, so that what it prints is what will happen."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis import ingest
from tamis.corpus import Shard, publish, read_batches
from tamis.errors import ContractError, RunFailedError, SpecError
from tamis.pipeline.documents import Desk, Prepared, first_of, prepare
from tamis.pipeline.execute import Executor
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.passes import run_shards
from tamis.pipeline.plan import Job, Pass, Stage, Trains
from tamis.pipeline.program import ProgramSpec, Ref, digest_of
from tamis.pipeline.progress import Progress, human_bytes
from tamis.pipeline.run import Driver
from tamis.pipeline.spec import CorpusSpec, Spec
from tamis.pipeline.stages.verify import Verify
from tamis.pipeline.work import Failure, PassSpec
from tamis.pipeline.workers import Serial
from tamis.steps import Publish, Train

SAMPLE_BYTES = 2 << 20
SAMPLE_ROWS = 1000
TOLD = 8  # trainings of one stage in a row that are told one by one
TIMED = 3  # repetitions of a pass over the sample, the fastest counts
ROUGHLY = 2.0  # the whole corpus may have so many times the tokens that a sample of it lets expect


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
                in_place = ingest.is_parquet(first_of(corpus.paths))
                desk = Desk(survey, Serial(), ledger, corpus.shard_bytes, None if in_place else 1, digest=False)
                pool = prepare("pool", corpus.paths, corpus.fields, desk)
            except SpecError as error:
                raise spec.fail(corpus.line, f"corpus: {error}") from error
        read = 1.0 if in_place else _share_converted(pool, spec)
        sample = _sample(pool, read)
        small = _small_corpus(pool, sample, spec, root)
        programs = tuple(_scaled(program, sample.share) for program in spec.programs)
        rehearsed = replace(spec, corpus=small, programs=programs)
        driver = _Rehearsal(rehearsed, root / "run", sample.share)
        driver.drive()
        _check_pool(spec, sample, driver)
        return _told(spec, pool, driver, partial=read < 1)


def _scaled(program: ProgramSpec, share: float) -> ProgramSpec:
    """A select stage with a budget in proportion to the sample, so that it cuts as it will cut the corpus."""
    options = json.loads(program.options)
    budgets = {key: max(1, int(value * share)) for key, value in options.items() if key.startswith("budget_") and value}
    return replace(program, options=json.dumps({**options, **budgets}, sort_keys=True))


def _share_converted(pool: Prepared, spec: Spec) -> float:
    """The share of a corpus of JSON lines that its first shard is, as far as stored bytes tell."""
    chunks = ingest.plan(ingest.expand(spec.corpus.paths), spec.corpus.shard_bytes)
    in_shard = sum(shard.rows for shard in pool.shards) / max(1, pool.seen - pool.bad)
    return min(1.0, in_shard) / len(chunks)


@dataclass(frozen=True)
class _Sample:
    """The first documents of the corpus, under our column names, and their share of all of it."""

    documents: pa.RecordBatch
    share: float

    @property
    def bytes_in_all(self) -> float:
        """UTF-8 bytes of text to expect of the whole corpus."""
        text = self.documents.column("text").cast(pa.large_string())
        return int(pc.sum(pc.binary_length(text)).as_py() or 0) / self.share


def _sample(pool: Prepared, read: float) -> _Sample:
    """Documents of one shard. read : the share of the corpus that `pool` is."""
    shard = max(pool.shards[:8], key=lambda each: each.rows)
    columns = [name for name in pool.columns if name != "row"]
    rows = max(1, min(SAMPLE_ROWS, SAMPLE_BYTES * shard.rows // max(1, shard.bytes)))
    batch, _ = next(iter(read_batches(shard, pool.ref.fields, columns, rows)))
    share = read * batch.num_rows / max(1, sum(each.rows for each in pool.shards))
    return _Sample(batch, share or 1.0)


def _small_corpus(pool: Prepared, sample: _Sample, spec: Spec, root: Path) -> CorpusSpec:
    """A Parquet file with the documents of the sample, under the corpus' own column names."""
    fields = pool.ref.fields
    back = {"text": fields.text, "doc_id": fields.id, "source": fields.source}
    table = pa.Table.from_batches([sample.documents])
    pq.write_table(table.rename_columns([back.get(name, name) for name in table.column_names]), root / "sample.parquet")
    small = replace(spec.corpus, paths=(str(root / "sample.parquet"),), fields=fields, max_bad_fraction=1.0)
    return replace(small, on_bad_record="quarantine")


def _check_pool(spec: Spec, sample: _Sample, driver: _Rehearsal) -> None:
    """Raises SpecError for a stage that the whole corpus is too small for, whatever its `where:` leaves of it."""
    for program in spec.programs:
        built = program.build()
        if not isinstance(built, Verify):
            continue
        tokens = sample.bytes_in_all / driver.bytes_per_token
        if tokens * (ROUGHLY if sample.share < 1 else 1.0) < built.fewest_tokens:
            raise spec.fail(
                program.line,
                f"{program.label}: tokens: expected a pool of {built.fewest_tokens:,} tokens or more for subsets of "
                f"{built.tokens:,}, got about {tokens:,.0f}; lower `tokens:`",
            )


class _Rehearsal(Driver):
    """A driver whose executor pretends to train, and times the passes that read text. share : of the corpus."""

    def __init__(self, spec: Spec, run: Path, share: float) -> None:
        super().__init__(spec, run, Serial(), Progress(quiet=True))
        self.share = share
        self.told: list[tuple[str, str, float]] = []  # what, kind, seconds per byte of text
        self.bytes_per_token = float("nan")  # of the run's tokenizer, once there is one

    def executor(self) -> Executor:
        return _Pretender(self)

    def _publish(self, stage: Stage, found: Publish) -> None:
        """A sample says nothing about the corpus: what is found in it is not told, and stops nothing."""


class _Pretender(Executor):
    def __init__(self, rehearsal: _Rehearsal) -> None:
        super().__init__(rehearsal.run, rehearsal.workers, rehearsal.ledger, rehearsal.progress, rehearsal.pool.ref)
        self.pretends_on = rehearsal.share
        self._rehearsal, self._told = rehearsal, rehearsal.told

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
        for job in real:
            try:
                ((_, ref),) = super().train(Trains((job,)), shards)
            except RunFailedError as error:
                raise self._rehearsal.spec.fail(job.work.program.line, str(error)) from error
            result = json.loads((self.run / ref.path / "result.json").read_text(encoding="utf-8"))
            self._say(job, result)
            self._rehearsal.bytes_per_token = result.get("bytes_per_token", self._rehearsal.bytes_per_token)
            yield job, ref

    def _failed(self, failures: Sequence[Failure]) -> RunFailedError:
        """What failed, without the folder that goes with the rehearsal; a promise that was broken says where itself."""
        first = failures[0]
        said = first.error.removeprefix(f"{ContractError.__name__}: ")
        return RunFailedError(said if said != first.error else f"{first.label}: {first.error}")

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
    part = " (the first shard of JSON lines; what is said of passes is for it alone)" if partial else ""
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
