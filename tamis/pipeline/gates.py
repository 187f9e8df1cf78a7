"""Which verify stage speaks for which column: what select stages wait for, and what they say was not verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from tamis.errors import SpecError
from tamis.expressions import Expression
from tamis.selectors.base import Gate, Selector

ESTIMATES = ("attribution", "influence")  # scorers whose columns may be worth nothing: worth a word if not verified

FACTS = ("census", "length", "repetition", "tokens")  # what is measured of a text itself: a filter by it is no claim

SELF_JUDGED = ("distill",)  # scorers whose training says how well it went, for the column of their name

NOBODY = ("", "")

Verdict = tuple[str, str]  # a verify stage, and which of its scores
Maker = tuple[str, str]  # a stage that makes columns, and toward which of its targets: "" if it does not have several


class Gates:
    """The columns that stages have made so far, and the scores that verify stages have looked at.

    A verdict on a column speaks for all columns of the stage that made it, unless one of these has a verdict of its
    own; of a stage with several targets, for those toward the same target: `<name>_<target>` and what begins so, of
    several the longest. That on an expression speaks for the same expression, in whatever spaces and brackets. Either
    also speaks for columns that were made `of` what it speaks for.
    Where a `score:` was verified as a whole, its columns need no verdict of their own. Of `where:` and budgets, facts
    about a text wait for none: a filter by length does not say what helps the target.
    A stage that learns a column from others judges its own work: that counts beside verdicts on what it learnt.
    """

    def __init__(self) -> None:
        self._components: dict[str, str] = {}  # name of a stage → its component
        self._facts: set[str] = set()  # columns that say what a text is
        self._makers: dict[str, tuple[Maker, Any]] = {}  # column → what made it, and with which options
        self._of_scores: dict[str, list[Verdict]] = {}  # spelling of a column or an expression → verdicts
        self._of_makers: dict[Maker, list[Verdict]] = {}  # → verdicts on its columns
        self._own: dict[str, list[Verdict]] = {}  # column → the verdict of the stage that learnt it

    def made(self, name: str, component: str, built: Any) -> None:
        """A stage that makes columns; those that hold no measure (whether, how many) have nothing to verify."""
        self._components[name] = component
        if component in FACTS:
            self._facts.update(built.columns(name))
        if component in SELF_JUDGED:
            self._own[name] = [(name, name)]
        measures = [column for column, kind in built.columns(name).items() if pa.types.is_floating(kind)]
        for column in measures:
            self._makers[column] = (name, _target(column.removeprefix(name), built)), built

    def verified(self, stage: str, scores: Sequence[str]) -> None:
        """A verify stage, and the columns and expressions that it looks at."""
        for score in scores:
            spelling = Expression(score).spelling
            self._of_scores.setdefault(spelling, []).append((stage, score))
            if spelling in self._makers:
                self._of_makers.setdefault(self._makers[spelling][0], []).append((stage, score))

    def before(self, selector: Selector) -> Selector:
        """The selector, told which verdicts to wait for. Raises SpecError for trust in what it does not use."""
        if selector.gates:
            raise SpecError("gates: a select stage does not say them itself; write a verify stage before it")
        found = self._of(selector)
        if unknown := [name for name in selector.trust if name not in (*found, *selector.reads)]:
            known = ", ".join(found) or "none that verify stages or estimates stand behind"
            raise SpecError(f"trust: expected columns that this stage uses ({known}), got {unknown[0]!r}")
        gates = [
            Gate(column, *verdict)
            for column, verdicts in found.items()
            if column not in selector.trust
            for verdict in verdicts
        ]
        return replace(selector, gates=tuple(gates))

    def _of(self, selector: Selector) -> dict[str, list[Verdict]]:
        """Column, expression, or stage whose training it uses → verdicts on it."""
        reads = [name for name in selector.reads if name in selector.used or name not in self._facts]
        found = {name: self._behind(name) for name in reads}
        if (score := getattr(selector, "score", None)) is not None:
            spelling = Expression(score).spelling
            if spelling in self._of_scores:
                filters = Expression(selector.where).columns if selector.where else ()
                for name in set(selector.used).difference(filters):
                    found[name] = [verdict for verdict in found[name] if verdict != NOBODY]
            found.setdefault(" ".join(score.split()), self._behind(spelling))
        target = getattr(selector, "target", None) or ""
        for stage in selector.uses:
            found[stage] = self._of_makers.get((stage, target)) or self._nobody(stage)
        return {name: verdicts for name, verdicts in found.items() if verdicts}

    def _behind(self, spelling: str) -> list[Verdict]:
        """The verdicts that speak for a column or an expression; that of nobody, if it is an estimate without one."""
        if spelling in self._of_scores:
            return self._of_scores[spelling]
        if spelling not in self._makers:
            return []
        maker, built = self._makers[spelling]
        if maker in self._of_makers:
            return self._of_makers[maker]
        verdicts = [*self._own.get(spelling, []), *self._learnt(getattr(built, "of", None))]
        return list(dict.fromkeys(verdicts)) or self._nobody(maker[0])

    def _learnt(self, source: Any) -> list[Verdict]:
        """The verdicts on what a column is made of: on the expression as a whole, and on its columns."""
        if not isinstance(source, str):
            return []
        expression = Expression(source)
        whole = self._of_scores.get(expression.spelling, [])
        parts = [verdict for column in expression.columns for verdict in self._behind(column)]
        return [*whole, *(verdict for verdict in parts if verdict != NOBODY or not whole)]

    def _nobody(self, stage: str) -> list[Verdict]:
        return [NOBODY] if self._components.get(stage) in ESTIMATES else []


def _target(ending: str, built: Any) -> str:
    """Which of several targets a column is toward, by what follows its stage's name: "" if none is named there."""
    targets = getattr(built, "target", None)
    named = targets if isinstance(targets, Mapping) else ()
    return max((name for name in named if f"{ending}_".startswith(f"_{name}_")), key=len, default="")
