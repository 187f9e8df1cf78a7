"""Vectors of hashed word n-grams: no model, no download, the speed of reading."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tamis.embedders.base import Embedder
from tamis.kernels.ngrams import hashed_vectors
from tamis.steps import Batch


@dataclass(frozen=True)
class HashedNgrams(Embedder):
    """Signed counts of words and pairs of words, hashed to `dimensions` numbers and scaled to length one.

    Inner products estimate the cosine of the n-gram counts. A document without words is the zero vector.
    ngrams : 1 for words alone, 2 for words and pairs.
    Source: Weinberger et al. 2009, Feature hashing for large scale multitask learning.
    """

    dimensions: Annotated[int, Field(gt=0, le=65536)] = 256
    ngrams: Annotated[int, Field(ge=1, le=2)] = 2

    @property
    def width(self) -> int:
        return self.dimensions

    def embed(self, batch: Batch) -> npt.NDArray[np.float32]:
        return hashed_vectors(batch.tokens, self.ngrams, self.dimensions)
