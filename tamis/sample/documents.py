"""Documents of packages: docstrings, descriptions and licences, cleaned."""

from __future__ import annotations

import ast
import gc
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tamis.sample.environment import Package, is_licence, is_numerics

FEWEST_WORDS = 5
DOCUMENTERS = frozenset({"add_newdoc", "add_docstr", "add_docstr_all"})  # how numpy and torch document compiled code


@dataclass(frozen=True)
class Document:
    id: str
    text: str
    package: Package
    path: str
    line: int
    kind: str
    name: str

    @property
    def in_domain(self) -> bool:
        return self.kind == "docstring" and is_numerics(self.path)

    def row(self) -> dict[str, str]:
        about = {"kind": self.kind, "version": self.package.version, "name": self.name}
        if self.in_domain:
            about["domain"] = "numerics"
        url = f"{self.path}#L{self.line}" if self.line else self.path
        metadata = json.dumps(about, ensure_ascii=False)
        return {"id": self.id, "text": self.text, "source": self.package.name, "url": url, "metadata": metadata}


def read(packages: Sequence[Package], report: Callable[[int, int], None]) -> tuple[list[Document], int]:
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


def _description(package: Package) -> Document:
    full_name = f"{package.name} {package.version}"
    text = _clean(package.description())
    return Document(f"{full_name}: description", text, package, f"{full_name}/METADATA", 0, "description", package.name)


def _documents(package: Package, path: str, content: bytes) -> Iterator[Document]:
    if is_licence(path):
        yield Document(path, _clean(content.decode()), package, path, 0, "licence", package.name)
    elif path.endswith((".py", ".pyi")):
        module = re.sub(r"(/__init__)?\.pyi?$", "", path).replace("/", ".")
        for name, line, text in _docstrings(ast.parse(content)):
            full_name = f"{module}.{name}".rstrip(".")
            yield Document(f"{path}:{line} {name}".rstrip(), _clean(text), package, path, line, "docstring", full_name)


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
