"""Which documents are counted together: the pool and the arms by source, and samples of equal size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis import seeds
from tamis.kernels.arrow import text_of
from tamis.steps import Batch, Summary

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

MOST_BYTES = 64 << 20  # of all sums of one shard, which bounds how many sources are told apart
MOST_SOURCES = 65_536  # that are counted; of more, those with the smallest hashes
ENOUGH = 50  # documents per number of a vector, so that a score is off by a few percent at most
MOST_EQUAL = 1_000_000  # documents of a sample for comparison: its interval is a few thousandths wide
NO_SOURCE = np.uint64(0)  # the key of documents without a source


def source_keys(batch: Batch) -> UInt64:
    """A hash of each document's source: uint64, (n); NO_SOURCE where there is none."""
    column = batch["source"]
    keys = seeds.hash64(0, "source", text_of(column))
    return np.where(column.is_null().to_numpy(zero_copy_only=False), NO_SOURCE, keys)


def largest_keys(keys: UInt64, documents: Int64, *, more: bool) -> dict[str, Any]:
    """Counts by source, at most MOST_SOURCES of them: one among the smallest hashes of all is so in every part."""
    return {
        "sources": keys[:MOST_SOURCES],
        "source_documents": documents[:MOST_SOURCES],
        "more_sources": np.array(more or len(keys) > MOST_SOURCES),
    }


def merge_counts(one: Summary, other: Summary) -> Summary:
    keys, place = np.unique(np.concatenate([one["sources"], other["sources"]]), return_inverse=True)
    documents = np.zeros(len(keys), np.int64)
    np.add.at(documents, place, np.concatenate([one["source_documents"], other["source_documents"]]))
    return {
        "width": np.maximum(one["width"], other["width"]),
        **{name: one[name] + other[name] for name in ("missing", "documents", "uses")},
        **largest_keys(keys, documents, more=bool(one["more_sources"]) or bool(other["more_sources"])),
    }


@dataclass(frozen=True)
class Layout:
    """Which sums are made, one slot each.

    The pool by group, each arm by group (the chosen sources, and all other documents last), then samples of equal
    size: the pool, each arm, each chosen source.
    keys : of the chosen sources, the largest first. shares : of the documents that a sample takes.
    """

    width: int
    arms: int
    seed: int
    keys: tuple[int, ...]
    least_documents: int
    equal_arms: int
    equal_sources: int
    arm_shares: tuple[float, ...]
    source_shares: tuple[float, ...]

    @classmethod
    def of(cls, counts: Summary, most: int, seed: int) -> Layout:
        """Chooses the sources: the largest with 50 documents per dimension, or, if fewer than two have them, one."""
        width, arms = int(counts["width"]), len(counts["documents"]) - 1
        fitting = (MOST_BYTES // (4 * width * (width + 1) + 1) - 2 * (1 + arms)) // (2 + arms)
        order = np.lexsort((counts["sources"], -counts["source_documents"]))[: max(0, min(most, fitting))]
        documents = counts["source_documents"][order]
        least = ENOUGH * width if np.count_nonzero(documents >= ENOUGH * width) > 1 else width
        chosen = order[documents >= least]
        if len(chosen) < 2:  # one source alone is no comparison
            chosen = chosen[:0]
        sizes = counts["source_documents"][chosen]
        equal_arms = _equal(counts["documents"])
        equal_sources = _equal(sizes)
        return cls(
            width,
            arms,
            seed,
            tuple(int(key) for key in counts["sources"][chosen]),
            least,
            equal_arms,
            equal_sources,
            tuple(min(1.0, equal_arms / max(1, int(count))) for count in counts["documents"]),
            tuple(min(1.0, equal_sources / int(count)) for count in sizes),
        )

    @property
    def groups(self) -> int:
        return len(self.keys) + 1

    @property
    def first_equal(self) -> int:
        return (1 + self.arms) * self.groups

    @property
    def slots(self) -> int:
        return self.first_equal + 1 + self.arms + len(self.keys)

    @property
    def complete(self) -> dict[int, list[int]]:
        """The samples that take every document of their group → the slots that add up to it."""
        parts = [list(range(place * self.groups, (place + 1) * self.groups)) for place in range(1 + self.arms)]
        parts += [[place] for place in range(len(self.keys))]
        shares = (*self.arm_shares, *self.source_shares)
        return {self.first_equal + at: parts[at] for at, share in enumerate(shares) if share == 1.0}

    def nothing(self) -> dict[str, Int64]:
        triangle = self.width * (self.width + 1) // 2
        shapes = {"documents": (), "uses": (), "first": (self.width,), "second": (triangle,)}
        return {name: np.zeros((self.slots, *shape), np.int64) for name, shape in shapes.items()}

    def group_of(self, keys: UInt64) -> Int64:
        """The place of each document's source among the chosen, or the last place of all: int64, (n)."""
        chosen = np.array(self.keys, np.uint64)
        order = np.argsort(chosen, kind="stable")
        place = np.minimum(np.searchsorted(chosen[order], keys), max(0, len(chosen) - 1))
        found = np.full(len(keys), len(chosen), np.int64)
        if len(chosen):
            is_chosen = chosen[order][place] == keys
            found[is_chosen] = order[place[is_chosen]]
        return found

    def members(self, group: Int64, repeats: Int64, batch: Batch) -> list[tuple[int, Int64]]:
        """(slot, how often it uses each document: int64, (n)) of every slot that uses any."""
        drawn = seeds.hash64(self.seed, "diversity", batch.doc_ids)
        inside = [group == place for place in range(self.groups)]
        slots = [np.where(is_in, times, 0) for times in repeats for is_in in inside]
        arms = [
            np.where(seeds.within(drawn, share), times, 0)
            for times, share in zip(repeats, self.arm_shares, strict=True)
        ]
        sources = [
            (is_in & seeds.within(drawn, share)).astype(np.int64)
            for is_in, share in zip(inside, self.source_shares, strict=False)
        ]
        return [(slot, times) for slot, times in enumerate([*slots, *arms, *sources]) if times.any()]


def _equal(documents: Int64) -> int:
    """The size at which groups are compared: that of the smallest that is not empty."""
    present = documents[documents > 0]
    return min(MOST_EQUAL, int(present.min())) if len(present) else 0
