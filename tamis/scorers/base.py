"""What a scorer is: numbers about each document, as columns that start with the scorer's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy.typing as npt
import pyarrow as pa

from tamis.expressions import Expression
from tamis.steps import Batch, Columns, Component, Map, Pool, Steps

Values: TypeAlias = pa.Array | npt.NDArray[Any]
Scores: TypeAlias = Values | Mapping[str, Values]


class Scorer(Component):
    """Parent of the scorers. One that needs nothing global defines `score`; any other defines `steps` itself.

    The one column has the scorer's name. A scorer with more of them overrides `columns` and returns a mapping
    from what follows the name ("" for the name itself) to values.
    """

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.float32()}

    def score(self, batch: Batch) -> Scores:
        """One value per document, NaN or null where there is none; or several, by what follows the name."""
        raise NotImplementedError(
            f"{type(self).__name__}: define score(batch), or steps(pool), got a batch of {len(batch)}"
        )

    def steps(self, pool: Pool) -> Steps:
        yield from ()
        return self.map(pool, self.score)

    def map(self, pool: Pool, score: Callable[[Batch], Scores]) -> Map:
        """The last step: writes what `score` returns."""
        return Map(self.reads, self.columns(pool.name), partial(_named, pool.name, score))


def _named(name: str, score: Callable[[Batch], Scores], batch: Batch) -> Columns:
    scores = score(batch)
    if isinstance(scores, Mapping):
        return {name + suffix: values for suffix, values in scores.items()}
    return {name: scores}


@dataclass(frozen=True)
class OfExpression(Scorer):
    """Parent of the scorers that place the value of an expression among those of the other documents.

    of : an expression over columns, such as `importance` or `length / length_lines`.
    """

    of: str

    def __post_init__(self) -> None:
        Expression(self.of)

    @property
    def reads(self) -> Sequence[str]:
        return Expression(self.of).columns

    @property
    def numbers(self) -> Sequence[str]:
        return (self.of,)

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.float64()}
