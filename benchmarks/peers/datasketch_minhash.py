"""datasketch: signatures of word 5-grams, MinHashLSH and its clusters. Prints one JSON object.

Run by datasketch's own interpreter: python datasketch_minhash.py [--clusters OUT.parquet] FILE.parquet ...
"""

import argparse
import json
import time
from collections import defaultdict
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasketch import MinHash, MinHashLSH
from shingles import shingles
from union import Union

BATCH = 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--hash", choices=["sha1", "xxh32"], default="xxh32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clusters")
    arguments = parser.parse_args()
    hashes = arguments.bands * arguments.rows
    kinds = {} if arguments.hash == "sha1" else {"hashfunc": xxhash.xxh32_intdigest}
    lsh = MinHashLSH(num_perm=hashes, params=(arguments.bands, arguments.rows))
    seconds: dict[str, float] = defaultdict(float)
    union, ids, size = Union(), [], 0
    for file in arguments.files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["id", "text"], batch_size=BATCH, use_threads=False):
            names, texts = batch["id"].to_pylist(), batch["text"].to_pylist()
            size += sum(len(text.encode()) for text in texts)
            clock = time.perf_counter()
            sets = [[shingle.encode() for shingle in shingles(text)] for text in texts]
            clock = _lap(seconds, "shingles in Python", clock)
            signatures = MinHash.bulk(sets, num_perm=hashes, seed=arguments.seed, **kinds)
            clock = _lap(seconds, "signatures", clock)
            for name, signature, found in zip(names, signatures, sets, strict=True):
                if found:  # a text without words is nobody's duplicate
                    for other in lsh.query(signature):
                        union.join(name, other)
                    lsh.insert(name, signature)
            _lap(seconds, "bands", clock)
            ids += names
    clusters = [union.root(name) for name in ids]
    if arguments.clusters:
        pq.write_table(pa.table({"id": ids, "cluster": clusters}), arguments.clusters)
    print(
        json.dumps(
            {
                "version": version("datasketch"),
                "seconds": seconds,
                "documents": len(ids),
                "bytes": size,
                "duplicates": len(ids) - len(set(clusters)),
            }
        )
    )


def _lap(seconds: dict[str, float], name: str, since: float) -> float:
    now = time.perf_counter()
    seconds[name] += now - since
    return now


if __name__ == "__main__":
    main()
