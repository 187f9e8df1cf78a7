"""The task of a pass: one reading of a shard for everything that is ready, results to files, receipts back."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis.corpus import Fields, Shard, read_batches
from tamis.pipeline.beside import Beside
from tamis.pipeline.layout import quarantine_file
from tamis.pipeline.outputs import output_for
from tamis.pipeline.quarantine import unusable_rows, write_quarantine
from tamis.pipeline.work import Failure, PassSpec, Receipt, Work, load_pass
from tamis.steps import Batch

RETRIES = 2


def run_shards(run: str, pass_path: str, todo: tuple[int, ...], numbers: tuple[int, ...]) -> list[Receipt | Failure]:
    """One task: the works `todo` of a pass over some shards. A shard that raises fails alone."""
    spec = load_pass(str(Path(run) / pass_path))
    works = [spec.works[index] for index in todo]
    results: list[Receipt | Failure] = []
    for number in numbers:
        shard = spec.corpus.shards(Path(run))[number]
        for attempt in range(RETRIES + 1):
            try:
                results += _run_shard(Path(run), spec, works, shard)
            except Exception as error:  # noqa: BLE001 - the driver names the shard and goes on with the others
                if isinstance(error, OSError) and attempt < RETRIES:
                    time.sleep(0.1 * 4**attempt)  # a store that hiccups
                    continue
                where = f"shard {number} ({shard.label})"
                results.append(Failure(where, f"{type(error).__name__}: {error}", traceback.format_exc()))
            break
    return results


def _run_shard(run: Path, spec: PassSpec, works: Sequence[Work], shard: Shard) -> list[Receipt]:
    began = time.perf_counter()
    outputs = [output_for(work, run, shard) for work in works]
    sources = {column: folder for work in works for column, folder in work.inputs.items()}
    beside = Beside(run, sources, shard, works)
    position = 0
    unusable: list[dict[str, Any]] = []
    documents = read_batches(shard, spec.corpus.fields, beside.document_columns, spec.batch_rows)
    for record_batch, usable in documents:
        table = beside.join(record_batch, position)
        unusable += unusable_rows(usable, shard, position)
        shared: dict[str, Batch] = {}
        for output in outputs:
            output.take(table, usable, shared, position, beside)
        position += record_batch.num_rows
    if position != shard.rows:
        raise OSError(
            f"{shard.label}: expected {shard.rows} documents, read {position}; the file changed under the run"
        )
    _name_failed([entry for output in outputs for entry in output.failed], shard, spec.corpus.fields)
    seconds = (time.perf_counter() - began) / max(1, len(outputs))
    receipts = [output.finish(seconds, spec.corpus.name) for output in outputs]
    if "text" in beside.document_columns:
        write_quarantine(run / quarantine_file(spec.corpus.name, shard.number), unusable)
    return receipts


def _name_failed(failed: Sequence[dict[str, Any]], shard: Shard, fields: Fields) -> None:
    """The ids of documents that a step failed on without having read any."""
    if all(entry["doc_id"] is not None for entry in failed):
        return
    ids = [doc_id for batch, _ in read_batches(shard, fields, ("doc_id",)) for doc_id in batch.column(0).to_pylist()]
    for entry in failed:
        entry["doc_id"] = ids[entry["row"]]
