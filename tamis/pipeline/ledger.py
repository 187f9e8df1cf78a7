"""Receipts of finished work, in append-only segments, and the lock that keeps a second driver out."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from tamis.errors import LedgerError
from tamis.pipeline.work import Receipt


class Ledger:
    """All receipts of a run, the latest per (key, unit); new ones are appended to a segment of their own.

    A line is written with one call and a torn last line is dropped on reading, so that a driver may be killed
    at any moment. Only the driver writes.
    """

    def __init__(self, run: Path, *, write: bool = False) -> None:
        self._folder = run / "ledger"
        self._receipts: dict[tuple[str, str], Receipt] = {}
        self.codes: dict[str, dict[str, Any]] = {}
        self.redone: dict[str, int] = {}  # program key → how often its results were asked to be made again
        self._being_redone: set[str] = set()
        self._lock: IO[str] | None = None
        self._segment: IO[str] | None = None
        if write:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._folder / "lock")
        try:
            self._read()
        except LedgerError:
            self.__exit__()
            raise
        if write:
            number = 1 + max((int(path.stem) for path in self._folder.glob("*.jsonl")), default=0)
            self._segment = (self._folder / f"{number:05d}.jsonl").open("a", encoding="utf-8")

    def _read(self) -> None:
        for values in _lines(self._folder):
            if "code" in values:
                self.codes[values["program"]] = values
            elif "redo" in values:
                self._count_redo(values["redo"], done=values["done"])
            else:
                receipt = Receipt(**values)
                self._receipts[receipt.key, receipt.unit] = receipt

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._segment, self._lock):
            if file is not None:
                file.close()

    def get(self, key: str, unit: str) -> Receipt | None:
        return self._receipts.get((key, unit))

    def receipts(self) -> Iterator[Receipt]:
        yield from self._receipts.values()

    def record(self, receipt: Receipt) -> None:
        self._receipts[receipt.key, receipt.unit] = receipt
        self._append(asdict(receipt))

    def record_code(self, program: str, version: int, code: str) -> None:
        """Notes which code a program's results were made with."""
        values = {"program": program, "version": version, "code": code}
        self.codes[program] = values
        self._append(values)

    def redo(self, program: str) -> None:
        """Gives a program's results a new key, so that they are made again; once, until `redo_done`."""
        if program not in self._being_redone:
            self._count_redo(program, done=False)
            self._append({"redo": program, "done": False})

    def redo_done(self, program: str) -> None:
        """The program has its new results; another `redo` means another time."""
        if program in self._being_redone:
            self._count_redo(program, done=True)
            self._append({"redo": program, "done": True})

    def _count_redo(self, program: str, *, done: bool) -> None:
        if done:
            self._being_redone.discard(program)
        else:
            self._being_redone.add(program)
            self.redone[program] = self.redone.get(program, 0) + 1

    def _append(self, values: dict[str, Any]) -> None:
        if self._segment is None:
            raise LedgerError(f"{self._folder}: opened for reading; only the driver of a run writes receipts")
        self._segment.write(json.dumps(values, separators=(",", ":")) + "\n")
        self._segment.flush()


def _locked(path: Path) -> IO[str]:
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise LedgerError(
            f"{path.parent.parent}: another driver (process {holder}) is working in this run; "
            "wait for it, or give --out another folder"
        ) from error
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            if not line:
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                if number == len(lines) - 1:
                    continue  # torn by a kill; the work it stood for is done again
                raise LedgerError(
                    f"{path}:{number + 1}: expected a receipt, got {line[:60]!r}; restore the file or delete the run"
                ) from error
            yield values
