"""Which clusters are worth taking: an upper-confidence bandit whose arms are clusters of documents.

A cluster is cut into portions. A pull tries the next portion of a cluster: it looks at a few of its documents, and
takes the portion if what has been seen of the cluster so far is good enough on the average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tamis.kernels.log import log

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
Stopped = Literal["budget", "pulls", "portions"]
Draw = Callable[[Int64], Sequence[Float64]]


@dataclass(frozen=True)
class Arms:
    """k clusters of p portions in all.

    first : int64, (k + 1); the portions of arm i are those from first[i] to first[i + 1], at least one.
    mass : int64, (p), what each portion weighs against the budget.
    ties : uint64, (k); of arms with one score, the smallest comes first.
    """

    first: Int64
    mass: Int64
    ties: UInt64

    def __len__(self) -> int:
        return len(self.ties)


@dataclass(frozen=True)
class Rule:
    """How arms are pulled and portions taken.

    alpha : weight of the bonus for arms of which little was seen; 0 is greedy.
    threshold : what the mean of an arm must exceed for its portion to be taken.
    at_once : arms pulled before the scores are looked at again. most_pulls : in all, at least one per arm.
    budget : the mass at which it ends; None is all there is.
    standardised : whether means are measured from the mean of all values of the first pulls, in their standard
    deviations, for the score and for the threshold alike.
    """

    alpha: float
    threshold: float
    at_once: int
    most_pulls: int
    budget: int | None
    standardised: bool


@dataclass(frozen=True)
class Played:
    """What was done. pulls, drawn, taken : int64, (k): pulls, documents looked at, portions taken.

    means : float64, (k), of the values seen, in their own unit; NaN where there was none.
    standings : float64, (k), the means as the rule has them.
    place : int64, (p): the place in which a portion was taken, from 0; -1 if it was not.
    centre, spread : what standings are measured from and in; 0 and 1 unless standardised.
    mass : of the portions taken. rounds : how often scores were looked at. stopped : what ended it.
    """

    pulls: Int64
    drawn: Int64
    taken: Int64
    means: Float64
    standings: Float64
    place: Int64
    centre: float
    spread: float
    mass: int
    rounds: int
    stopped: Stopped

    def by_arm(self) -> dict[str, list[Any]]:
        """What is to be written down of each arm: lists of k, with null for a mean of nothing."""
        means = {"mean": self.means, "standing": self.standings}
        return {
            "pulls": self.pulls.tolist(),
            "looked_at": self.drawn.tolist(),
            **{name: [None if math.isnan(x) else x for x in values.tolist()] for name, values in means.items()},
            "taken": self.taken.tolist(),
        }


def play(arms: Arms, rule: Rule, draw: Draw) -> Played:
    """Pulls every arm once, then the arms with the highest scores, until the budget, the pulls or the portions end.

    draw : indices of portions, int64, (m) → for each, the values of the documents looked at, float64; not finite for
    a document that has none.
    What is taken in one round is taken by falling mean. Raises ValueError if there are more arms than pulls.
    Source: Auer, Cesa-Bianchi and Fischer 2002, UCB1; as Zhang et al. 2024 (Quad) have it for clusters of documents.
    """
    if rule.most_pulls < len(arms):
        raise ValueError(f"expected at least one pull per cluster ({len(arms):,}), got {rule.most_pulls:,}")
    bandit = _Bandit(arms, rule)
    while len(chosen := bandit.next()):
        bandit.learn(chosen, draw(bandit.portions(chosen)))
    return bandit.played()


def upper_bounds(standings: Float64, drawn: Int64, alpha: float) -> Float64:
    """CS = standing + alpha · √(2 ln Σ drawn / drawn): float64, (k); +∞ for an arm of which nothing was looked at.

    standings : float64, (k), NaN where no value is known: then the bonus alone. drawn : int64, (k).
    Source: Zhang et al. 2024, Harnessing diversity for important data selection (Quad), the cluster score.
    """
    logarithm = float(log(np.array([max(1, int(drawn.sum()))], np.float64))[0])
    bonus = alpha * np.sqrt(2 * logarithm / np.maximum(drawn, 1))
    return np.where(drawn == 0, np.inf, np.nan_to_num(standings, nan=0.0) + bonus)


class _Bandit:
    """The state of one game: counts and sums per arm, and which portions are taken."""

    def __init__(self, arms: Arms, rule: Rule) -> None:
        self._arms, self._rule = arms, rule
        self._pulls, self._drawn, self._known, self._taken = (np.zeros(len(arms), np.int64) for _ in range(4))
        self._sums = np.zeros(len(arms))
        self._place = np.full(len(arms.mass), -1, np.int64)
        self._centre, self._spread = 0.0, 1.0
        self._mass = self._rounds = self._count = 0

    def next(self) -> Int64:
        """The arms to pull now, the best first; none when it is over."""
        if not self._rounds:
            return np.argsort(self._arms.ties, kind="stable")
        if self._stopped() is not None:
            return np.zeros(0, np.int64)
        scores = np.where(self._open(), upper_bounds(self._standings(), self._drawn, self._rule.alpha), -np.inf)
        room = self._rule.most_pulls - int(self._pulls.sum())
        many = min(self._rule.at_once, room, int(np.count_nonzero(self._open())))
        least = np.partition(scores, -many)[-many]
        best = np.flatnonzero(scores >= least)
        return best[np.lexsort((self._arms.ties[best], -scores[best]))][:many]

    def portions(self, chosen: Int64) -> Int64:
        """The next portion of each arm."""
        return self._arms.first[chosen] + self._pulls[chosen]

    def learn(self, chosen: Int64, values: Sequence[Float64]) -> None:
        """Adds what was seen of the chosen arms, and takes the portions of those that are good enough."""
        portions = self.portions(chosen)
        known = [found[np.isfinite(found)] for found in values]
        for arm, found, seen in zip(chosen.tolist(), known, values, strict=True):
            self._pulls[arm] += 1
            self._drawn[arm] += len(seen)
            self._known[arm] += len(found)
            self._sums[arm] = math.fsum([self._sums[arm], *found.tolist()])
        if not self._rounds and self._rule.standardised:
            self._centre, self._spread = _scale(known)
        self._rounds += 1
        self._take(chosen, portions)

    def played(self) -> Played:
        return Played(
            self._pulls, self._drawn, self._taken, self._means(), self._standings(), self._place,
            self._centre, self._spread, self._mass, self._rounds, self._stopped() or "portions",
        )  # fmt: skip

    def _take(self, chosen: Int64, portions: Int64) -> None:
        standings = self._standings()[chosen]
        for index in np.lexsort((self._arms.ties[chosen], -np.nan_to_num(standings, nan=-np.inf))).tolist():
            if not standings[index] > self._rule.threshold or self._is_full():
                return
            self._place[portions[index]] = self._count
            self._count += 1
            self._taken[chosen[index]] += 1
            self._mass += int(self._arms.mass[portions[index]])

    def _means(self) -> Float64:
        return np.where(self._known > 0, self._sums / np.maximum(self._known, 1), np.nan)

    def _standings(self) -> Float64:
        return (self._means() - self._centre) / self._spread

    def _open(self) -> npt.NDArray[np.bool_]:
        return self._pulls < np.diff(self._arms.first)

    def _is_full(self) -> bool:
        return self._rule.budget is not None and self._mass >= self._rule.budget

    def _stopped(self) -> Stopped | None:
        if self._is_full():
            return "budget"
        if not self._open().any():
            return "portions"
        return "pulls" if self._pulls.sum() >= self._rule.most_pulls else None


def _scale(values: Iterable[Float64]) -> tuple[float, float]:
    """Mean and standard deviation of all values, correctly rounded sums; a deviation of 0 counts as 1."""
    known = [value for found in values for value in found.tolist()]
    if not known:
        return 0.0, 1.0
    centre = math.fsum(known) / len(known)
    spread = math.sqrt(math.fsum((value - centre) ** 2 for value in known) / len(known))
    return centre, spread or 1.0
