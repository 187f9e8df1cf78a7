"""Carrying out a pass: tasks for what is missing, receipts for what is done, merges and decisions after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis.corpus import Shard, layer_file, publish
from tamis.errors import RunFailedError
from tamis.pipeline.exchange import RETURNED, partitions_for
from tamis.pipeline.folds import GROUP_SHARDS
from tamis.pipeline.gather import bundle_files, decide_files, merge_summaries
from tamis.pipeline.layout import CorpusRef, beside_file, decided_file, emitted_file, summary_file
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.passes import run_shards
from tamis.pipeline.plan import Job, Pass, Trains
from tamis.pipeline.program import Ref, digest_of, documents_key
from tamis.pipeline.progress import Progress, human_bytes
from tamis.pipeline.training import run_train
from tamis.pipeline.work import Failure, PassSpec, Receipt, Work
from tamis.pipeline.workers import Outcome, Task, Workers
from tamis.steps import Train

TASK_BYTES = 32 << 20  # small shards are packed into one task up to this much reading
TASK_SHARDS = 64
TASKS_PER_SLOT = 4
FILES: Mapping[str, Callable[[str, int], str]] = {
    "map": lambda folder, shard: f"{folder}/{layer_file(shard)}",
    "fold": summary_file,
    "exchange": emitted_file,
}


class Executor:
    """Runs passes and training on the workers, and enters every receipt in the ledger."""

    pretends_on: float | None = None  # the share of the pool that trainings which can pretend do so on; None trains

    def __init__(self, run: Path, workers: Workers, ledger: Ledger, progress: Progress, pool: CorpusRef) -> None:
        self.run, self._workers, self._ledger, self._progress, self._pool = run, workers, ledger, progress, pool
        self._passes = 0

    def read(self, work: Pass) -> None:
        """Reads each shard once for all jobs that it still lacks. Raises RunFailedError naming what failed."""
        missing = {shard: indices for shard in work.shards if (indices := self._lacking(work, shard))}
        if not missing:
            return
        path = PassSpec(work.corpus, tuple(job.work for job in work.jobs)).save(self.run)
        packs = _packed(work, missing, self._workers.slots)
        tasks = (
            Task(run_shards, (str(self.run), path, indices, numbers), f"pass {work.label}"[:40], gpu=work.gpu)
            for indices, numbers in packs
        )
        cost = {shard.number: work.cost(shard) for shard in missing}
        failures: list[Failure] = []
        with self._progress.working(work.label, sum(cost.values())) as meter:
            for outcome in self._workers.run(tasks):
                failures += self._receive(outcome)
                meter.advance(sum(cost[number] for number in outcome.task.arguments[3]))
            seconds = meter.seconds
        failures = self._alone(failures)
        self._passes += 1
        self._progress.line(_pass_line(self._passes, work, list(missing), seconds))
        if failures:
            raise self._failed(failures)

    def _lacking(self, work: Pass, shard: Shard) -> tuple[int, ...]:
        return tuple(index for index, job in enumerate(work.jobs) if not self._has(job.work, shard))

    def _has(self, work: Work, shard: Shard) -> bool:
        path = FILES[work.kind](work.folder, shard.number)
        return self._is_done(work.key, str(shard.number), shard.fingerprint, path)

    def _is_done(self, key: str, unit: str, inputs: str | None, path: str) -> bool:
        """Whether there is a receipt for this unit, made of these inputs (None: any), and the file it stands for."""
        receipt = self._ledger.get(key, unit)
        if receipt is None or (inputs is not None and receipt.input != inputs):
            return False
        try:
            return (self.run / path).stat().st_size == receipt.bytes
        except OSError:
            return False

    def _receive(self, outcome: Outcome) -> list[Failure]:
        """Records the receipts of a task; what failed in it, with enough to try again."""
        if outcome.error:
            return [Failure(outcome.task.label, outcome.error, outcome.details, outcome.task)]
        for item in outcome.value:
            if isinstance(item, Receipt):
                self._ledger.record(item)
        return [item for item in outcome.value if isinstance(item, Failure)]

    def _alone(self, failures: Sequence[Failure]) -> list[Failure]:
        """Tries the shards of tasks that died as a whole (a lost worker) one by one, so that only the poisoned fail."""
        still = [failure for failure in failures if failure.task is None]
        for failure in failures:
            if failure.task is not None:
                run, path, indices, numbers = failure.task.arguments
                tasks = (
                    Task(run_shards, (run, path, indices, (number,)), f"shard {number}", gpu=failure.task.gpu)
                    for number in numbers
                )
                for outcome in self._workers.run(tasks):
                    still += self._receive(outcome)
        return still

    def _failed(self, failures: Sequence[Failure]) -> RunFailedError:
        text = "\n\n".join(f"{failure.label}: {failure.error}\n{failure.details}" for failure in failures)
        publish(self.run / "failures.txt", text.encode())
        first = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        return RunFailedError(
            f"{first.label}: {first.error}{more}; all other work is kept, see {self.run / 'failures.txt'}, "
            "then run again to resume"
        )

    def _expect(self, outcome: Outcome) -> Any:
        if outcome.error:
            raise self._failed([Failure(outcome.task.label, outcome.error, outcome.details)])
        return outcome.value

    def merged(self, work: Work, shards: Sequence[Shard], *, frozen: bool = False) -> Ref:
        """The merged summary of all shards: a tree of tasks, each over a fixed group.

        frozen : whatever was merged first stays, whichever shards there are now.
        """
        first = self._ledger.get(work.key, "frozen") if frozen else None
        inputs = first.input if first else inputs_digest(shards)
        path, unit = f"{work.folder}/merged-{inputs[:8]}.npz", "frozen" if frozen else "merged"
        if not self._is_done(work.key, unit, inputs, path):
            spec = PassSpec(self._pool, (work,)).save(self.run)
            files = [summary_file(work.folder, shard.number) for shard in shards]
            level = 0
            while len(files) > GROUP_SHARDS:
                groups = range(-(-len(files) // GROUP_SHARDS))
                targets = [f"{work.folder}/level{level}-{inputs[:8]}-{group:05d}.npz" for group in groups]
                self._merge(spec, work.folder, files, targets)
                files, level = targets, level + 1
            ((size, digest),) = self._merge(spec, work.folder, files, [path])
            label = f"{work.label}: merged"
            self._ledger.record(Receipt(work.key, unit, inputs, len(shards), 1, 0, size, digest, 0.0, "", label))
        receipt = self._ledger.get(work.key, unit)
        assert receipt is not None
        return Ref("fold", path, receipt.digest)

    def _merge(self, spec: str, folder: str, files: Sequence[str], targets: Sequence[str]) -> list[tuple[int, str]]:
        """One level of the tree: each target from a group of files; their sizes and digests."""
        listing = self._listed(folder, files)
        tasks = (
            Task(merge_summaries, (str(self.run), spec, listing, i * GROUP_SHARDS, target), "merge")
            for i, target in enumerate(targets)
        )
        return [self._expect(outcome) for outcome in self._workers.run(tasks)]

    def decided(self, work: Work, shards: Sequence[Shard]) -> Ref:
        """Decisions about all keys of an exchange: one task per range of keys."""
        inputs = inputs_digest(shards)
        receipts = [self._ledger.get(work.key, str(shard.number)) for shard in shards]
        partitions = partitions_for(sum(receipt.bytes for receipt in receipts if receipt))
        folder = f"{work.folder}/decided-{inputs[:8]}"
        files = [decided_file(folder, partition) for partition in range(partitions)]
        units = [f"decided-{partition}/{partitions}" for partition in range(partitions)]
        missing = [p for p in range(partitions) if not self._is_done(work.key, units[p], inputs, files[p])]
        if missing:
            spec = PassSpec(self._pool, (work,)).save(self.run)
            emitted = [emitted_file(work.folder, shard.number) for shard in shards]
            listing = self._listed(folder, self._bundled(work, folder, emitted, "key", inputs))
            label = f"decide {work.program.name}"
            tasks = (
                Task(decide_files, (str(self.run), spec, listing, partition, partitions, inputs), label)
                for partition in missing
            )
            for outcome in self._workers.run(tasks):
                self._ledger.record(self._expect(outcome))
        returned = self._bundled(work, folder, files, "row", inputs)
        names = json.dumps([Path(file).name for file in returned])
        publish(self.run / folder / RETURNED, names.encode())
        return Ref("exchange", folder, digest_of(work.key, inputs))

    def _bundled(self, work: Work, folder: str, files: Sequence[str], by: str, inputs: str) -> Sequence[str]:
        """Files sorted by a column, fewer and larger where they are many."""
        if len(files) <= GROUP_SHARDS:
            return files
        targets = [f"{folder}/by-{by}-{group:05d}.arrow" for group in range(-(-len(files) // GROUP_SHARDS))]
        units = [f"by-{by}-{group}/{len(files)}" for group in range(len(targets))]
        missing = [i for i, unit in enumerate(units) if not self._is_done(work.key, unit, inputs, targets[i])]
        listing = self._listed(folder, files)
        tasks = (
            Task(bundle_files, (str(self.run), listing, i * GROUP_SHARDS, targets[i], by), f"bundle {i}")
            for i in missing
        )
        group_of = {f"bundle {i}": units[i] for i in missing}
        for outcome in self._workers.run(tasks):
            size, digest = self._expect(outcome)
            unit = group_of[outcome.task.label]
            self._ledger.record(
                Receipt(work.key, unit, inputs, 0, 0, 0, size, digest, 0.0, "", f"{work.label}: {unit}")
            )
        return targets

    def _listed(self, folder: str, files: Sequence[str]) -> str:
        """A list of files for tasks to look up: a task stays small however many there are."""
        listing = f"{folder}/files-{digest_of(files)[:8]}.json"
        publish(self.run / listing, json.dumps(list(files)).encode())
        return listing

    def train(self, work: Trains, shards: Sequence[Shard]) -> Iterator[tuple[Job, Ref]]:
        """The models of Train steps, as they get ready. Raises RunFailedError naming the steps that failed."""
        inputs = inputs_digest(shards)
        path = PassSpec(self._pool, tuple(job.work for job in work.jobs)).save(self.run)
        tasks, jobs = [], {}
        for position, job in enumerate(work.jobs):
            known = self._ledger.get(job.work.key, "train")
            if known and known.input == inputs and (self.run / job.work.folder / "result.json").exists():
                yield job, Ref("train", job.work.folder, known.digest)
                continue
            step = job.step
            assert isinstance(step, Train)
            beside = tuple((key, beside_file(key)) for key in map(documents_key, step.over))
            label = f"{job.work.program.name}: {step.label}"
            arguments = (str(self.run), path, position, beside, inputs, self.pretends_on)
            tasks.append(Task(run_train, arguments, label, gpu=step.gpu))
            jobs[job.work.key] = job
        failures: list[Failure] = []
        with self._progress.training(self.run / "progress", len(tasks)) as meter:
            for outcome in self._workers.run(tasks):
                failures += self._receive(outcome)
                meter.advance(1)
                for receipt in outcome.value or ():
                    if isinstance(receipt, Receipt):
                        self._progress.line(f"train: {receipt.label} · {receipt.seconds:.1f} s")
                        yield jobs[receipt.key], Ref("train", jobs[receipt.key].work.folder, receipt.digest)
        if failures:
            raise self._failed(failures)


def inputs_digest(shards: Iterable[Shard]) -> str:
    """Digest of which shards there are and what they hold."""
    return digest_of([(shard.number, shard.fingerprint) for shard in shards])


def _packed(
    work: Pass, missing: Mapping[Shard, tuple[int, ...]], slots: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(jobs, shards) of each task: shards that lack the same jobs, packed by how much there is to read."""
    bound = min(TASK_BYTES, max(1, sum(map(work.cost, missing)) // (TASKS_PER_SLOT * slots)))
    for indices in sorted(set(missing.values())):
        pack: list[int] = []
        size = 0
        for shard in sorted(
            (shard for shard, lacking in missing.items() if lacking == indices), key=lambda each: each.number
        ):
            if pack and (size + work.cost(shard) > bound or len(pack) >= TASK_SHARDS):
                yield indices, tuple(pack)
                pack, size = [], 0
            pack.append(shard.number)
            size += work.cost(shard)
        if pack:
            yield indices, tuple(pack)


def _pass_line(number: int, work: Pass, shards: Sequence[Shard], seconds: float) -> str:
    documents, size = sum(shard.rows for shard in shards), sum(map(work.cost, shards))
    speed = f", {human_bytes(size / max(seconds, 1e-9))}/s" if work.text else ""
    what = "text" if work.text else "columns"
    return (
        f"pass {number}: {work.label} · {what} · {len(shards)} shards, {documents:,} documents, {seconds:.1f} s{speed}"
    )
