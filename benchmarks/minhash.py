"""MinHash deduplication: reading, our kernels, whole runs on one and two workers, and peers on the same text.

Everything runs pinned to one core, but for what the table says runs on two. The text is `replicate.py`'s: real
documents, three of five with edited copies. Measured recall is set against the exact similarity of sampled pairs.

    python benchmarks/minhash.py --gigabytes 1 --peer-megabytes 50 --peers /tmp/peers
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pool import side_by_side, spread, table, text_bytes
from replicate import replicated, shard_paths
from whole import PEERS, Whole, cores, peer, recorded, tamis_run, together, watched

sys.path.append(str(Path(__file__).with_name("peers")))
from shingles import jaccard

BANDS, ROWS, NGRAM = 14, 8, 5
STAGES = f"  - deduplicate: {{by: {{minhash: {{bands: {BANDS}, rows_per_band: {ROWS}, ngram: {NGRAM}}}}}}}\n"
ONE_WORKER = ("--cluster", "distributed.LocalCluster", "--cluster-option", "n_workers=1")  # `--workers 1` is serial
ONE_WORKER += ("--cluster-option", "threads_per_worker=1", "--cluster-option", 'dashboard_address="127.0.0.1:0"')
RUNS = {
    "serial, one core": (("--serial",), 1),
    "1 Dask worker, both processes on one core": (ONE_WORKER, 1),
    "2 Dask workers, two cores": (("--workers", "2"), 2),
}
PAIRS = 4000  # sampled for the recall table
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  # of the similarities in it
PUBLISHED_H100 = (
    139.0  # MB/s per GPU: 8 TB in 2.05 hours on 8 H100, NeMo Curator's documentation of fuzzy deduplication
)


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
        _against_peers(small, Path(folder), arguments.peers, arguments.rounds)


# ---- our own runs on much text ----


def _ours(corpus: Path, root: Path, rounds: int) -> Path:
    """Prints the table of our own runs; the last run directory."""
    paths = shard_paths(corpus)
    size = text_bytes(paths)
    (one, other) = cores(2)
    kernels = _on_core(one, partial(_kernel_seconds, paths, rounds))
    whole: dict[str, list[Whole]] = {name: [] for name in RUNS}
    apart: list[float] = []
    halves = _halves(paths, root)
    watched(tamis_run(_spec(root / "warm", halves[0]), "--serial"), [one])  # compiles
    for round_ in range(rounds):
        for name, runs in whole.items():
            options, count = RUNS[name]
            spec = _spec(root / f"{round_}-{name}".replace(" ", ""), corpus / "shards")
            runs.append(watched(tamis_run(spec, *options), [one, other][:count]))
        specs = [_spec(root / f"{round_}-half{number}", half) for number, half in enumerate(halves)]
        apart.append(together([tamis_run(spec, "--serial") for spec in specs], [one, other]))
        if round_ + 1 < rounds:
            _forget(root, f"{round_}")
    rows = [(name, spread(times), size / min(times) / 1e6, "", "") for name, times in kernels.items()]
    for name, runs in whole.items():
        times = [each.seconds for each in runs]
        driver, worker = max(each.megabytes for each in runs), max(each.worker_megabytes for each in runs)
        rows.append((f"`tamis run`, {name}", spread(times), size / min(times) / 1e6, driver, worker or ""))
    rows.append(
        ("two `tamis run --serial`, a core and half of the shards each", spread(apart), size / min(apart) / 1e6, "", "")
    )
    rows += _ratios(kernels, {name: [each.seconds for each in runs] for name, runs in whole.items()}, apart)
    title = f"minhash: {size / 1e6:,.0f} MB of text, {len(paths)} shards, {BANDS} bands of {ROWS}, word {NGRAM}-grams"
    table(title, ("", "seconds", "MB/s", "peak MB of the driver", "peak MB of the largest worker"), rows)
    return root / f"{rounds - 1}-{next(iter(RUNS))}".replace(" ", "") / "run"


def _ratios(kernels: dict[str, list[float]], whole: dict[str, list[float]], apart: list[float]) -> list[tuple]:
    read, words, keys = (min(times) for times in kernels.values())
    serial, alone, two = whole.values()
    share = statistics.median(each / own for each, own in zip(apart, two, strict=True))
    return [
        ("text to band keys takes, of plain readings", f"{(words + keys) / read:.1f}", "", "", ""),
        ("`tamis run --serial` takes, of plain readings", f"{min(serial) / read:.1f}", "", "", ""),
        ("1 → 2 Dask workers, times as fast", f"{min(alone) / min(two):.2f}", "", "", ""),
        ("2 Dask workers, as a share of two independent processes", f"{share:.0%}", "", "", ""),
    ]


def _on_core(core: int, work: object) -> dict[str, list[float]]:
    """What `work` returns, run in this process on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [core])
    try:
        return work()  # type: ignore[operator]
    finally:
        os.sched_setaffinity(0, allowed)


def _kernel_seconds(paths: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of plain reading, and of the two kernels on batches in memory as a run has them."""
    read = "plain read of the text column, one core"
    seconds = side_by_side({read: partial(_read, paths)}, rounds)
    words, keys = "text to hashed words, in memory, one core", "hashed words to band keys, in memory, one core"
    seconds |= {words: [], keys: []}
    for _ in range(rounds):
        spent = _kernels(paths)
        seconds[words].append(spent[0])
        seconds[keys].append(spent[1])
    return seconds


def _read(paths: list[str]) -> None:
    for path in paths:
        for _ in pq.ParquetFile(path).iter_batches(columns=["text"], batch_size=8192, use_threads=False):
            pass


def _kernels(paths: list[str]) -> tuple[float, float]:
    from tamis.kernels.arrow import text_of
    from tamis.kernels.minhash import band_keys
    from tamis.kernels.wordhash import hash_words

    band_keys(hash_words(text_of(pa.array(["to compile"]))), NGRAM, BANDS, ROWS)
    hashing = keys = 0.0
    for column in _batches(paths):
        began = time.perf_counter()
        words = hash_words(text_of(column))
        between = time.perf_counter()
        band_keys(words, NGRAM, BANDS, ROWS)
        hashing += between - began
        keys += time.perf_counter() - between
    return hashing, keys


def _batches(paths: list[str]) -> Iterator[pa.Array]:
    """The text as a run reads it, batch by batch."""
    from tamis.corpus import Fields, read_batches, survey

    for path in paths:
        for shard in survey(path, path, Fields(), 256 << 20, digest=False).shards:
            for batch, _ in read_batches(shard, Fields(), ["text"]):
                yield batch["text"]


def _spec(folder: Path, shards: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "stages.yaml"
    path.write_text(f"corpus: {{paths: '{shards}/*.parquet'}}\nout: {folder}/run\nseed: 17\nstages:\n{STAGES}")
    return path


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


def _decisions(run: Path) -> pa.Table:
    import tamis

    return tamis.open_run(run).table(["doc_id", "minhash_duplicate", "minhash_cluster"])


def _recall(corpus: Path, run: Path) -> None:
    """Prints how often a copy is in the cluster of its original, by their exact similarity."""
    found = _decisions(run)
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


# ---- peers ----


def _against_peers(corpus: Path, root: Path, peers: Path, rounds: int) -> None:
    """Prints the table of peers on the same text, and of ourselves on it."""
    paths = shard_paths(corpus)
    size = text_bytes(paths)
    (one, other) = cores(2)
    watched(tamis_run(_spec(root / "warm", corpus / "shards"), "--serial"), [one])
    runs = [
        watched(tamis_run(_spec(root / f"run{n}", corpus / "shards"), "--serial"), [one]).seconds for n in range(rounds)
    ]
    removed = pc.sum(_decisions(root / "run0" / "run")["minhash_duplicate"]).as_py()
    kernels = [_on_core(one, partial(_kernels, paths)) for _ in range(rounds)]
    both, keys = [sum(spent) for spent in kernels], [spent[1] for spent in kernels]
    ours = {"run": min(runs), "text to keys": min(both), "keys": min(keys)}
    rows: list[tuple[object, ...]] = [
        ("tamis, a whole process with start-up (run)", spread(runs), size / ours["run"] / 1e6, removed, ""),
        ("tamis, text to keys, in memory", spread(both), size / ours["text to keys"] / 1e6, "", ""),
        ("tamis, hashed words to keys, in memory (keys)", spread(keys), size / ours["keys"] / 1e6, "", ""),
    ]
    for name, seconds, duplicates, basis in _peer_figures(paths, corpus / "shards", root, peers, [one, other]):
        rows.append(
            (name, f"{seconds:.2f}", size / seconds / 1e6, duplicates, f"{seconds / ours[basis]:.1f} ({basis})")
        )
    rows.append(("NeMo Curator, one H100: **published**, not run here", "", PUBLISHED_H100, "", ""))
    title = (
        f"minhash against peers: the same {size / 1e6:,.0f} MB of text, {BANDS} bands of {ROWS}, one core unless said"
    )
    table(title, ("", "seconds", "MB/s", "duplicates found", "times our seconds"), rows)


def _peer_figures(
    paths: list[str], shards: Path, root: Path, peers: Path, both: list[int]
) -> Iterator[tuple[str, float, object, str]]:
    """(what, seconds, duplicates, what of ours it is set against) of each peer whose environment is there."""
    one = both[:1]
    for tasks in (1, 2):
        work = root / f"datatrove{tasks}"
        figures = peer(peers, "datatrove", "--work", work, "--tasks", tasks, shards, on=both[:tasks])
        if figures is not None:
            seconds, steps = recorded(figures), figures["seconds"]
            name = f"datatrove {figures['version']}, {tasks} task{'s on two cores' if tasks > 1 else ''}"
            yield f"{name}, four steps", seconds, figures["duplicates"], "run"
            if tasks == 1:
                told = ", ".join(f"{step} {spent:.1f} s" for step, spent in steps.items())
                yield f"{name}, without writing the kept text ({told})", seconds - steps["4 filter"], "", "run"
    figures = peer(peers, "textdedup", "--work", root / "textdedup", "--hashes", BANDS * ROWS, "--bands", BANDS,
                   "--rows", ROWS, *paths, on=one)  # fmt: skip
    if figures is not None:
        yield f"text-dedup {figures['version']}, whole, unverified", recorded(figures), figures["duplicates"], "run"
    for name in ("rensa", "datasketch"):
        figures = peer(peers, name, *paths, on=one)
        if figures is not None:
            yield from _library(f"{name} {figures['version']}", figures)


def _library(name: str, figures: dict) -> Iterator[tuple[str, float, object, str]]:
    spent = figures["seconds"]
    shingles, signatures = spent["shingles in Python"], spent["signatures"]
    yield f"{name}: signatures alone, of strings made before", signatures, "", "keys"
    if "signatures of hashes" in spent:
        yield f"{name}: signatures alone, of hashes in a flat array", spent["signatures of hashes"], "", "keys"
        yield f"{name}: rho sketch alone (samples positions), of strings", spent["signatures, rho"], "", "keys"
    yield f"{name}: shingles in Python + signatures", shingles + signatures, "", "text to keys"
    yield f"{name}: the same + bands", shingles + signatures + spent["bands"], figures["duplicates"], "text to keys"


if __name__ == "__main__":
    main()
