"""An arm as files: the documents it uses, as often as it uses them, in Parquet, JSON lines or tokens.

What a stage marked as passages that stand elsewhere (`<stage>_spans`) is left out of the text here and nowhere before,
so that a run holds no second copy of the corpus.
"""

from __future__ import annotations

import json
import time
from collections import Counter
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
from tamis.kernels.arrow import Int64
from tamis.models.tokenizer import FILES
from tamis.pipeline.layout import CorpusRef
from tamis.pipeline.passages import SPANS_SUFFIX, cut, marks_spans
from tamis.pipeline.token_files import BESIDE, TOKENS, TokenShard, about, copy_tokenizer, tokenizer_folder
from tamis.pipeline.workers import Task, Workers

FORMATS = {"parquet": (".parquet",), "jsonl.zst": (".jsonl.zst",), "tokens": (TOKENS, BESIDE)}  # and their suffixes
MANIFEST = "manifest.json"
REQUEST = ".export.json"  # there while an export is being written


@dataclass(frozen=True)
class Exported:
    """What an export wrote; left_out : the `spans` and their `bytes`, and the `documents` that were nothing else.

    tokens : with the one that opens each document; None if the format has none.
    """

    folder: Path
    documents: int
    files: int
    bytes: int
    seconds: float
    left_out: Mapping[str, int]
    tokens: int | None = None


def export(
    run: Path,
    arm: str,
    folder: Path,
    form: str,
    workers: Workers,
    columns: Sequence[str] = (),
    spans: Sequence[str] | None = None,
    tokenizer: str | None = None,
) -> Exported:
    """Writes an arm's documents to a folder: one file per shard that has any, and a manifest with counts and digests.

    columns : layers' columns to carry along with the documents' own. A document that the arm uses n times is
    written n times. An export that was stopped is begun again by the same call.
    spans : the stages whose spans are left out of the text, by default all that found any. A document of which no
    word is left is not written but counted.
    tokenizer : for the format `tokens`: a stage of the run or a folder, by default the tokenizer the run counts with.
    Raises ColumnError for an unknown arm, column or stage, ContractError for a folder that holds something else.
    """
    began = time.perf_counter()
    catalog = _catalog(run)
    request = _request(run, catalog, arm, folder, form, columns)
    request["spans"] = _span_layers(run, catalog, spans)
    source = tokenizer_folder(run, catalog, tokenizer).absolute() if form == "tokens" else None
    facts = about(source) if source else None
    request["tokenizer"] = str(source)
    stale = _claim(folder, request)
    shards = sorted(CorpusRef.from_json(catalog["corpus"]).shards(run))
    tasks = (Task(_export_shard, (str(folder / REQUEST), number), f"export {number}") for number in shards)
    entries = []
    for outcome in workers.run(tasks):
        if outcome.error:
            raise LedgerError(f"export of {arm}: {outcome.error}; run the same command again")
        entries += [outcome.value] if outcome.value else []
    written = sorted((entry for entry in entries if entry["file"]), key=lambda entry: str(entry["file"]))
    left_out = {name: sum(entry["left_out"][name] for entry in entries) for name in ("spans", "bytes", "documents")}
    total = sum(entry["documents"] for entry in written)
    expected = catalog["arms"].get(arm, {}).get("uses")
    if expected is not None and expected != total + left_out["documents"]:
        raise LedgerError(
            f"export of {arm}: the books do not balance: the arm uses {expected} documents, {total} were written and "
            f"{left_out['documents']} had no words left; report this"
        )
    told = {"arm": arm, "documents": total, "spans": sorted(request["spans"]), "left_out": left_out, "files": written}
    tokens = sum(entry["tokens"] for entry in written) if facts else None
    if source and facts:
        told["tokens"] = {"count": tokens, **facts, "tokenizer": copy_tokenizer(source, folder)}
    kept = {str(entry[key]) for entry in written for key in ("file", "beside") if key in entry}
    for name in stale - kept - set(FILES):
        (folder / name).unlink(missing_ok=True)
    publish(folder / MANIFEST, json.dumps(told, indent=1).encode())
    (folder / REQUEST).unlink()
    size = sum(entry["bytes"] for entry in written)
    return Exported(folder, total, len(written), size, time.perf_counter() - began, left_out, tokens)


def _span_layers(run: Path, catalog: Mapping[str, Any], stages: Sequence[str] | None) -> dict[str, str]:
    """The columns of spans, and their layers: of these stages, or of all."""
    found = {
        name.removesuffix(SPANS_SUFFIX): name
        for name, where in catalog["columns"].items()
        if marks_spans(name, where["type"])
    }
    if unknown := [stage for stage in stages or () if stage not in found]:
        raise ColumnError(f"{run}: no stage {unknown[0]!r} that marks spans; it has {', '.join(found) or 'none'}")
    chosen = found if stages is None else stages
    return {found[stage]: catalog["columns"][found[stage]]["layer"] for stage in chosen}


def _request(
    run: Path, catalog: Mapping[str, Any], arm: str, folder: Path, form: str, columns: Sequence[str]
) -> dict[str, Any]:
    """What is exported from where to where, for the tasks to read."""
    known = catalog["columns"]
    if form not in FORMATS:
        raise ValueError(f"export: expected --format {' or '.join(FORMATS)}, got {form!r}")
    if f"{arm}_repeats" not in known:
        raise ColumnError(f"{run}: no arm {arm!r}{_why_not(catalog, arm)}")
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


def _why_not(catalog: Mapping[str, Any], arm: str) -> str:
    """What is to be said of an arm that is not there: why, or which there are."""
    stages = {stage["name"]: stage for stage in catalog["stages"] if stage["verb"] == "select"}
    if arm not in stages:
        made = [name for name in stages if f"{name}_repeats" in catalog["columns"]]
        return f"; it has {', '.join(made) or 'none'}"
    refusal = stages[arm].get("refusal")
    return f"; it was refused: {refusal}" if refusal else " yet; run again to finish it"


def _claim(folder: Path, request: Mapping[str, Any]) -> set[str]:
    """Makes the folder this export's; the files that an earlier one of the same arm and format left there."""
    files = {path.name for path in folder.iterdir()} if folder.exists() else set()
    suffixes = FORMATS[request["form"]]
    mine = {name for name in files if name.startswith(f"{request['arm']}-") and name.endswith(suffixes)}
    mine |= files & set(FILES) if request["form"] == "tokens" else set()
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
    layers = {name: _layer(run / folder, number, name) for name, folder in request["layers"].items()}
    repeats = layers.pop(f"{arm}_repeats").fill_null(0).to_numpy()
    if not repeats.any():
        return None
    marked = [_layer(run / folder, number, name) for name, folder in request["spans"].items()]
    parts, position = [], 0
    left_out: Counter[str] = Counter(spans=0, bytes=0, documents=0)
    for batch, _ in read_batches(shard, corpus.fields, request["own"]):
        times = repeats[position : position + batch.num_rows]
        chosen = pa.array(np.flatnonzero(times))
        table = pa.Table.from_batches([batch]).take(chosen)
        for name, column in layers.items():
            table = table.append_column(name, column.slice(position, batch.num_rows).take(chosen))
        times = times[times > 0]
        if marked:
            spans = [column.slice(position, batch.num_rows).take(chosen) for column in marked]
            table, times = _without_passages(table, times, spans, left_out)
        parts.append((table, times))
        position += batch.num_rows
    if not any(times.any() for _, times in parts):
        return {"file": "", "documents": 0, "bytes": 0, "left_out": left_out}
    return {**_written(request, f"{arm}-{number:06d}", parts), "left_out": left_out}


def _written(request: Mapping[str, Any], name: str, parts: Sequence[tuple[pa.Table, Int64]]) -> dict[str, Any]:
    """Writes the documents of a shard, and how often each is used, in the format that is wanted: what was written."""
    folder, form = Path(request["folder"]), request["form"]
    told: dict[str, Any] = {}
    if form == "tokens":
        shard = TokenShard.of(parts, Path(request["tokenizer"]))
        table, content = _with_id(shard.documents), shard.content
        publish(folder / (name + BESIDE), _parquet(table))
        told = {"tokens": len(shard.stream), "beside": name + BESIDE}
    else:
        taken = (table.take(pa.array(np.repeat(np.arange(len(times)), times))) for table, times in parts)
        table = _with_id(pa.concat_tables(taken))
        content = _parquet(table) if form == "parquet" else _json_lines(table)
    name += FORMATS[form][0]
    size, digest = publish(folder / name, content)
    return {"file": name, "documents": table.num_rows, "bytes": size, "digest": digest, **told}


def _with_id(table: pa.Table) -> pa.Table:
    return table.rename_columns([{"doc_id": "id"}.get(name, name) for name in table.schema.names])


def _layer(folder: Path, number: int, name: str) -> pa.ChunkedArray:
    return read_layer(folder / layer_file(number), [name]).column(name)


def _without_passages(
    table: pa.Table, times: Int64, marked: Sequence[pa.ChunkedArray], left_out: Counter[str]
) -> tuple[pa.Table, Int64]:
    """The documents without their spans, and how often each is used: 0 times if it has no words left.

    times : int64, (n), how often the arm uses each. marked : columns of spans. left_out : adds up what is, in uses.
    """
    found = cut(table["text"], marked)
    left_out.update(
        spans=int((found.spans * times).sum()),
        bytes=int((found.bytes * times).sum()),
        documents=int(times[found.is_empty].sum()),
    )
    place = table.schema.get_field_index("text")
    return table.set_column(place, "text", found.texts), np.where(found.is_empty, 0, times)


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=1 << 14)
    return sink.getvalue()


def _json_lines(table: pa.Table) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3)
    lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE, default=str) for row in table.to_pylist())
    return compressor.compress(b"".join(lines))
