"""Exact substrings: passages of many tokens that occur elsewhere, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis.dedup.base import SPANS, SpanDeduplicator, ranks
from tamis.kernels.arrow import Int64, UInt64, one_array
from tamis.kernels.runs import fingerprints, hash_runs, runs_with
from tamis.kernels.spans import covered_bytes, list_bounds, span_column, spans_of
from tamis.kernels.substrings import Marks, Stretches, first_copies, later_copies, struck_spans
from tamis.kernels.written import Written, written
from tamis.steps import Batch, Columns, Exchange, Fold, Map, Pool, Publish, Steps, Summary

SHARED = {"shared": pa.uint64()}
COPY = {"at": pa.uint32(), "runs": pa.uint32(), "until": pa.uint32(), "owner": pa.uint64()}  # as in Marks
PASSAGES = {"spans": SPANS, "bytes": pa.uint32(), "duplicate": pa.bool_(), "kept_by": pa.string()}
LENGTHS = 32  # classes of span lengths: class i holds 2^i to 2^(i+1) - 1 bytes


@dataclass(frozen=True, kw_only=True)
class Substring(SpanDeduplicator):
    """Passages that occur elsewhere too, byte for byte: unions of runs of `min_tokens` tokens that have a copy.

    min_tokens : how many tokens in a row make a run. A run is the bytes of its tokens and the white space between them,
    upper and lower case apart, as written; it never crosses a document.
    tokens : "words" are words, runs of punctuation, and single Han and kana characters; "characters" are code points.
    strike : "later" leaves the first copy of each run, whole, and strikes the others; first is the document with the
    lowest hash of its id, then the earlier place. "all" strikes every copy, as the paper does.
    min_left_tokens : a document with a passage struck is a duplicate if fewer tokens than these are left.
    What is left may repeat again across a passage that was struck: a second pass can find more.
    Source: Lee et al. 2022, Deduplicating training data makes language models better, section 4.1; found here by
    Schleimer, Wilkerson, Aiken 2003, Winnowing, and hashes of all runs that share a fingerprint.
    """

    min_tokens: Annotated[int, Field(ge=2, le=1_000_000)] = 50
    tokens: Literal["words", "characters"] = "words"
    strike: Literal["later", "all"] = "later"
    min_left_tokens: Annotated[int, Field(ge=0, le=2**31)] = 50

    def steps(self, pool: Pool) -> Steps:
        shared = yield Exchange(("text",), self._fingerprints, decide_shared, SHARED, many=True)
        decide = partial(decide_copies, self.min_tokens, self.strike)
        copies = yield Exchange(self.reads, self._runs, decide, COPY, joins=shared, many=True)
        passages = yield Exchange(self.reads, self._passages, decide_keepers, PASSAGES, joins=copies)
        totals = yield Fold((), summarize, joins=passages)
        findings = Publish(f"findings/{pool.name}.json", found(totals), told(totals))
        return Map((), self.columns(pool.name), partial(filled, pool.name), joins=passages, findings=findings)

    @property
    def _window(self) -> tuple[int, int]:
        """(n, k): runs of n tokens are known by their lowest hash of k tokens."""
        return self.min_tokens, (self.min_tokens + 1) // 2

    def _tokens(self, batch: Batch, wanted: Int64) -> Written:
        """The tokens of the documents that are `wanted`: above 0."""
        return written(batch.text, wanted > 0, self.tokens == "characters")

    def _fingerprints(self, batch: Batch) -> Columns:
        tokens = self._tokens(batch, np.ones(len(batch), np.int64))
        n, k = self._window
        offsets, keys = fingerprints(tokens.document, hash_runs(tokens, k, 0), n, k)
        return {"key": keys.copy(), "row": np.repeat(batch["row"].to_numpy(), np.diff(offsets))}

    def _runs(self, batch: Batch) -> Columns:
        """The runs that may have a copy, those whose fingerprint has one: a row for all that have it at one place."""
        offsets = list_bounds(batch["shared"])
        tokens = self._tokens(batch, np.diff(offsets))
        n, k = self._window
        known = batch["shared"].flatten().to_numpy(zero_copy_only=False)
        document, key, first, runs = runs_with(
            tokens.document, hash_runs(tokens, k, 0), n, k, (offsets, known[order_in(offsets, known)])
        )
        ends = np.cumsum(runs)
        each = np.arange(runs.sum()) + np.repeat(first - ends + runs, runs)
        return {
            "key": key.copy(),
            "row": batch["row"].to_numpy()[document],
            "rank": ranks(batch)[document],
            "at": (first - tokens.document[document]).astype(np.uint32),
            "checks": pa.ListArray.from_arrays(np.append(0, ends).astype(np.int32), hash_runs(tokens, n, 1)[each]),
        }

    def _passages(self, batch: Batch) -> Columns:
        """Passages, sent to the document that keeps the longest of them; and documents that may be asked for."""
        offsets = list_bounds(batch["at"])
        tokens = self._tokens(batch, np.diff(offsets))
        at, runs, until, owner = (batch[name].flatten().to_numpy(zero_copy_only=False) for name in COPY)
        by_owner = order_in(offsets, owner)
        marks = Marks(offsets, at[by_owner], runs[by_owner], until[by_owner], owner[by_owner])
        found = struck_spans(batch.text, tokens, marks, self.min_tokens)
        asking = np.flatnonzero(np.diff(offsets))
        may_keep = (np.diff(batch.text.offsets) >= self.min_tokens) & (self.strike == "later")
        answering = np.flatnonzero(may_keep)
        both = np.append(asking, answering)
        no_id = pa.nulls(len(asking), batch["doc_id"].type)
        return {
            "key": np.append(found.owner[asking], ranks(batch)[answering]),
            "row": batch["row"].to_numpy()[both],
            "is_asking": np.arange(len(both)) < len(asking),
            "doc_id": pa.concat_arrays([no_id, batch["doc_id"].take(pa.array(answering))]),
            "spans": span_column(found.spans).take(pa.array(both)),
            "bytes": covered_bytes(found.spans).astype(np.uint32)[both],
            "duplicate": (found.left < self.min_left_tokens)[both],
        }


def order_in(offsets: Int64, values: UInt64) -> Int64:
    """Where each document's values are in rising order: document i has values[offsets[i]:offsets[i + 1]]."""
    return np.lexsort((values, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))))


def decide_shared(table: pa.Table) -> pa.Table:
    """The fingerprints that are at two places or more, for each of those places."""
    key = table["key"].to_numpy()
    shared = np.zeros(len(key), bool)
    shared[1:] = key[1:] == key[:-1]
    shared[:-1] |= shared[1:]
    return pa.table({"row": table["row"].filter(pa.array(shared)), "shared": key[shared]})


def decide_copies(n: int, strike: str, table: pa.Table) -> pa.Table:
    """The runs to strike. A run that overlaps its own first copy is struck from that copy's end."""
    checks = one_array(table["checks"])
    key, rank, row, at = (table[name].to_numpy() for name in ("key", "rank", "row", "at"))
    check = checks.flatten().to_numpy(zero_copy_only=False)
    stretches = Stretches(key, list_bounds(checks), check, rank, row, at)
    copies = later_copies(stretches, first_copies(stretches), n, strike == "all")
    stretch, begin, number, until, owner = copies
    return pa.table({"row": row[stretch], "at": begin, "runs": number, "until": until, "owner": rank[owner]})


def decide_keepers(table: pa.Table) -> pa.Table:
    """The passages, with the id of the document that was asked for it."""
    asks = table["is_asking"].to_numpy()
    asking, answers = table.filter(pa.array(asks)), table.filter(pa.array(~asks))
    wanted = asking["key"].to_numpy()
    answers = answers.filter(pa.array(np.isin(answers["key"].to_numpy(), wanted))).sort_by("doc_id")
    known, place = np.unique(answers["key"].to_numpy(), return_index=True)  # the lowest id of a key
    at = np.searchsorted(known, wanted)
    missing = np.append(known, np.uint64(0))[at] != wanted
    missing |= at == len(known)
    kept_by = answers["doc_id"].take(pa.array(np.append(place, 0)[at], mask=missing)).cast(pa.string())
    return asking.select(["row", "spans", "bytes", "duplicate"]).append_column("kept_by", kept_by)


def summarize(batch: Batch) -> Summary:
    """Counts of documents and spans: int64, (1) or (LENGTHS) each."""
    spans = spans_of(batch["spans"])
    lengths = spans.end - spans.start
    classes = np.bincount(np.frexp(lengths)[1] - 1, minlength=LENGTHS)
    counts = {
        "documents": len(batch),
        "struck_documents": len(batch) - batch["spans"].null_count,
        "duplicates": pc.sum(batch["duplicate"]).as_py() or 0,
        "struck_bytes": pc.sum(batch["bytes"]).as_py() or 0,
    }
    return {"spans_by_length": classes, **{name: np.array([count]) for name, count in counts.items()}}


def found(totals: Summary) -> dict[str, Any]:
    """The counts as JSON; the number of spans by their length, in classes [2^i, 2^(i + 1)) bytes."""
    classes = {f"{2**i}": int(count) for i, count in enumerate(totals["spans_by_length"]) if count}
    counts = {name: int(totals[name][0]) for name in totals if name != "spans_by_length"}
    return {"kind": "spans", **counts, "spans": sum(classes.values()), "spans_by_least_bytes": classes}


def told(totals: Summary) -> list[str]:
    """One line for the terminal."""
    counts = found(totals)
    spans = f"{counts['spans']:,} passages, {counts['struck_bytes']:,} bytes"
    documents = f"{counts['struck_documents']:,} of {counts['documents']:,} documents"
    return [f"{spans} of {documents} occur elsewhere; {counts['duplicates']:,} have little else"]


def filled(name: str, batch: Batch) -> Columns:
    """Documents without a decision have no passages."""
    return {
        f"{name}_spans": span_column(spans_of(batch["spans"])),
        f"{name}_bytes": pc.fill_null(batch["bytes"], 0),
        f"{name}_duplicate": pc.fill_null(batch["duplicate"], False),
        f"{name}_kept_by": batch["kept_by"],
    }
