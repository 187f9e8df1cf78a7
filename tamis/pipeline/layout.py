"""Where things are in a run directory, and the shard lists that tasks look up by content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tamis.corpus import Fields, Shard, publish
from tamis.pipeline.program import digest_of


@dataclass(frozen=True)
class CorpusRef:
    """A surveyed set of shards, written to the run: what a task needs to find its documents."""

    path: str  # of the shard list, relative to the run: shards/<name>-<digest>.json
    fields: Fields
    digest: str  # of the documents' content

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "fields": vars(self.fields), "digest": self.digest}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CorpusRef:
        return cls(values["path"], Fields(**values["fields"]), values["digest"])

    @property
    def name(self) -> str:
        """pool, or beside-<key>."""
        return Path(self.path).stem.rpartition("-")[0]

    def shards(self, run: Path) -> dict[int, Shard]:
        return _load_shards(str(run / self.path))


@lru_cache(maxsize=16)
def _load_shards(path: str) -> dict[int, Shard]:
    shards = [Shard.from_json(values) for values in json.loads(Path(path).read_text(encoding="utf-8"))]
    return {shard.number: shard for shard in shards}


def save_shards(run: Path, name: str, shards: Sequence[Shard], fields: Fields) -> CorpusRef:
    """Writes a shard list under a name that holds its digest, so that a task can keep it by name."""
    ordered = sorted(shards, key=lambda shard: shard.number)
    values = [shard.to_json() for shard in ordered]
    path = f"shards/{name}-{digest_of(values)[:8]}.json"
    publish(run / path, json.dumps(values).encode())
    content = digest_of([shard.fingerprint for shard in ordered], vars(fields))
    return CorpusRef(path, fields, content)


KINDS = {"map": "layers", "fold": "folds", "exchange": "folds", "train": "models"}


def output_folder(kind: str, label: str, key: str) -> str:
    """Where a step of this kind puts its results: its label and the start of its key name the folder."""
    return f"{KINDS[kind]}/{label}-{key[:8]}"


def summary_file(folder: str, shard_number: int) -> str:
    return f"{folder}/{shard_number:06d}.npz"


def emitted_file(folder: str, shard_number: int) -> str:
    return f"{folder}/{shard_number:06d}.arrow"


def decided_file(folder: str, partition: int) -> str:
    return f"{folder}/decided-{partition:05d}.arrow"


def beside_file(key: str) -> str:
    """Where the reference to a set of documents beside the pool is kept, by `documents_key`."""
    return f"shards/beside-{key[:8]}-ref.json"


def quarantine_file(corpus: str, shard_number: int, key: str | None = None) -> str:
    """RUN/quarantine/<shard>.jsonl for the documents themselves; with a key for what a component failed on.

    Shards of a corpus beside the pool have its name before their number.
    """
    name = "" if corpus == "pool" else f"{corpus}-"
    return f"quarantine/{name}{shard_number:06d}{'.' + key[:8] if key else ''}.jsonl"
