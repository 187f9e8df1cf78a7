"""How long a document is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tamis.kernels.lines import count_lengths
from tamis.kernels.words import count_words
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch


@dataclass(frozen=True)
class Length(Scorer):
    """Characters (Unicode code points), words (runs of letters, digits and underscores) and lines."""

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return dict.fromkeys((name, f"{name}_words", f"{name}_lines"), pa.uint32())

    def score(self, batch: Batch) -> Scores:
        characters, lines = count_lengths(batch.text)
        counts = {"": characters, "_words": count_words(batch.tokens), "_lines": lines}
        return {suffix: values.astype(np.uint32) for suffix, values in counts.items()}
