"""How alike two documents are, computed from the documents themselves when somebody asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.audit.deduplicators import component_of, findings_of
from tamis.audit.reader import Run, Stage
from tamis.dedup.minhash import Minhash
from tamis.dedup.semantic import EPSILON, Semantic
from tamis.kernels.arrow import text_of
from tamis.kernels.lsh import candidate_share, half_point
from tamis.kernels.shingles import characters_of, shingle_sets, words_of
from tamis.kernels.words import tokenize

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Measure(ABC):
    """A similarity of two documents. least: what the stage asks of a pair, or where it finds half; None if nothing."""

    least: float | None

    @property
    @abstractmethod
    def name(self) -> str:
        """What is computed, in words."""

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The columns it needs."""

    @abstractmethod
    def between(self, documents: Sequence[Values], pairs: Sequence[tuple[int, int]]) -> list[float | None]:
        """The similarity of each pair of places; None where one of the two has nothing to compare."""

    def is_short(self, similarity: float | None) -> bool:
        """Whether such a pair does not meet, or is not likely to, without others between the two."""
        if similarity is None or self.least is None:
            return False
        return bool(np.float32(similarity) < np.float32(self.least))

    def told(self, similarity: float) -> str:
        """Why such a pair is together, if it is not alike enough."""
        return f"joined through others: {similarity:.4f} is less than the {self.least:.4g} that a pair needs"


@dataclass(frozen=True)
class Shingled(Measure):
    """The Jaccard similarity of the sets of shingles, exact. banding: of what is not verified."""

    unit: str = "word"
    ngram: int = 5
    banding: tuple[int, int] | None = None

    def told(self, similarity: float) -> str:
        if self.banding is None:
            return super().told(similarity)
        chance = float(candidate_share(similarity, *self.banding))
        return (
            f"probably joined through others: a pair of {similarity:.4f} shares a bucket with probability {chance:.2g}"
        )

    @property
    def name(self) -> str:
        return f"Jaccard similarity of the sets of {self.ngram}-{self.unit} shingles"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text",)

    def between(self, documents: Sequence[Values], pairs: Sequence[tuple[int, int]]) -> list[float | None]:
        texts = pa.array([values["text"] for values in documents], pa.large_string())
        tokens = tokenize(text_of(texts))
        units = words_of(tokens) if self.unit == "word" else characters_of(tokens)
        start, hashes = shingle_sets(units, self.ngram)
        return [_jaccard(*(hashes[start[i] : start[i + 1]] for i in pair)) for pair in pairs]


def _jaccard(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float | None:
    common = len(np.intersect1d(one, other, assume_unique=True))
    either = len(one) + len(other) - common
    return common / either if either else None


@dataclass(frozen=True)
class Cosine(Measure):
    """The cosine of the vectors in a column."""

    of: str = "vector"

    @property
    def name(self) -> str:
        return f"cosine of the column {self.of}"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def between(self, documents: Sequence[Values], pairs: Sequence[tuple[int, int]]) -> list[float | None]:
        vectors = [values[self.of] for values in documents]
        return [_cosine(vectors[i], vectors[j]) for i, j in pairs]

    def is_short(self, similarity: float | None) -> bool:
        """A pair must be above the bound, not at it."""
        return similarity is not None and self.least is not None and similarity <= self.least


def _cosine(one: Sequence[float] | None, other: Sequence[float] | None) -> float | None:
    if one is None or other is None:
        return None
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else None


def measure_of(run: Run, stage: Stage) -> Measure:
    """What this stage compares documents by; for what has none of its own, shingles of 5 words."""
    component = component_of(stage)
    if isinstance(component, Minhash):
        if component.verify == "none":
            half = half_point(*component.banding)
            return Shingled(half, component.unit, component.ngram, component.banding)
        return Shingled(component.least_similarity, component.unit, component.ngram)
    if isinstance(component, Semantic) and component.of in run.columns:
        epsilon = findings_of(run, stage.name).get("epsilon", component.epsilon or EPSILON)
        return Cosine(1 - float(epsilon), component.of)
    return Shingled(None)
