"""The distributions of a Python environment, and which of their files are worth reading."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

LARGEST_FILE = 2_000_000  # bytes; what is larger is generated
LARGEST_SHARE = 10_000_000  # bytes of source per distribution, so that none dominates; the domain is exempt
TESTS = frozenset({"test", "tests", "idle_test", "lib2to3", "__pycache__", "site-packages", "dist-packages"})
LICENCE = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)

NUMERICS = (
    *("numpy/", "scipy/", "mpmath/", "statsmodels/", "sklearn/", "pyarrow/compute.py", "sympy/stats/"),
    *("torch/distributions/", "torch/special/", "torch/linalg/", "torch/fft/", "torch/_torch_docs.py", "dask/array/"),
    *(f"python/{name}.py" for name in ("statistics", "random", "decimal", "_pydecimal", "fractions", "numbers")),
)
OTHER_MATTERS = ("numpy/distutils/", "numpy/f2py/", "numpy/testing/", "numpy/typing/", "scipy/_lib/", "scipy/io/")


@dataclass(frozen=True)
class Package:
    """A distribution, or the standard library by its folder."""

    name: str
    version: str
    place: Distribution | Path

    def description(self) -> str:
        """The text of its project page."""
        if isinstance(self.place, Path):
            return ""
        metadata = self.place.metadata
        return str(metadata["Description"] or metadata.get_payload() or "")  # type: ignore[attr-defined]

    def files(self) -> list[tuple[str, Path]]:
        """The files worth reading, by path: (path as ids show it, absolute path)."""
        if isinstance(self.place, Path):
            root = self.place
            return worth_reading((f"python/{path.relative_to(root).as_posix()}", path) for path in root.rglob("*.py"))
        return worth_reading((path.as_posix(), Path(str(path.locate()))) for path in self.place.files or ())


def installed(site: Sequence[Path] | None) -> list[Package]:
    """The distributions of an environment by name, without tamis; a name found twice counts once."""
    roots = site or sorted({Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")})
    packages: dict[str, Package] = {}
    for distribution in distributions(path=[str(root) for root in roots]):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name not in ("", "tamis", *packages):
            packages[name] = Package(name, distribution.version, distribution)
    return [packages[name] for name in sorted(packages)]


def worth_reading(files: Iterable[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Python sources and licences: no tests, nothing outside the root, at most LARGEST_SHARE of source."""
    chosen, room = [], LARGEST_SHARE
    for path, place in sorted(files, key=lambda file: hash_of(file[0])):
        parts = path.split("/")
        if not path.endswith((".py", ".pyi")) and not is_licence(path):
            continue
        if parts[0] == ".." or TESTS.intersection(parts[:-1]):
            continue
        size = place.stat().st_size if place.is_file() else LARGEST_FILE
        if size >= LARGEST_FILE:
            continue
        if is_licence(path) or is_numerics(path):
            chosen.append((path, place))
        elif size <= room:
            room -= size
            chosen.append((path, place))
    return sorted(chosen)


def is_numerics(path: str) -> bool:
    return path.startswith(NUMERICS) and not path.startswith(OTHER_MATTERS)


def is_licence(path: str) -> bool:
    return ".dist-info/" in path and LICENCE.match(path.rsplit("/", 1)[-1]) is not None


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
