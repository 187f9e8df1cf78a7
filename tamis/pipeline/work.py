"""What travels between driver and workers: works and passes as JSON, receipts and failures as values."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tamis.corpus import publish
from tamis.pipeline.layout import CorpusRef
from tamis.pipeline.program import ProgramSpec, Ref, Round, digest_of, replay
from tamis.steps import Exchange, Fold, Map, Step

FAMILIES_THAT_FAIL = ("embed", "deduplicate", "score")  # what they fail on is `quarantined` for the stages after them
QUARANTINE = "quarantine:"  # an input "quarantine:key,key": what these works failed on, as a column `quarantined`


@dataclass(frozen=True)
class Work:
    """One step of one program, as a pass carries it.

    results : those the program has already; index : which of the steps it waits for (-1: the map it returned).
    inputs : where each column it reads comes from: a layer's folder, or "" for the documents themselves.
    folder : where its output goes. joins : folder of the decisions that join the batch.
    """

    program: ProgramSpec
    results: tuple[Round, ...]
    index: int
    kind: str
    key: str
    folder: str
    inputs: Mapping[str, str]
    joins: str | None = None

    @property
    def label(self) -> str:
        return self.program.label

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Work:
        results = tuple(tuple(Ref(**ref) for ref in refs) for refs in values["results"])
        return cls(**{**values, "program": ProgramSpec(**values["program"]), "results": results})

    def step(self, run: Path) -> Step | Map:
        """The step itself, rebuilt from the program's options and stored results."""
        position = replay(self.program, self.results, run)
        step = position.returned if self.index < 0 else position.steps[self.index]
        assert isinstance(step, (Map, Fold, Exchange))
        return step


@dataclass(frozen=True)
class PassSpec:
    """All works that read one corpus together."""

    corpus: CorpusRef
    works: tuple[Work, ...]
    batch_rows: int | None = None

    def save(self, run: Path) -> str:
        """Writes the pass under its digest; the path relative to the run."""
        text = json.dumps(
            {
                "corpus": self.corpus.to_json(),
                "works": [work.to_json() for work in self.works],
                "batch_rows": self.batch_rows,
            }
        )
        path = f"passes/{digest_of(text)[:16]}.json"
        publish(run / path, text.encode())
        return path


@lru_cache(maxsize=16)
def load_pass(path: str) -> PassSpec:
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    works = tuple(Work.from_json(work) for work in values["works"])
    return PassSpec(CorpusRef.from_json(values["corpus"]), works, values["batch_rows"])


@dataclass(frozen=True)
class Receipt:
    """Proof of one finished file: what was made of which input, how much, and the digest of the result.

    rows : documents in; out : documents with a result (or rows sent, or decided); quarantined : the rest.
    """

    key: str
    unit: str
    input: str
    rows: int
    out: int
    quarantined: int
    bytes: int
    digest: str
    seconds: float
    worker: str
    label: str = ""
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A unit of work that raised, with what to tell the user; task: the whole task, if all of it was lost."""

    label: str
    error: str
    details: str
    task: Any = None


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
