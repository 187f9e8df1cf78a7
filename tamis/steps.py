"""What a component is made of: batches come in; steps (map, fold, exchange, train) say what to do with them.

A component is a short program over the corpus. Its `steps` method is a generator that yields the global
results it needs (`Fold`, `Exchange`, `Train`, `Use`; several at once as a list) and finally returns a `Map`. The
engine runs the steps of all components side by side, stores every result, and replays the generator with
the stored results wherever a step's functions are needed: on a worker, or after a restart. A program must
therefore depend on nothing but its options, the `Pool` and the results it is sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy.typing as npt
import pyarrow as pa

from tamis.kernels.arrow import Text, text_of
from tamis.kernels.shingles import Units, words_of
from tamis.kernels.wordhash import hash_words
from tamis.kernels.words import Tokens, tokenize

Summary = Mapping[str, npt.NDArray[Any]]
Columns = Mapping[str, pa.Array | npt.NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Some documents of one shard, in memory: the columns a step reads, n rows, none of them unusable.

    `text`, `tokens` and `words` are made at most once per batch and shared by all components of a pass.
    """

    table: pa.RecordBatch

    def __getitem__(self, column: str) -> pa.Array:
        return self.table.column(column)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def text(self) -> Text:
        """The documents' UTF-8 bytes."""
        return text_of(self["text"])

    @cached_property
    def tokens(self) -> Tokens:
        """Words and punctuation runs of the documents, lower-cased and hashed (see kernels/words.py)."""
        return tokenize(self.text)

    @cached_property
    def words(self) -> Units:
        """The hashes of the documents' words alone: half the work of `tokens`, where nobody asked for those before."""
        return words_of(self.tokens) if "tokens" in self.__dict__ else hash_words(self.text)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` makes of this batch, at most once for all components of a pass: `key` says what it is."""
        kept: dict[Hashable, Any] = self.__dict__.setdefault("_kept", {})
        if key not in kept:
            kept[key] = make()
        return kept[key]

    @cached_property
    def doc_ids(self) -> Text:
        """The documents' ids as UTF-8 bytes."""
        return text_of(self["doc_id"])


@dataclass(frozen=True)
class Documents:
    """A set of documents beside the pool (a target, an evaluation set): files, or texts in memory.

    paths : absolute paths, globs, directories or fsspec URLs; text, id : their column names.
    texts : the documents themselves, when `paths` is empty.
    """

    paths: tuple[str, ...] = ()
    text: str = "text"
    id: str = "id"
    texts: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """An option of this type may also be written as one path or a list of paths."""
        from pydantic_core import core_schema

        del source, handler
        return core_schema.with_info_plain_validator_function(_documents)


def _documents(value: Any, context: Any) -> Documents:
    """What stages.yaml says of a set of documents, with paths made absolute against the file's folder."""
    if isinstance(value, Documents):
        return value
    settings = context.context or {}
    known = [field.name for field in fields(Documents)]
    if not isinstance(value, Mapping):
        value = {"texts" if settings.get("texts") else "paths": value}
    if unknown := [key for key in value if key not in known]:
        raise ValueError(f"a set of documents has {', '.join(known)}, got {unknown[0]!r}")
    paths, texts = _strings(value, "paths"), _strings(value, "texts")
    if not paths and "texts" not in value:
        raise ValueError("a set of documents needs paths: a file, a folder, a glob or a URL, or a list of them")
    for name in ("text", "id"):
        if not isinstance(value.get(name, ""), str):
            raise ValueError(f"{name}: a column's name must be text, got {value[name]!r}")  # noqa: TRY004 - pydantic takes ValueError
    columns = {name: value[name] for name in ("text", "id") if name in value}
    return Documents(tuple(absolute(path, settings.get("base", ".")) for path in paths), texts=texts, **columns)


def _strings(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = value.get(key, ())
    found = (found,) if isinstance(found, str) else found
    if not isinstance(found, (list, tuple)) or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{key}: expected text or a list of texts, got {found!r}")
    return tuple(found)


def absolute(path: str, base: str | Path) -> str:
    """A path relative to `base` made absolute; a URL stays as it is."""
    return path if "://" in path else str((Path(base) / Path(path).expanduser()).absolute())


@dataclass(frozen=True)
class Pool:
    """What a program may know before its first step.

    name : what the component goes by in this run (`as:`); its columns carry it.
    seed : the run's seed, for a component that says `seeded = True`; 0 for all others, so that they need not be
    redone when the seed changes.
    """

    name: str
    seed: int


def add(one: Summary, other: Summary) -> Summary:
    """Entry by entry sums: the merge of counts."""
    return {key: one[key] + other[key] for key in one}


@dataclass(frozen=True)
class Map:
    """Batch → columns, one value per document.

    reads : column names the batch will hold. writes : column name → Arrow type.
    apply : batch → {column: array of n values}; a null or NaN is a missing value.
    joins : decisions of an exchange; their columns join the batch, null where nothing was decided.
    findings : what the program found out about the whole corpus; written when the map is done.
    gpu : whether it is work for a GPU, where there is one. Such maps and others never share a pass.
    """

    reads: Sequence[str]
    writes: Mapping[str, pa.DataType]
    apply: Callable[[Batch], Columns]
    joins: Decisions | None = None
    findings: Publish | None = None
    gpu: bool = False


@dataclass(frozen=True)
class Fold:
    """Batch → summary, merged exactly in any order: the result does not depend on shards, batches or workers.

    summarize : batch (possibly empty) → {name: integer or boolean array}, floats only where `merge` is exact
    for them (minimum, maximum, concatenation of what is sorted afterwards by the component).
    merge : (summary, summary) → summary, associative and commutative up to what the component ignores.
    over : the documents to fold; None is the pool.
    """

    reads: Sequence[str]
    summarize: Callable[[Batch], Summary]
    merge: Callable[[Summary, Summary], Summary] = add
    over: Documents | None = None
    joins: Decisions | None = None


@dataclass(frozen=True)
class Exchange:
    """Rows grouped by a key across shards; decisions travel back to the rows.

    emit : batch → {"key": uint64, (m), and payload columns}, one entry per document unless a column `row` (uint64, (m))
    says whose each is; rows with equal `key` meet in one table.
    decide : table with the payload, `key` and `row`, all rows of a range of keys sorted by `key`, → table with `row`
    and the `returns` columns, for those rows about which there is something to say. It must not depend on which
    other keys are in the table, nor on the order of rows of one key.
    many : whether a row may get several decisions; then the columns that join a batch are lists of them, in no order.
    """

    reads: Sequence[str]
    emit: Callable[[Batch], Columns]
    decide: Callable[[pa.Table], pa.Table]
    returns: Mapping[str, pa.DataType]
    joins: Decisions | None = None
    many: bool = False


@dataclass(frozen=True)
class Decisions:
    """The result of an exchange: a handle that a later step names in `joins`."""

    key: str
    returns: Mapping[str, pa.DataType]
    many: bool = False

    @property
    def joined(self) -> pa.Schema:
        """The columns that join a batch."""
        return pa.schema([(name, pa.list_(kind) if self.many else kind) for name, kind in self.returns.items()])


class Workshop(Protocol):
    """What a Train task gets: a folder to fill and documents to read."""

    @property
    def folder(self) -> Path: ...

    @property
    def share(self) -> float:
        """How much of the pool `documents` reads: 1; less in `tamis check`, on a large corpus."""
        ...

    def documents(self, over: Documents | None = None, columns: Sequence[str] = ()) -> Iterator[Batch]:
        """Batches of the pool (in shard order) or of other documents, with the step's columns."""
        ...

    def report(self, done: float, line: str) -> None:
        """Progress for the terminal: the share done, in [0, 1], and one line of text."""
        ...


@dataclass(frozen=True)
class Train:
    """Documents → a folder (a tokenizer, a model) and a small JSON result. One task, on a GPU where there is one.

    reads : pool columns, as for a map. over : other documents it reads (their content is part of its key).
    train : fills `workshop.folder`, returns a JSON-able dict; the engine adds its "folder". A task that was
    killed finds its folder as it left it and should go on from there.
    pretend : what `tamis check` takes for its result instead of training; a function that fills the folder with
    something of the same shape, where later steps need it. `_seconds` in it is what the training would take.
    """

    label: str
    reads: Sequence[str]
    train: Callable[[Workshop], dict[str, Any]]
    over: Sequence[Documents] = ()
    gpu: bool = True
    pretend: Mapping[str, Any] | Callable[[Workshop], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Publish:
    """A JSON document about the whole run, written to RUN/<file>: what a program returns instead of, or with, a map.

    lines : what the user should read of it on the terminal.
    problem : if given, the run stops with this message once the document is written.
    """

    file: str
    content: Mapping[str, Any]
    lines: Sequence[str] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Use:
    """The result of another stage's training, by that stage's name: what its `train` returned, with "folder"."""

    name: str


@dataclass(frozen=True)
class Ask:
    """Another component whose columns a component reads: it is added to the run, once, for all that ask for it.

    name : what it goes by; a stage with the same name, component and options is the same work.
    """

    verb: str
    component: str
    name: str
    options: Mapping[str, Any]


Step = Fold | Exchange | Train | Use
Steps = Generator[Any, Any, Map | Publish | None]


class Component(ABC):
    """Parent of the four families. Subclasses are frozen dataclasses whose fields are their YAML options."""

    version: ClassVar[int] = 1  # raise it when results change
    seeded: ClassVar[bool] = False  # whether `pool.seed` is the run's
    extra: ClassVar[str | None] = None  # the extra that brings its optional dependencies
    needs: ClassVar[tuple[str, ...]] = ()  # those packages, by import name: looked for before anything runs
    trains: ClassVar[bool] = False  # whether other stages may use what its last Train step left
    said: ClassVar[tuple[str, ...]] = ()  # options that change what is said about results, and no result

    @property
    def reads(self) -> Sequence[str]:
        """Columns of the pool that must exist before the program starts."""
        return ("text",)

    def notes(self) -> Sequence[str]:
        """What a user should know of these options before anything runs, e.g. what they amount to."""
        return ()

    def asks(self) -> Sequence[Ask]:
        """Components whose columns it reads, to be run before it under the same `where:`."""
        return ()

    @property
    def uses(self) -> Sequence[str]:
        """Names of the stages whose training it uses."""
        return ()

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        """What it needs of stages before it, here by their names, and does not get: `option: expected …, got …; do …`.

        They are asked for when the specification is read, before anything runs, and before it is known whether there
        are stages of the names that it `uses`.
        """
        del others
        return ()

    @property
    def numbers(self) -> Sequence[str]:
        """Expressions over columns that it takes for numbers."""
        return ()

    def contents(self) -> Sequence[str]:
        """Digests of the files that its options name, documents aside: a part of what its results are known by."""
        return ()

    @abstractmethod
    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        """The columns that the final Map writes, when the component goes by `name`."""

    @abstractmethod
    def steps(self, pool: Pool) -> Steps:
        """The program."""
