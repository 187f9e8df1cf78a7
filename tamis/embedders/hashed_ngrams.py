"""Vectors of hashed word n-grams: no model, no download, the speed of reading."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from tamis.embedders.base import Embedder
from tamis.kernels.arrow import Float32
from tamis.kernels.ngrams import hashed_vectors
from tamis.steps import Batch


@dataclass(frozen=True)
class HashedNgrams(Embedder):
    """Signed counts of words and pairs of words, hashed to `dimensions` numbers and scaled to length one.

    Inner products estimate the cosine of the n-gram counts. A document without words is the zero vector.
    ngrams : 1 for words alone, 2 for words and pairs.
    Source: Weinberger et al. 2009, Feature hashing for large scale multitask learning.
    """

    version: ClassVar[int] = 2

    dimensions: Annotated[int, Field(gt=0, le=65536)] = 256
    ngrams: Annotated[int, Field(ge=1, le=2)] = 2

    @property
    def width(self) -> int:
        return self.dimensions

    def embed(self, batch: Batch) -> Float32:
        return hashed_vectors(batch.tokens, self.ngrams, self.dimensions)
