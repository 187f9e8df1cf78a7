"""stages.yaml → a checked specification; every complaint carries `file:line` and says what to write instead."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from tamis.corpus import Fields
from tamis.errors import SpecError
from tamis.expressions import Expression, kinds
from tamis.families import build, find, options_of
from tamis.pipeline.program import ProgramSpec
from tamis.steps import absolute

TOP = ("corpus", "out", "seed", "tokenizer", "components", "stages")
CORPUS = ("paths", "text", "id", "source", "on_bad_record", "max_bad_fraction", "shard_bytes")
VERBS = ("embed", "deduplicate", "score", "select", "compare")
SHARD_BYTES = 128 << 20
STAGE_KEYS = ("as", "where", "fit")  # allowed beside any component's own options


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


class _Reader:
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
        if not isinstance(root, CommentedMap):
            raise self.fail(1, f"expected the keys {', '.join(TOP)}, got {type(root).__name__}")
        return root

    def line(self, node: Any, key: Any = None) -> int:
        try:
            position = node.lc.data[key] if key is not None else (node.lc.line,)
            return int(position[0]) + 1
        except (AttributeError, KeyError, TypeError):
            return int(node.lc.line) + 1 if hasattr(node, "lc") else 1

    def keys(self, node: CommentedMap, known: Sequence[str], what: str) -> None:
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
    reader = _Reader(file)
    root = reader.load(text)
    reader.keys(root, TOP, "the file")
    for key in ("corpus", "stages"):
        if key not in root:
            raise reader.fail(1, f"expected the key {key!r}; a run needs corpus: and stages:")
    seed = reader.value(root, "seed", int, 0, "the file")
    folder = reader.value(root, "components", str, None, "the file")
    if folder is not None:
        folder = absolute(folder, reader.base)
        if not Path(folder).is_dir():
            raise reader.fail(
                reader.line(root, "components"),
                f"components: expected a folder of Python files, found none at {folder}",
            )
    out = Path(absolute(str(reader.value(root, "out", str, f"runs/{file.stem}", "the file")), reader.base))
    stages = _Stages(reader, seed, folder, root)
    return Spec(file, text, _corpus(reader, root), out, seed, tuple(stages.programs()))


def _corpus(reader: _Reader, root: CommentedMap) -> CorpusSpec:
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


class _Stages:
    """The `stages:` list, as programs; the programs that the engine itself needs are added where they belong."""

    def __init__(self, reader: _Reader, seed: int, folder: str | None, root: CommentedMap) -> None:
        self.reader, self.seed, self.folder, self.root = reader, seed, folder, root
        self.nodes = root["stages"]
        self.names: dict[str, int] = {}
        self.has_tokens = False

    def programs(self) -> Iterator[ProgramSpec]:
        if not isinstance(self.nodes, CommentedSeq) or not self.nodes:
            raise self.reader.fail(
                self.reader.line(self.root, "stages"), "stages: expected a list of stages, e.g. `- score: [length]`"
            )
        yield self.internal("census", {}, 0)
        yield self.internal("identities", {}, 0)
        for index, node in enumerate(self.nodes):
            line = self.reader.line(self.nodes, index)
            if not isinstance(node, CommentedMap) or len(node) != 1:
                raise self.reader.fail(
                    line, f"stages: expected one of {', '.join(VERBS)} per list item, got {_shown(node)}"
                )
            verb = next(iter(node))
            self.reader.keys(node, VERBS, "stages")
            line = self.reader.line(node, verb)
            yield from getattr(self, f"_{verb}")(node[verb], line)

    def internal(self, component: str, options: Mapping[str, Any], line: int, name: str | None = None) -> ProgramSpec:
        built = self.make("pipeline", component, options, line)
        return self.program("pipeline", component, name or component, built, line)

    def make(self, verb: str, component: str, options: Mapping[str, Any], line: int) -> Any:
        try:
            return build(find(verb, component, self.folder), options, self.reader.base)
        except SpecError as error:
            option = str(error).split(":")[0].split(".")[0]
            exact = (
                self.reader.line(options, option) if isinstance(options, CommentedMap) and option in options else line
            )
            raise self.reader.fail(exact, str(error)) from error

    def program(
        self,
        verb: str,
        component: str,
        name: str,
        built: Any,
        line: int,
        where: str | None = None,
        *,
        frozen: bool = False,
    ) -> ProgramSpec:
        if name in self.names:
            raise self.reader.fail(
                line, f"the name {name!r} is taken (line {self.names[name]}); give this one another with `as:`"
            )
        if not name.replace("_", "a").isalnum():
            raise self.reader.fail(line, f"expected a name of letters, digits and _, got {name!r}")
        self.names[name] = line
        options = json.dumps(options_of(built), sort_keys=True)
        if where is not None:
            try:
                Expression(where)
            except SpecError as error:
                raise self.reader.fail(line, f"where: {error}") from error
        return ProgramSpec(verb, component, name, options, where, self.seed, self.folder, line, frozen)

    def component(
        self, verb: str, node: Any, line: int, outer: Mapping[str, Any], default: str | None = None
    ) -> ProgramSpec:
        """`name`, or `{name: {options, as, where, fit}}`; `outer` holds what the stage says for it."""
        component, options, own_line = self._named(verb, node, line)
        said = {**outer, **{key: options[key] for key in STAGE_KEYS if key in options}}
        for key, value in said.items():
            if not isinstance(value, str):
                raise self.reader.fail(own_line, f"{key}: expected text, got {value!r}")
        if said.get("fit", "frozen") != "frozen":
            raise self.reader.fail(
                own_line, f"fit: expected frozen (keep what was fitted when the corpus grows), got {said['fit']!r}"
            )
        kept = CommentedMap({key: value for key, value in options.items() if key not in STAGE_KEYS})
        if isinstance(options, CommentedMap):
            kept.lc.line = options.lc.line
            kept.lc.data = options.lc.data
        built = self.make(verb, component, kept, own_line)
        return self.program(
            verb,
            component,
            said.get("as", default or component),
            built,
            own_line,
            said.get("where"),
            frozen="fit" in said,
        )

    def _named(self, verb: str, node: Any, line: int) -> tuple[str, Mapping[str, Any], int]:
        if isinstance(node, str):
            return node, CommentedMap(), line
        if isinstance(node, CommentedMap) and len(node) == 1:
            name = next(iter(node))
            options = node[name] if node[name] is not None else CommentedMap()
            if isinstance(name, str) and isinstance(options, CommentedMap):
                return name, options, self.reader.line(node, name)
        raise self.reader.fail(line, f"{verb}: expected a component's name, or `name: {{options}}`, got {_shown(node)}")

    def _single(self, verb: str, node: Any, line: int, default: str | None = None) -> Iterator[ProgramSpec]:
        outer: dict[str, Any] = {}
        if isinstance(node, CommentedMap) and "by" in node:
            self.reader.keys(node, ("by", *STAGE_KEYS), verb)
            outer = {key: node[key] for key in STAGE_KEYS if key in node}
            line = self.reader.line(node, "by")
            node = node["by"]
        yield self.component(verb, node, line, outer, default)

    def _embed(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        yield from self._single("embed", node, line, "vector")

    def _deduplicate(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        yield from self._single("deduplicate", node, line)

    def _score(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        outer: dict[str, Any] = {}
        if isinstance(node, CommentedMap) and "by" in node:
            self.reader.keys(node, ("by", *STAGE_KEYS), "score")
            outer = {key: node[key] for key in STAGE_KEYS if key in node}
            node = node["by"]
        items = node if isinstance(node, CommentedSeq) else [node]
        for index, item in enumerate(items):
            at = self.reader.line(node, index) if isinstance(node, CommentedSeq) else line
            yield self.component("score", item, at, outer)

    def _select(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        keys = ("name", "where", "by", "budget_tokens", "budget_documents")
        if not isinstance(node, CommentedMap) or "name" not in node or "by" not in node:
            raise self.reader.fail(
                line, f"select: expected name: and by: (and where:, budget_tokens:), got {_shown(node)}"
            )
        self.reader.keys(node, keys, "select")
        component, options, own_line = self._named("select", node["by"], line)
        merged = CommentedMap(
            {
                **{key: node[key] for key in keys[3:] if key in node},
                **({"where": node["where"]} if "where" in node else {}),
                **options,
            }
        )
        merged.lc.line = node.lc.line
        merged.lc.data = {
            **node.lc.data,
            **(options.lc.data if isinstance(options, CommentedMap) and options.lc.data else {}),
        }
        built = self.make("select", component, merged, own_line)
        for key in ("where", "score"):
            if isinstance(getattr(built, key, None), str):
                try:
                    Expression(getattr(built, key))
                except SpecError as error:
                    raise self.reader.fail(self.reader.line(merged, key), f"{key}: {error}") from error
        if built.budget_tokens:
            yield from self._tokens()
        yield self.program("select", component, str(node["name"]), built, line)

    def _tokens(self) -> Iterator[ProgramSpec]:
        """The run's tokenizer, once, before the first stage that counts tokens."""
        if self.has_tokens:
            return
        self.has_tokens = True
        options = self.root.get("tokenizer") or CommentedMap()
        line = self.reader.line(self.root, "tokenizer") if "tokenizer" in self.root else 0
        if not isinstance(options, CommentedMap):
            raise self.reader.fail(line, f"tokenizer: expected options such as `vocabulary: 4096`, got {options!r}")
        yield self.internal("tokens", options, line)

    def _compare(self, node: Any, line: int) -> Iterator[ProgramSpec]:
        if not isinstance(node, CommentedMap):
            raise self.reader.fail(line, f"compare: expected arms:, size:, seeds: and evaluate:, got {_shown(node)}")
        yield from self._tokens()
        built = self.make("pipeline", "compare", node, line)
        for arm in built.arms:
            if arm not in self.names:
                raise self.reader.fail(
                    self.reader.line(node, "arms"),
                    f"compare.arms: no select stage before this one is called {arm!r}; there are {self._arms()}",
                )
        if "overlap" not in self.names:
            options = {"against": [options_of(documents) for documents in built.evaluate.values()]}
            overlap = self.make("score", "overlap", options, line)
            yield self.program("score", "overlap", "overlap", overlap, line)
        yield self.program("pipeline", "compare", "compare", built, line)

    def _arms(self) -> str:
        return ", ".join(self.names) or "none"


def _shown(node: Any) -> str:
    text = json.dumps(node, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def check_columns(spec: Spec, base: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """All columns of the run with their types, if every stage uses only columns that exist before it.

    base : the columns of the documents themselves. Raises SpecError naming the stage's line otherwise.
    """
    known: dict[str, pa.DataType] = {
        **base,
        "doc_id": pa.string(),
        "text": pa.string(),
        "source": pa.string(),
        "row": pa.uint64(),
        "quarantined": pa.bool_(),
    }
    for program in spec.programs:
        component = program.build()
        where = Expression(program.where).columns if program.where else ()
        for column in (*component.reads, *where):
            if column not in known:
                raise spec.fail(program.line, f"{program.label}: {_missing(column, known, spec, program)}")
        for text in filter(None, (program.where, getattr(component, "where", None), getattr(component, "score", None))):
            if isinstance(text, str):
                try:
                    kinds([text], known)
                except SpecError as error:
                    raise spec.fail(program.line, f"{program.label}: {error}") from error
        for column, kind in component.columns(program.name).items():
            if column in known:
                raise spec.fail(
                    program.line,
                    f"{program.label}: the column {column!r} exists already; give this stage another name with `as:`",
                )
            known[column] = kind
    return known


def _missing(column: str, known: Mapping[str, Any], spec: Spec, program: ProgramSpec) -> str:
    later = [other for other in spec.programs if column in other.build().columns(other.name)]
    if later and later[0] is not program:
        return (
            f"uses the column {column!r} before `{later[0].label}` (line {later[0].line}) makes it; move that stage up"
        )
    close = difflib.get_close_matches(column, list(known), 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
    return f"no column {column!r}; {hint}"
