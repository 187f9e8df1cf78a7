"""Which steps are ready, under which keys, and what to do next: planning without doing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tamis.corpus import Shard
from tamis.errors import ContractError
from tamis.expressions import Expression
from tamis.pipeline.layout import CorpusRef, output_folder
from tamis.pipeline.program import LiveProgram, ProgramSpec, Ref, digest_of, documents_key
from tamis.pipeline.work import FAMILIES_THAT_FAIL, QUARANTINE, Work
from tamis.steps import Exchange, Fold, Map, Train, Use

NARROW_ROW_BYTES = 64  # rough cost of a document in a pass that does not read its text
KINDS = {Map: "map", Fold: "fold", Exchange: "exchange", Train: "train"}

Ready: TypeAlias = Map | Fold | Exchange | Train


@dataclass
class Stage:
    """A program in this run: where it stands, and the keys of what it has done."""

    live: LiveProgram
    key: str
    base_key: str = ""  # before any --redo
    done: dict[int, Ref] = field(default_factory=dict)  # results of the steps that it waits for now
    keys: list[str] = field(default_factory=list)  # of all its works over the pool
    failed: list[str] = field(default_factory=list)  # those of them that some document made fail
    model: Ref | None = None  # what its last Train step made
    finished: bool = False
    refusal: str | None = None  # why its program does not go on

    @property
    def spec(self) -> ProgramSpec:
        return self.live.spec

    def pending(self) -> Iterator[tuple[int, Ready | Use]]:
        """The steps it waits for, by their place in the list they were yielded in; -1 is the map it returned."""
        position = self.live.position
        if not position.finished:
            yield from ((index, step) for index, step in enumerate(position.steps) if index not in self.done)
        elif isinstance(position.returned, Map) and not self.finished:
            yield -1, position.returned


@dataclass(frozen=True)
class Job:
    """A step of a stage, as work with a key."""

    stage: Stage
    index: int
    work: Work

    @property
    def step(self) -> Ready | Use | None:
        position = self.stage.live.position
        if self.index >= 0:
            return position.steps[self.index]
        return position.returned if isinstance(position.returned, Map) else None


@dataclass(frozen=True)
class Pass:
    """Jobs that read one corpus together. text: whether they read the documents' text. gpu: whether they want one."""

    corpus: CorpusRef
    shards: tuple[Shard, ...]
    jobs: tuple[Job, ...]
    text: bool
    over_pool: bool = True
    gpu: bool = False

    @property
    def label(self) -> str:
        return ", ".join(dict.fromkeys(job.stage.spec.name for job in self.jobs))

    def cost(self, shard: Shard) -> int:
        """Bytes to read, roughly."""
        return shard.bytes if self.text else shard.rows * NARROW_ROW_BYTES


@dataclass(frozen=True)
class Trains:
    """Train steps that are ready, side by side."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Source:
    """A corpus that passes can read."""

    ref: CorpusRef
    shards: tuple[Shard, ...]


class Plan:
    """The stages of a run, the columns there are so far, and which steps can be done next."""

    def __init__(
        self, stages: Sequence[Stage], pool: Source, beside: Mapping[str, Source], base: Sequence[str]
    ) -> None:
        self.stages, self._pool, self._beside = list(stages), pool, beside
        self.columns: dict[str, str] = dict.fromkeys(
            [*base, "doc_id", "source"], ""
        )  # column → layer, "" the documents
        self._column_keys: dict[str, str] = {}

    def add_columns(self, job: Job) -> None:
        """A finished map's columns exist from now on. Raises ContractError if they are not the promised ones."""
        spec, step = job.stage.spec, job.step
        assert isinstance(step, Map)
        promised = spec.build().columns(spec.name)
        if dict(step.writes) != dict(promised):
            raise ContractError(
                f"{spec.label}: columns() promised {dict(promised)}, its map writes {dict(step.writes)}"
            )
        for column in step.writes:
            self.columns[column], self._column_keys[column] = job.work.folder, job.work.key
        job.stage.finished = True

    def resolve_uses(self, stage: Stage) -> None:
        """Hands a stage the models of others that have finished. Raises ContractError if there is no such stage."""
        for index, step in enumerate(stage.live.position.steps):
            if isinstance(step, Use):
                maker = next((other for other in self.stages if other.spec.name == step.name), None)
                if maker is None or maker is stage:
                    raise ContractError(
                        f"{stage.spec.label}: uses the model of a stage {step.name!r}, there is none before it"
                    )
                if maker.finished and maker.model:
                    stage.done[index] = maker.model

    def next(self) -> Pass | Trains | None:
        """What to do now: documents beside the pool, columns without text, training, and the text last of all.

        In this order, the one reading of the text serves as many steps as possible; what wants a GPU reads it apart.
        """
        beside: dict[str, list[Job]] = {}
        text: list[Job] = []
        light: list[Job] = []  # reads the documents' files, but not their text
        narrow: list[Job] = []
        trains: list[Job] = []
        gpu: list[Job] = []
        for stage, index, step in self._ready():
            job = Job(stage, index, self.work(stage, index, step))
            if isinstance(step, Map) and step.gpu:
                gpu.append(job)
            elif isinstance(step, Fold) and step.over is not None:
                beside.setdefault(documents_key(step.over), []).append(job)
            elif isinstance(step, Train):
                trains.append(job)
            else:
                inputs = job.work.inputs
                (text if "text" in inputs else light if "" in inputs.values() else narrow).append(job)
        if beside:
            key, jobs = next(iter(beside.items()))
            return Pass(self._beside[key].ref, self._beside[key].shards, tuple(jobs), text=True, over_pool=False)
        if narrow or (light and not text):
            return Pass(self._pool.ref, self._pool.shards, _agreeing((*narrow, *light)), text=False)
        if trains:
            return Trains(tuple(trains))
        if text:
            return Pass(self._pool.ref, self._pool.shards, _agreeing((*text, *light)), text=True)
        return Pass(self._pool.ref, self._pool.shards, _agreeing(gpu), text=True, gpu=True) if gpu else None

    def _ready(self) -> Iterator[tuple[Stage, int, Ready]]:
        for position, stage in enumerate(self.stages):
            for index, step in stage.pending():
                if not isinstance(step, Use) and self._is_ready(step, stage, self.stages[:position]):
                    yield stage, index, step

    def _is_ready(self, step: Ready, stage: Stage, earlier: Sequence[Stage]) -> bool:
        needed = self._needed(stage, step)
        if "quarantined" in needed and not all(
            other.finished for other in earlier if other.spec.verb in FAMILIES_THAT_FAIL
        ):
            return False  # which documents are fit for use is known when all that comes before is done
        return all(column in self.columns or column == "quarantined" for column in needed)

    @staticmethod
    def _needed(stage: Stage, step: Ready) -> tuple[str, ...]:
        """Columns of the pool that a step reads, its stage's `where:` included."""
        if isinstance(step, Fold) and step.over is not None:
            return ()
        where = Expression(stage.spec.where).columns if stage.spec.where else ()
        # where the text is not read, `n_bytes` tells which documents have one
        size = ("n_bytes",) if stage.spec.verb in FAMILIES_THAT_FAIL and "text" not in step.reads else ()
        return tuple(dict.fromkeys((*step.reads, *where, *size)))

    def work(self, stage: Stage, index: int, step: Ready) -> Work:
        """The step with the key of its result: the program, its results so far, and the columns it reads."""
        over = step.over if isinstance(step, Fold) else None
        results = tuple(stage.live.results)
        if over is None:
            inputs = {column: self._origin(column, stage) for column in self._needed(stage, step)}
            read = {column: self._column_keys.get(column, origin) for column, origin in inputs.items()}
        else:
            inputs, read = dict.fromkeys(step.reads, ""), {"over": self._beside[documents_key(over)].ref.digest}
        kind = KINDS[type(step)]
        key = digest_of(stage.key, len(results), index, kind, read, [[ref.digest for ref in refs] for refs in results])
        label = f"{stage.spec.name}-{step.label}" if isinstance(step, Train) else stage.spec.name
        program = stage.spec if over is None else replace(stage.spec, where=None)
        joins = None if isinstance(step, Train) or step.joins is None else step.joins.key
        return Work(program, results, index, kind, key, output_folder(kind, label, key), inputs, joins)

    def _origin(self, column: str, stage: Stage) -> str:
        """Where a column comes from: a layer, the documents (""), or what earlier stages failed on."""
        if column != "quarantined":
            return self.columns[column]
        earlier = self.stages[: self.stages.index(stage)]
        keys = [key[:8] for other in earlier if other.spec.verb in FAMILIES_THAT_FAIL for key in other.failed]
        return QUARANTINE + ",".join(keys)


def _agreeing(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """The first job, and all that mean the same columns by the same names; the others wait for the next pass.

    Only `quarantined` differs between stages: it says what the stages before a stage failed on.
    """
    origins: dict[str, str] = {}
    agreeing = []
    for job in jobs:
        if all(origins.get(column, origin) == origin for column, origin in job.work.inputs.items()):
            origins.update(job.work.inputs)
            agreeing.append(job)
    return tuple(agreeing)
