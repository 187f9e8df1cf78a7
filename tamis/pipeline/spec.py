"""stages.yaml → a checked specification; every complaint carries `file:line` and says what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tamis.corpus import Fields
from tamis.errors import SpecError
from tamis.pipeline.program import ProgramSpec
from tamis.pipeline.stage_list import StageList
from tamis.steps import absolute

TOP = ("corpus", "out", "seed", "tokenizer", "components", "stages")
CORPUS = ("paths", "text", "id", "source", "on_bad_record", "max_bad_fraction", "shard_bytes")
SHARD_BYTES = 128 << 20


@dataclass(frozen=True)
class CorpusSpec:
    """Where the documents are and what to do about bad ones."""

    paths: tuple[str, ...]
    fields: Fields
    on_bad_record: str = "quarantine"
    max_bad_fraction: float = 0.01
    shard_bytes: int = SHARD_BYTES
    line: int = 1


@dataclass(frozen=True)
class Spec:
    """A whole stages.yaml: the corpus, and the programs in stage order."""

    file: Path
    text: str
    corpus: CorpusSpec
    out: Path
    seed: int
    programs: tuple[ProgramSpec, ...] = field(default=())

    def fail(self, line: int, message: str) -> SpecError:
        return SpecError(f"{self.file}:{line}: {message}")


class Reader:
    """Walks the YAML nodes of one file; raises with the line at hand."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.base = file.absolute().parent

    def fail(self, line: int, message: str) -> SpecError:
        return SpecError(f"{self.file}:{line}: {message}")

    def load(self, text: str) -> CommentedMap:
        yaml = YAML(typ="rt")
        yaml.allow_duplicate_keys = False
        try:
            root = yaml.load(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            problem = str(error.problem or error).strip().splitlines()[0]
            raise self.fail(line, f"expected YAML, got: {problem}") from error
        except YAMLError as error:
            raise self.fail(1, f"expected YAML, got: {str(error).splitlines()[0]}") from error
        if not isinstance(root, CommentedMap):
            raise self.fail(1, f"expected the keys {', '.join(TOP)}, got {type(root).__name__}")
        return root

    def line(self, node: Any, key: Any = None) -> int:
        try:
            position = node.lc.data[key] if key is not None else (node.lc.line,)
            return int(position[0]) + 1
        except (AttributeError, KeyError, TypeError):
            return int(node.lc.line) + 1 if hasattr(node, "lc") else 1

    def lines(self, node: Any) -> dict[str, int]:
        """The line of every key of a mapping."""
        return {key: self.line(node, key) for key in node}

    def keys(self, node: Mapping[str, Any], known: Sequence[str], what: str) -> None:
        for key in node:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
                raise self.fail(self.line(node, key), f"{what} has no key {key!r}; {hint}")

    def value(self, node: CommentedMap, key: str, kind: type | tuple[type, ...], default: Any, what: str) -> Any:
        if key not in node:
            return default
        value = node[key]
        kinds_ = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds_) or (isinstance(value, bool) and bool not in kinds_):
            expected = " or ".join(each.__name__ for each in kinds_)
            raise self.fail(self.line(node, key), f"{what}.{key}: expected {expected}, got {value!r}")
        return value


def load_spec(path: str | Path) -> Spec:
    """Reads and checks a stages.yaml. Raises SpecError with `file:line` for anything it cannot stand for."""
    file = Path(path)
    if not file.is_file():
        raise SpecError(f"{file}: expected a stages.yaml, found no such file")
    text = file.read_text(encoding="utf-8")
    reader = Reader(file)
    root = reader.load(text)
    reader.keys(root, TOP, "the file")
    for key in ("corpus", "stages"):
        if key not in root:
            raise reader.fail(1, f"expected the key {key!r}; a run needs corpus: and stages:")
    seed = reader.value(root, "seed", int, 0, "the file")
    if not -(2**63) <= seed < 2**63:
        raise reader.fail(reader.line(root, "seed"), f"seed: expected an integer of 64 bits, got {seed}")
    folder = reader.value(root, "components", str, None, "the file")
    if folder is not None:
        folder = absolute(folder, reader.base)
        if not Path(folder).is_dir():
            raise reader.fail(
                reader.line(root, "components"),
                f"components: expected a folder of Python files, found none at {folder}",
            )
    out = Path(absolute(str(reader.value(root, "out", str, f"runs/{file.stem}", "the file")), reader.base))
    programs = tuple(StageList(reader, seed, folder, root).programs())
    return Spec(file, text, _corpus(reader, root), out, seed, programs)


def _corpus(reader: Reader, root: CommentedMap) -> CorpusSpec:
    node = root["corpus"]
    line = reader.line(root, "corpus")
    if isinstance(node, (str, CommentedSeq)):
        node = CommentedMap({"paths": node})
        node.lc.line = line - 1
    if not isinstance(node, CommentedMap) or "paths" not in node:
        raise reader.fail(line, "corpus: expected paths: with files, globs, folders or URLs")
    reader.keys(node, CORPUS, "corpus")
    paths = [node["paths"]] if isinstance(node["paths"], str) else node["paths"]
    if not isinstance(paths, (list, CommentedSeq)) or not paths or not all(isinstance(path, str) for path in paths):
        raise reader.fail(
            reader.line(node, "paths"), f"corpus.paths: expected a path or a list of paths, got {node['paths']!r}"
        )
    names = {key: reader.value(node, key, str, key, "corpus") for key in ("text", "id", "source")}
    if len(set(names.values())) < len(names):
        raise reader.fail(line, f"corpus: text, id and source must be three columns, got {names}")
    policy = reader.value(node, "on_bad_record", str, "quarantine", "corpus")
    if policy not in ("quarantine", "fail"):
        raise reader.fail(
            reader.line(node, "on_bad_record"), f"corpus.on_bad_record: expected quarantine or fail, got {policy!r}"
        )
    fraction = float(reader.value(node, "max_bad_fraction", (float, int), 0.01, "corpus"))
    if not 0 <= fraction <= 1:
        raise reader.fail(
            reader.line(node, "max_bad_fraction"),
            f"corpus.max_bad_fraction: expected a share between 0 and 1, got {fraction}",
        )
    size = reader.value(node, "shard_bytes", int, SHARD_BYTES, "corpus")
    if size <= 0:
        raise reader.fail(reader.line(node, "shard_bytes"), f"corpus.shard_bytes: expected more than 0, got {size}")
    return CorpusSpec(
        tuple(absolute(path, reader.base) for path in paths), Fields(**names), policy, fraction, size, line
    )
