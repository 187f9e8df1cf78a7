"""Documents without the passages that deduplicators marked: what is exported, and what proxy models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.dedup.base import SPANS
from tamis.kernels.arrow import Int64, strings_of, text_of
from tamis.kernels.spans import spans_of, united, without_spans
from tamis.kernels.words import Bool, count_words, tokenize

SPANS_SUFFIX = "_spans"


class Cut(NamedTuple):
    """n documents without their passages.

    texts : of the type they had. spans, bytes : int64, (n), how many passages were left out, and their bytes.
    is_empty : bool, (n), whether something was left out and no word is left.
    """

    texts: pa.Array
    spans: Int64
    bytes: Int64
    is_empty: Bool


def marks_spans(column: str, kind: pa.DataType | str) -> bool:
    """Whether a column, by its name and type, holds the spans of a deduplicator."""
    return column.endswith(SPANS_SUFFIX) and str(kind) == str(SPANS)


def cut(texts: pa.Array | pa.ChunkedArray, marked: Sequence[pa.Array | pa.ChunkedArray]) -> Cut:
    """The documents without what any of the columns marks. marked : one column of spans or more."""
    spans = united([spans_of(column) for column in marked])
    text, gone = without_spans(text_of(texts), spans)
    strings = strings_of(text.offsets, text.data)
    changed = np.flatnonzero(gone)
    is_empty = np.zeros(len(gone), np.bool_)
    is_empty[changed] = count_words(tokenize(text_of(strings.take(pa.array(changed))))) == 0
    return Cut(pc.cast(strings, texts.type), np.diff(spans.document), gone, is_empty)
