"""What a user sees while a run works: bars on a terminal, one line per pass otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO


def human_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


@dataclass
class Meter:
    """Counts what one pass has finished; `advance` moves the bar."""

    advance_bar: Any
    began: float = field(default_factory=time.perf_counter)

    def advance(self, amount: float) -> None:
        self.advance_bar(amount)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


def _ignore(amount: float) -> None:
    del amount


class Progress:
    """Reports to a terminal with moving bars, to anything else with one line per finished pass."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bars = self._stream.isatty() and not quiet

    def line(self, text: str) -> None:
        if not self._quiet:
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
            bar = bars.add_task(label, total=total)
            yield Meter(lambda amount: bars.advance(bar, amount))
