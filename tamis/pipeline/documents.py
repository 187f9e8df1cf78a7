"""From paths to numbered shards: converts what is not Parquet, surveys what is, and remembers both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from tamis.corpus import Fields, Shard, SurveyedFile, open_parquet, publish, survey
from tamis.errors import ContractError, SpecError
from tamis.ingest import SourceFile, expand, is_parquet
from tamis.pipeline.ingestion import Converted, convert_files
from tamis.pipeline.layout import CorpusRef, save_shards
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.workers import Task, Workers

CONVERTED = Fields("text", "doc_id", "source")  # what ingest writes


@dataclass
class Prepared:
    """A corpus that tasks can read, and what was wrong with its files.

    columns : our names and Arrow types of what every file has. bad, seen : records lost and records met.
    notes : what the user should know about its columns.
    """

    ref: CorpusRef
    shards: tuple[Shard, ...]
    columns: Mapping[str, pa.DataType]
    bad: int = 0
    seen: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Registry:
    """The numbers that shards were given, kept for the life of a run: never reused, never changed."""

    path: Path

    def load(self) -> dict[str, Any]:
        if self.path.exists():
            values: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return values
        return {"next": 0, "files": {}}

    def save(self, values: Mapping[str, Any]) -> None:
        publish(self.path, json.dumps(values).encode())


@dataclass(frozen=True)
class Desk:
    """Where corpora are prepared: the run, who works for it, and what it knows already.

    limit : only this many shards. digest : False looks at metadata only, which is enough to plan.
    """

    run: Path
    workers: Workers
    ledger: Ledger
    shard_bytes: int
    limit: int | None = None
    digest: bool = True


def first_of(paths: Sequence[str]) -> SourceFile:
    """One file of a corpus. Raises SpecError if there is none."""
    try:
        return expand(paths)[0]
    except ContractError as error:
        raise SpecError(str(error)) from error


def prepare(name: str, paths: Sequence[str], fields: Fields, desk: Desk) -> Prepared:
    """The shards of a corpus. Files with unchanged size and time stamp are not looked at again.

    name : of what is kept of them; who asks says in whose words they are missing.
    Raises SpecError if there are no files of one kind, ContractError if none can be read.
    """
    inside = f"{desk.run.absolute()}/"
    try:
        sources = [source for source in expand(paths) if not source.url.startswith(inside)]
    except ContractError as error:  # a path that names nothing
        raise SpecError(str(error)) from error
    parquet = [source for source in sources if is_parquet(source)]
    others = [source for source in sources if not is_parquet(source)]
    if parquet and others:
        raise SpecError(
            f"expected files of one kind, got {len(parquet)} Parquet files and {len(others)} others such as "
            f"{others[0].relative_name}; name them apart"
        )
    if not others:
        return _in_place(name, parquet, fields, desk)
    converted = convert_files(name, others, fields, desk.run, desk.workers, desk.ledger, desk.shard_bytes, desk.limit)
    if not converted.files:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ContractError(f"expected documents in {others[0].url}{more}, got none: {_first_reason(converted)}")
    prepared = _in_place(name, converted.files, CONVERTED, desk)
    return replace(prepared, bad=converted.bad, seen=converted.lines, problems=converted.problems)


def _first_reason(converted: Converted) -> str:
    """Why the first line that was refused was."""
    if not converted.refused:
        return "it is empty, or its lines are blank"
    with converted.refused[0].open(encoding="utf-8") as file:
        entry = json.loads(next(file))
    return f"line {entry['position']['line']} of {entry['file']}: {entry['reason']}"


def _in_place(name: str, sources: Sequence[SourceFile], fields: Fields, desk: Desk) -> Prepared:
    """Parquet files as they are."""
    surveyed = _surveyed(desk, name, sources[: desk.limit], fields)
    shards = tuple(shard for file in surveyed for shard in file.shards)[: desk.limit]
    good = [file for file in surveyed if file.problem is None]
    if not good:
        first = surveyed[0]
        raise ContractError(f"none of {len(surveyed)} files can be read; the first, {first.url}: {first.problem}")
    columns, notes = _columns(good, fields)
    sizes = {source.url: source.bytes for source in sources}
    density = sum(file.rows for file in good) / max(1, sum(sizes[file.url] for file in good))  # rows per stored byte
    lost = {file.url: max(1, file.rows or round(density * sizes[file.url])) for file in surveyed if file.problem}
    problems = [
        {"file": Path(file.url).name, "position": None, "reason": file.problem, "sample": "", "rows": lost[file.url]}
        for file in surveyed
        if file.problem
    ]
    bad = sum(lost.values())
    seen = sum(shard.rows for shard in shards) + bad
    return Prepared(save_shards(desk.run, name, shards, fields), shards, columns, bad, seen, problems, notes)


def _columns(files: Sequence[SurveyedFile], fields: Fields) -> tuple[dict[str, pa.DataType], list[str]]:
    """Our names and types of the columns that all files have, and what the user should know about the others.

    Raises SpecError for an id or source column that was named, and is in no file.
    """
    common = [column for column in files[0].columns if all(column in file.columns for file in files)]
    for role, default in (("id", "id"), ("source", "source")):
        wanted = getattr(fields, role)
        if wanted != default and wanted not in common:
            raise SpecError(f"expected a column {wanted!r} ({role}:) in all files, they have {', '.join(common)}")
    notes = []
    if fields.id not in common:
        notes.append(f"the files have no column {fields.id!r}: documents are called by file and record number")
    for column in sorted({column for file in files for column in file.columns} - set(common)):
        lacking = next(file.url for file in files if column not in file.columns)
        notes.append(f"the column {column!r} is not in all files, so not used; it is missing in {lacking}")
    if hidden := fields.hidden(common):
        notes.append(f"columns with names that tamis gives to others, so not used: {', '.join(hidden)}")
    with open_parquet(files[0].url) as file:
        schema = file.schema_arrow
    return {ours: schema.field(theirs).type for ours, theirs in fields.of(common).items()}, notes


def _surveyed(desk: Desk, name: str, sources: Sequence[SourceFile], fields: Fields) -> list[SurveyedFile]:
    """Every file's shards, numbered: those of known files as they were, new ones counted on in path order."""
    registry = Registry(desk.run / "shards" / f"{name}.json")
    known = registry.load()
    settings = [fields.text, fields.id, fields.source, desk.shard_bytes]
    stale = [source for source in sources if not _is_known(known["files"].get(source.url), source, settings)]
    arguments = {source.url: (source.url, source.relative_name, fields, desk.shard_bytes) for source in stale}
    look = partial(survey, digest=desk.digest)
    tasks = (Task(look, arguments[source.url], f"survey {source.relative_name}") for source in stale)
    found: dict[str, SurveyedFile] = {}
    for outcome in desk.workers.run(tasks):
        if outcome.error:
            raise ContractError(f"{outcome.task.label}: {outcome.error}")
        found[outcome.value.url] = outcome.value
    for source in stale:
        file, before = found[source.url], known["files"].get(source.url, {})
        known["files"][source.url] = {
            "stamp": [source.fingerprint, *settings],
            "shards": _numbered(file, before.get("shards", ()), known),
            "rows": file.rows,
            "problem": file.problem,
            "columns": dict(file.columns),
        }
    if stale:
        registry.save(known)
    return [_from_registry(source.url, known["files"][source.url]) for source in sources]


def _is_known(values: Mapping[str, Any] | None, source: SourceFile, settings: Sequence[object]) -> bool:
    """Whether this very file was read before; one that could not be read is looked at again."""
    return values is not None and values["stamp"] == [source.fingerprint, *settings] and not values["problem"]


def _numbered(file: SurveyedFile, before: Sequence[Mapping[str, Any]], known: dict[str, Any]) -> list[dict[str, Any]]:
    numbers = {shard["group_start"]: shard["number"] for shard in before}
    for shard in file.shards:
        if shard.group_start not in numbers:
            numbers[shard.group_start] = known["next"]
            known["next"] += 1
    return [{**shard.to_json(), "number": numbers[shard.group_start]} for shard in file.shards]


def _from_registry(url: str, values: Mapping[str, Any]) -> SurveyedFile:
    shards = tuple(Shard.from_json(shard) for shard in values["shards"])
    return SurveyedFile(url, values["columns"], shards, values["rows"], values["problem"])
