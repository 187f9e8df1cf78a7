"""Repeated paragraphs: passages that stand elsewhere in the corpus are marked, and left out of what is exported."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis.dedup.base import SPANS, SpanDeduplicator, ranks
from tamis.kernels.arrow import Int64, UInt64, one_array
from tamis.kernels.paragraphs import Paragraphs, Places, longest_of, paragraphs, shares, stand_earlier, sums
from tamis.kernels.spans import Spans, UInt32, apart, covered_bytes, list_bounds, span_column
from tamis.kernels.words import Bool
from tamis.steps import Batch, Columns, Decisions, Exchange, Map, Pool, Steps

# One decision about a paragraph that stands elsewhere; `total` is the words of all paragraphs of its document.
OF_PARAGRAPHS = {"start": pa.uint32(), "end": pa.uint32(), "words": pa.uint32(), "total": pa.uint32()}
# So many n-grams of the paragraph that begins at `start` stand in the document `owner`.
OF_NGRAMS = {"start": pa.uint32(), "count": pa.uint32()}
OWNER = {"owner": pa.uint64()}
OF_DOCUMENTS = {"spans": SPANS, "bytes": pa.uint32(), "duplicate": pa.bool_(), "kept_by": pa.string()}
DENOMINATOR = 1_000_000  # thresholds are decimal fractions of six digits, so that comparing shares is exact


class Found(NamedTuple):
    """What the documents of a batch lose.

    document : int64, (n + 1). start, end, owner : the paragraphs that go, sorted. contained, total : int64, (n), of
    the words or n-grams of each document.
    """

    document: Int64
    start: UInt32
    end: UInt32
    owner: UInt64
    contained: Int64
    total: Int64


@dataclass(frozen=True, kw_only=True)
class Paragraph(SpanDeduplicator):
    """Paragraphs (lines) that another document has too, or an earlier place of the same one: the first stays.

    min_words : a paragraph of fewer words is never a duplicate. ngram_words : None compares whole paragraphs by their
    words; a number compares n-grams of so many words, and a paragraph goes if more than `threshold` of them stand
    elsewhere. threshold_document : the document is a duplicate if more than this share of its words (of its n-grams)
    stands elsewhere; short paragraphs do not count. within : whether repeats inside one document go too. rounds :
    how often n-grams are looked up, each time only in the paragraphs that the last round kept; an odd number removes
    at least what reading documents one by one would, an even number at most that.
    The first document is the one whose id has the smallest hash, whatever the order of files.
    Source: Li et al. 2024, DataComp-LM, appendix on deduplication (BFF); an exact exchange in the place of its filter.
    """

    min_words: Annotated[int, Field(ge=1, le=1000)] = 13
    ngram_words: Annotated[int, Field(ge=1, le=100)] | None = None
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.8
    threshold_document: Annotated[float, Field(ge=0, lt=1)] = 0.8
    within: bool = True
    rounds: Annotated[int, Field(ge=1, le=8)] = 1

    def __post_init__(self) -> None:
        if self.ngram_words is None and self.rounds != 1:
            raise ValueError(
                f"rounds: expected 1 for whole paragraphs (more rounds would find the same), got {self.rounds}; "
                "say ngram_words too"
            )

    def steps(self, pool: Pool) -> Steps:
        decisions: Decisions | None = None
        if self.ngram_words is None:
            decide, returns = partial(decide_paragraphs, self.within), {**OF_PARAGRAPHS, **OWNER}
            decisions = yield Exchange(self.reads, self._emit_paragraphs, decide, returns, many=True)
            found = Exchange(("doc_id",), self._emit_losses, decide_owners, OF_DOCUMENTS, joins=decisions)
        else:
            decide, returns = partial(decide_ngrams, self.within), {**OF_NGRAMS, **OWNER}
            for _ in range(self.rounds):
                emit = partial(self._emit_ngrams, decisions is None)
                decisions = yield Exchange(self.reads, emit, decide, returns, joins=decisions, many=True)
            found = Exchange(self.reads, self._emit_ngram_losses, decide_owners, OF_DOCUMENTS, joins=decisions)
        known = yield found
        return Map((), self.columns(pool.name), partial(_filled, pool.name), joins=known)

    def _emit_paragraphs(self, batch: Batch) -> Columns:
        found = paragraphs(batch.text, batch.tokens, self.min_words)
        document = np.repeat(np.arange(len(batch)), np.diff(found.document))
        total = sums(found.document, found.words.astype(np.int64)).astype(np.uint32)
        return {
            "key": found.hash,
            "row": batch["row"].to_numpy()[document],
            "order": ranks(batch)[document],
            "start": found.start,
            "end": found.end,
            "words": found.words,
            "total": total[document],
        }

    def _emit_losses(self, batch: Batch) -> Columns:
        document, entries = _entries(batch, [*OF_PARAGRAPHS, *OWNER])
        size = np.diff(document)
        total = np.zeros(len(batch), np.int64)
        total[size > 0] = entries["total"][document[:-1][size > 0]]
        contained = sums(document, entries["words"].astype(np.int64))
        return self._told(batch, Found(document, entries["start"], entries["end"], entries["owner"], contained, total))

    def _ngrams(self, batch: Batch) -> Paragraphs:
        return paragraphs(batch.text, batch.tokens, self.min_words, self.ngram_words)

    def _gone(self, batch: Batch, found: Paragraphs) -> tuple[Bool, Int64, UInt64]:
        """(which paragraphs go, their n-grams that stand elsewhere, the document that has most of these)."""
        document, entries = _entries(batch, [*OF_NGRAMS, *OWNER])
        contained, owners = shares(found, document, entries["start"], entries["owner"], entries["count"])
        return _exceeds(contained, np.diff(found.first), self.threshold), contained, owners

    def _emit_ngrams(self, is_first: bool, batch: Batch) -> Columns:
        found = self._ngrams(batch)
        sizes = np.diff(found.first)
        document = np.repeat(np.repeat(np.arange(len(batch)), np.diff(found.document)), sizes)
        sent: dict[str, Any] = {
            "key": found.hash,
            "row": batch["row"].to_numpy()[document],
            "order": ranks(batch)[document],
            "start": np.repeat(found.start, sizes),
        }
        if not is_first:  # at first all paragraphs count
            sent["counts"] = np.repeat(~self._gone(batch, found)[0], sizes)
        return sent

    def _emit_ngram_losses(self, batch: Batch) -> Columns:
        found = self._ngrams(batch)
        gone, contained, owners = self._gone(batch, found)
        document = np.concatenate([[0], np.cumsum(gone)])[found.document]
        return self._told(
            batch,
            Found(
                document,
                found.start[gone],
                found.end[gone],
                owners[gone],
                sums(found.document, contained),
                np.diff(found.first[found.document]),
            ),
        )

    def _told(self, batch: Batch, found: Found) -> Columns:
        """Two kinds of rows: each document tells its id; one that loses something asks for the id of an owner."""
        spans = apart(Spans(found.document, found.start, found.end))
        duplicate = _exceeds(found.contained, found.total, self.threshold_document)
        longest = longest_of(found.document, (found.end - found.start).astype(np.int64))
        order = ranks(batch)
        asks = np.flatnonzero((longest >= 0) | duplicate)
        owner = order.copy()  # who loses no span asks nobody in particular
        owner[longest >= 0] = found.owner[longest[longest >= 0]]
        tell, rows = np.zeros(len(batch), np.bool_), batch["row"].to_numpy()
        nothing = pa.nulls(len(batch))
        losses = pa.table(
            {
                "spans": span_column(spans).cast(SPANS),
                "bytes": covered_bytes(spans).astype(np.uint32),
                "duplicate": duplicate,
            }
        ).take(pa.array(asks))
        return {
            "key": np.concatenate([order, owner[asks]]),
            "row": np.concatenate([rows, rows[asks]]),
            "asks": np.concatenate([tell, np.ones(len(asks), np.bool_)]),
            "doc_id": pa.concat_arrays([batch["doc_id"].cast(pa.string()), pa.nulls(len(asks), pa.string())]),
            **{
                name: pa.concat_arrays([nothing.cast(kind), one_array(losses[name]).cast(kind)])
                for name, kind in OF_DOCUMENTS.items()
                if name != "kept_by"
            },
        }


def _exceeds(part: Int64, whole: Int64, threshold: float) -> Bool:
    """Whether part / whole > threshold, in whole numbers: bool, (n); of nothing, no share exceeds anything."""
    share = Fraction(str(threshold)).limit_denominator(DENOMINATOR)
    return part * share.denominator > whole * share.numerator


def _entries(batch: Batch, names: list[str]) -> tuple[Int64, dict[str, Any]]:
    """What was decided about each document: where its entries begin, and the entries by start and owner."""
    bounds = list_bounds(batch[names[0]])
    flat = {name: batch[name].flatten().to_numpy() for name in names}
    document = np.repeat(np.arange(len(batch)), np.diff(bounds))
    order = np.lexsort((flat["owner"], flat["start"], document))
    return bounds, {name: values[order] for name, values in flat.items()}


def _later(within: bool, table: pa.Table) -> tuple[pa.Array, UInt64]:
    """The rows of the table whose key stands earlier, and the hash of the document where."""
    counts = np.ones(table.num_rows, np.bool_)
    if "counts" in table.schema.names:
        counts = table["counts"].to_numpy()
    column = {name: table[name].to_numpy() for name in ("key", "order", "row", "start")}
    places = Places(column["order"], column["row"], column["start"])
    later, earliest = stand_earlier(column["key"], places, counts, within)
    return pa.array(later), column["order"][earliest]


def decide_paragraphs(within: bool, table: pa.Table) -> pa.Table:
    """The paragraphs that stand earlier."""
    later, owner = _later(within, table)
    return table.select(["row", *OF_PARAGRAPHS]).take(later).append_column("owner", pa.array(owner))


def decide_ngrams(within: bool, table: pa.Table) -> pa.Table:
    """How many n-grams of a paragraph stand earlier, by the document where."""
    later, owner = _later(within, table)
    found = table.select(["row", "start"]).take(later).append_column("owner", pa.array(owner))
    counted = found.group_by(["row", "start", "owner"], use_threads=False).aggregate([([], "count_all")])
    return counted.rename_columns({"count_all": "count"})


def decide_owners(table: pa.Table) -> pa.Table:
    """What documents lose, with the id of the one they asked for."""
    asks = table["asks"].to_numpy()
    key = table["key"].to_numpy()
    tells, asking = np.flatnonzero(~asks), np.flatnonzero(asks)
    place = np.searchsorted(key[tells], key[asking])
    found = np.append(tells, 0)[place]
    missing = (key[found] != key[asking]) | (table["bytes"].take(pa.array(asking)).to_numpy() == 0)
    losses = table.select(["row", "spans", "bytes", "duplicate"]).take(pa.array(asking))
    kept_by = one_array(table["doc_id"]).take(pa.array(found, mask=missing))
    return losses.append_column("kept_by", kept_by.cast(pa.string()))


def _filled(name: str, batch: Batch) -> Columns:
    spans = one_array(batch["spans"])
    bounds = pa.array(list_bounds(spans).astype(np.int32))
    return {
        f"{name}_spans": pa.ListArray.from_arrays(bounds, spans.flatten()),
        f"{name}_bytes": pc.fill_null(batch["bytes"], 0),
        f"{name}_duplicate": pc.fill_null(batch["duplicate"], False),
        f"{name}_kept_by": batch["kept_by"],
    }
