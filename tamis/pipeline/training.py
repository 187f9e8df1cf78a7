"""The task that fills a folder: a tokenizer, a proxy model, from documents of the pool or beside it."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tamis.corpus import publish, read_batches
from tamis.errors import TamisError
from tamis.expressions import Expression
from tamis.pipeline.beside import Beside
from tamis.pipeline.layout import CorpusRef
from tamis.pipeline.program import documents_key, replay
from tamis.pipeline.work import Failure, Receipt, Work, load_pass, worker_name
from tamis.steps import Batch, Documents, Train


@dataclass(frozen=True)
class RunWorkshop:
    """The folder of one Train step, and the documents that it may read: the share `share` of the pool asked about."""

    folder: Path
    run: Path
    pool: CorpusRef
    work: Work
    beside: Mapping[str, CorpusRef]
    share: float = 1.0

    def documents(self, over: Documents | None = None, columns: Sequence[str] = ()) -> Iterator[Batch]:
        """Batches of usable documents, in shard order: the pool's, with columns of `reads`, or others'."""
        corpus = self.pool if over is None else self.beside[documents_key(over)]
        wanted = columns or ("doc_id", "text")
        inputs = dict.fromkeys(wanted, "")
        where = Expression(self.work.program.where) if over is None and self.work.program.where else None
        if over is None:
            # where no text is read, `n_bytes` tells which documents have one
            has_text = [name for name in ("n_bytes", "text") if name in self.work.inputs][:1]
            filters = where.columns if where else ()
            inputs = {name: self.work.inputs.get(name, "") for name in (*wanted, *filters, *has_text)}
        for _, shard in sorted(corpus.shards(self.run).items()):
            layers = Beside(self.run, inputs, shard)
            position = 0
            for record_batch, usable in read_batches(shard, corpus.fields, layers.document_columns):
                table = layers.join(record_batch, position)
                if over is None and "n_bytes" in inputs:
                    usable = pc.and_(usable, table.column("n_bytes").is_valid())  # noqa: PLW2901 - the same, less some
                table = table.filter(usable)
                if where is not None:
                    table = table.filter(pc.fill_null(where.over(table).cast(pa.bool_()), False))
                yield Batch(table)
                position += record_batch.num_rows

    def report(self, done: float, line: str) -> None:
        publish(self.run / "progress" / f"{self.work.key[:16]}.json", json.dumps({"done": done, "line": line}).encode())


def run_train(
    run: str,
    pass_path: str,
    index: int,
    beside: tuple[tuple[str, str], ...],
    input_digest: str,
    pretends_on: float | None = None,
) -> list[Receipt | Failure]:
    """One task: a Train step, or what it has for a pretence. Its folder is a result once `result.json` is in it.

    pretends_on : the share of the pool that is played through; None trains.
    """
    root = Path(run)
    spec = load_pass(str(root / pass_path))
    work = spec.works[index]
    step = replay(work.program, work.results, root).steps[work.index]
    assert isinstance(step, Train)
    folder = root / work.folder
    folder.mkdir(parents=True, exist_ok=True)
    corpora = {key: CorpusRef.from_json(json.loads((root / path).read_text(encoding="utf-8"))) for key, path in beside}
    began = time.perf_counter()
    try:
        train = step.pretend if pretends_on is not None and callable(step.pretend) else step.train
        share = 1.0 if pretends_on is None else pretends_on
        result = train(RunWorkshop(folder, root, spec.corpus, work, corpora, share))
    except TamisError:
        raise
    except Exception as error:  # noqa: BLE001 - the driver names the step
        return [Failure(f"{work.label}: {step.label}", f"{type(error).__name__}: {error}", traceback.format_exc())]
    digest = folder_digest(folder, result)
    size, _ = publish(folder / "result.json", json.dumps(result, indent=1, sort_keys=True).encode())
    seconds = round(time.perf_counter() - began, 3)
    (root / "progress" / f"{work.key[:16]}.json").unlink(missing_ok=True)
    return [
        Receipt(
            work.key,
            "train",
            input_digest,
            0,
            0,
            0,
            size,
            digest,
            seconds,
            worker_name(),
            f"{work.label}: {step.label}",
        )
    ]


def folder_digest(folder: Path, result: Mapping[str, object]) -> str:
    """Digest of what a Train step left, apart from times and checkpoints (files whose names start with `_`)."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        if path.name != "result.json" and not any(part.startswith(("_", ".")) for part in relative.parts):
            digest.update(f"{relative}\0".encode())
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    timeless = {key: value for key, value in result.items() if not key.startswith("_")}
    digest.update(json.dumps(timeless, sort_keys=True).encode())
    return digest.hexdigest()
