"""Whole processes, pinned to cores and watched: runs of tamis, and other tools in interpreters of their own."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parents[2] / "peers"  # beside the checkout: NAME/bin/python each, see README.md
SCRIPTS = Path(__file__).with_name("peers")
WATCH_SECONDS = 0.05


@dataclass(frozen=True)
class Whole:
    """Wall-clock time from start to exit, the processors' time of it and its descendants, and peak resident memory.

    megabytes : of the process itself. worker_megabytes : of its largest descendant, 0 without any.
    """

    seconds: float
    cpu_seconds: float
    megabytes: float
    worker_megabytes: float


def cores(count: int) -> list[int]:
    """The first few cores that this process may use."""
    found = sorted(os.sched_getaffinity(0))[:count]
    if len(found) < count:
        sys.exit(f"benchmarks: need {count} cores, this process may use {len(found)}")
    return found


def started(command: Sequence[str], on: Sequence[int], output: Any = subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(_pinned(command, on), stdout=output, stderr=subprocess.PIPE, text=True)


def _pinned(command: Sequence[str], on: Sequence[int]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, on)), *command]


def watched(command: Sequence[str], on: Sequence[int]) -> Whole:
    """Runs a command on these cores. Exits with what it said if it fails."""
    with tempfile.TemporaryFile("w+") as said:
        began, spent = time.perf_counter(), _cpu_seconds()
        process = subprocess.Popen(_pinned(command, on), stdout=said, stderr=said)
        peaks: dict[int, float] = {}
        while process.poll() is None:
            for number in _family(process.pid):
                peaks[number] = max(peaks.get(number, 0.0), _peak_megabytes(number))
            time.sleep(WATCH_SECONDS)
        seconds = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)}: status {process.returncode}\n{said.read()[-3000:]}")
    own = peaks.pop(process.pid, 0.0)
    return Whole(seconds, _cpu_seconds() - spent, own, max(peaks.values(), default=0.0))


def together(commands: Sequence[Sequence[str]], on: Sequence[int]) -> float:
    """Seconds until all of these have ended, started at once, one core each."""
    began = time.perf_counter()
    processes = [started(command, [core]) for command, core in zip(commands, on, strict=True)]
    for command, process in zip(commands, processes, strict=True):
        _, said = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(command)}: status {process.returncode}\n{said[-3000:]}")
    return time.perf_counter() - began


def tamis_run(spec: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tamis", "run", str(spec), *options]


def peer(folder: Path, name: str, *arguments: object, on: Sequence[int]) -> dict[str, Any] | None:
    """What a peer's script printed, and the processors' time of its process, imports included.

    None, with a word on standard error, if its interpreter is not there.
    """
    python = folder / name / "bin" / "python"
    if not python.is_file():
        print(f"no {python}: left out (see benchmarks/README.md)", file=sys.stderr)
        return None
    command = [str(python), str(SCRIPTS / f"{name}_minhash.py"), *map(str, arguments)]
    spent = _cpu_seconds()
    process = started(command, on, subprocess.PIPE)
    printed, said = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)}: status {process.returncode}\n{said[-3000:]}")
    return {**json.loads(printed.splitlines()[-1]), "cpu_seconds": _cpu_seconds() - spent}


def _cpu_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _family(number: int) -> list[int]:
    """A process and its descendants that still live."""
    family = [number]
    for parent in family:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                family += map(int, children.read_text().split())
    return family


def _peak_megabytes(number: int) -> float:
    """Peak resident memory so far, 0 if the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
