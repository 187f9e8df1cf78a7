"""Random subsets of the pool in one reading of it: rows to train on, and what a score predicts for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis import seeds
from tamis.expressions import evaluate
from tamis.kernels.arrow import Text
from tamis.models.rows import Chosen, Drawn, draw
from tamis.models.tokenizer import Tokenizer
from tamis.steps import Batch

STREAM = "verify"
MARGIN = 1.25  # documents dealt over the tokens wanted: `n_tokens` is an estimate, and subsets differ
MOST = 0.5  # of the pool in one subset: larger ones are too much alike to tell anything
ROWS = 18  # in a subset, as expected: with fewer than these, one in a million or more would hold less than one row

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32


def share_of(tokens: int, row_tokens: int, total: int, total_in_rows: int) -> float:
    """The share of documents to deal to each subset so that it holds `tokens` tokens, and a row in all but 7e-7 cases.

    total : tokens of the pool. total_in_rows : the same, of each document at most a row's. Above MOST only if the pool
    is too small for `tokens`. Source of the second: Chernoff's bound for a sum of independent values in [0, 1] with
    mean m, P(sum < 1) <= m exp(1 - m) (Mitzenmacher, Upfal, Probability and Computing, theorem 4.5), where m = ROWS.
    """
    wanted = MARGIN * tokens / max(1, total)
    return max(wanted, min(MOST, MARGIN * ROWS * row_tokens / max(1, total_in_rows)))


def scores_of(expressions: Sequence[str], batch: Batch) -> Float64:
    """The values of k expressions per document: float64, (k, n); NaN where one is NULL or has no end."""
    values = [column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in evaluate(expressions, batch.table)]
    found = np.array(values, np.float64).reshape(len(expressions), len(batch))
    return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True)
class Lottery:
    """Which subsets each document is in: a hash of its id says so, for as many subsets at a time as fit side by side.

    Subsets of one round share no document; a pool that is too small for all of them side by side is dealt anew, by
    other hashes, in further rounds. share : of the documents, expected in each subset, in (0, 1].
    """

    seed: int
    subsets: int
    share: float

    @property
    def side_by_side(self) -> int:
        """Subsets of one round."""
        return max(1, int(1 / self.share))

    @property
    def rounds(self) -> int:
        return -(-self.subsets // self.side_by_side)

    def dealt(self, doc_ids: Text) -> tuple[UInt64, Int64]:
        """(hashes, subsets) of each document in each round: uint64 and int64, (rounds, n); subset -1 is none."""
        hashes = np.stack([seeds.hash64(self.seed, f"{STREAM} {turn}", doc_ids) for turn in range(self.rounds)])
        place = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53 * self.side_by_side
        subset = np.floor(place).astype(np.int64)
        inside = place - subset < self.share * self.side_by_side
        subset += self.side_by_side * np.arange(self.rounds)[:, None]
        return hashes, np.where(inside & (subset < self.subsets), subset, -1)


@dataclass(frozen=True)
class Subset:
    """rows : training rows, as of `packing.pack`. predicted : float64, (k), mean scores of their tokens.

    documents : how many.
    """

    rows: Tokens
    predicted: Float64
    documents: int


@dataclass(frozen=True)
class Dealt:
    """All documents that are in any subset, encoded once; scores, hashes and subsets as they came, (k or rounds, n)."""

    lottery: Lottery
    drawn: Drawn
    scores: Float64
    hashes: UInt64
    subsets: Int64

    def subset(self, number: int, tokens: int, row_tokens: int, end: int) -> Subset:
        """The first documents of a subset, by hash, as rows of at least `tokens` tokens; fewer where it holds fewer.

        A document counts in the prediction by its tokens in these rows, the end token that opens it included.
        """
        turn = number // self.lottery.side_by_side
        places = np.flatnonzero(self.subsets[turn] == number)
        lengths = np.diff(self.drawn.offsets)
        order = places[np.lexsort((self.drawn.bytes[places], lengths[places], self.hashes[turn][places]))]
        count = -(-tokens // row_tokens)
        kept = replace(self.drawn, order=order).first(count * row_tokens)
        rows = kept.rows(row_tokens, end)[:count]
        stops = np.cumsum(lengths[kept.order] + 1)
        weights = np.diff(np.minimum(stops, len(rows) * row_tokens), prepend=0)
        used = weights > 0
        mean = (self.scores[:, kept.order] * weights).sum(axis=1) / max(1, int(weights.sum()))
        return Subset(rows, mean, int(used.sum()))


def deal(batches: Iterable[Batch], scores: Sequence[str], lottery: Lottery, tokenizer: Tokenizer) -> Dealt:
    """Reads all batches once, and keeps the documents that have all scores and are in any subset.

    What comes of it is the same however the documents were cut into batches. Memory: the tokens of all subsets.
    """
    beside: list[tuple[Float64, UInt64, Int64]] = []
    drawn = draw(batches, _chooser(scores, lottery, beside), tokenizer)
    values, hashes, subsets = (np.concatenate(part, axis=-1) for part in zip(*beside, strict=True))
    return Dealt(lottery, drawn, values, hashes, subsets)


def _chooser(
    scores: Sequence[str], lottery: Lottery, beside: list[tuple[Float64, UInt64, Int64]]
) -> Callable[[Batch], Chosen]:
    """What `draw` asks of each batch; scores, hashes and subsets of the chosen go to `beside`."""

    def choose(batch: Batch) -> Chosen:
        values = scores_of(scores, batch)
        hashes, subsets = lottery.dealt(batch.doc_ids)
        chosen = np.flatnonzero(~np.isnan(values).any(axis=0) & (subsets >= 0).any(axis=0))
        beside.append((values[:, chosen], hashes[:, chosen], subsets[:, chosen]))
        texts = batch["text"].take(pa.array(chosen)).to_pylist()
        return texts, hashes[0, chosen], np.ones(len(chosen), np.int64)

    return choose


def first_documents(batches: Iterable[Batch], seed: int, most_bytes: int) -> list[str]:
    """Texts in the order of a hash of their ids until the next one does not fit into `most_bytes` bytes, at least one.

    Those without text are left out. Never more than that and a batch are held.
    """
    found: list[tuple[int, str]] = []
    room = 0
    for batch in batches:
        hashes = seeds.hash64(seed, "evaluate", batch.doc_ids).tolist()
        found += [(key, text) for key, text in zip(hashes, batch["text"].to_pylist(), strict=True) if text]
        found.sort()
        sizes = np.array([len(text.encode()) for _, text in found], np.int64)
        room = int(np.searchsorted(np.cumsum(sizes), most_bytes, side="right"))
        found = found[: room + 1]  # the first that does not fit stays: nothing behind it may take its place
    return [text for _, text in found[: max(1, room)]]
