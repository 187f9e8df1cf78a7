"""Documents drawn at random, in proportion to exp(score / temperature)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from tamis import seeds
from tamis.expressions import Expression
from tamis.selectors.base import Float64, Selector
from tamis.selectors.top import scores
from tamis.steps import Batch, Pool


@dataclass(frozen=True, kw_only=True)
class Sample(Selector):
    """Sampling without replacement by Gumbel top-k; without a `score` every document is as likely as any other.

    score : log-weight in nats (an expression over columns), e.g. `importance`.
    temperature : divides the score; towards 0 the draw becomes `top`, towards infinity uniform.
    draw : another number gives another, independent draw with the same seed.
    Source: Kool, van Hoof, Welling, Stochastic Beams and Where to Find Them, 2019, section 2.
    """

    score: str | None = None
    temperature: Annotated[float, Field(gt=0)] = 1.0
    draw: Annotated[int, Field(ge=0)] = 0

    @property
    def used(self) -> tuple[str, ...]:
        return Expression(self.score).columns if self.score else ()

    def priority(self, batch: Batch, pool: Pool) -> Float64:
        noise = seeds.gumbel(pool.seed, f"sample {self.draw}", batch.doc_ids)
        if self.score is None:
            return np.asarray(noise)
        return np.asarray(scores(self.score, batch) / self.temperature + noise)
