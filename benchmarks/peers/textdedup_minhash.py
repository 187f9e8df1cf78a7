"""text-dedup: its whole MinHash run on local Parquet, one process. Prints one JSON object.

Run by text-dedup's own interpreter: python textdedup_minhash.py --work FOLDER [--clusters OUT.parquet] FILE.parquet ...
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import time
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CONFIG = """
[input]
input_type = "local_files"
file_type = "parquet"
[input.read_arguments]
path = "parquet"
data_files = {files}
split = "train"
[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_perm = {hashes}
threshold = {threshold}
ngram_size = 5
num_proc = 1
check_false_positive = {verify}
{bands}
[output]
output_dir = {out}
save_clusters = true
[debug]
enable_profiling = false
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--hashes", type=int, default=240)
    parser.add_argument("--bands", type=int, help="with --rows: these instead of the best for the threshold")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--verify", action="store_true", help="check_false_positive")
    parser.add_argument("--clusters")
    arguments = parser.parse_args()
    seconds, split, clusters = _run(arguments)
    tables = [pq.read_table(path, columns=["id", "text"]) for path in arguments.files]
    ids = [name for table in tables for name in table["id"].to_pylist()]
    if arguments.clusters:
        rows = {"id": [ids[row] for row in clusters], "cluster": [str(cluster) for cluster in clusters.values()]}
        pq.write_table(pa.table(rows), arguments.clusters)
    print(
        json.dumps(
            {
                "version": version("text-dedup"),
                "seconds": {"all": seconds},
                "documents": len(ids),
                "bytes": sum(pc.sum(pc.binary_length(table["text"])).as_py() for table in tables),
                "duplicates": len(clusters) - len(set(clusters.values())),
                "bands_rows": split,
            }
        )
    )


def _run(arguments: argparse.Namespace) -> tuple[float, list[int], dict[int, int]]:
    """Seconds, bands and rows, and the cluster of each row that is in one."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HOME": str(arguments.work / "cache"), "HF_HUB_OFFLINE": "1", "POLARS_MAX_THREADS": "1"}
    from text_dedup.config.base import load_config_from_toml  # reads the environment
    from text_dedup.minhash import main as deduplicate

    path = arguments.work / "config.toml"
    path.write_text(
        CONFIG.format(
            files=json.dumps(arguments.files),
            hashes=arguments.hashes,
            threshold=arguments.threshold,
            verify=str(arguments.verify).lower(),
            bands=f"bands = {arguments.bands}\nrows = {arguments.rows}" if arguments.bands else "",
            out=json.dumps(str(arguments.work / "out")),
        )
    )
    config = load_config_from_toml(path)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        deduplicate(config)
    seconds = time.perf_counter() - began
    with (arguments.work / "out" / "clusters.pickle").open("rb") as file:
        clusters = pickle.load(file)
    return seconds, [config.algorithm.bands, config.algorithm.rows], clusters


if __name__ == "__main__":
    main()
