"""MinHash deduplication: reading, our kernels, whole runs on one and two workers, and peers on the same text.

Everything runs pinned to one core, but for what the table says runs on two. The text is `replicate.py`'s: real
documents, three of five with edited copies. Measured recall is set against the exact similarity of sampled pairs.

    python benchmarks/minhash.py --gigabytes 1 --peer-megabytes 50 --peers ../peers
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from against_peers import against_peers
from near_duplicates import BANDS, NGRAM, ROWS, decisions_of, kernel_seconds, on_core, spec_of
from pool import side_by_side, spread, table, text_bytes
from replicate import replicated, shard_paths
from whole import PEERS, Whole, cores, tamis_run, together, watched

sys.path.append(str(Path(__file__).with_name("peers")))
from shingles import jaccard

ONE_WORKER = ("--cluster", "distributed.LocalCluster", "--cluster-option", "n_workers=1")  # `--workers 1` is serial
ONE_WORKER += ("--cluster-option", "threads_per_worker=1", "--cluster-option", 'dashboard_address="127.0.0.1:0"')
RUNS = {
    "serial, one core": (("--serial",), 1),
    "1 Dask worker, both processes on one core": (ONE_WORKER, 1),
    "2 Dask workers, two cores": (("--workers", "2"), 2),
}
PAIRS = 4000  # sampled for the recall table
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  # of the similarities in it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="text for our own runs")
    parser.add_argument("--peer-megabytes", type=float, default=50.0, help="text that we and the peers run on")
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of the peers' environments")
    parser.add_argument("--folder", type=Path, help="where the texts are made and kept")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    large = replicated(arguments.gigabytes, arguments.folder)
    small = replicated(arguments.peer_megabytes / 1000, arguments.folder)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = _ours(large, Path(folder), arguments.rounds)
        _recall(large, run)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        against_peers(small, Path(folder), arguments.peers, arguments.rounds)


# ---- our own runs on much text ----


def _ours(corpus: Path, root: Path, rounds: int) -> Path:
    """Prints the table of our own runs; the last run directory."""
    paths = shard_paths(corpus)
    size = text_bytes(paths)
    (one, other) = cores(2)
    kernels = on_core(one, partial(_kernel_rounds, paths, rounds))
    whole: dict[str, list[Whole]] = {name: [] for name in RUNS}
    apart: list[float] = []
    halves = _halves(paths, root)
    watched(tamis_run(spec_of(root / "warm", halves[0]), "--serial"), [one])  # compiles
    for round_ in range(rounds):
        for name, runs in whole.items():
            options, count = RUNS[name]
            spec = spec_of(root / f"{round_}-{name}".replace(" ", ""), corpus / "shards")
            runs.append(watched(tamis_run(spec, *options), [one, other][:count]))
        specs = [spec_of(root / f"{round_}-half{number}", half) for number, half in enumerate(halves)]
        apart.append(together([tamis_run(spec, "--serial") for spec in specs], [one, other]))
        if round_ + 1 < rounds:
            _forget(root, f"{round_}")
    rows = [(name, spread(times), "", size / min(times) / 1e6, "", "") for name, times in kernels.items()]
    for name, runs in whole.items():
        times = [each.seconds for each in runs]
        driver, worker = max(each.megabytes for each in runs), max(each.worker_megabytes for each in runs)
        cpu = min(each.cpu_seconds for each in runs)
        rows.append((f"`tamis run`, {name}", spread(times), cpu, size / min(times) / 1e6, driver, worker or ""))
    rows.append(
        (
            "two `tamis run --serial`, a core and half of the shards each",
            spread(apart),
            "",
            size / min(apart) / 1e6,
            "",
            "",
        )
    )
    rows += _ratios(kernels, {name: [each.seconds for each in runs] for name, runs in whole.items()}, apart)
    title = f"minhash: {size / 1e6:,.0f} MB of text, {len(paths)} shards, {BANDS} bands of {ROWS}, word {NGRAM}-grams"
    table(title, ("", "seconds", "CPU s", "MB/s", "peak MB of the driver", "peak MB of the largest worker"), rows)
    return root / f"{rounds - 1}-{next(iter(RUNS))}".replace(" ", "") / "run"


def _ratios(kernels: dict[str, list[float]], whole: dict[str, list[float]], apart: list[float]) -> list[tuple]:
    read, words, keys = (min(times) for times in kernels.values())
    serial, alone, two = whole.values()
    share = statistics.median(each / own for each, own in zip(apart, two, strict=True))
    return [
        ("text to band keys takes, of plain readings", f"{(words + keys) / read:.1f}", "", "", "", ""),
        ("`tamis run --serial` takes, of plain readings", f"{min(serial) / read:.1f}", "", "", "", ""),
        ("1 → 2 Dask workers, times as fast", f"{min(alone) / min(two):.2f}", "", "", "", ""),
        ("2 Dask workers, as a share of two independent processes", f"{share:.0%}", "", "", "", ""),
    ]


def _kernel_rounds(paths: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of plain reading, and of the two kernels on batches in memory as a run has them."""
    read = "plain read of the text column, one core"
    seconds = side_by_side({read: partial(_read, paths)}, rounds)
    words, keys = "text to hashed words, in memory, one core", "hashed words to band keys, in memory, one core"
    seconds |= {words: [], keys: []}
    for _ in range(rounds):
        spent = kernel_seconds(paths)
        seconds[words].append(spent[0])
        seconds[keys].append(spent[1])
    return seconds


def _read(paths: list[str]) -> None:
    for path in paths:
        for _ in pq.ParquetFile(path).iter_batches(columns=["text"], batch_size=8192, use_threads=False):
            pass


def _halves(paths: list[str], root: Path) -> list[Path]:
    """Two folders with every other shard each."""
    folders = [root / "half0", root / "half1"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for path in paths[number::2]:
            (folder / Path(path).name).symlink_to(path)
    return folders


def _forget(root: Path, round_: str) -> None:
    for folder in root.glob(f"{round_}-*"):
        shutil.rmtree(folder)


# ---- what a run found, against the truth ----


def _recall(corpus: Path, run: Path) -> None:
    """Prints how often a copy is in the cluster of its original, by their exact similarity."""
    found = decisions_of(run)
    truth = pq.read_table(corpus / "truth.parquet")
    copies = truth.filter(pc.not_equal(truth["edit"], "original"))
    stride = max(1, len(copies) // PAIRS)
    copies = copies.take(np.arange(0, len(copies), stride)[:PAIRS])
    names = pa.concat_arrays([*copies["id"].chunks, *copies["origin"].chunks])
    texts = _texts(shard_paths(corpus), names)
    known = found.filter(pc.is_in(found["doc_id"], names))
    cluster = dict(zip(known["doc_id"].to_pylist(), known["minhash_cluster"].to_pylist(), strict=True))
    pairs = [
        (jaccard(texts[a], texts[b]), cluster[a] is not None and cluster[a] == cluster[b])
        for a, b in zip(copies["id"].to_pylist(), copies["origin"].to_pylist(), strict=True)
    ]
    rows = []
    for low, high in pairwise(EDGES):
        inside = [(s, hit) for s, hit in pairs if low <= s < high]
        if inside:
            curve = statistics.mean(1 - (1 - s**ROWS) ** BANDS for s, _ in inside)
            share = statistics.mean(hit for _, hit in inside)
            label = "1, same shingles" if low == 1 else f"{low:g} to {high:g}"
            rows.append((label, len(inside), f"{share:.3f}", f"{curve:.3f}"))
    removed = pc.sum(found["minhash_duplicate"]).as_py()
    title = (
        f"minhash: {removed:,} of {len(found):,} documents found to be duplicates; copies in their original's cluster"
    )
    header = ("Jaccard similarity of word 5-grams", "pairs", "measured", "S-curve for the pair alone")
    table(title, header, rows)


def _texts(paths: list[str], names: pa.Array) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=["id", "text"]):
            chosen = batch.filter(pc.is_in(batch["id"], names))
            texts.update(zip(chosen["id"].to_pylist(), chosen["text"].to_pylist(), strict=True))
    return texts


if __name__ == "__main__":
    main()
