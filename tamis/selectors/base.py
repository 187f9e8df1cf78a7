"""A selector ranks the documents; the cut to the budget is exact and the same for all of them.

The cut is found by radix histograms of tokens over the ranking, 16 bits a round, so that no sort and no list of
documents is ever needed: four folds over a narrow column, and four more where equal ranks straddle the cut.
The budget is never exceeded: the first document that does not fit ends the arm.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.errors import RunFailedError
from tamis.expressions import Expression, evaluate
from tamis.kernels.histogram import digit_histogram
from tamis.kernels.order import ordered
from tamis.steps import Batch, Component, Fold, Map, Pool, Steps, Summary, Use

ROUNDS = 4
DIGIT_BITS = 16
EVERYTHING = np.iinfo(np.uint64).max

Float64 = npt.NDArray[np.float64]
UInt64 = npt.NDArray[np.uint64]
Priority = Callable[[Batch], Float64]  # the rank of each document: higher is taken first; NaN is never taken


@dataclass(frozen=True)
class Gate:
    """A column that a selector uses, and the verify stage whose verdict on `score` speaks for it: "" if none does."""

    column: str
    stage: str
    score: str


@dataclass(frozen=True, kw_only=True)
class Selector(Component):
    """Parent of the selectors. One whose ranking needs nothing global defines `priority`; any other, `steps` itself.

    where : expression; documents for which it is not true are left out, by its first conjunct that is not.
    budget_tokens, budget_documents : how much the arm may hold at most; neither: all that `where` lets through.
    trust : columns to use although a verify stage found that they do not predict what training does.
    gates : which verify stages speak for the columns it uses; set by the specification.
    """

    where: str | None = None
    budget_tokens: Annotated[int, Field(gt=0)] | None = None
    budget_documents: Annotated[int, Field(gt=0)] | None = None
    trust: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()

    said: ClassVar[tuple[str, ...]] = ("trust", "gates")  # an arm that is written is the same with them
    seeded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.budget_tokens and self.budget_documents:
            raise ValueError("budget_documents: expected one budget, got budget_tokens as well; keep one of them")

    def priority(self, batch: Batch, pool: Pool) -> Float64:
        """The rank of each document, float64, (n): higher is taken first; NaN is never taken."""
        raise NotImplementedError(
            f"{pool.name}: {type(self).__name__}: define priority(batch, pool), or steps(pool), "
            f"got a batch of {len(batch)}"
        )

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(gate.stage for gate in self.gates if gate.stage))

    def notes(self) -> Sequence[str]:
        return [
            f"uses {gate.column}, and no verify stage before it has shown that it predicts what training does; add "
            f"`- verify: {{score: {gate.column}, target: …}}`, or say `trust: [{gate.column}]`"
            for gate in self.gates
            if not gate.stage
        ]

    @property
    def used(self) -> Sequence[str]:
        """Columns that `priority` reads."""
        return ()

    @property
    def conjuncts(self) -> tuple[str, ...]:
        return Expression(self.where).conjuncts if self.where else ()

    @property
    def reads(self) -> Sequence[str]:
        filters = Expression(self.where).columns if self.where else ()
        tokens = ("n_tokens",) if self.budget_tokens else ()
        return tuple(dict.fromkeys(("doc_id", "n_bytes", "quarantined", *tokens, *filters, *self.used)))

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        """`<name>_repeats`: how often the arm uses the document; `<name>_reason`: why not, null if it does."""
        return {f"{name}_repeats": pa.uint8(), f"{name}_reason": pa.string()}

    def steps(self, pool: Pool) -> Steps:
        return (yield from self.chosen(pool, partial(self.priority, pool=pool)))

    def approved(self, pool: Pool) -> Generator[Use, Any, None]:
        """Waits for the verdicts on what it uses; before steps that cost much it is used with `yield from`.

        Raises RunFailedError if a column does not predict what training does.
        """
        for stage in dict.fromkeys(gate.stage for gate in self.gates if gate.stage):
            verdict = yield Use(stage)
            for gate in self.gates:
                if gate.stage == stage:
                    _check(gate, pool.name, verdict)

    def chosen(self, pool: Pool, priority: Priority) -> Steps:
        """The exact cut; a program that knows its ranking only after steps of its own ends with `yield from` it.

        Raises RunFailedError as `approved` does.
        """
        yield from self.approved(pool)
        budget = self.budget_tokens or self.budget_documents
        cut, tie_cut = EVERYTHING, EVERYTHING
        if budget is not None:
            total = yield Fold(self.reads, partial(self._total, priority))
            if int(total["mass"]) > budget:
                cut, left = yield from self._find(budget, partial(self._keys, priority))
                ties = yield Fold(self.reads, partial(self._ties, pool, priority, cut))
                tie_cut = 0
                if left and int(ties["documents"]) > 1:  # a single document that does not fit is left out
                    tie_cut, _ = yield from self._find(left, partial(self._tie_keys, pool, priority, cut))
        return Map(self.reads, self.columns(pool.name), partial(self._decide, pool, priority, cut, tie_cut))

    def _find(self, budget: int, keys: Any) -> Any:
        """The first key at which the mass of all keys up to it exceeds the budget, and what is left before it."""
        prefix, left = 0, budget
        for turn in range(ROUNDS):
            found = yield Fold(self.reads, partial(_histogram, keys, prefix, turn))
            running = np.cumsum(found["mass"])
            digit = min(int(np.searchsorted(running, left, side="right")), (1 << DIGIT_BITS) - 1)
            left -= int(running[digit - 1]) if digit else 0
            prefix = prefix << DIGIT_BITS | digit
        return prefix, left

    def _total(self, priority: Priority, batch: Batch) -> Summary:
        _, mass = self._keys(priority, batch)
        return {"mass": np.array(mass.sum(), np.int64)}

    def _ties(self, pool: Pool, priority: Priority, cut: int, batch: Batch) -> Summary:
        _, mass = self._tie_keys(pool, priority, cut, batch)
        return {"documents": np.array(np.count_nonzero(mass), np.int64)}

    def _keys(self, priority: Priority, batch: Batch) -> tuple[UInt64, npt.NDArray[np.int64]]:
        """Sort keys, ascending = taken first, and the mass of each candidate; what cannot be taken weighs nothing."""
        ranks = priority(batch)
        possible = self._first_reason(batch) < 0
        possible &= ~np.isnan(ranks)
        mass = np.where(possible, self._mass(batch), 0)
        return ~ordered(np.where(np.isnan(ranks), -np.inf, ranks)), mass

    def _tie_keys(self, pool: Pool, priority: Priority, cut: int, batch: Batch) -> tuple[UInt64, npt.NDArray[np.int64]]:
        keys, mass = self._keys(priority, batch)
        return seeds.hash64(pool.seed, "cut", batch.doc_ids), np.where(keys == np.uint64(cut), mass, 0)

    def _mass(self, batch: Batch) -> npt.NDArray[np.int64]:
        if not self.budget_tokens:
            return np.ones(len(batch), np.int64)
        return np.asarray(pc.fill_null(batch["n_tokens"], 0).cast(pa.int64()).to_numpy(), np.int64)

    def _first_reason(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Index into the reasons of the first that applies before the cut: -1 where none does."""
        reason = np.full(len(batch), -1, np.int64)
        if self.where:
            for index, value in reversed(list(enumerate(evaluate(self.conjuncts, batch.table)))):
                passed = pc.fill_null(value.cast(pa.bool_()), False).to_numpy(zero_copy_only=False)
                reason[~passed] = index
        unusable = batch["quarantined"].to_numpy(zero_copy_only=False) | batch["n_bytes"].is_null().to_numpy(
            zero_copy_only=False
        )
        reason[unusable] = len(self.conjuncts)
        return reason

    def _decide(self, pool: Pool, priority: Priority, cut: int, tie_cut: int, batch: Batch) -> Mapping[str, pa.Array]:
        reason = self._first_reason(batch)
        first = len(self.conjuncts)
        reason[(reason < 0) & np.isnan(priority(batch))] = first + 1
        if cut != EVERYTHING:
            keys, _ = self._keys(priority, batch)
            ties = seeds.hash64(pool.seed, "cut", batch.doc_ids)
            kept = (keys < np.uint64(cut)) | ((keys == np.uint64(cut)) & (ties < np.uint64(tie_cut)))
            reason[(reason < 0) & ~kept] = first + 2
        names = pa.array([*(f"where: {text}" for text in self.conjuncts), "quarantined", "no score", "cut"])
        index = pa.array(reason, mask=reason < 0)
        return {
            f"{pool.name}_repeats": pa.array((reason < 0).astype(np.uint8)),
            f"{pool.name}_reason": names.take(index),
        }


def _histogram(keys: Any, prefix: int, turn: int, batch: Batch) -> Summary:
    values, mass = keys(batch)
    return {"mass": digit_histogram(values, mass, prefix, turn)}


def _check(gate: Gate, name: str, verdict: Mapping[str, Any]) -> None:
    """Raises RunFailedError if the stage that speaks for a column says why it should not be used."""
    if (refusal := verdict["refusals"].get(gate.score)) is not None:
        raise RunFailedError(
            f"select {name}: uses {gate.column}, {refusal}, or say `trust: [{gate.column}]` in this stage"
        )
