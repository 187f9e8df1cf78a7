"""The driver: opens the corpus, advances every program, and does what the plan says until all have finished."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tamis import __version__
from tamis.corpus import Fields, publish
from tamis.errors import ContractError, LedgerError, RunFailedError, SpecError, TamisError
from tamis.families import named_documents
from tamis.pipeline.books import arm_books, balance, check_budget
from tamis.pipeline.columns import check_columns
from tamis.pipeline.documents import Desk, Prepared, prepare
from tamis.pipeline.execute import Executor
from tamis.pipeline.interrupts import Interrupts
from tamis.pipeline.layout import beside_file
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.plan import Pass, Plan, Source, Stage, Trains
from tamis.pipeline.program import LiveProgram, ProgramSpec, digest_of, documents_key
from tamis.pipeline.progress import Progress, human_bytes
from tamis.pipeline.spec import Spec
from tamis.pipeline.workers import Task, Workers
from tamis.steps import Documents, Map, Publish

PACKAGES = ("numpy", "pyarrow", "numba", "dask", "distributed", "duckdb", "torch", "transformers", "tokenizers")


class Driver:
    """Runs a specification in a run directory. `drive` returns when every program has finished.

    limit : only the first shards. redo : names of stages whose results are made again.
    accept_code : results stay although the code behind them changed.
    """

    def __init__(
        self,
        spec: Spec,
        run: Path,
        workers: Workers,
        progress: Progress,
        *,
        limit: int | None = None,
        redo: Sequence[str] = (),
        accept_code: bool = False,
    ) -> None:
        self.spec, self.run, self.workers, self.progress = spec, run, workers, progress
        self._limit, self._redo, self._accept_code = limit, frozenset(redo), accept_code
        unknown = self._redo - {program.name for program in spec.programs}
        if unknown:
            names = ", ".join(program.name for program in spec.programs)
            raise SpecError(f"--redo: expected one of {names}, got {', '.join(sorted(unknown))}")

    def drive(self) -> None:
        """Prepares the corpus, then runs pass after pass. Raises RunFailedError naming what failed or was refused."""
        probe(self.run, self.workers)
        with Interrupts() as interrupts, Ledger(self.run, write=True) as self.ledger:
            self._open()
            executor = self.executor()
            self._advance()
            while (work := self.plan.next()) is not None:
                interrupts.check()
                self._do(work, executor)
                self._advance()
                self._save_catalog()
            for stage in self.plan.stages:
                if stage.finished:
                    self.ledger.redo_done(stage.base_key)
            unfinished = [stage for stage in self.plan.stages if not stage.finished]
            self._save_catalog(arms=self._arms(), finished=not unfinished)
            if unfinished:
                raise _unfinished(unfinished)

    def executor(self) -> Executor:
        return Executor(self.run, self.workers, self.ledger, self.progress, self.pool.ref)

    def _do(self, work: Pass | Trains, executor: Executor) -> None:
        if isinstance(work, Trains):
            for job, ref in executor.train(work, self.pool.shards):
                job.stage.model = job.stage.done[job.index] = ref
            return
        executor.read(work)
        rows = sum(shard.rows for shard in work.shards)
        for job in work.jobs:
            quarantined, unusable = balance(self.ledger, job.work, work.shards)
            check_budget(self.spec.corpus, job.work.label, quarantined + unusable, rows, self.run)
            if work.over_pool:
                job.stage.keys.append(job.work.key)
                job.stage.failed += [job.work.key] if quarantined else []
            if job.work.kind == "fold":
                job.stage.done[job.index] = executor.merged(
                    job.work, work.shards, frozen=job.stage.spec.frozen and not self._limit
                )
            elif job.work.kind == "exchange":
                job.stage.done[job.index] = executor.decided(job.work, work.shards)
            else:
                self.plan.add_columns(job)
                if isinstance(job.step, Map) and job.step.findings:
                    self._publish(job.stage, job.step.findings)

    def _advance(self) -> None:
        """Sends results to every program whose steps are all done; concludes those that return no map."""
        for stage in self.plan.stages:
            if stage.refusal is None:
                self._send(stage)
            returned = stage.live.position.returned
            if stage.live.position.finished and not isinstance(returned, Map) and not stage.finished:
                if isinstance(returned, Publish):
                    self._publish(stage, returned)
                stage.finished = True

    def _send(self, stage: Stage) -> None:
        """Sends a program its results; what one refuses to do stops no other."""
        self.plan.resolve_uses(stage)
        try:
            while not stage.live.position.finished and len(stage.done) == len(stage.live.position.steps):
                stage.live.send(tuple(ref for _, ref in sorted(stage.done.items())))
                stage.done = {}
                self.plan.resolve_uses(stage)
        except RunFailedError as error:
            stage.refusal = str(error)
            self.progress.line(f"{stage.spec.label}: refused; what does not need it goes on")

    def _publish(self, stage: Stage, found: Publish) -> None:
        """Writes what a program found out. Raises RunFailedError if it found that the run should not go on."""
        publish(self.run / found.file, json.dumps(found.content, indent=1, sort_keys=True).encode())
        for line in found.lines:
            self.progress.line(f"{stage.spec.name}: {line}")
        if found.problem:
            raise RunFailedError(f"{stage.spec.label}: {found.problem}")

    # ---- opening ----

    def _open(self) -> None:
        """Surveys the corpus and everything beside it, checks the columns, and starts the programs."""
        corpus = self.spec.corpus
        try:
            self.pool = self._prepare("pool", "corpus", corpus.paths, corpus.fields, self._limit)
        except SpecError as error:
            raise self.spec.fail(corpus.line, f"corpus: {error}") from error
        if self.pool.bad:
            self.progress.line(
                f"quarantine: {self.pool.bad:,} of {self.pool.seen:,} records; see {self.run / 'quarantine'}"
            )
        check_budget(corpus, "the corpus", self.pool.bad, self.pool.seen, self.run)
        self.types = check_columns(self.spec, self.pool.columns)
        publish(self.run / "stages.yaml", self.spec.text.encode())
        beside = self._beside()
        contents = {key: prepared.ref.digest for key, prepared in beside.items()}
        stages = [Stage(LiveProgram(program, self.run), program.key(contents)) for program in self.spec.programs]
        for stage in stages:
            self._check_code(stage)
        sources = {key: Source(prepared.ref, prepared.shards) for key, prepared in beside.items()}
        self.plan = Plan(stages, Source(self.pool.ref, self.pool.shards), sources, tuple(self.pool.columns))
        documents, size = sum(s.rows for s in self.pool.shards), sum(s.bytes for s in self.pool.shards)
        self.progress.line(f"corpus: {documents:,} documents in {len(self.pool.shards)} shards, {human_bytes(size)}")
        for program in self.spec.programs:
            for note in program.build().notes():
                self.progress.line(f"{program.name}: {note}")

    def _prepare(
        self, name: str, label: str, paths: Sequence[str], fields: Fields, limit: int | None = None
    ) -> Prepared:
        desk = Desk(self.run, self.workers, self.ledger, self.spec.corpus.shard_bytes, limit)
        prepared = prepare(name, paths, fields, desk)
        for note in prepared.notes:
            self.progress.line(f"{label}: {note}")
        return prepared

    def _beside(self) -> dict[str, Prepared]:
        """Targets, evaluation sets: every set of documents that an option names, surveyed once."""
        named: dict[str, tuple[Documents, str, ProgramSpec]] = {}
        for program in self.spec.programs:
            for option, documents in named_documents(program.build()):
                named.setdefault(documents_key(documents), (documents, f"{program.label}: {option}", program))
        prepared = {}
        for key, (documents, label, program) in named.items():
            if not documents.paths:
                raise self.spec.fail(program.line, f"{label}: expected a path to documents, got none")
            fields = Fields(documents.text, documents.id)
            try:
                found = self._prepare(f"beside-{key[:8]}", label, documents.paths, fields)
            except TamisError as error:
                raise self.spec.fail(program.line, f"{label}: {error}") from error
            check_budget(self.spec.corpus, f"{label}: {documents.paths[0]}", found.bad, found.seen, self.run)
            publish(self.run / beside_file(key), json.dumps(found.ref.to_json()).encode())
            prepared[key] = found
        return prepared

    def _check_code(self, stage: Stage) -> None:
        """Results of one version come from one code, or the user says which to believe. Raises LedgerError."""
        spec, code = stage.spec, stage.spec.code()
        version = spec.build().version
        stage.base_key = stage.key
        known = self.ledger.codes.get(stage.key)
        redone = spec.name in self._redo
        if known and known["code"] != code and not (redone or self._accept_code):
            raise LedgerError(
                f"{spec.label}: its code changed since its results were made, its version ({version}) did not; "
                f"--redo {spec.name} makes them again, --accept-code keeps them (the change does not alter results)"
            )
        if redone:
            self.ledger.redo(stage.key)
        if known is None or known["code"] != code:
            self.ledger.record_code(stage.key, version, code)
        if times := self.ledger.redone.get(stage.key):
            stage.key = digest_of(stage.key, times)

    # ---- closing ----

    def _arms(self) -> dict[str, Any]:
        arms = [stage for stage in self.plan.stages if stage.spec.verb == "select" and stage.finished]
        return {
            name: arm_books(self.run, self.plan.columns[f"{name}_repeats"], name, self.pool.shards)
            for name in (stage.spec.name for stage in arms)
        }

    def _save_catalog(self, *, arms: dict[str, Any] | None = None, finished: bool = False) -> None:
        """run.json: which layer holds which column, for everything that reads a run."""
        stages = [
            {
                "verb": stage.spec.verb,
                "component": stage.spec.component,
                "name": stage.spec.name,
                "options": json.loads(stage.spec.options),
                "where": stage.spec.where,
                "line": stage.spec.line,
                "keys": stage.keys,
                "model": stage.model.path if stage.model else None,
                "finished": stage.finished,
                "refusal": stage.refusal,
            }
            for stage in self.plan.stages
        ]
        columns = {
            column: {"layer": folder, "type": str(self.types.get(column, ""))}
            for column, folder in self.plan.columns.items()
        }
        catalog = {
            "format": 1,
            "versions": versions(),
            "seed": self.spec.seed,
            "finished": finished,
            "corpus": self.pool.ref.to_json(),
            "columns": columns,
            "stages": stages,
            "arms": arms or {},
            "ingest": {"bad": self.pool.bad, "seen": self.pool.seen, "problems": self.pool.problems[:100]},
        }
        publish(self.run / "run.json", json.dumps(catalog, indent=1).encode())


def _unfinished(stages: Sequence[Stage]) -> TamisError:
    """Why a run ends before all of it is done: what was refused, or stages that wait for what nothing makes."""
    refusals = [stage.refusal for stage in stages if stage.refusal]
    waiting = ", ".join(stage.spec.label for stage in stages if not stage.refusal)
    if refusals:
        return RunFailedError("\n".join([*refusals, *([f"{waiting}: not done for want of that"] if waiting else [])]))
    return ContractError(f"{waiting}: wait for columns that nothing makes; check what their steps read")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What the results were made with: Python, tamis, and the packages that touch them."""
    found = {"python": platform.python_version(), "tamis": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def probe(run: Path, workers: Workers) -> None:
    """Checks that every worker sees the run's folder. Raises ContractError if one does not."""
    run.mkdir(parents=True, exist_ok=True)
    token = os.urandom(8).hex()
    path = run / f".probe-{token}"
    publish(path, token.encode())
    for outcome in workers.run(Task(_read_probe, (str(path),), f"probe {i}") for i in range(workers.slots)):
        if outcome.value != token:
            raise ContractError(
                f"{run}: expected a folder that all workers see, a worker read {outcome.value or outcome.error!r}; "
                "use a shared file system"
            )
    path.unlink(missing_ok=True)


def _read_probe(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
