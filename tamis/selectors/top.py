"""The documents with the highest score."""

from dataclasses import dataclass

from tamis.expressions import Expression
from tamis.selectors.base import Float64, Selector
from tamis.steps import Batch, Pool


def scores(expression: str, batch: Batch) -> Float64:
    """An expression's value per document: float64, (n); NaN where it is NULL."""
    return Expression(expression).numbers(batch.table)


@dataclass(frozen=True, kw_only=True)
class Top(Selector):
    """Keeps the highest `score` (an expression over columns), down to the budget; ties by a hash of the id."""

    score: str

    @property
    def used(self) -> tuple[str, ...]:
        return Expression(self.score).columns

    def priority(self, batch: Batch, pool: Pool) -> Float64:
        del pool
        return scores(self.score, batch)
