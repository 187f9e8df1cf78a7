"""How much a document repeats itself, by the measures that Gopher's corpus was filtered with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.kernels.lines import repeated_lines
from tamis.kernels.repetition import repeated_ngrams
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch

# The largest share that Gopher keeps, by column. Source: Rae et al. 2021, Scaling language models, table A1.
GOPHER = (
    ("_dup_lines", 0.30),
    ("_dup_line_chars", 0.20),
    ("_dup_paragraphs", 0.30),
    ("_dup_paragraph_chars", 0.20),
    ("_top_2gram", 0.20),
    ("_top_3gram", 0.18),
    ("_top_4gram", 0.16),
    ("_dup_5gram", 0.15),
    ("_dup_6gram", 0.14),
    ("_dup_7gram", 0.13),
    ("_dup_8gram", 0.12),
    ("_dup_9gram", 0.11),
    ("_dup_10gram", 0.10),
)
OF_CHARACTERS = [i for i, (suffix, _) in enumerate(GOPHER) if suffix not in ("_dup_lines", "_dup_paragraphs")]


@dataclass(frozen=True)
class Repetition(Scorer):
    """The largest share of a document's characters that is repeated text, and the thirteen shares it is taken from.

    Lines and paragraphs: those equal to an earlier one of the document. 2 to 4-grams of words: what the most
    frequent one covers, if it occurs twice or more. 5 to 10-grams: what those that stood earlier cover. Characters
    of n-grams are counted once and out of the characters of all words. `<name>_gopher` says whether every share is
    within Gopher's limit. A document without words has no shares and does not pass.
    """

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        shares = {f"{name}{suffix}": pa.float32() for suffix, _ in GOPHER}
        return {name: pa.float32(), **shares, f"{name}_gopher": pa.bool_()}

    def score(self, batch: Batch) -> Scores:
        shares = repeated_shares(batch)
        passes = (shares <= np.array([limit for _, limit in GOPHER])).all(axis=1)
        columns = {suffix: shares[:, i].astype(np.float32) for i, (suffix, _) in enumerate(GOPHER)}
        return {"": shares[:, OF_CHARACTERS].max(axis=1).astype(np.float32), **columns, "_gopher": passes}


def repeated_shares(batch: Batch) -> npt.NDArray[np.float64]:
    """The shares in the order of GOPHER: float64, (n, 13), NaN for documents without words."""
    lines, repeated = repeated_lines(batch.tokens.text)
    characters, covered = repeated_ngrams(batch.tokens)
    shares = np.full((len(batch), len(GOPHER)), np.nan)
    has_words = (characters > 0)[:, None]
    np.divide(repeated, lines, out=shares[:, :4], where=has_words)
    np.divide(covered, characters[:, None], out=shares[:, 4:], where=has_words)
    return shares
