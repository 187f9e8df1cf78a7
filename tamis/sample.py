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

import ast
import gc
import hashlib
import inspect
import json
import os
import platform
import re
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

VERSION = 1  # of the rule above; raise it when the same environment gives other documents
POOL_SHARDS = 6
TRAIN = ("target", "train.parquet")
VALID = ("target", "valid.parquet")
FEWEST_WORDS = 5
LARGEST_FILE = 2_000_000  # bytes; what is larger is generated
LARGEST_SHARE = 10_000_000  # bytes of source per distribution, so that none dominates; the domain is exempt
TESTS = frozenset({"test", "tests", "idle_test", "lib2to3", "__pycache__", "site-packages", "dist-packages"})
LICENCE = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
DOCUMENTERS = frozenset({"add_newdoc", "add_docstr", "add_docstr_all"})  # how numpy and torch document compiled code

NUMERICS = (
    *("numpy/", "scipy/", "mpmath/", "statsmodels/", "sklearn/", "pyarrow/compute.py", "sympy/stats/"),
    *("torch/distributions/", "torch/special/", "torch/linalg/", "torch/fft/", "torch/_torch_docs.py", "dask/array/"),
    *(f"python/{name}.py" for name in ("statistics", "random", "decimal", "_pydecimal", "fractions", "numbers")),
)
OTHER_MATTERS = ("numpy/distutils/", "numpy/f2py/", "numpy/testing/", "numpy/typing/", "scipy/_lib/", "scipy/io/")

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "url", "metadata")])


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


@dataclass(frozen=True)
class _Package:
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
            return _worth_reading((f"python/{path.relative_to(root).as_posix()}", path) for path in root.rglob("*.py"))
        return _worth_reading((path.as_posix(), Path(str(path.locate()))) for path in self.place.files or ())


@dataclass(frozen=True)
class _Document:
    id: str
    text: str
    package: _Package
    path: str
    line: int
    kind: str
    name: str

    @property
    def in_domain(self) -> bool:
        return self.kind == "docstring" and _is_numerics(self.path)

    def row(self) -> dict[str, str]:
        about = {"kind": self.kind, "version": self.package.version, "name": self.name}
        if self.in_domain:
            about["domain"] = "numerics"
        url = f"{self.path}#L{self.line}" if self.line else self.path
        metadata = json.dumps(about, ensure_ascii=False)
        return {"id": self.id, "text": self.text, "source": self.package.name, "url": url, "metadata": metadata}


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
    packages = [*_installed(site), _Package("python", platform.python_version(), library)]
    environment = {"version": VERSION, "packages": [[each.name, each.version] for each in packages]}
    manifest = _manifest(folder, environment)
    reused = manifest is not None
    if manifest is None:
        found, unreadable = _read(packages, report or (lambda _done, _all: None))
        manifest = {**environment, "unreadable": unreadable, **_write(folder, found)}
        _publish(folder / "sample.json", (json.dumps(manifest, indent=1) + "\n").encode())
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


# ---- where the text comes from


def _installed(site: Sequence[Path] | None) -> list[_Package]:
    """The distributions of an environment by name, without tamis; a name found twice counts once."""
    roots = site or sorted({Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")})
    packages: dict[str, _Package] = {}
    for distribution in distributions(path=[str(root) for root in roots]):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name not in ("", "tamis", *packages):
            packages[name] = _Package(name, distribution.version, distribution)
    return [packages[name] for name in sorted(packages)]


def _worth_reading(files: Iterable[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Python sources and licences: no tests, nothing outside the root, at most LARGEST_SHARE of source."""
    chosen, room = [], LARGEST_SHARE
    for path, place in sorted(files, key=lambda file: _hash(file[0])):
        parts = path.split("/")
        if not path.endswith((".py", ".pyi")) and not _is_licence(path):
            continue
        if parts[0] == ".." or TESTS.intersection(parts[:-1]):
            continue
        size = place.stat().st_size if place.is_file() else LARGEST_FILE
        if size >= LARGEST_FILE:
            continue
        if _is_licence(path) or _is_numerics(path):
            chosen.append((path, place))
        elif size <= room:
            room -= size
            chosen.append((path, place))
    return sorted(chosen)


def _is_numerics(path: str) -> bool:
    return path.startswith(NUMERICS) and not path.startswith(OTHER_MATTERS)


def _is_licence(path: str) -> bool:
    return ".dist-info/" in path and LICENCE.match(path.rsplit("/", 1)[-1]) is not None


# ---- documents


def _read(packages: Sequence[_Package], report: Callable[[int, int], None]) -> tuple[list[_Document], int]:
    """All documents of the packages, by id, and how many files could not be read."""
    files = [(package, path, place) for package in packages for path, place in package.files()]
    found = {each.id: each for each in map(_description, packages)}
    unreadable = 0
    with _parsing():
        for done, (package, path, place) in enumerate(files):
            if done % 256 == 0:
                report(done, len(files))
            try:
                for document in _documents(package, path, place.read_bytes()):
                    found.setdefault(document.id, document)
            except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
                unreadable += 1
    report(len(files), len(files))
    return [found[each] for each in sorted(found) if _is_document(found[each].text)], unreadable


def _description(package: _Package) -> _Document:
    full_name = f"{package.name} {package.version}"
    text = _clean(package.description())
    return _Document(
        f"{full_name}: description", text, package, f"{full_name}/METADATA", 0, "description", package.name
    )


def _documents(package: _Package, path: str, content: bytes) -> Iterator[_Document]:
    if _is_licence(path):
        yield _Document(path, _clean(content.decode()), package, path, 0, "licence", package.name)
    elif path.endswith((".py", ".pyi")):
        module = re.sub(r"(/__init__)?\.pyi?$", "", path).replace("/", ".")
        for name, line, text in _docstrings(ast.parse(content)):
            full_name = f"{module}.{name}".rstrip(".")
            yield _Document(f"{path}:{line} {name}".rstrip(), _clean(text), package, path, line, "docstring", full_name)


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    """(qualified name, line, text) of each docstring in a module; a module's own has the empty name."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        if not isinstance(node, ast.If | ast.Try):
            text = ast.get_docstring(node, clean=False)  # type: ignore[arg-type]
            if text is not None:
                yield name, getattr(node, "lineno", 1), text
        for child in (*node.body, *getattr(node, "orelse", ())):  # type: ignore[attr-defined]
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                waiting.append((f"{name}.{child.name}".lstrip("."), child))
            elif isinstance(child, ast.If | ast.Try):
                waiting.append((name, child))
            elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
                yield from _added_docstring(child.value)


def _added_docstring(call: ast.Call) -> Iterator[tuple[str, int, str]]:
    """The text that a call such as `add_newdoc("numpy", "dot", TEXT)` attaches to a compiled function."""
    if getattr(call.func, "id", getattr(call.func, "attr", "")) not in DOCUMENTERS:
        return
    texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    first = call.args[0] if call.args else call
    names = [each for each in texts if each.isidentifier()] or [getattr(first, "attr", "")]
    yield names[-1], call.lineno, max(texts, key=len, default="")


@contextmanager
def _parsing() -> Iterator[None]:
    """Without the warnings of other people's files, and without the collector, which doubles the time of `ast`."""
    collected = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collected:
            gc.enable()


def _clean(text: str) -> str:
    return "\n".join(line.rstrip() for line in inspect.cleandoc(text).splitlines()).strip()


def _is_document(text: str) -> bool:
    whole = text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
    return whole and len(text.split(None, FEWEST_WORDS)) >= FEWEST_WORDS


# ---- what is written


def _write(folder: Path, documents: Sequence[_Document]) -> dict[str, Any]:
    """Shards of the pool and the target, and what the manifest says of them."""
    words = [" ".join(re.findall(r"\w+", document.text.lower())) for document in documents]
    elsewhere = {text for text, document in zip(words, documents, strict=True) if not document.in_domain}
    parts: dict[tuple[str, str], list[_Document]] = {TRAIN: [], VALID: []}
    parts.update({("pool", f"pool-{shard:02}.parquet"): [] for shard in range(POOL_SHARDS)})
    for text, document in zip(words, documents, strict=True):
        parts[_part(document, text, unique=text not in elsewhere)].append(document)
    files = {"/".join(part): _write_shard(folder.joinpath(*part), rows) for part, rows in parts.items()}
    return {
        "pool": len(documents) - len(parts[TRAIN]) - len(parts[VALID]),
        "train": len(parts[TRAIN]),
        "valid": len(parts[VALID]),
        "bytes": sum(len(document.text.encode()) for document in documents),
        "sources": dict(Counter(document.package.name for document in documents).most_common()),
        "files": files,
    }


def _part(document: _Document, words: str, *, unique: bool) -> tuple[str, str]:
    """The file a document belongs to: half of the domain is target, and 15 % of that is held out."""
    draw = _hash(words) % 200
    if document.in_domain and unique and draw < 100:
        return VALID if draw < 15 else TRAIN
    return "pool", f"pool-{_hash(document.id) % POOL_SHARDS:02}.parquet"


def _write_shard(path: Path, documents: Sequence[_Document]) -> int:
    """The size of the Parquet file that now stands at `path`."""
    table = pa.Table.from_pylist([document.row() for document in documents], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["source"], row_group_size=4096)
    content = sink.getvalue()
    _publish(path, content)
    return int(content.size)


def _publish(path: Path, content: bytes | pa.Buffer) -> None:
    """The file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
