"""Repeated paragraphs: MB/s of both modes, files to files, and whether two runs mark the same; beside dolma's Bloom filter.

    python benchmarks/paragraph.py --shards 12 --dolma-python ../peers/dolma/bin/python

Ours reads Parquet and writes layers; dolma reads and writes JSON lines, compressed as its pages have them, made before
the clock starts. Its clock starts after its imports, ours after a run that compiles. It is given no floor: with
`min_words` it marks nothing (1.2.1). So ours is timed with the default floor and with one word.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pool import need_shared, shards, side_by_side, spread, table, text_bytes, write_spec
from whole import PEERS, cores, started

PEER = Path(__file__).with_name("peers") / "dolma_paragraph.py"
OURS = {
    "whole paragraphs of 13 words or more": {},
    "whole paragraphs of any length": {"min_words": 1},
    "13-grams of words": {"ngram_words": 13},
}
THEIRS = {"whole paragraphs of any length": (), "13-grams of words": ("--ngram", "13")}
WORDS_PER_PARAGRAPH = 16  # what dolma's filter is made for: paragraphs, or about as many n-grams as words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=4, help="of the shared pool, 25 MB of text each")
    parser.add_argument("--rows", type=int, help="of each shard, for a quick try")
    parser.add_argument("--rounds", type=int, default=3, help="two or more: runs are set against each other")
    default = PEERS / "dolma" / "bin" / "python"
    parser.add_argument("--dolma-python", type=Path, default=default, help="an interpreter that has dolma")
    arguments = parser.parse_args()
    need_shared()
    os.sched_setaffinity(0, cores(2))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = _pool(root / "pool", arguments.shards, arguments.rows)
        size = text_bytes([str(file) for file in files])
        ours = {name: _Ours(root, name, options) for name, options in OURS.items()}
        for run in ours.values():
            run()  # compiles
        times = side_by_side(ours, arguments.rounds)
        rows = [(f"tamis, {name}", 1, spread(each), size / min(each) / 1e6) for name, each in times.items()]
        same = [(f"tamis, {name}", *run.agreement()) for name, run in ours.items()]
        if arguments.dolma_python.is_file():
            theirs = _dolma(root, files, arguments.dolma_python, arguments.rounds)
            rows += [(name, cores_, spread(seconds), size / min(seconds) / 1e6) for name, cores_, seconds, _ in theirs]
            same += [(f"{name}, {count} cores", *_agreement(flags)) for name, count, _, flags in theirs]
        else:
            print(f"no dolma at {arguments.dolma_python}: left out (give --dolma-python)", file=sys.stderr)
    table(f"repeated paragraphs of {size / 1e6:.0f} MB, files to files", ("", "cores", "seconds", "MB/s"), rows)
    header = (
        "two runs and more over the same files",
        "passages (ours: neighbours joined)",
        "documents marked in another way",
    )
    table("whether runs agree", header, same)


def _pool(folder: Path, count: int, rows: int | None) -> list[Path]:
    """The shards, or the first rows of each."""
    folder.mkdir()
    for number, path in enumerate(shards(count)):
        documents = pq.read_table(path, columns=["id", "text", "source"])
        pq.write_table(documents.slice(0, rows), folder / f"{number:02d}.parquet", compression="zstd")
    return sorted(folder.glob("*.parquet"))


class _Ours:
    """A run of one mode, serially on one core, each time into a new folder."""

    def __init__(self, root: Path, name: str, options: dict[str, int]) -> None:
        self._root, self._pool = root / "".join(filter(str.isalnum, name)), f"{root}/pool/*.parquet"
        self._stages, self._runs = f"  - deduplicate: {{by: {{paragraph: {json.dumps(options)}}}}}\n", 0

    def __call__(self) -> None:
        from tamis.pipeline.progress import Progress
        from tamis.pipeline.spec import load_spec
        from tamis.pipeline.start import start
        from tamis.pipeline.workers import Serial

        self._runs += 1
        out = self._root / f"run{self._runs}"
        os.sched_setaffinity(0, cores(1))
        spec = load_spec(write_spec(self._root / "stages.yaml", self._pool, self._stages, out))
        start(spec, out, Serial(), Progress(quiet=True))
        os.sched_setaffinity(0, _ALL)

    def agreement(self) -> tuple[int, str]:
        """Passages marked, and of how many documents not all runs say the same."""
        import tamis

        flags = []
        for number in range(1, self._runs + 1):
            found = tamis.open_run(self._root / f"run{number}").table(["doc_id", "paragraph_spans"]).sort_by("doc_id")
            flags.append(found["paragraph_spans"].to_pylist())
        return _agreement([(sum(map(len, each)), list(map(str, each))) for each in flags])


_ALL = os.sched_getaffinity(0)


def _agreement(runs: list[tuple[int, list[str]]]) -> tuple[str, str]:
    """(passages of each run, documents about which runs differ)."""
    counts = sorted({count for count, _ in runs})
    differ = sum(len(set(each)) > 1 for each in zip(*(flags for _, flags in runs), strict=True))
    return " or ".join(f"{count:,}" for count in counts), f"{differ:,}"


def _dolma(root: Path, files: list[Path], python: Path, rounds: int) -> list[tuple[str, int, list[float], Any]]:
    """(name, cores, seconds, flags of each run) of dolma's modes on one core and on two."""
    paragraphs = _json_lines(files, root / "dolma" / "documents")
    found = []
    for name, options in THEIRS.items():
        most = paragraphs * (WORDS_PER_PARAGRAPH if options else 1)
        for count in (1, 2):
            seconds, flags = [], []
            for _ in range(rounds):
                said = _one_dolma(root / "dolma", python, count, ("--most", str(most), *options))
                seconds.append(said["seconds"]["dedupe"])
                flags.append((said["spans"], said["flags"]))
            found.append((f"dolma {said['version']}, {name}", count, seconds, flags))
    return found


def _one_dolma(folder: Path, python: Path, count: int, options: tuple[str, ...]) -> dict[str, Any]:
    shutil.rmtree(folder / "attributes", ignore_errors=True)
    (folder / "filter.bin").unlink(missing_ok=True)
    command = [str(python), str(PEER), str(folder), "--processes", str(count), *options]
    with tempfile.TemporaryFile("w+") as output:
        process = started(command, cores(count), output)
        _, said = process.communicate()
        output.seek(0)
        printed = output.read().splitlines()
    if process.returncode:
        sys.exit(f"{' '.join(command)}: status {process.returncode}\n{said[-3000:]}")
    told: dict[str, Any] = json.loads(printed[-1])
    return told


def _json_lines(files: list[Path], folder: Path) -> int:
    """The same documents as *.jsonl.gz; how many lines their texts have."""
    folder.mkdir(parents=True)
    lines = 0
    for file in files:
        documents = pq.read_table(file)
        lines += len(documents) + pc.sum(pc.count_substring(documents["text"], "\n")).as_py()
        with gzip.open(folder / f"{file.stem}.jsonl.gz", "wt", encoding="utf-8") as out:
            for row in documents.to_pylist():
                out.write(json.dumps(row) + "\n")
    return lines


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pa.set_cpu_count(1)
    began = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
