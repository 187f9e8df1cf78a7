"""What a user sees while a run works: bars on a terminal, one line per pass otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO


def human_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


@dataclass
class Meter:
    """Counts what one pass has finished; `advance` moves the bar, `show` places it and says more."""

    move: Callable[..., Any]
    began: float = field(default_factory=time.perf_counter)
    finished: float = 0

    def advance(self, amount: float) -> None:
        self.finished += amount
        self.move(advance=amount)

    def show(self, completed: float, label: str) -> None:
        self.move(completed=completed, description=label)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


def _ignore(**change: object) -> None:
    del change


class Progress:
    """Reports to a terminal with moving bars, to anything else with one line per finished pass."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bars = self._stream.isatty() and not quiet
        self._live: Any = None  # the bars that are moving now

    def line(self, text: str) -> None:
        if self._live is not None:  # above the moving bar, not through it
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            print(text, file=self._stream, flush=True)

    @contextmanager
    def working(self, label: str, total: float) -> Iterator[Meter]:
        """A meter for work of `total` units; the label names it."""
        if not self._bars:
            yield Meter(_ignore)
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(file=self._stream), transient=True) as bars:
            self._live = bars
            try:
                yield Meter(partial(bars.update, bars.add_task(label, total=total)))
            finally:
                self._live = None

    @contextmanager
    def training(self, folder: Path, total: int) -> Iterator[Meter]:
        """A meter for Train steps, moved by what they report into files of `folder` while they run."""
        with self.working("training", total) as meter:
            if not self._bars or not total:
                yield meter
                return
            stop = Event()
            watcher = Thread(target=_watch, args=(folder, meter, stop), daemon=True)
            watcher.start()
            try:
                yield meter
            finally:
                stop.set()
                watcher.join()


def _watch(folder: Path, meter: Meter, stop: Event) -> None:
    """Shows the progress of running Train steps, every second, until told to stop."""
    while not stop.wait(1.0):
        running = []
        for path in sorted(folder.glob("*.json")):
            with suppress(OSError, ValueError):  # the step finished between the listing and the reading
                running.append(json.loads(path.read_text(encoding="utf-8")))
        lines = " · ".join(str(each["line"]) for each in running[:3])
        done = meter.finished + sum(float(each["done"]) for each in running)
        meter.show(done, f"training {lines}" if lines else "training")
