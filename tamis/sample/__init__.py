"""A real corpus on any machine, offline: the documentation of the Python environment at hand.

Docstrings are read from source files with `ast` (nothing is imported), descriptions and licences from the
metadata of the installed distributions. Natural duplicates stay: vendored copies, licences, repeated docstrings.

The rule. A text is dedented, its trailing spaces go, and it is a document when it has five words or more. Files in
test folders, of more than 2 MB, or that do not parse are left out; so is tamis itself. A distribution gives at most
10 MB of source, chosen by a hash of the path. The target domain is statistics and numerics (`NUMERICS`): half of its
documents become the target, the other half stays in the pool to be found. Which half a document joins is decided
by a hash of its words, so copies stay together, and a document repeated outside the domain is no target.
"""

from __future__ import annotations

import json
import platform
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.sample.documents import read
from tamis.sample.environment import Package, installed
from tamis.sample.shards import publish, write

VERSION = 1  # of the rule above; raise it when the same environment gives other documents


@dataclass(frozen=True)
class SampleFacts:
    """What a sample folder holds. sources: documents per distribution, most first; reused: nothing was rebuilt."""

    folder: Path
    pool: int
    train: int
    valid: int
    bytes: int
    sources: dict[str, int]
    unreadable: int
    seconds: float
    reused: bool

    @property
    def documents(self) -> int:
        """Documents of the pool and the target together."""
        return self.pool + self.train + self.valid


def build_sample(
    folder: Path,
    *,
    site: Sequence[Path] | None = None,
    stdlib: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> SampleFacts:
    """The sample in `folder`: pool/*.parquet and target/{train,valid}.parquet; at once if it is there already.

    The same distributions give the same bytes. `sample.json` is written last and proves a complete sample.

    site, stdlib : where to look; by default this environment's site-packages and standard library.
    report : called with (files read, files to read) now and then.
    """
    start = time.perf_counter()
    library = stdlib or Path(sysconfig.get_path("stdlib"))
    packages = [*installed(site), Package("python", platform.python_version(), library)]
    environment = {"version": VERSION, "packages": [[each.name, each.version] for each in packages]}
    manifest = _manifest(folder, environment)
    reused = manifest is not None
    if manifest is None:
        found, unreadable = read(packages, report or (lambda _done, _all: None))
        manifest = {**environment, "unreadable": unreadable, **write(folder, found)}
        publish(folder / "sample.json", (json.dumps(manifest, indent=1) + "\n").encode())
    counts = {key: manifest[key] for key in ("pool", "train", "valid", "bytes", "sources", "unreadable")}
    return SampleFacts(folder=folder, **counts, seconds=time.perf_counter() - start, reused=reused)


def _manifest(folder: Path, environment: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a complete sample of this environment, or None when the sample has to be built."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "sample.json").read_bytes())
        same = all(manifest.get(key) == value for key, value in environment.items())
        whole = all((folder / path).stat().st_size == size for path, size in manifest["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return manifest if same and whole else None
