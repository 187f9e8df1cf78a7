"""Documents and megabytes per second of every embedder over the pool's text, one core; layers not written.

Transformers are slow: they take `--documents` documents, evenly spaced over a shard, the others ten times as many.
`encode` of sentence-transformers and of model2vec on the same documents stand beside ours.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pool import need_shared, peak_megabytes, shards, side_by_side, spread, table

ONE_CORE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")
MANY = 10  # documents for a fast embedder, for each one that a transformer gets


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--documents", type=int, default=400, help="for a transformer")
    asked.add_argument("--rounds", type=int, default=3)
    said = asked.parse_args()
    need_shared()
    os.environ.update(dict.fromkeys(ONE_CORE, "1"))  # before any library that reads them
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    few, many = texts(said.documents), texts(said.documents * MANY)
    with tempfile.TemporaryDirectory() as folder:
        began = distilled(Path(folder))
        contenders = {
            "hashed_ngrams": (many, embedding("hashed_ngrams")),
            "static, no word seen before": (many, looking_up(Path(folder), again=False)),
            "static, all words seen before": (many, looking_up(Path(folder), again=True)),
            "model2vec encode, the same table": (many, model2vec(Path(folder))),
            "sentence, float32": (few, embedding("sentence", precision="float32")),
            "sentence-transformers encode, float32": (few, encode),
            "sentence, bfloat16": (few, embedding("sentence", precision="bfloat16")),
            "sentence, bfloat16, long: mean": (few, embedding("sentence", precision="bfloat16", long="mean")),
        }
        for name, (documents, work) in contenders.items():
            work(documents if "before" in name else documents.slice(0, 8))  # kernels compiled, models loaded
        seconds = side_by_side(
            {name: partial(work, documents) for name, (documents, work) in contenders.items()}, said.rounds
        )
    rows = []
    for name, times in seconds.items():
        documents = contenders[name][0]
        size = sum(len(text) for text in documents.cast(pa.binary()).to_pylist())
        rows.append((name, len(documents), spread(times), len(documents) / min(times), size / min(times) / 1e6))
    table("embedders, one core", ("", "documents", "seconds", "documents/s", "MB/s"), rows)
    print(f"\ndistilling the table for static: {began:.1f} s; peak memory of this process {peak_megabytes():,.0f} MB")


def texts(count: int) -> pa.Array:
    """Documents evenly spaced over the first shards."""
    found = pa.concat_tables([pq.read_table(path, columns=["text"]) for path in shards(2)])["text"].combine_chunks()
    return found.take(pa.array(range(0, len(found), max(1, len(found) // count)))).slice(0, count)


def embedding(name: str, **options: Any) -> Callable[[pa.Array], object]:
    """An embedder as it works on batches of a pass."""
    from tamis.families import build, find
    from tamis.steps import Batch

    component: Any = build(find("embed", name), options)
    return lambda documents: [component.embed(Batch(batch)) for batch in batches(documents)]


def batches(documents: pa.Array) -> list[pa.RecordBatch]:
    return pa.table({"text": documents}).to_batches(4096)


def distilled(folder: Path) -> float:
    """Fills the folder as `static` does; how long that took."""
    import time

    from tamis.models.folder import PACKAGED, content_digest, model_folder
    from tamis.models.sentences import load_sentence_model
    from tamis.models.static import distil

    source = model_folder(PACKAGED)
    model = load_sentence_model(source, content_digest(source), "float32", "cpu")
    began = time.perf_counter()
    distil(model, 256, 1e-4, folder, lambda _done, _line: None)
    return time.perf_counter() - began


def looking_up(folder: Path, *, again: bool) -> Callable[[pa.Array], object]:
    """`static` with the words of earlier documents in its memory, as late in a run, or with none."""
    from tamis.models.sentences import unit
    from tamis.models.static import StaticModel, load_static_model
    from tamis.steps import Batch

    model = load_static_model(folder)

    def work(documents: pa.Array) -> list[object]:
        used = model if again else StaticModel.of(model.tokenizer, model.table)
        return [unit(used.sums(Batch(batch).text)) for batch in batches(documents)]

    return work


def model2vec(folder: Path) -> Callable[[pa.Array], object]:
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(folder)
    return lambda documents: model.encode(documents.to_pylist(), use_multiprocessing=False)


def encode(documents: pa.Array) -> object:
    from sentence_transformers import SentenceTransformer

    from tamis.models.folder import PACKAGED, model_folder

    if not LIBRARY:
        LIBRARY.append(SentenceTransformer(str(model_folder(PACKAGED)), device="cpu", local_files_only=True))
    return LIBRARY[0].encode(documents.to_pylist(), show_progress_bar=False)


LIBRARY: list[Any] = []

if __name__ == "__main__":
    main()
