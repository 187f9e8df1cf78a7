"""Perplexity: how surprising a document is to a model, and where that places it among the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from tamis import seeds
from tamis.kernels.arrow import text_of
from tamis.models.reference import OfModel, losses_of
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Ask, Batch, Fold, Pool, Steps, Summary

STEP_BITS = 16  # documents whose log-perplexities round to the same multiple of 2^-16 nats are ties
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Perplexity(OfModel, Scorer):
    """Log-perplexity of a document under a model, in nats per token, its percentile in the pool, and its band.

    model : the name of a `train` stage, or a folder with a Hugging Face model and its tokenizer.
    bands : percentiles that part the bands, as shares, rising: `<name>_band` is how many of them a document reaches,
    0 for the least surprising. per : a column, such as a language; percentiles are then among documents that have the
    same there.
    `<name>_percentile` is the share of documents with a lower perplexity, half of those with the same one included;
    log-perplexities count as the same if they round to the same multiple of 2^-16 nats.
    Sources: Wenzek et al. 2020, CCNet (bands at 0.3 and 0.6: head, middle, tail); Ankner et al. 2024, Perplexed by
    perplexity (low, medium, high).
    """

    bands: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.3, 0.6)
    per: str | None = None

    def __post_init__(self) -> None:
        if list(self.bands) != sorted(set(self.bands)) or len(self.bands) > 255:
            raise ValueError(f"bands: expected rising shares, at most 255, such as [0.3, 0.6], got {list(self.bands)}")

    def asks(self) -> tuple[Ask, ...]:
        return (losses_of(self.model),)

    @property
    def reads(self) -> tuple[str, ...]:
        losses = losses_of(self.model).name
        return (f"{losses}_nats", f"{losses}_tokens", *([self.per] if self.per else []))

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.float64(), f"{name}_percentile": pa.float32(), f"{name}_band": pa.uint8()}

    def steps(self, pool: Pool) -> Steps:
        counts = yield Fold(self.reads, self._count, merge=merge_counts)
        return self.map(pool, partial(self._score, Ranks.of(counts)))

    def _count(self, batch: Batch) -> Summary:
        surprise = self._surprise(batch)
        known = ~np.isnan(surprise)
        return counted(self._group(batch)[known], on_grid(surprise[known]), np.ones(int(known.sum()), np.int64))

    def _surprise(self, batch: Batch) -> Float64:
        """Nats per token: float64, (n); NaN where there are no losses."""
        nats, tokens = (batch[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in self.reads[:2])
        return np.asarray(nats / tokens, np.float64)

    def _group(self, batch: Batch) -> UInt64:
        """A hash of what `per` holds: uint64, (n); 0 for null, and without `per`."""
        if self.per is None:
            return np.zeros(len(batch), np.uint64)
        column = batch[self.per]
        keys = seeds.hash64(0, "group", text_of(column.cast(pa.large_string())))
        return np.where(column.is_null().to_numpy(zero_copy_only=False), np.uint64(0), keys)

    def _score(self, ranks: Ranks, batch: Batch) -> Scores:
        surprise = self._surprise(batch)
        known = ~np.isnan(surprise)
        percentile = np.full(len(batch), np.nan)
        percentile[known] = ranks.percentile(self._group(batch)[known], on_grid(surprise[known]))
        unplaced = np.isnan(percentile)
        band = np.searchsorted(np.array(self.bands, np.float64), percentile, side="right").astype(np.uint8)
        return {
            "": pa.array(surprise, mask=~known),
            "_percentile": pa.array(percentile.astype(np.float32), mask=unplaced),
            "_band": pa.array(band, mask=unplaced),
        }


def on_grid(surprise: Float64) -> Int64:
    """Multiples of 2^-16 nats: int64, same shape. surprise : float64, no NaN."""
    return np.rint(np.clip(surprise, -(2.0**40), 2.0**40) * (1 << STEP_BITS)).astype(np.int64)


def counted(group: UInt64, place: Int64, documents: Int64) -> Summary:
    """How many documents are at each place of each group, in their order."""
    order = np.lexsort((place, group))
    group, place, documents = group[order], place[order], documents[order]
    new = np.ones(len(order), bool)
    new[1:] = (group[1:] != group[:-1]) | (place[1:] != place[:-1])
    totals = np.zeros(int(new.sum()), np.int64)
    np.add.at(totals, np.cumsum(new) - 1, documents)
    return {"group": group[new], "place": place[new], "documents": totals}


def merge_counts(one: Summary, other: Summary) -> Summary:
    """Counts of either side together: integers, so in any order."""
    return counted(*(np.concatenate([one[key], other[key]]) for key in ("group", "place", "documents")))


@dataclass(frozen=True)
class Ranks:
    """How many documents each group has up to each place.

    groups : uint64, (g), rising. first : int64, (g + 1), where a group's places begin. places : int64, (p).
    below : int64, (p + 1), documents before a place, all earlier groups included.
    """

    groups: UInt64
    first: Int64
    places: Int64
    below: Int64

    @classmethod
    def of(cls, counts: Summary) -> Ranks:
        groups, first = np.unique(counts["group"], return_index=True)
        below = np.concatenate([[0], np.cumsum(counts["documents"])])
        return cls(groups, np.append(first, len(counts["group"])), counts["place"], below)

    def percentile(self, group: UInt64, place: Int64) -> Float64:
        """The share below, and half of the share at the place: float64, (n); NaN in a group that was never counted.

        group : uint64, (n). place : int64, (n), counted or not: a frozen fit may not know it.
        """
        found = np.full(len(group), np.nan)
        for which in np.flatnonzero(np.isin(self.groups, group)).tolist():
            start, end = self.first[which : which + 2]
            rows = np.flatnonzero(group == self.groups[which])
            low, high = (start + np.searchsorted(self.places[start:end], place[rows], side) for side in SIDES)
            among, before = self.below[end] - self.below[start], self.below[start]
            found[rows] = (self.below[low] + self.below[high] - 2 * before) / (2 * among)
        return found
