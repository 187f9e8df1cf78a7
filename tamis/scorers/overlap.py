"""Overlap with evaluation sets: which documents hold text that models will be tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field

from tamis.kernels.exact import exact_keys
from tamis.kernels.members import Members, are_members, count_shared_ngrams, members_of, ngrams_of
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch, Documents, Fold, Pool, Steps, Summary


def _several(value: Any) -> Any:
    """One set of documents where several may stand."""
    if isinstance(value, (str, Mapping, Documents)):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Overlap(Scorer):
    """Whether a document shares a run of words with an evaluation document, and at how many places.

    Words are compared in lower case, over punctuation and line ends. A document that equals an evaluation document
    word for word overlaps too, however short; inside a longer document, fewer than `ngram_words` words in a row are
    not found.
    against : the evaluation documents; several sets make no difference to the result.
    Source: Brown et al. 2020, Language models are few-shot learners, appendix C (13 words).
    """

    against: Annotated[tuple[Documents, ...], BeforeValidator(_several), Field(min_length=1)]
    ngram_words: Annotated[int, Field(gt=0)] = 13

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.bool_(), f"{name}_ngrams": pa.uint32()}

    def steps(self, pool: Pool) -> Steps:
        found = yield [Fold(("text",), self._hashes, union, over=documents) for documents in self.against]
        every = {"ngrams": np.zeros(0, np.uint64), "documents": np.zeros(0, np.uint64)}
        for hashes in found:
            every = dict(union(every, hashes))
        return self.map(pool, partial(self._score, members_of(every["ngrams"]), members_of(every["documents"])))

    def _hashes(self, batch: Batch) -> Summary:
        _, ngrams = ngrams_of(batch.words, self.ngram_words)
        keys, _, has_words = exact_keys(batch.words)
        return {"ngrams": np.unique(ngrams), "documents": np.unique(keys[has_words])}

    def _score(self, ngrams: Members, documents: Members, batch: Batch) -> Scores:
        shared = count_shared_ngrams(batch.words, self.ngram_words, ngrams)
        keys, _, has_words = exact_keys(batch.words)
        equal = has_words & are_members(documents, keys)
        return {"": (shared > 0) | equal, "_ngrams": shared.astype(np.uint32)}


def union(one: Summary, other: Summary) -> Summary:
    """Sorted hashes of either side, each once: a merge whose order does not matter."""
    return {key: np.union1d(one[key], other[key]) for key in one}
