"""From paths to numbered shards: converts what is not Parquet, surveys what is, and remembers both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tamis.corpus import Fields, Shard, SurveyedFile, open_parquet, publish, survey
from tamis.errors import ContractError, SpecError
from tamis.ingest import SourceFile, expand, is_parquet
from tamis.pipeline.ingestion import convert_files
from tamis.pipeline.layout import CorpusRef, save_shards
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.workers import Task, Workers

CONVERTED = Fields("text", "doc_id", "source")  # what ingest writes


@dataclass
class Prepared:
    """A corpus that tasks can read, and what was wrong with its files.

    columns : our names and Arrow types of what every file has. bad, seen : records lost and records met.
    """

    ref: CorpusRef
    shards: tuple[Shard, ...]
    columns: Mapping[str, pa.DataType]
    bad: int = 0
    seen: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)


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


def prepare(
    name: str,
    paths: Sequence[str],
    fields: Fields,
    run: Path,
    workers: Workers,
    ledger: Ledger,
    shard_bytes: int,
    limit: int | None = None,
) -> Prepared:
    """The shards of a corpus. Files with unchanged size and time stamp are not looked at again.

    Raises SpecError if there are no files, ContractError if they disagree about their columns.
    """
    sources = expand(paths)
    parquet = [source for source in sources if is_parquet(source)]
    others = [source for source in sources if not is_parquet(source)]
    if parquet and others:
        raise SpecError(
            f"{name}: expected files of one kind, got {len(parquet)} Parquet files and {len(others)} others such as "
            f"{others[0].relative_name}; name them apart"
        )
    prepared_bad, prepared_seen, problems = 0, 0, []
    if others:
        fields_in, fields = fields, CONVERTED
        converted = convert_files(name, others, fields_in, run, workers, ledger, shard_bytes)
        parquet, prepared_bad, prepared_seen = list(converted.files), converted.bad, converted.lines
        problems = converted.problems
    registry = Registry(run / "shards" / f"{name}.json")
    surveyed = _surveyed(registry, parquet, fields, workers, shard_bytes)
    shards = tuple(shard for file in surveyed for shard in file.shards)[:limit]
    lost = [file for file in surveyed if file.problem]
    problems += [
        {"file": Path(file.url).name, "position": None, "reason": file.problem, "sample": "", "rows": file.rows}
        for file in lost
    ]
    if not surveyed:  # ingest found nothing to write
        raise ContractError(
            f"{name}: no documents in {len(sources)} files; see {run / 'quarantine'} for what was wrong"
        )
    if not any(file.problem is None for file in surveyed):
        raise ContractError(
            f"{name}: none of {len(surveyed)} files can be read; the first, {surveyed[0].url}: {surveyed[0].problem}"
        )
    columns = _columns(next(file for file in surveyed if file.problem is None).url, fields)
    bad = prepared_bad + sum(max(1, file.rows) for file in lost)
    seen = (prepared_seen or sum(shard.rows for shard in shards)) + sum(max(1, file.rows) for file in lost)
    return Prepared(save_shards(run, name, shards, fields), shards, columns, bad, seen, problems)


def _columns(url: str, fields: Fields) -> dict[str, pa.DataType]:
    with open_parquet(url) as file:
        schema = file.schema_arrow
    return {ours: schema.field(theirs).type for ours, theirs in fields.of(schema.names).items()}


def _surveyed(
    registry: Registry, sources: Sequence[SourceFile], fields: Fields, workers: Workers, shard_bytes: int
) -> list[SurveyedFile]:
    """Every file's shards, numbered: those of known files as they were, new ones counted on in path order."""
    known = registry.load()
    settings = [fields.text, fields.id, fields.source, shard_bytes]
    stale = [
        source
        for source in sources
        if known["files"].get(source.url, {}).get("stamp") != [source.fingerprint, *settings]
    ]
    found: dict[str, SurveyedFile] = {}
    tasks = (
        Task(survey, (source.url, source.relative_name, fields, shard_bytes), f"survey {source.relative_name}")
        for source in stale
    )
    for outcome in workers.run(tasks):
        if outcome.error:
            raise ContractError(f"{outcome.task.label}: {outcome.error}")
        found[outcome.value.url] = outcome.value
    for source in stale:
        file = found[source.url]
        numbers = {
            shard["group_start"]: shard["number"] for shard in known["files"].get(source.url, {}).get("shards", ())
        }
        numbered = []
        for shard in file.shards:
            if shard.group_start not in numbers:
                numbers[shard.group_start] = known["next"]
                known["next"] += 1
            numbered.append({**shard.to_json(), "number": numbers[shard.group_start]})
        known["files"][source.url] = {
            "stamp": [source.fingerprint, *settings],
            "shards": numbered,
            "rows": file.rows,
            "problem": file.problem,
            "columns": dict(file.columns),
        }
    if stale:
        registry.save(known)
    return [_from_registry(source.url, known["files"][source.url]) for source in sources]


def _from_registry(url: str, values: Mapping[str, Any]) -> SurveyedFile:
    shards = tuple(Shard.from_json(shard) for shard in values["shards"])
    return SurveyedFile(url, values["columns"], shards, values["rows"], values["problem"])
