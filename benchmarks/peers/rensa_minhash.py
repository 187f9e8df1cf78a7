"""rensa: signatures of word 5-grams, and documents that share a band with another. Prints one JSON object.

Run by rensa's own interpreter: python rensa_minhash.py FILE.parquet ...
"""

import argparse
import json
import os
import time
from array import array
from collections import defaultdict
from importlib.metadata import version

os.environ["RAYON_NUM_THREADS"] = "1"  # before the library starts its threads

import pyarrow.parquet as pq
from rensa import RMinHash, RMinHashLSH
from shingles import shingles

BATCH = 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    arguments = parser.parse_args()
    hashes = arguments.bands * arguments.rows
    lsh = RMinHashLSH(threshold=0.7, num_perm=hashes, num_bands=arguments.bands)
    seconds: dict[str, float] = defaultdict(float)
    documents = size = duplicates = 0
    for file in arguments.files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["text"], batch_size=BATCH, use_threads=False):
            texts = batch["text"].to_pylist()
            size += sum(len(text.encode()) for text in texts)
            clock = time.perf_counter()
            sets = [shingles(text) for text in texts]
            clock = _lap(seconds, "shingles in Python", clock)
            matrix = RMinHash.digest_matrix_from_token_sets(sets, hashes, 42)
            clock = _lap(seconds, "signatures", clock)
            flags = lsh.insert_matrix_and_query_duplicate_flags(matrix, documents)
            clock = _lap(seconds, "bands", clock)
            RMinHash.digest_matrix_from_token_sets_rho(sets, hashes, 42)
            _lap(seconds, "signatures, rho", clock)
            flat, offsets = _hashed(sets)
            clock = time.perf_counter()
            RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, hashes, 42)
            _lap(seconds, "signatures of hashes", clock)
            documents += len(texts)
            duplicates += sum(flags)
    print(
        json.dumps(
            {
                "version": version("rensa"),
                "seconds": seconds,
                "documents": documents,
                "bytes": size,
                "duplicates": duplicates,
            }
        )
    )


def _hashed(sets: list[list[str]]) -> tuple[array, array]:
    """The shingles' hashes in a row, and where each document's begin."""
    flat, offsets = array("Q"), array("Q", [0])
    for hashes in RMinHash.hash_token_sets(sets):
        flat.extend(hashes)
        offsets.append(len(flat))
    return flat, offsets


def _lap(seconds: dict[str, float], name: str, since: float) -> float:
    now = time.perf_counter()
    seconds[name] += now - since
    return now


if __name__ == "__main__":
    main()
