"""What all benchmarks share: the shared corpus, timing side by side, and tables that name machine and commit."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
POOL = SHARED / "pool"
TARGETS = SHARED / "targets"


def need_shared() -> None:
    """Stops with the reason when the shared corpus is not beside the checkout."""
    if not POOL.is_dir():
        sys.exit(f"benchmarks: need the shared corpus at {SHARED} (see benchmarks/README.md), it is not there")


def shards(count: int) -> list[str]:
    return [str(path) for path in sorted(POOL.glob("pool-*.parquet"))[:count]]


def text_bytes(paths: Sequence[str]) -> int:
    """UTF-8 bytes of the text column."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return sum(pc.sum(pc.binary_length(pq.read_table(path, columns=["text"])["text"])).as_py() for path in paths)


def side_by_side(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in turn, A B C A B C …, so that a machine that drifts drifts for all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table on standard output, with where and when it was made."""
    print(f"\n### {title}\n\n{machine()}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(_cell(value) for value in row) + " |")
    sys.stdout.flush()


def _cell(value: object) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


def machine() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{time.strftime('%Y-%m-%d')}, commit {commit}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}"


def peak_megabytes(who: int = resource.RUSAGE_SELF) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def write_spec(path: Path, pool: str, stages: str, out: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"corpus: {{paths: '{pool}'}}\nout: {out}\nseed: 17\nstages:\n{stages}")
    return path
