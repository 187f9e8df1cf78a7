"""Clusters cut into portions, the documents of them that a bandit may look at, their texts, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis import seeds
from tamis.kernels.arrow import text_of
from tamis.steps import Summary

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]

TOGETHER = 256  # documents whose values are found, and then noted, at a time
_NOTE = np.dtype([("place", "<i8"), ("value", "<f8")])
_SPILLED = pa.schema([("place", pa.int64()), ("text", pa.large_string())])


@dataclass(frozen=True)
class Cells:
    """k clusters, each cut into portions of about equal size by a hash of its documents.

    clusters : uint64, (k), rising. pieces : int64, (k), into how many portions each is cut, below 2^32.
    """

    clusters: UInt64
    pieces: Int64

    @cached_property
    def first(self) -> Int64:
        """int64, (k + 1): the portions of cluster i are numbered from first[i] to first[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.pieces)]).astype(np.int64)

    def portions(self, clusters: UInt64, hashes: UInt64) -> Int64:
        """The portion of each of n documents, -1 for a cluster that is not one of these: int64, (n).

        A cluster's portions are equal ranges of hashes. clusters, hashes : uint64, (n).
        """
        if not len(self.clusters):
            return np.full(len(clusters), -1, np.int64)
        index = np.minimum(np.searchsorted(self.clusters, clusters), len(self.clusters) - 1)
        piece = (hashes >> np.uint64(32)) * self.pieces[index].astype(np.uint64) >> np.uint64(32)
        return np.where(self.clusters[index] == clusters, self.first[index] + piece.astype(np.int64), -1)

    def ties(self, seed: int) -> UInt64:
        """A hash of each cluster: uint64, (k)."""
        names = pa.array(self.clusters).cast(pa.string())
        return seeds.hash64(seed, "cluster bandit: clusters", text_of(names))


@dataclass(frozen=True)
class Draws:
    """The first documents of each of p portions in the order of a hash, m in all; a document's place is its index.

    portions : int64, (m), not falling; numbers of portions need not be dense. hashes : uint64, (m), rising within one.
    """

    portions: Int64
    hashes: UInt64

    @classmethod
    def lowest(cls, portions: Int64, hashes: UInt64, most: int) -> Draws:
        """At most so many of each portion, of n documents in any order; documents with one hash are one.

        The lowest of two sets together are the lowest of both their lowest.
        """
        order = np.lexsort((hashes, portions))
        portions, hashes = portions[order], hashes[order]
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(portions) != 0) | (hashes[1:] != hashes[:-1])
        portions, hashes = portions[new], hashes[new]
        rank = np.arange(len(portions)) - np.searchsorted(portions, portions)
        return cls(portions[rank < most], hashes[rank < most])

    def __len__(self) -> int:
        return len(self.hashes)

    @cached_property
    def first(self) -> Int64:
        """int64, (p + 1): the j-th portion that has documents has the places first[j] to first[j + 1]."""
        starts = np.flatnonzero(np.diff(self.portions, prepend=-1))
        return np.append(starts, len(self)).astype(np.int64)

    @cached_property
    def _order(self) -> Int64:
        return np.lexsort((self.portions, self.hashes))

    def values(self, find: Callable[[Int64], Float64], index: Int64) -> list[Float64]:
        """What `find` says of the documents of some portions, by their index among those that have any.

        find : places → values, float64.
        """
        places = [np.arange(self.first[each], self.first[each + 1]) for each in index.tolist()]
        return np.split(find(np.concatenate(places)), np.cumsum([len(each) for each in places])[:-1])

    def made_up(self, places: Int64) -> Float64:
        """Numbers in [0, 1) in the place of values, for a rehearsal."""
        return (self.hashes[places] >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def places(self, portions: Int64, hashes: UInt64) -> Int64:
        """The place of each of n documents, -1 for one that is never looked at: int64, (n)."""
        if not len(self):
            return np.full(len(hashes), -1, np.int64)
        near, last = np.searchsorted(self.hashes, hashes, sorter=self._order), len(self) - 1
        while True:  # as often as documents of one id are in several portions
            found = self._order[np.minimum(near, last)]
            same = self.hashes[found] == hashes
            if not (behind := same & (self.portions[found] < portions) & (near < last)).any():
                return np.where(same & (self.portions[found] == portions), found, -1)
            near = near + behind


def per_cluster(values: Int64, first: Int64) -> list[int]:
    """Sums of what portions have, by cluster: those from first[i] to first[i + 1]."""
    totals = np.concatenate([[0], np.cumsum(values)])[first]
    return [int(total) for total in np.diff(totals)]


def added(one: Summary, other: Summary) -> Summary:
    """Sums by number, at `at`: what both have at one number is added."""
    at, group = np.unique(np.concatenate([one["at"], other["at"]]), return_inverse=True)
    sums = {name: np.zeros(len(at), np.int64) for name in one if name != "at"}
    for name, total in sums.items():
        np.add.at(total, group, np.concatenate([one[name], other[name]]))
    return {"at": at, **sums}


def joined(most: int, one: Summary, other: Summary) -> Summary:
    """What portions hold, of two sets of documents together; of `portions` and `hashes`, the lowest."""
    lists = ("portions", "hashes")
    held = [{name: each[name] for name in each if name not in lists} for each in (one, other)]
    portions, hashes = (np.concatenate([one[name], other[name]]) for name in lists)
    first = Draws.lowest(portions, hashes, most)
    return {**added(*held), "portions": first.portions, "hashes": first.hashes}


def spill(path: Path, found: Iterable[tuple[Int64, pa.Array]]) -> None:
    """Writes (places, texts) as they come, one batch in memory at a time; the file is complete or not there."""
    beside = path.with_name(path.name + ".partial")
    with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, _SPILLED) as writer:
        for places, texts in found:
            if len(places):
                writer.write_batch(pa.record_batch([pa.array(places), texts.cast(pa.large_string())], _SPILLED))
    beside.replace(path)


@dataclass(frozen=True)
class Texts:
    """Texts by place, in a file that `spill` wrote; only their rows are in memory."""

    table: pa.Table
    rows: Int64

    @classmethod
    def open(cls, path: Path, places: int) -> Texts:
        """The texts of so many places. Of documents that share an id and so a place, the first text counts."""
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        column = table["place"].to_numpy()
        order = np.argsort(column, kind="stable")
        rows = np.full(places, -1, np.int64)
        rows[column[order[::-1]]] = order[::-1]
        for place in np.unique(column[order][1:][np.diff(column[order]) == 0]).tolist():
            same = np.flatnonzero(column == place)
            rows[place] = min(same.tolist(), key=lambda row: table["text"][row].as_py().encode())
        return cls(table, rows)

    def of(self, places: Int64) -> pa.Array:
        """Text of each place; null where the file has none."""
        rows = self.rows[places]
        return self.table["text"].take(pa.array(rows, mask=rows < 0)).combine_chunks()


class Notes:
    """Values by place in a file that grows, so that what was found is not looked for again after a kill."""

    def __init__(self, path: Path, places: int) -> None:
        self._path = path
        self._values, self._known = np.full(places, np.nan), np.zeros(places, bool)
        size = path.stat().st_size if path.exists() else 0
        if size:
            noted = np.fromfile(path, _NOTE, count=size // _NOTE.itemsize)
            self._values[noted["place"]], self._known[noted["place"]] = noted["value"], True
            with path.open("r+b") as file:  # a torn last note would shift all that follow
                file.truncate(len(noted) * _NOTE.itemsize)

    def values(self, places: Int64, find: Callable[[Int64], Float64]) -> Float64:
        """The value of each place, found by `find` where it is not noted, some at a time: float64, (n)."""
        missing = places[~self._known[places]]
        for start in range(0, len(missing), TOGETHER):
            part = missing[start : start + TOGETHER]
            found = np.empty(len(part), _NOTE)
            found["place"], found["value"] = part, find(part)
            with self._path.open("ab") as file:
                file.write(found.tobytes())
            self._values[part], self._known[part] = found["value"], True
        return self._values[places]

    def __len__(self) -> int:
        return int(np.count_nonzero(self._known))
