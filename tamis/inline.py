"""A component on documents in memory: the same steps, without a run directory, workers or files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.errors import ContractError
from tamis.families import build, find
from tamis.kernels.arrow import one_array
from tamis.routing import beside_rows, emitted_table, sorted_by
from tamis.steps import Ask, Batch, Component, Decisions, Documents, Exchange, Fold, Map, Pool, Publish, Step, Train


def run_inline(
    component: Component,
    documents: pa.Table,
    name: str,
    *,
    seed: int = 0,
    beside: Mapping[Documents, pa.Table] | None = None,
    batch_rows: int = 4096,
    after: Sequence[Ask] = (),
) -> pa.Table:
    """The columns that a component writes about documents in memory: one row per document, in their order.

    documents : with `text`, and `doc_id` if the component reads it; a made `doc_id` is the row's number.
    beside : documents for the sets that the component names by path; those with `texts` bring their own.
    after : the stages before it, whose columns it reads or whose training it uses. Components that it asks for are
    run before it without being told.
    Raises ContractError for a component that uses the training of a stage that is not among them.
    """
    with Inline(documents, dict(beside or {}), batch_rows) as interpreter:
        for ask in (*after, *component.asks()):
            interpreter.add(ask, seed)
        return interpreter.run(component, Pool(name, seed if component.seeded else 0))


def _complete(documents: pa.Table) -> pa.Table:
    """The documents with all columns that a run would have made."""
    rows, size = documents.num_rows, pa.nulls(documents.num_rows, pa.uint64())
    if "text" in documents.schema.names:
        size = pc.binary_length(documents["text"]).cast(pa.uint64())
    ids = pa.array(np.arange(rows)).cast(pa.string())
    for name, values in (("doc_id", ids), ("source", pa.nulls(rows, pa.string())), ("n_bytes", size)):
        if name not in documents.schema.names:
            documents = documents.append_column(name, values)
    return documents.append_column("row", pa.array(np.arange(rows, dtype=np.uint64)))


class Inline:
    """Plays a program over documents in memory; `findings` is what it published beside its columns."""

    def __init__(self, documents: pa.Table, beside: dict[Documents, pa.Table], batch_rows: int) -> None:
        self._documents, self._beside, self._batch_rows = _complete(documents), beside, batch_rows
        self.findings: Publish | None = None
        self._decided: dict[str, pa.Table] = {}
        self._trained: dict[str, dict[str, Any] | None] = {}  # what stages before trained last, by their names
        self._last: dict[str, Any] | None = None
        self._folders = ExitStack()  # of trained models, until the program has run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folders.close()

    def add(self, ask: Ask, seed: int) -> None:
        """Plays a component that others read, once: its columns join the documents, its training is known by name."""
        if ask.name in self._trained:
            return
        component = build(find(ask.verb, ask.component), ask.options)
        for first in component.asks():
            self.add(first, seed)
        found = self._play(component, Pool(ask.name, seed if component.seeded else 0))
        for column in found.schema.names:
            if column not in self._documents.schema.names:
                self._documents = self._documents.append_column(column, found[column])
        self._trained[ask.name] = self._last

    def run(self, component: Component, pool: Pool) -> pa.Table:
        with self:
            return self._play(component, pool)

    def _play(self, component: Component, pool: Pool) -> pa.Table:
        self._last = None
        program = component.steps(pool)
        value: Any = None
        while True:
            try:
                yielded = program.send(value)
            except StopIteration as stop:
                return self._map(stop.value)
            together = isinstance(yielded, (list, tuple))
            values = [self._result(step) for step in (yielded if together else [yielded])]
            value = values if together else values[0]

    def batched(self, table: pa.Table) -> list[Batch]:
        batches = table.combine_chunks().to_batches(self._batch_rows)
        return [Batch(batch) for batch in batches or [pa.RecordBatch.from_pylist([], table.schema)]]

    def batches(self, over: Documents | None = None, columns: Sequence[str] = ()) -> Iterator[Batch]:
        """The documents, or others, with these columns or all."""
        for batch in self.batched(self._documents if over is None else self._opened(over)):
            yield Batch(batch.table.select(list(columns))) if columns else batch

    def _joined(self, joins: Decisions | None) -> list[Batch]:
        if joins is None:
            return self.batched(self._documents)
        table = self._documents
        decided = beside_rows(self._decided[joins.key], joins, 0, table.num_rows)
        for column in joins.returns:
            table = table.append_column(column, decided.column(column))
        return self.batched(table)

    def _result(self, step: Step) -> Any:
        if isinstance(step, Fold):
            return self._fold(step)
        if isinstance(step, Exchange):
            return self._exchange(step)
        if isinstance(step, Train):
            return self._train(step)
        if trained := self._trained.get(step.name):
            return trained
        raise ContractError(
            f"inline: uses the training of a stage {step.name!r}, which is not among the stages before it; "
            "give it in `after`, or use a run"
        )

    def _train(self, step: Train) -> dict[str, Any]:
        folder = Path(self._folders.enter_context(TemporaryDirectory(prefix="tamis-")))
        told = json.loads(json.dumps(step.train(_Bench(folder, self))))  # as a run would hand it on
        self._last = {**told, "folder": str(folder)}
        return self._last

    def _fold(self, step: Fold) -> dict[str, Any]:
        batches = self._joined(step.joins) if step.over is None else self.batched(self._opened(step.over))
        merged = step.summarize(batches[0])
        for batch in batches[1:]:
            merged = step.merge(merged, step.summarize(batch))
        return dict(merged)

    def _opened(self, documents: Documents) -> pa.Table:
        if documents in self._beside:
            return _complete(self._beside[documents])
        if documents.texts or not documents.paths:
            return _complete(pa.table({"text": pa.array(documents.texts, pa.large_string())}))
        from tamis.corpus import Fields, read_batches, survey
        from tamis.ingest import expand

        fields = Fields(documents.text, documents.id)
        tables = []
        for file in expand(documents.paths):
            found = survey(file.url, file.relative_name, fields, 1 << 62)
            if found.problem:
                raise ContractError(f"{file.url}: {found.problem}")
            for shard in found.shards:
                tables += [
                    pa.Table.from_batches([batch.filter(usable)])
                    for batch, usable in read_batches(shard, fields, ("doc_id", "text"))
                ]
        return _complete(pa.concat_tables(tables))

    def _exchange(self, step: Exchange) -> Decisions:
        sent = pa.concat_tables(
            emitted_table(step.emit(batch), batch["row"], "inline") for batch in self._joined(step.joins)
        )
        key = str(len(self._decided))
        self._decided[key] = sorted_by(self.decided(step, sorted_by(sent, "key")), "row")
        return Decisions(key, step.returns, step.many)

    def decided(self, step: Exchange, sent: pa.Table) -> pa.Table:
        """The decisions about rows sorted by key."""
        return step.decide(sent).select(["row", *step.returns])

    def _map(self, step: Map | Any) -> pa.Table:
        if not isinstance(step, Map):
            raise ContractError(
                f"inline: expected a component that writes columns, got one that returns {type(step).__name__}"
            )
        self.findings = step.findings
        parts = [step.apply(batch) for batch in self._joined(step.joins)]
        return pa.table(
            {
                name: pa.chunked_array([one_array(part[name]) for part in parts]).cast(kind)
                for name, kind in step.writes.items()
            }
        )


@dataclass(frozen=True)
class _Bench:
    """The workshop of a Train step."""

    folder: Path
    inline: Inline
    share: float = 1.0

    def documents(self, over: Documents | None = None, columns: Sequence[str] = ()) -> Iterator[Batch]:
        yield from self.inline.batches(over, columns)

    def report(self, done: float, line: str) -> None:
        """Nobody watches."""


def score(
    texts: Sequence[str] | pa.Array, component: str, *, verb: str = "score", seed: int = 0, **options: Any
) -> pa.Table:
    """Any component on a plain list or Arrow array of texts, without a pipeline: its columns, one row per text.

    options : the component's own; a list of strings for a set of documents is the documents themselves.
    """
    built = build(find(verb, component), options, texts=True)
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    found = run_inline(built, pa.table({"text": array.drop_null()}), component, seed=seed)
    place = np.cumsum(array.is_valid().to_numpy(zero_copy_only=False)) - 1
    return found.take(pa.array(place, mask=array.is_null().to_numpy(zero_copy_only=False)))
