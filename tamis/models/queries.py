"""Targets whose gradients others are compared with: one set of documents, or several by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.errors import ContractError
from tamis.models.rows import Chosen, draw
from tamis.models.tokenizer import Tokenizer
from tamis.steps import Batch, Documents, Fold, Summary

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32

BYTES_PER_TOKEN = 4  # of English text, about

Target = Annotated[Documents | dict[str, Documents], Field(union_mode="left_to_right")]  # an option


class Named(dict[str, Documents]):
    """Sets of documents by name, as an option that never changes."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def named(target: Documents | Mapping[str, Documents]) -> Documents | Named:
    """The option, fit to be kept. Raises ValueError if the names of several sets cannot be parts of column names."""
    if isinstance(target, Documents):
        return target
    own = [field.name for field in fields(Documents)]
    if wrong := [name for name in target if name in own or not re.fullmatch(r"\w+", name)]:
        raise ValueError(f"target: expected names of letters, digits and _, but {', '.join(own)}, got {wrong[0]!r}")
    if not target:
        raise ValueError("target: expected documents, or sets of documents by name, got none")
    return Named(target)


def by_ending(target: Documents | Mapping[str, Documents]) -> dict[str, Documents]:
    """The sets by what follows a scorer's name in their columns: nothing, or `_<name>`."""
    return {"": target} if isinstance(target, Documents) else {f"_{name}": over for name, over in target.items()}


def sizes(
    name: str, target: Documents | Mapping[str, Documents]
) -> Generator[list[Fold], list[Summary], dict[str, int]]:
    """The bytes of text of each set, by what follows a scorer's name. A part of a program: used with `yield from`.

    It comes first, so that nothing is trained for a target that is none. Raises ContractError if a set has nothing but
    white space.
    """
    sets = by_ending(target)
    found = yield [Fold(("text",), _bytes_of, over=over) for over in sets.values()]
    told = {ending: int(each["bytes"]) for ending, each in zip(sets, found, strict=True)}
    for ending, size in told.items():
        if not size:
            raise ContractError(f"{name}{ending}: expected a target with text in it, got none; check its paths")
    return told


def expected_tokens(sizes: Mapping[str, int], most: int) -> int:
    """Tokens of all sets together, `most` of each at most, by their bytes: an estimate."""
    return sum(min(most, -(-size // BYTES_PER_TOKEN)) for size in sizes.values())


def encoded(batches: Iterable[Batch], tokenizer: Tokenizer, seed: int, tokens: int) -> tuple[Tokens, Int64]:
    """(ids, offsets) of the first so many tokens of documents beside the pool, in the order of a hash of their text.

    The last document may be cut. What comes of it does not depend on files, batches or ids.
    """
    return first(batches, partial(_all, seed), tokenizer, tokens)


def first(
    batches: Iterable[Batch], choose: Callable[[Batch], Chosen], tokenizer: Tokenizer, tokens: int
) -> tuple[Tokens, Int64]:
    """(ids, offsets) of the first so many tokens of the chosen documents, by their hashes; the last one may be cut."""
    empty = Batch(pa.record_batch({name: pa.array([], pa.string()) for name in ("doc_id", "text")}))
    ids, offsets = draw((empty, *batches), choose, tokenizer).first(tokens).arranged()
    return ids[:tokens], np.minimum(offsets, tokens)


def _bytes_of(batch: Batch) -> Summary:
    lengths = pc.binary_length(pc.utf8_trim_whitespace(batch["text"])).cast(pa.int64())
    return {"bytes": np.array(pc.sum(lengths).as_py() or 0, np.int64)}


def _all(seed: int, batch: Batch) -> Chosen:
    return batch["text"].to_pylist(), seeds.hash64(seed, "target", batch.text), np.ones(len(batch), np.int64)
