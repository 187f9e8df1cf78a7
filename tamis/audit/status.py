"""How far a run is: stage by stage, from the ledger and the passes that the driver wrote down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.audit.reader import Run
from tamis.audit.sql import aligned
from tamis.corpus import Shard
from tamis.errors import LedgerError
from tamis.pipeline.layout import CorpusRef
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.program import label_of
from tamis.pipeline.work import Receipt, load_pass

HEADS = ("stage", "state", "shards", "documents", "left out", "bad", "speed", "work")
KINDS = {"fold": "counting", "exchange": "exchanging", "map": "writing", "train": "training"}


@dataclass
class Progress:
    """One stage of a run, added up over its works.

    done, total : shards of its latest work. bad : quarantined or unusable documents of its map.
    seconds : worker time. text_bytes, documents_read : what its works went through.
    """

    label: str
    state: str = "waiting"
    done: int = 0
    total: int = 0
    documents: int = 0
    left_out: int = 0
    bad: int = 0
    seconds: float = 0.0
    text_bytes: int = 0
    documents_read: int = 0

    @property
    def speed(self) -> str:
        """Per worker: MB/s of text, or documents/s where no text is read."""
        if self.seconds <= 0 or not self.documents_read:
            return ""
        if self.text_bytes:
            return f"{self.text_bytes / 1e6 / self.seconds:,.1f} MB/s"
        return f"{self.documents_read / self.seconds:,.0f} docs/s"


@dataclass(frozen=True)
class Work:
    """One work as a pass file has it; text: whether it reads the documents' text."""

    key: str
    kind: str
    program: Mapping[str, Any]
    text: bool
    over_pool: bool
    shards: Mapping[int, Shard] = field(repr=False)


def status(path: str | Path | Run) -> str:
    """Where a run stands, as text; also while it is going on, after it was killed, and before it has any column.

    Raises LedgerError if the folder is not a run directory.
    """
    run = path.path if isinstance(path, Run) else Path(path)
    if not (run / "ledger").is_dir():
        raise LedgerError(
            f"{run}: expected a run directory with a ledger in it, found none; give the folder that `out:` names"
        )
    catalog = _json(run / "run.json")
    stages = progress_of(run, catalog)
    right = [False, False, True, True, True, True, True, True]
    lines = [_headline(run, catalog), "", *aligned(HEADS, [_cells(stage) for stage in stages], right)]
    if failures := _failures(run, catalog):
        lines += ["", *failures]
    return "\n".join(lines)


def progress_of(run: Path, catalog: Mapping[str, Any]) -> list[Progress]:
    """One entry per stage, in stage order; before run.json exists, those whose work has begun."""
    works = list(_works(run, catalog))
    receipts: dict[str, list[Receipt]] = {}
    for receipt in Ledger(run).receipts():
        receipts.setdefault(receipt.key, []).append(receipt)
    names = [_named(values) for values in catalog.get("stages", ())]
    names = names or list(dict.fromkeys(_named(work.program) for work in works))
    finished = {_named(values) for values in catalog.get("stages", ()) if values["finished"]}
    found = []
    for name in names:
        own = [work for work in works if _named(work.program) == name]
        stage = Progress(label_of(*name))
        for work in own:
            _add(stage, work, receipts.get(work.key, ()))
        if name in finished:
            stage.state = "done"
        found.append(stage)
    return found


def _named(program: Mapping[str, Any]) -> tuple[str, str, str]:
    return program["verb"], program["component"], program["name"]


def _works(run: Path, catalog: Mapping[str, Any]) -> Iterator[Work]:
    """The works of this run's stages: those in run.json, and those of passes that began after it was written."""
    current = {key for values in catalog.get("stages", ()) for key in values["keys"]}
    written = (run / "run.json").stat().st_mtime_ns if catalog else 0
    options = {(values["verb"], values["name"]): values["options"] for values in catalog.get("stages", ())}
    seen: set[str] = set()
    for path in sorted((run / "passes").glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        spec = load_pass(str(path))
        is_new = path.stat().st_mtime_ns >= written and not catalog.get("finished")
        over_pool = spec.corpus.name == "pool"
        # a pass may be older than the corpus is large: `--limit` looked at a part of it
        corpus = CorpusRef.from_json(catalog["corpus"]) if over_pool and catalog else spec.corpus
        for work in spec.works:
            program = vars(work.program)
            same = options.get((program["verb"], program["name"])) == json.loads(program["options"])
            wanted = not catalog or is_new or work.key in current or (not over_pool and same)
            if wanted and work.key not in seen:
                seen.add(work.key)
                yield Work(work.key, work.kind, program, "text" in work.inputs, over_pool, corpus.shards(run))


def _add(stage: Progress, work: Work, receipts: Iterable[Receipt]) -> None:
    receipts = list(receipts)
    done = [receipt for receipt in receipts if receipt.unit.isdigit() and int(receipt.unit) in work.shards]
    stage.seconds += sum(receipt.seconds for receipt in receipts)
    stage.documents_read += sum(receipt.rows for receipt in done)
    if work.text:
        stage.text_bytes += sum(work.shards[int(receipt.unit)].bytes for receipt in done)
    stage.state = KINDS[work.kind]
    if work.kind == "train":
        stage.done, stage.total = len(receipts), 1
        return
    stage.done, stage.total = len(done), len(work.shards)
    stage.documents = sum(receipt.rows for receipt in done) if work.over_pool else 0
    stage.left_out = sum(receipt.facts.get("left_out", 0) for receipt in done)
    stage.bad = sum(receipt.quarantined + receipt.facts.get("unusable", 0) for receipt in done)


def _cells(stage: Progress) -> tuple[str, ...]:
    shards = f"{stage.done:,}/{stage.total:,}" if stage.total else ""
    numbers = [f"{number:,}" if stage.total else "" for number in (stage.documents, stage.left_out, stage.bad)]
    work = f"{stage.seconds:,.1f} s" if stage.total else ""
    return (stage.label, stage.state, shards, *numbers, stage.speed, work)


def _headline(run: Path, catalog: Mapping[str, Any]) -> str:
    if catalog.get("finished"):
        arms = "".join(
            f"; {name} keeps {counts['kept']:,} of {counts['pool']:,}" for name, counts in catalog["arms"].items()
        )
        return f"{run}: finished{arms}"
    holder = _driver(run)
    if holder:
        return f"{run}: going on (process {holder})"
    return f"{run}: not finished, and no driver is working on it; `tamis run` goes on from here"


def _driver(run: Path) -> int | None:
    """The process that holds the run's lock, if it is alive on this machine."""
    try:
        process = int((run / "ledger" / "lock").read_text(encoding="utf-8"))
        os.kill(process, 0)
    except (OSError, ValueError):
        return None
    return process


def _failures(run: Path, catalog: Mapping[str, Any]) -> list[str]:
    path = run / "failures.txt"
    if catalog.get("finished") or not path.is_file():
        return []
    entries = path.read_text(encoding="utf-8").split("\n\n")
    first = [entry.splitlines()[0] for entry in entries if entry.strip() and not entry.startswith(" ")]
    return [f"what failed last (details in {path}):", *(f"  {line}" for line in first[:10])]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
