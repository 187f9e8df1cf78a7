"""The driver: advances every program, reads the corpus once for all steps that are ready, keeps the books."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tamis.corpus import Shard, layer_file, publish
from tamis.errors import ContractError, LedgerError, TamisError
from tamis.expressions import Expression
from tamis.families import documents_in
from tamis.pipeline.documents import Prepared, prepare
from tamis.pipeline.exchange import partitions_for
from tamis.pipeline.folds import GROUP_SHARDS
from tamis.pipeline.gather import decide_files, merge_summaries
from tamis.pipeline.layout import CorpusRef, decided_file, emitted_file, exchange_folder, fold_folder, layer_folder, model_folder, summary_file
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.passes import QUARANTINE, Failure, PassSpec, Receipt, Work, run_shards
from tamis.pipeline.progress import Progress, human_bytes
from tamis.pipeline.program import LiveProgram, ProgramSpec, Ref, digest_of, documents_key
from tamis.pipeline.spec import Spec, check_columns
from tamis.pipeline.training import run_train
from tamis.pipeline.workers import Outcome, Task, Workers
from tamis.steps import Documents, Exchange, Fold, Map, Publish, Step, Train, Use

TASK_BYTES = 32 << 20  # small shards are packed into one task up to this much reading
TASK_SHARDS = 64
NARROW_ROW_BYTES = 64  # rough cost of a document in a pass that does not read its text
TASKS_PER_SLOT = 4
FAMILIES_THAT_FAIL = ("embed", "deduplicate", "score")  # what they fail on is `quarantined` for the stages after them


class RunFailedError(TamisError):
    """Some work failed after its retries; everything else is done and kept."""


@dataclass
class Stage:
    """A program in this run: where it stands, and the keys of what it has done."""

    live: LiveProgram
    key: str
    done: dict[int, Ref] = field(default_factory=dict)  # results of the steps that it waits for now
    keys: list[str] = field(default_factory=list)  # of all its works over the pool
    model: Ref | None = None  # what its last Train step made
    finished: bool = False

    @property
    def spec(self) -> ProgramSpec:
        return self.live.spec

    def pending(self) -> Iterator[tuple[int, Step | Map]]:
        position = self.live.position
        if position.finished:
            if isinstance(position.returned, Map) and not self.finished:
                yield -1, position.returned
        else:
            yield from ((index, step) for index, step in enumerate(position.steps) if index not in self.done)


@dataclass(frozen=True)
class Pass:
    """Steps that read one corpus together. text: whether they read the documents' text."""

    corpus: CorpusRef
    shards: tuple[Shard, ...]
    works: tuple[tuple[Stage, int, Work], ...]
    text: bool

    @property
    def label(self) -> str:
        return ", ".join(dict.fromkeys(stage.spec.name for stage, _, _ in self.works))

    @property
    def bytes(self) -> int:
        return sum(shard.bytes if self.text else shard.rows * NARROW_ROW_BYTES for shard in self.shards)


class Driver:
    """Runs a specification in a run directory. `drive` returns when every program has finished."""

    def __init__(self, spec: Spec, run: Path, workers: Workers, progress: Progress, *, limit: int | None = None, redo: Sequence[str] = (), accept_code: bool = False) -> None:
        self.spec, self.run, self.workers, self.progress, self.limit = spec, run, workers, progress, limit
        self._redo, self._accept_code = set(redo), accept_code
        self.passes: list[Pass] = []

    def drive(self) -> None:
        """Prepares the corpus, then runs pass after pass. Raises RunFailedError naming what failed."""
        probe(self.run, self.workers)
        with Ledger(self.run, write=True) as self.ledger:
            self._open()
            while work := self._next():
                work()
                self._advance()
                self._save_catalog()
            stuck = [stage.spec.label for stage in self.stages if not stage.finished]
            if stuck:
                raise ContractError(f"{', '.join(stuck)}: wait for columns that nothing makes; check what their steps read")
            self._check_arms()
            self._save_catalog(finished=True)

    def _open(self) -> None:
        publish(self.run / "stages.yaml", self.spec.text.encode())
        corpus = self.spec.corpus
        self.pool = prepare("pool", corpus.paths, corpus.fields, self.run, self.workers, self.ledger, corpus.shard_bytes, self.limit)
        self._check_budget("the corpus", self.pool.bad, self.pool.seen)
        self.types = check_columns(self.spec, self.pool.columns)
        self.columns: dict[str, str] = dict.fromkeys({**self.pool.columns, "doc_id": None, "source": None}, "")
        self.column_keys: dict[str, str] = {}
        self.beside = self._prepare_beside()
        contents = {key: prepared.ref.digest for key, prepared in self.beside.items()}
        self.stages = [Stage(LiveProgram(program, self.run), program.key(contents)) for program in self.spec.programs]
        self._check_code()
        self._advance()
        documents, size = sum(s.rows for s in self.pool.shards), sum(s.bytes for s in self.pool.shards)
        self.progress.line(f"corpus: {documents:,} documents in {len(self.pool.shards)} shards, {human_bytes(size)}")

    def _prepare_beside(self) -> dict[str, Prepared]:
        """Targets, evaluation sets: every set of documents that an option names, surveyed once."""
        from tamis.corpus import Fields

        named: dict[str, tuple[Documents, ProgramSpec]] = {}
        for program in self.spec.programs:
            for documents in documents_in(program.build()):
                named.setdefault(documents_key(documents), (documents, program))
        prepared = {}
        for key, (documents, program) in named.items():
            if not documents.paths:
                raise self.spec.fail(program.line, f"{program.label}: expected a path to documents, got none")
            fields = Fields(documents.text, documents.id)
            try:
                prepared[key] = prepare(f"beside-{key[:8]}", documents.paths, fields, self.run, self.workers, self.ledger, self.spec.corpus.shard_bytes)
            except TamisError as error:
                raise self.spec.fail(program.line, f"{program.label}: {error}") from error
            publish(self.run / self._beside_path(key), json.dumps(prepared[key].ref.to_json()).encode())
        return prepared

    @staticmethod
    def _beside_path(key: str) -> str:
        return f"shards/beside-{key[:8]}-ref.json"

    def _check_code(self) -> None:
        """Results of the same version must come from the same code, or the user must say which to believe."""
        for stage in self.stages:
            spec, code = stage.spec, stage.spec.code()
            version = spec.build().version
            redone = spec.name in self._redo
            known = self.ledger.codes.get(stage.key)
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

    # ---- what is ready ----

    def _advance(self) -> None:
        """Sends results to every program whose steps are all done; registers what finished."""
        for stage in self.stages:
            self._resolve_uses(stage)
            while not stage.live.position.finished and len(stage.done) == len(stage.live.position.steps):
                stage.live.send(tuple(ref for _, ref in sorted(stage.done.items())))
                stage.done = {}
                self._resolve_uses(stage)
            if stage.live.position.finished and not isinstance(stage.live.position.returned, Map) and not stage.finished:
                self._conclude(stage)

    def _resolve_uses(self, stage: Stage) -> None:
        """Hands over models of other stages, once those have finished."""
        for index, step in enumerate(stage.live.position.steps):
            if isinstance(step, Use):
                maker = next((other for other in self.stages if other.spec.name == step.name), None)
                if maker is None or maker is stage:
                    raise self.spec.fail(stage.spec.line, f"{stage.spec.label}: uses the model of a stage {step.name!r}, there is none before it")
                if maker.finished and maker.model:
                    stage.done[index] = maker.model

    def _conclude(self, stage: Stage) -> None:
        returned = stage.live.position.returned
        if isinstance(returned, Publish):
            publish(self.run / returned.file, json.dumps(returned.content, indent=1, sort_keys=True).encode())
        stage.finished = True

    def _next(self) -> Callable[[], None] | None:
        """What to do now: documents beside the pool, columns without text, training, and the text last of all.

        In this order, the one reading of the text serves as many steps as possible.
        """
        beside: dict[str, list[tuple[Stage, int, Work]]] = {}
        narrow, light, text, trains = [], [], [], []
        for stage, index, step in self._ready():
            if isinstance(step, Fold) and step.over is not None:
                beside.setdefault(documents_key(step.over), []).append((stage, index, self._work(stage, index, step)))
                continue
            item = (stage, index, self._work(stage, index, step))
            if isinstance(step, Train):
                trains.append(item)
            else:
                inputs = item[2].inputs
                (text if "text" in inputs else light if "" in inputs.values() else narrow).append(item)
        if beside:
            key, works = next(iter(beside.items()))
            prepared = self.beside[key]
            return lambda: self._run_pass(Pass(prepared.ref, prepared.shards, tuple(works), text=True))
        if narrow or (light and not text):
            return lambda: self._run_pass(Pass(self.pool.ref, self.pool.shards, tuple(narrow + light), text=False))
        if trains:
            return lambda: self._run_trains(trains)
        if text:
            return lambda: self._run_pass(Pass(self.pool.ref, self.pool.shards, tuple(text + light), text=True))
        return None

    def _ready(self) -> Iterator[tuple[Stage, int, Step | Map]]:
        for position, stage in enumerate(self.stages):
            for index, step in stage.pending():
                if isinstance(step, Use):
                    continue
                needed = self._needed(stage, step)
                if "quarantined" in needed and not all(earlier.finished for earlier in self.stages[:position] if earlier.spec.verb in FAMILIES_THAT_FAIL):
                    continue  # which documents are fit for use is known when all that comes before is done
                if all(column in self.columns or column == "quarantined" for column in needed):
                    yield stage, index, step

    def _needed(self, stage: Stage, step: Step | Map) -> tuple[str, ...]:
        if isinstance(step, Fold) and step.over is not None:
            return ()
        where = Expression(stage.spec.where).columns if stage.spec.where else ()
        return tuple(dict.fromkeys((*step.reads, *where)))

    def _work(self, stage: Stage, index: int, step: Step | Map) -> Work:
        """The step with the key of its result: the program, its results so far, and the columns it reads."""
        over_pool = not (isinstance(step, Fold) and step.over is not None)
        columns = self._needed(stage, step) if over_pool else tuple(step.reads)
        earlier = [key for other in self.stages[: self.stages.index(stage)] if other.spec.verb in FAMILIES_THAT_FAIL for key in other.keys]
        inputs = {
            column: (QUARANTINE + ",".join(key[:8] for key in earlier)) if column == "quarantined" else self.columns.get(column, "") if over_pool else ""
            for column in columns
        }
        kind = {Map: "map", Fold: "fold", Exchange: "exchange", Train: "train"}[type(step)]
        results = tuple(stage.live.results)
        read = {column: digest_of(inputs[column]) if column == "quarantined" else self.column_keys.get(column, "") for column in columns} if over_pool else {}
        key = digest_of(stage.key, len(results), index, kind, read, [[ref.digest for ref in refs] for refs in results])
        if not over_pool:
            assert isinstance(step, Fold)
            key = digest_of(key, documents_key(step.over))
        label = f"{stage.spec.name}-{step.label}" if isinstance(step, Train) else stage.spec.name
        folder = {"map": layer_folder, "fold": fold_folder, "exchange": exchange_folder, "train": model_folder}[kind](label, key)
        program = stage.spec if over_pool else _without_where(stage.spec)
        joins = getattr(step, "joins", None)
        return Work(program, results, index, kind, key, folder, inputs, joins.key if joins else None)

    # ---- doing it ----

    def _run_pass(self, work: Pass) -> None:
        """Reads each shard once for all works that it still lacks, then merges, decides and registers."""
        todo = {shard.number: tuple(i for i, (_, _, w) in enumerate(work.works) if not self._has(w, shard)) for shard in work.shards}
        missing = {number: indices for number, indices in todo.items() if indices}
        if missing:
            self.passes.append(work)
            self._read(work, missing)
        for stage, index, item in work.works:
            self._balance(item, work.shards)
            if work.corpus is self.pool.ref:
                stage.keys.append(item.key)
            if item.kind == "fold":
                stage.done[index] = self._merged(item, work.shards, frozen=stage.spec.frozen)
            elif item.kind == "exchange":
                stage.done[index] = self._decided(item, work.shards)
            else:
                self._register(stage, item)

    def _has(self, work: Work, shard: Shard) -> bool:
        receipt = self.ledger.get(work.key, str(shard.number))
        if receipt is None or receipt.input != shard.fingerprint:
            return False
        name = {"map": layer_file, "fold": lambda n: summary_file("", n)[1:], "exchange": lambda n: emitted_file("", n)[1:]}[work.kind](shard.number)
        return _has_size(self.run / work.folder / name, receipt.bytes)

    def _read(self, work: Pass, missing: Mapping[int, tuple[int, ...]]) -> None:
        spec = PassSpec(work.corpus, tuple(item for _, _, item in work.works))
        path = spec.save(self.run)
        shards = {shard.number: shard for shard in work.shards if shard.number in missing}
        tasks = [Task(run_shards, (str(self.run), path, indices, numbers), f"pass {work.label}"[:40]) for indices, numbers in self._packed(work, shards, missing)]
        size = sum(shard.bytes if work.text else shard.rows * NARROW_ROW_BYTES for shard in shards.values())
        documents = sum(shard.rows for shard in shards.values())
        failures: list[Failure] = []
        with self.progress.working(work.label, size) as meter:
            for outcome in self.workers.run(tasks):
                failures += self._receive(outcome)
                meter.advance(sum(shards[n].bytes if work.text else shards[n].rows * NARROW_ROW_BYTES for n in outcome.task.arguments[3]))
            seconds = meter.seconds
        if failures:
            failures = self._alone(failures)
        speed = f", {human_bytes(size / seconds)}/s" if work.text else ""
        what = "text" if work.text else "columns"
        self.progress.line(f"pass {len(self.passes)}: {work.label} · {what} · {len(shards)} shards, {documents:,} documents, {seconds:.1f} s{speed}")
        if failures:
            raise self._failed(failures)

    def _packed(self, work: Pass, shards: Mapping[int, Shard], missing: Mapping[int, tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Shards that lack the same works, packed into tasks by how much there is to read."""
        cost = {number: shard.bytes if work.text else shard.rows * NARROW_ROW_BYTES for number, shard in shards.items()}
        bound = min(TASK_BYTES, max(1, sum(cost.values()) // (TASKS_PER_SLOT * self.workers.slots)))
        for indices in sorted(set(missing.values())):
            pack: list[int] = []
            size = 0
            for number in sorted(number for number, lacking in missing.items() if lacking == indices):
                if pack and (size + cost[number] > bound or len(pack) >= TASK_SHARDS):
                    yield indices, tuple(pack)
                    pack, size = [], 0
                pack.append(number)
                size += cost[number]
            if pack:
                yield indices, tuple(pack)

    def _receive(self, outcome: Outcome) -> list[Failure]:
        """Records the receipts of a task; what failed in it, with enough to try again."""
        if outcome.error:
            return [Failure(outcome.task.label, outcome.error, outcome.details, outcome.task)]
        failures = []
        for item in outcome.value:
            if isinstance(item, Failure):
                failures.append(item)
            else:
                self.ledger.record(item)
        return failures

    def _alone(self, failures: Sequence[Failure]) -> list[Failure]:
        """Tries the shards of tasks that died as a whole (a lost worker) one by one, so that only the poisoned fail."""
        still = [failure for failure in failures if failure.task is None]
        for failure in failures:
            if failure.task is None:
                continue
            run, path, indices, numbers = failure.task.arguments
            tasks = [Task(run_shards, (run, path, indices, (number,)), f"{failure.label} shard {number}") for number in numbers]
            for outcome in self.workers.run(tasks):
                still += self._receive(outcome)
        return still

    def _failed(self, failures: Sequence[Failure]) -> RunFailedError:
        publish(self.run / "failures.txt", "\n\n".join(f"{item.label}: {item.error}\n{item.details}" for item in failures).encode())
        first = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        return RunFailedError(f"{first.label}: {first.error}{more}; all other work is kept, see {self.run / 'failures.txt'}, then run again to resume")

    def _balance(self, work: Work, shards: Sequence[Shard]) -> None:
        """Documents in = out + quarantined + unusable + left out by `where:`, per shard; and the budget of bad ones."""
        bad = 0
        for shard in shards:
            receipt = self.ledger.get(work.key, str(shard.number))
            if receipt is None:
                raise LedgerError(f"{work.label}, shard {shard.number}: expected a receipt, found none; run again")
            accounted = receipt.out + receipt.quarantined + receipt.facts["unusable"] + receipt.facts["left_out"]
            if receipt.rows != shard.rows or accounted != shard.rows:
                raise LedgerError(
                    f"{work.label}, shard {shard.number} ({shard.label}): the books do not balance: {shard.rows} documents in, "
                    f"{receipt.out} out + {receipt.quarantined} quarantined + {receipt.facts}; report this"
                )
            bad += receipt.quarantined + receipt.facts["unusable"]
        self._check_budget(work.label, bad, sum(shard.rows for shard in shards))

    def _check_budget(self, label: str, bad: int, seen: int) -> None:
        policy = self.spec.corpus
        allowed = 0.0 if policy.on_bad_record == "fail" else policy.max_bad_fraction
        if bad > allowed * seen:
            raise RunFailedError(
                f"{label}: {bad:,} of {seen:,} documents are bad ({bad / max(1, seen):.2%}), more than max_bad_fraction = {allowed:.2%}; "
                f"see {self.run / 'quarantine'}, repair them or raise the budget"
            )

    def _inputs_digest(self, shards: Iterable[Shard]) -> str:
        return digest_of([(shard.number, shard.fingerprint) for shard in shards])

    def _merged(self, work: Work, shards: Sequence[Shard], *, frozen: bool) -> Ref:
        """The merged summary of all shards: a tree of tasks, each over a fixed group."""
        inputs = self._inputs_digest(shards)
        known = self.ledger.get(work.key, "merged")
        path = f"{work.folder}/merged.npz"
        if known and (frozen or known.input == inputs) and _has_size(self.run / path, known.bytes):
            return Ref("fold", path, known.digest)
        spec = PassSpec(self.pool.ref, (work,)).save(self.run)
        files = [summary_file(work.folder, shard.number) for shard in shards]
        level = 0
        while len(files) > GROUP_SHARDS:
            groups = [tuple(files[i : i + GROUP_SHARDS]) for i in range(0, len(files), GROUP_SHARDS)]
            targets = [f"{work.folder}/level{level}-{i:05d}.npz" for i in range(len(groups))]
            tasks = (Task(merge_summaries, (str(self.run), spec, group, target), "merge") for group, target in zip(groups, targets, strict=True))
            for outcome in self.workers.run(tasks):
                self._expect(outcome)
            files, level = targets, level + 1
        (outcome,) = self.workers.run([Task(merge_summaries, (str(self.run), spec, tuple(files), path), "merge")])
        size, digest = self._expect(outcome)
        self.ledger.record(Receipt(work.key, "merged", inputs, len(shards), 1, 0, size, digest, 0.0, "", f"{work.label}: merged"))
        return Ref("fold", path, digest)

    def _expect(self, outcome: Outcome) -> Any:
        if outcome.error:
            raise self._failed([Failure(outcome.task.label, outcome.error, outcome.details)])
        return outcome.value

    def _decided(self, work: Work, shards: Sequence[Shard]) -> Ref:
        """Decisions about all keys: one task per range of keys."""
        inputs = self._inputs_digest(shards)
        partitions = partitions_for(sum(shard.rows for shard in shards))
        folder = f"{work.folder}/decided-{inputs[:8]}"
        spec = PassSpec(self.pool.ref, (work,)).save(self.run)
        listing = f"{folder}/inputs.json"
        publish(self.run / listing, json.dumps([emitted_file(work.folder, shard.number) for shard in shards]).encode())
        tasks = []
        for partition in range(partitions):
            known = self.ledger.get(work.key, f"decided-{partition}/{partitions}")
            if not (known and known.input == inputs and _has_size(self.run / decided_file(folder, partition), known.bytes)):
                tasks.append(Task(decide_files, (str(self.run), spec, listing, partition, partitions, inputs), f"decide {work.program.name}"))
        for outcome in self.workers.run(tasks):
            self.ledger.record(self._expect(outcome))
        return Ref("exchange", folder, digest_of(work.key, inputs))

    def _register(self, stage: Stage, work: Work) -> None:
        """The finished map's columns exist from now on, for everything that waits for them."""
        step = stage.live.position.returned
        assert isinstance(step, Map)
        promised = stage.spec.build().columns(stage.spec.name)
        if dict(step.writes) != dict(promised):
            raise ContractError(f"{stage.spec.label}: columns() promised {dict(promised)}, its map writes {dict(step.writes)}")
        for column in step.writes:
            self.columns[column] = work.folder
            self.column_keys[column] = work.key
        stage.finished = True

    def _run_trains(self, trains: Sequence[tuple[Stage, int, Work]]) -> None:
        """All Train steps that are ready, side by side."""
        inputs = self._inputs_digest(self.pool.shards)
        path = PassSpec(self.pool.ref, tuple(item for _, _, item in trains)).save(self.run)
        tasks, places = [], {}
        for position, (stage, index, work) in enumerate(trains):
            known = self.ledger.get(work.key, "train")
            if known and known.input == inputs and (self.run / work.folder / "result.json").exists():
                stage.model = stage.done[index] = Ref("train", work.folder, known.digest)
                continue
            step = stage.live.position.steps[index]
            assert isinstance(step, Train)
            beside = tuple((documents_key(documents), self._beside_path(documents_key(documents))) for documents in step.over)
            tasks.append(Task(run_train, (str(self.run), path, position, beside, inputs), f"{stage.spec.name}: {step.label}", gpu=step.gpu))
            places[work.key] = (stage, index, work)
        failures: list[Failure] = []
        with self.progress.working("training", len(tasks)) as meter:
            for outcome in self.workers.run(tasks):
                failures += [Failure(failure.label, failure.error, failure.details) for failure in self._receive(outcome)]
                meter.advance(1)
                for receipt in outcome.value or ():
                    if isinstance(receipt, Receipt):
                        stage, index, work = places[receipt.key]
                        stage.model = stage.done[index] = Ref("train", work.folder, receipt.digest)
                        self.progress.line(f"train: {receipt.label} · {receipt.seconds:.1f} s")
        if failures:
            raise self._failed(failures)

    # ---- the books ----

    def _check_arms(self) -> None:
        """Per arm: pool = kept + dropped by first reason; the counts go to the catalog."""
        from tamis.corpus import read_layer

        self.arms: dict[str, dict[str, Any]] = {}
        for stage in self.stages:
            if stage.spec.verb != "select":
                continue
            name = stage.spec.name
            folder = self.columns[f"{name}_repeats"]
            kept, uses, reasons, rows = 0, 0, dict[str, int](), 0
            for shard in self.pool.shards:
                table = read_layer(self.run / folder / layer_file(shard.number), [f"{name}_repeats", f"{name}_reason"])
                rows += table.num_rows
                kept += _count_positive(table.column(0))
                uses += pc.sum(table.column(0)).as_py() or 0
                for entry in table.column(1).value_counts().to_pylist():
                    if entry["values"] is not None:
                        reasons[entry["values"]] = reasons.get(entry["values"], 0) + entry["counts"]
            unusable = rows - kept - sum(reasons.values())
            pool = sum(shard.rows for shard in self.pool.shards)
            self.arms[name] = {"pool": pool, "kept": kept, "uses": uses, "dropped": {**reasons, **({"unusable": unusable} if unusable else {})}}
            if rows != pool or unusable < 0 or unusable > self._unusable_rows():
                raise LedgerError(f"arm {name}: the books do not balance: {pool} documents in the pool, {kept} kept, {reasons} dropped; report this")

    def _unusable_rows(self) -> int:
        census = next(stage for stage in self.stages if stage.spec.component == "census")
        return sum(self.ledger.get(census.keys[-1], str(s.number)).facts["unusable"] for s in self.pool.shards)  # type: ignore[union-attr]

    def _save_catalog(self, *, finished: bool = False) -> None:
        """run.json: which layer holds which column, for everything that reads a run."""
        catalog = {
            "format": 1,
            "seed": self.spec.seed,
            "finished": finished,
            "corpus": self.pool.ref.to_json(),
            "columns": {column: {"layer": folder, "type": str(self.types.get(column, ""))} for column, folder in self.columns.items()},
            "stages": [
                {"verb": stage.spec.verb, "component": stage.spec.component, "name": stage.spec.name, "options": json.loads(stage.spec.options),
                 "where": stage.spec.where, "line": stage.spec.line, "keys": stage.keys, "finished": stage.finished}
                for stage in self.stages
            ],
            "arms": getattr(self, "arms", {}),
            "ingest": {"bad": self.pool.bad, "seen": self.pool.seen, "problems": self.pool.problems[:100]},
        }  # fmt: skip
        publish(self.run / "run.json", json.dumps(catalog, indent=1).encode())


def _without_where(spec: ProgramSpec) -> ProgramSpec:
    from dataclasses import replace

    return replace(spec, where=None)


def _count_positive(column: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.fill_null(pc.greater(column, 0), False)).as_py() or 0)  # noqa: FBT003


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def probe(run: Path, workers: Workers) -> None:
    """Checks that every worker sees the run's folder. Raises ContractError if one does not."""
    run.mkdir(parents=True, exist_ok=True)
    token = os.urandom(8).hex()
    publish(run / ".probe", token.encode())
    tasks = [Task(_read_probe, (str(run / ".probe"),), f"probe {i}") for i in range(workers.slots)]
    for outcome in workers.run(tasks):
        if outcome.value != token:
            raise ContractError(f"{run}: expected a folder that all workers see, a worker read {outcome.value or outcome.error!r}; use a shared file system")
    (run / ".probe").unlink(missing_ok=True)


def _read_probe(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
