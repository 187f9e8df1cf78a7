"""MinHash by other tools on the same text as ours, each in an interpreter of its own: the last table of minhash.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from near_duplicates import BANDS, ROWS, decisions_of, kernel_seconds, on_core, spec_of
from pool import spread, table, text_bytes
from replicate import shard_paths
from whole import cores, peer, tamis_run, watched

PUBLISHED_H100 = (
    139.0  # MB/s per GPU: 8 TB in 0.50 hours on 32 of them, as its documentation of fuzzy deduplication has it
)
HEADER = ("", "seconds", "CPU s", "MB/s", "duplicates found", "times our seconds")


@dataclass(frozen=True)
class Figure:
    """Seconds of a peer's work. basis : what of ours does the same. cpu_seconds : of its whole process, "" of a part."""

    name: str
    seconds: float
    basis: str
    cpu_seconds: float | str = ""
    duplicates: int | str = ""


def against_peers(corpus: Path, root: Path, peers: Path, rounds: int) -> None:
    """Prints the table of peers on this text, and of ourselves on it."""
    paths = shard_paths(corpus)
    size = text_bytes(paths)
    (one, other) = cores(2)
    watched(tamis_run(spec_of(root / "warm", corpus / "shards"), "--serial"), [one])
    runs = [watched(tamis_run(spec_of(root / f"run{n}", corpus / "shards"), "--serial"), [one]) for n in range(rounds)]
    kernels = [on_core(one, partial(kernel_seconds, paths)) for _ in range(rounds)]
    ours = {
        "run": [run.seconds for run in runs],
        "text to keys": [sum(spent) for spent in kernels],
        "keys": [spent[1] for spent in kernels],
    }
    removed = pc.sum(decisions_of(root / "run0" / "run")["minhash_duplicate"]).as_py()
    names = ("a whole process with start-up (run)", "text to keys, in memory", "hashed words to keys, in memory (keys)")
    rows: list[list[object]] = [
        [f"tamis, {name}", spread(times), "", size / min(times) / 1e6, "", ""]
        for name, times in zip(names, ours.values(), strict=True)
    ]
    rows[0][2], rows[0][4] = min(run.cpu_seconds for run in runs), removed
    for figure in _figures(paths, corpus / "shards", root, peers, [one, other]):
        times = f"{figure.seconds / min(ours[figure.basis]):.1f} ({figure.basis})"
        speed = size / figure.seconds / 1e6
        rows.append([figure.name, f"{figure.seconds:.2f}", figure.cpu_seconds, speed, figure.duplicates, times])
    rows.append(["NeMo Curator, one H100: **published**, not run here", "", "", PUBLISHED_H100, "", ""])
    setting = f"{BANDS} bands of {ROWS}, one core unless said"
    table(f"minhash against peers: the same {size / 1e6:,.0f} MB of text, {setting}", HEADER, rows)


def _figures(paths: list[str], shards: Path, root: Path, peers: Path, both: list[int]) -> Iterator[Figure]:
    """Of each peer whose environment is there."""
    for tasks in (1, 2):
        work = root / f"datatrove{tasks}"
        found = peer(peers, "datatrove", "--work", work, "--tasks", tasks, shards, on=both[:tasks])
        if found is not None:
            yield from _datatrove(found, "1 task" if tasks == 1 else f"{tasks} tasks on two cores")
    bands = ("--hashes", BANDS * ROWS, "--bands", BANDS, "--rows", ROWS)
    found = peer(peers, "textdedup", "--work", root / "textdedup", *bands, *paths, on=both[:1])
    if found is not None:
        name = f"text-dedup {found['version']}, whole, unverified"
        yield Figure(name, found["seconds"]["all"], "run", found["cpu_seconds"], found["duplicates"])
    for name in ("rensa", "datasketch"):
        found = peer(peers, name, *paths, on=both[:1])
        if found is not None:
            yield from _library(f"{name} {found['version']}", found)


def _datatrove(found: dict[str, Any], tasks: str) -> Iterator[Figure]:
    steps = found["seconds"]
    name, whole = f"datatrove {found['version']}, {tasks}", sum(steps.values())
    cpu = found["cpu_seconds"] if tasks == "1 task" else ""  # its worker processes are not counted
    yield Figure(f"{name}, four steps", whole, "run", cpu, found["duplicates"])
    told = ", ".join(f"{step} {spent:.1f} s" for step, spent in steps.items())
    yield Figure(f"{name}, without writing the kept text ({told})", whole - steps["4 filter"], "run")


def _library(name: str, found: dict[str, Any]) -> Iterator[Figure]:
    spent = found["seconds"]
    yield Figure(f"{name}: signatures alone, of strings made before", spent["signatures"], "keys")
    if "signatures of hashes" in spent:
        yield Figure(f"{name}: signatures alone, of hashes in a flat array", spent["signatures of hashes"], "keys")
        yield Figure(f"{name}: rho sketch alone (samples positions), of strings", spent["signatures, rho"], "keys")
    signed = spent["shingles in Python"] + spent["signatures"]
    yield Figure(f"{name}: shingles in Python + signatures", signed, "text to keys")
    yield Figure(f"{name}: the same + bands", signed + spent["bands"], "text to keys", "", found["duplicates"])
