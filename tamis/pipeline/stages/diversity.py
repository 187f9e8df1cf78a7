"""How varied the pool, its sources and the arms are: Vendi scores from exact sums of outer products of vectors.

Three rounds over narrow columns: how many documents each source and arm has; sums of x xᵀ per group; and, for the
intervals, what single documents add to each number. Formulas and reading: docs/diversity.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from tamis.errors import ContractError
from tamis.kernels.arrow import Float32, text_of, vectors_of
from tamis.kernels.gram import MOST_DOCUMENTS, fixed_point, gram, sum_of
from tamis.kernels.spectrum import Moments
from tamis.pipeline.stages.groups import ENOUGH, NO_SOURCE, Layout, largest_keys, merge_counts, source_keys
from tamis.pipeline.stages.variety import LEVEL, Influences, Numbers, order_label, thinned, told
from tamis.steps import Batch, Component, Fold, Pool, Publish, Steps, Summary, Train, Workshop

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


def _written(order: Any) -> Any:
    """Infinity as JSON can hold it."""
    return "inf" if order == math.inf else order


Order = Annotated[Annotated[float, Field(ge=0)] | Literal["inf"], BeforeValidator(_written)]

WIDEST = 4096  # numbers in a vector: one sum of x xᵀ takes 67 MB then
BLOCK_NUMBERS = 1 << 22  # of vectors that are whole numbers at a time, 32 MB


@dataclass(frozen=True)
class Diversity(Component):
    """Publishes diversity.json: Vendi scores of the pool, its largest sources and the arms, with intervals.

    of : the column of vectors. orders : of the score, from 0 (rank) to inf (1 / the largest eigenvalue); 1 is the
    Vendi score itself. arms : names of select stages; in stages.yaml all above it by default.
    sources : how many of the largest sources are told apart, at most.
    Source: Friedman and Dieng 2023; Pasarkar and Dieng 2023 (orders).
    """

    of: str = "vector"
    orders: Annotated[tuple[Order, ...], Field(min_length=1)] = (0.5, 1.0, 2.0, "inf")
    arms: tuple[str, ...] = ()
    sources: Annotated[int, Field(ge=0, le=256)] = 16

    seeded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len({order_label(order) for order in self.orders}) < len(self.orders):
            raise ValueError("orders: expected every order once, got one twice")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("doc_id", "source", self.of, *(f"{arm}_repeats" for arm in self.arms))

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        del name
        return {}

    def steps(self, pool: Pool) -> Steps:
        counts = yield Fold(self.reads, self._count, merge=merge_counts)
        if counts["uses"].max(initial=0) >= MOST_DOCUMENTS or counts["width"] > WIDEST:
            raise ContractError(
                f"{pool.name}: expected vectors of at most {WIDEST:,} numbers and {MOST_DOCUMENTS:,} uses of "
                f"documents, got {int(counts['width']):,} and {int(counts['uses'].max(initial=0)):,}"
            )
        layout = Layout.of(counts, self.sources, pool.seed)
        sums = yield Fold(self.reads, partial(self._sums, layout), merge=_merge_sums)
        found = _found(layout, sums)
        numbers = Numbers(self.orders, _together(found[: layout.groups]).mean)
        influences = Influences(numbers, tuple(found[layout.first_equal :]))
        spread = yield Fold(self.reads, partial(self._spread, layout, influences))
        work = partial(self._content, layout, counts, sums, found, influences, spread["squares"])
        made = yield Train("numbers", (), work, gpu=False)  # a task, so that a driver that resumes does not do it again
        content = {key: value for key, value in made.items() if key != "folder"}
        return Publish("diversity.json", content, told(content))

    # ---- the three rounds ----

    def _read(self, batch: Batch) -> Iterator[tuple[slice, Float32]]:
        """Vectors, some rows at a time."""
        vectors = vectors_of(batch[self.of])
        rows = max(256, BLOCK_NUMBERS // max(1, vectors.shape[1]))
        for start in range(0, len(vectors), rows):
            yield slice(start, start + rows), vectors[start : start + rows]

    def _repeats(self, batch: Batch) -> Int64:
        """How often the pool and each arm use each document: int64, (1 + arms, n)."""
        ones = np.ones(len(batch), np.int64)
        columns = [pc.fill_null(batch[f"{arm}_repeats"], 0).cast(pa.int64()) for arm in self.arms]
        return np.stack([ones, *(column.to_numpy(zero_copy_only=False) for column in columns)])

    def _count(self, batch: Batch) -> Summary:
        width = batch[self.of].type.list_size
        known = np.zeros(len(batch), np.bool_)
        for rows, vectors in self._read(batch):
            known[rows] = fixed_point(vectors)[1]
        repeats = self._repeats(batch)[:, known]
        keys, documents = np.unique(source_keys(batch)[known], return_counts=True)
        return {
            "width": np.array(width, np.int64),
            "missing": np.array(np.count_nonzero(~known), np.int64),
            "documents": np.count_nonzero(repeats, axis=1).astype(np.int64),
            "uses": repeats.sum(axis=1),
            **largest_keys(keys, documents.astype(np.int64), more=False),
        }

    def _sums(self, layout: Layout, batch: Batch) -> Summary:
        total = layout.nothing()
        group = layout.group_of(source_keys(batch))
        members = layout.members(group, self._repeats(batch), batch)
        for rows, vectors in self._read(batch):
            whole, known = fixed_point(vectors)
            for slot, repeats in members:
                if slot in layout.complete:
                    continue
                times = np.where(known, repeats[rows], 0)
                used = np.flatnonzero(times)
                if len(used):
                    total["documents"][slot] += len(used)
                    total["uses"][slot] += times.sum()
                    total["first"][slot] += sum_of(whole[used], times[used])
                    total["second"][slot] += gram(whole[used], times[used])
        return {**total, **_names(layout, group, batch)}

    def _spread(self, layout: Layout, influences: Influences, batch: Batch) -> Summary:
        squares = np.zeros((layout.slots - layout.first_equal, 2, len(self.orders)), np.int64)
        members = layout.members(layout.group_of(source_keys(batch)), self._repeats(batch), batch)
        for rows, vectors in self._read(batch):
            known = fixed_point(vectors)[1]
            for slot, repeats in members:
                if slot >= layout.first_equal:
                    used = np.flatnonzero(np.where(known, repeats[rows], 0))
                    place = slot - layout.first_equal
                    squares[place] += influences.squares(place, vectors[used], repeats[rows][used])
        return {"squares": squares}

    # ---- what is published ----

    def _content(
        self,
        layout: Layout,
        counts: Summary,
        sums: Summary,
        found: Sequence[Moments],
        influences: Influences,
        squares: Int64,
        workshop: Workshop,
    ) -> dict[str, Any]:
        """What diversity.json holds."""
        del workshop
        rows = [*self._wholes(layout, found, influences.numbers), *_sources(layout, sums, found, influences.numbers)]
        compared = [row for row in rows if row["kind"] != "rest"]
        assert len(compared) == len(influences.groups)
        for place, row in enumerate(compared):
            group = influences.groups[place]
            row["equal"] = {"documents": group.documents, **influences.intervals(place, squares[place])}
        return {
            "of": self.of,
            "dimensions": int(counts["width"]),
            "orders": [order_label(order) for order in self.orders],
            "level": LEVEL,
            "documents": int(counts["documents"][0]),
            "missing": int(counts["missing"]),
            "enough_documents": ENOUGH * int(counts["width"]),
            "equal_documents": {"arms": layout.equal_arms, "sources": layout.equal_sources},
            "sources": {
                "known": len(counts["sources"]),
                "all_known": not bool(counts["more_sources"]),
                "shown": len(layout.keys),
                "least_documents": layout.least_documents,
            },
            "rows": rows,
        }

    def _wholes(self, layout: Layout, found: Sequence[Moments], numbers: Numbers) -> Iterator[dict[str, Any]]:
        """A row for the pool and one for each arm."""
        for place, name in enumerate(("pool", *self.arms)):
            parts = found[place * layout.groups : (place + 1) * layout.groups]
            whole = _together(parts)
            spectra = numbers.spectra(whole)
            yield {
                "kind": "arm" if place else "pool",
                "groups": numbers.between(parts, spectra) if layout.keys else None,
                "spectrum": {view: thinned(shares) for view, shares in spectra.items()},
                **_row(name, whole, numbers.effective(spectra)),
            }


def _sources(layout: Layout, sums: Summary, found: Sequence[Moments], numbers: Numbers) -> Iterator[dict[str, Any]]:
    """A row for each chosen source, the largest first, and one for all other documents if there are any."""
    for place, key in enumerate(layout.keys):
        name = _text(sums[f"name_{place}"]) if key != NO_SOURCE else None
        yield {"kind": "source", **_row(name, found[place], numbers.effective(numbers.spectra(found[place])))}
    rest = found[len(layout.keys)]
    if layout.keys and rest.documents:
        yield {"kind": "rest", **_row(None, rest, numbers.effective(numbers.spectra(rest)))}


def _row(name: str | None, found: Moments, effective: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "documents": found.documents, "uses": found.uses, "equal": None, **effective}


def _text(raw: npt.NDArray[np.uint8]) -> str:
    return raw.tobytes().decode("utf-8", "replace")


def _together(parts: Sequence[Moments]) -> Moments:
    return reduce(add, parts)


def _found(layout: Layout, sums: Summary) -> list[Moments]:
    """The sums of every slot; samples that are all of their group were not made twice."""
    parts = zip(*(sums[name] for name in ("documents", "uses", "first", "second")), strict=True)
    found = [Moments(int(documents), int(uses), first, second) for documents, uses, first, second in parts]
    for slot, whole in layout.complete.items():
        found[slot] = _together([found[part] for part in whole])
    return found


def _names(layout: Layout, group: Int64, batch: Batch) -> dict[str, npt.NDArray[np.uint8]]:
    """The name of each chosen source that occurs, as bytes."""
    text = text_of(batch["source"])
    names = {}
    for place in range(len(layout.keys)):
        rows = np.flatnonzero(group == place)
        at = text.offsets[rows[0] : rows[0] + 2] if len(rows) else (0, 0)
        names[f"name_{place}"] = text.data[at[0] : at[1]]
    return names


def _merge_sums(one: Summary, other: Summary) -> Summary:
    """Sums of whole numbers; a name is the same wherever it occurs."""
    return {
        key: (one[key] if len(one[key]) else other[key]) if key.startswith("name_") else one[key] + other[key]
        for key in one
    }
