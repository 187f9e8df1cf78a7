"""datatrove: its four MinHash steps with the local executor, each step timed. Prints one JSON object.

Run by datatrove's own interpreter: python datatrove_minhash.py --work FOLDER [--clusters OUT.parquet] INPUT_FOLDER
"""

import argparse
import json
import os
import struct
import time
from importlib.metadata import version
from pathlib import Path

os.environ["DATATROVE_COLORIZE_LOGS"] = "0"

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.word_tokenizers import load_word_tokenizer
from loguru import logger

BUFFERED = 4096  # signatures read at once; the default of 5 is for lists of thousands of files


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--clusters")
    arguments = parser.parse_args()
    logger.remove()
    load_word_tokenizer("en").word_tokenize("spaCy is imported before the clock starts")
    seconds = {name: _timed(step, arguments) for name, step in STEPS.items()}
    removed = sum(path.stat().st_size // 4 for path in (arguments.work / "remove").glob("*.remove"))
    files = sorted(Path(arguments.input).glob("*.parquet"))
    if arguments.clusters:
        _write_clusters(arguments, files)
    texts = [pq.read_table(path, columns=["text"])["text"] for path in files]
    print(
        json.dumps(
            {
                "version": version("datatrove"),
                "seconds": seconds,
                "documents": sum(map(len, texts)),
                "bytes": sum(pc.sum(pc.binary_length(text)).as_py() for text in texts),
                "duplicates": removed,
            }
        )
    )


def _timed(step, arguments) -> float:
    pipeline, tasks = step(arguments)
    began = time.perf_counter()
    workers = min(tasks, arguments.tasks)
    logs = str(arguments.work / "logs" / step.__name__)
    LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=workers, logging_dir=logs).run()
    return time.perf_counter() - began


def _reader(arguments) -> ParquetReader:
    return ParquetReader(arguments.input, glob_pattern="*.parquet", read_metadata=False)


def _config(arguments) -> MinhashConfig:
    return MinhashConfig(n_grams=5, num_buckets=arguments.bands, hashes_per_bucket=arguments.rows)


def _signatures(arguments):
    step = MinhashDedupSignature(str(arguments.work / "signatures"), config=_config(arguments))
    return [_reader(arguments), step], arguments.tasks


def _buckets(arguments):
    folders = (str(arguments.work / "signatures"), str(arguments.work / "buckets"))
    step = MinhashDedupBuckets(*folders, config=_config(arguments), lines_to_buffer=BUFFERED)
    return [step], arguments.bands


def _cluster(arguments):
    folders = (str(arguments.work / "buckets"), str(arguments.work / "remove"))
    step = MinhashDedupCluster(
        *folders, config=_config(arguments), save_cluster_id=bool(arguments.clusters), lines_to_buffer=BUFFERED
    )
    return [step], 1


def _filter(arguments):
    step = MinhashDedupFilter(str(arguments.work / "remove"), lines_to_buffer=BUFFERED)
    writer = ParquetWriter(str(arguments.work / "kept"), compression="zstd")
    return [_reader(arguments), step, writer], arguments.tasks


STEPS = {"1 signatures": _signatures, "2 buckets": _buckets, "3 cluster": _cluster, "4 filter": _filter}


def _write_clusters(arguments, files: list[Path]) -> None:
    """One row per document of a cluster, by its place among the documents with text (`tasks` is 1, one input file)."""
    (file,) = files
    table = pq.read_table(file, columns=["id", "text"])
    ids = [name for name, text in zip(*(column.to_pylist() for column in table.columns), strict=True) if text]
    content = b"".join(path.read_bytes() for path in (arguments.work / "remove").glob("*.clusters"))
    pairs = list(struct.iter_unpack("<2I", content))
    rows = {"id": [ids[row] for row, _ in pairs], "cluster": [str(cluster) for _, cluster in pairs]}
    pq.write_table(pa.table(rows), arguments.clusters)


if __name__ == "__main__":
    main()
