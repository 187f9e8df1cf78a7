"""An arm as files: the documents it uses, as often as it uses them, in Parquet or JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tamis.corpus import layer_file, publish, read_batches, read_layer
from tamis.errors import ColumnError, ContractError, LedgerError
from tamis.pipeline.layout import CorpusRef
from tamis.pipeline.workers import Task, Workers

FORMATS = ("parquet", "jsonl.zst")
MANIFEST = "manifest.json"
REQUEST = ".export.json"  # there while an export is being written


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    folder: Path
    documents: int
    files: int
    bytes: int
    seconds: float


def export(run: Path, arm: str, folder: Path, form: str, workers: Workers, columns: Sequence[str] = ()) -> Exported:
    """Writes an arm's documents to a folder: one file per shard that has any, and a manifest with counts and digests.

    columns : layers' columns to carry along with the documents' own. A document that the arm uses n times is
    written n times. An export that was stopped is begun again by the same call.
    Raises ColumnError for an unknown arm or column, ContractError for a folder that holds something else.
    """
    began = time.perf_counter()
    catalog = _catalog(run)
    request = _request(run, catalog, arm, folder, form, columns)
    stale = _claim(folder, request)
    shards = sorted(CorpusRef.from_json(catalog["corpus"]).shards(run))
    tasks = (Task(_export_shard, (str(folder / REQUEST), number), f"export {number}") for number in shards)
    written = []
    for outcome in workers.run(tasks):
        if outcome.error:
            raise LedgerError(f"export of {arm}: {outcome.error}; run the same command again")
        written += [outcome.value] if outcome.value else []
    written.sort(key=lambda entry: str(entry["file"]))
    total = sum(entry["documents"] for entry in written)
    expected = catalog["arms"].get(arm, {}).get("uses")
    if expected is not None and expected != total:
        raise LedgerError(
            f"export of {arm}: the books do not balance: the arm uses {expected} documents, {total} were written; "
            "report this"
        )
    for name in stale - {entry["file"] for entry in written}:
        (folder / name).unlink(missing_ok=True)
    publish(folder / MANIFEST, json.dumps({"arm": arm, "documents": total, "files": written}, indent=1).encode())
    (folder / REQUEST).unlink()
    return Exported(folder, total, len(written), sum(entry["bytes"] for entry in written), time.perf_counter() - began)


def _request(
    run: Path, catalog: Mapping[str, Any], arm: str, folder: Path, form: str, columns: Sequence[str]
) -> dict[str, Any]:
    """What is exported from where to where, for the tasks to read."""
    known = catalog["columns"]
    if form not in FORMATS:
        raise ValueError(f"export: expected --format {' or '.join(FORMATS)}, got {form!r}")
    if f"{arm}_repeats" not in known:
        arms = [stage["name"] for stage in catalog["stages"] if stage["verb"] == "select"]
        raise ColumnError(f"{run}: no arm {arm!r}; it has {', '.join(arms) or 'none'}")
    if unknown := [column for column in columns if column not in known]:
        raise ColumnError(f"{run}: no column {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return {
        "run": str(run.absolute()),
        "corpus": catalog["corpus"],
        "own": [name for name, where in known.items() if not where["layer"] and name != "id"],
        "layers": {name: known[name]["layer"] for name in (f"{arm}_repeats", *columns) if known[name]["layer"]},
        "arm": arm,
        "form": form,
        "folder": str(folder.absolute()),
    }


def _claim(folder: Path, request: Mapping[str, Any]) -> set[str]:
    """Makes the folder this export's; the files that an earlier one of the same arm and format left there."""
    files = {path.name for path in folder.iterdir()} if folder.exists() else set()
    mine = {name for name in files if name.startswith(f"{request['arm']}-") and name.endswith(f".{request['form']}")}
    others = {name for name in files if not name.startswith(".")} - mine - {MANIFEST}
    if others or (mine and not files & {MANIFEST, REQUEST}):
        found = min(others or mine)
        raise ContractError(
            f"{folder}: expected a new folder, or one with this export in it; it holds {found}; name another with --to"
        )
    publish(folder / REQUEST, json.dumps(request).encode())
    return mine


def _catalog(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    if not path.exists():
        raise LedgerError(f"{run}: expected a run directory, found no run.json; give the folder that `tamis run` wrote")
    catalog: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return catalog


def _export_shard(request_path: str, number: int) -> dict[str, Any] | None:
    """One task: the documents of one shard that the arm uses."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    run, arm = Path(request["run"]), request["arm"]
    corpus = CorpusRef.from_json(request["corpus"])
    shard = corpus.shards(run)[number]
    layers: dict[str, pa.ChunkedArray] = {}
    for name, folder in request["layers"].items():
        layers[name] = read_layer(run / folder / layer_file(number), [name]).column(name)
    repeats = layers.pop(f"{arm}_repeats").fill_null(0).to_numpy()
    if not repeats.any():
        return None
    parts, position = [], 0
    for batch, _ in read_batches(shard, corpus.fields, request["own"]):
        indices = np.repeat(np.arange(batch.num_rows), repeats[position : position + batch.num_rows])
        table = pa.Table.from_batches([batch]).take(pa.array(indices))
        for name, column in layers.items():
            table = table.append_column(name, column.slice(position, batch.num_rows).take(pa.array(indices)))
        parts.append(table.rename_columns([{"doc_id": "id"}.get(name, name) for name in table.schema.names]))
        position += batch.num_rows
    table = pa.concat_tables(parts)
    name = f"{arm}-{number:06d}.{request['form']}"
    content = _parquet(table) if request["form"] == "parquet" else _json_lines(table)
    size, digest = publish(Path(request["folder"]) / name, content)
    return {"file": name, "documents": table.num_rows, "bytes": size, "digest": digest}


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=1 << 14)
    return sink.getvalue()


def _json_lines(table: pa.Table) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3)
    lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE, default=str) for row in table.to_pylist())
    return compressor.compress(b"".join(lines))
