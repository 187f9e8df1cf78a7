"""Z-score: how many standard deviations a value is above the mean."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.expressions import Expression
from tamis.kernels.deviation import exponent_of, mean_and_deviation, power_sums
from tamis.scorers.base import OfExpression, Scores
from tamis.steps import Batch, Fold, Pool, Steps, Summary


@dataclass(frozen=True)
class Zscore(OfExpression):
    """(value - mean) / standard deviation, over the documents with a value; null without one, or for an infinite one.

    Where all values are equal it is 0. The deviation divides by n, and all of it is the same to the bit in any order of
    documents; a value counts to within 2^-53 of the largest.
    """

    def steps(self, pool: Pool) -> Steps:
        largest = yield Fold(self.reads, self._measure, merge=_larger)
        exponent = int(largest["exponent"])
        sums = yield Fold(self.reads, partial(self._sum, exponent))
        facts = mean_and_deviation(sums["limbs"], sums["products"], int(sums["documents"]), exponent)
        return self.map(pool, partial(self._tell, *facts))

    def _values(self, batch: Batch) -> npt.NDArray[np.float64]:
        """The values, infinite ones as NaN: float64, (n)."""
        values = Expression(self.of).numbers(batch.table)
        return np.where(np.isfinite(values), values, np.nan)

    def _finite(self, batch: Batch) -> npt.NDArray[np.float64]:
        values = self._values(batch)
        return values[~np.isnan(values)]

    def _measure(self, batch: Batch) -> Summary:
        return {"exponent": np.array(exponent_of(self._finite(batch)), np.int64)}

    def _sum(self, exponent: int, batch: Batch) -> Summary:
        values = self._finite(batch)
        limbs, products = power_sums(values, exponent)
        return {"limbs": limbs, "products": products, "documents": np.array(len(values), np.int64)}

    def _tell(self, mean: float, deviation: float, batch: Batch) -> Scores:
        return pa.array((self._values(batch) - mean) / (deviation or 1.0), from_pandas=True)


def _larger(one: Summary, other: Summary) -> Summary:
    return {"exponent": np.maximum(one["exponent"], other["exponent"])}
