"""A component in a run: what a worker needs to rebuild it, and the keys under which its results are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tamis.errors import ContractError
from tamis.families import build, code_digest, documents_in, find
from tamis.pipeline.folds import load_summary
from tamis.steps import Component, Decisions, Exchange, Fold, Map, Pool, Publish, Step, Train, Use


def digest_of(*parts: Any) -> str:
    """BLAKE2b-128 of the canonical JSON of the parts, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def label_of(verb: str, component: str, name: str) -> str:
    """What a program is called in messages: `score length`, and for the engine's own `tokens` or `train prior`."""
    if verb == "pipeline":
        return name if name == component else f"{component} {name}"
    return f"{verb} {name}"


@dataclass(frozen=True)
class ProgramSpec:
    """A component by name, with its options as canonical JSON: small, hashable, and enough to rebuild it anywhere."""

    verb: str
    component: str
    name: str
    options: str
    where: str | None = None
    seed: int = 0
    folder: str | None = None  # of a user's own components
    line: int = 0  # in stages.yaml, for messages; not part of any key
    frozen: bool = False  # a fitted result is kept when the corpus grows

    @property
    def label(self) -> str:
        return label_of(self.verb, self.component, self.name)

    def build(self) -> Component:
        return _build(find(self.verb, self.component, self.folder), self.options)

    def pool(self) -> Pool:
        return Pool(self.name, self.seed if self.build().seeded else 0)

    def key(self, contents: Mapping[str, str]) -> str:
        """Fingerprint of what it computes: code version, options, and the content of the documents it names.

        contents : digest of each set of documents beside the pool, by `documents_key`.
        """
        component = self.build()
        beside = [contents[documents_key(documents)] for documents in documents_in(component)]
        given = json.loads(self.options)
        options = _without_paths({name: given[name] for name in given if name not in component.said})
        pool, files = self.pool(), component.contents()
        named = [self.verb, self.component, component.version, options, beside, pool.name, pool.seed, self.where]
        return digest_of(*named, *([list(files)] if files else []))

    def code(self) -> str:
        return code_digest(type(self.build()))


@lru_cache(maxsize=512)
def _build(cls: type[Component], options: str) -> Component:
    return build(cls, json.loads(options))


def documents_key(documents: Any) -> str:
    """A name for a set of documents within a run: by where it is, not by what it holds."""
    return digest_of(asdict(documents))


def _without_paths(options: Any) -> Any:
    """Options with the locations of documents left out: their content counts, not where it lies."""
    if isinstance(options, dict):
        kept = {key: _without_paths(value) for key, value in options.items()}
        return {**kept, "paths": len(options["paths"])} if "paths" in options and "texts" in options else kept
    return [_without_paths(item) for item in options] if isinstance(options, list) else options


@dataclass(frozen=True)
class Ref:
    """A step's result on disk. kind: fold, exchange or train; path: relative to the run; digest: of its content."""

    kind: str
    path: str
    digest: str

    def load(self, run: Path, step: Step) -> Any:
        if self.kind == "fold":
            return load_summary(run / self.path)
        if self.kind == "exchange":
            assert isinstance(step, Exchange)
            return Decisions(self.path, step.returns, step.many)
        return {
            **json.loads((run / self.path / "result.json").read_text(encoding="utf-8")),
            "folder": str(run / self.path),
        }


Round = tuple[Ref, ...]  # the results of the steps that were yielded together


@dataclass
class Position:
    """Where a program stands: the steps it waits for, or what it returned."""

    steps: tuple[Step, ...] = ()
    together: bool = False  # whether the steps were yielded as a list
    returned: Map | Publish | None = None
    finished: bool = False


def replay(spec: ProgramSpec, results: Sequence[Round], run: Path) -> Position:
    """Runs a program from its start with stored results up to the step that has none yet."""
    return _replay(spec, type(spec.build()), tuple(results), str(run))


@lru_cache(maxsize=64)
def _replay(spec: ProgramSpec, cls: type[Component], results: tuple[Round, ...], run: str) -> Position:
    del cls  # its code may be edited while a worker lives
    live = LiveProgram(spec, Path(run))
    for refs in results:
        live.send(refs)
    return live.position


@dataclass
class LiveProgram:
    """A program that is advanced as results come in; the driver holds one per stage."""

    spec: ProgramSpec
    run: Path
    results: list[Round] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = self.spec.build().steps(self.spec.pool())
        self.position = self._advance(None)

    def send(self, refs: Round) -> None:
        values = [ref.load(self.run, step) for ref, step in zip(refs, self.position.steps, strict=True)]
        self.results.append(refs)
        self.position = self._advance(values if self.position.together else values[0])

    def _advance(self, value: Any) -> Position:
        try:
            yielded = self._generator.send(value)
        except StopIteration as stop:
            return Position(returned=stop.value, finished=True)
        together = isinstance(yielded, (list, tuple))
        steps = tuple(yielded) if together else (yielded,)
        if not steps or not all(isinstance(step, (Fold, Exchange, Train, Use)) for step in steps):
            raise ContractError(
                f"{self.spec.label}: steps() must yield Fold, Exchange, Train or Use, or a list of them, "
                f"got {yielded!r}; a Map is returned"
            )
        return Position(steps, together)
