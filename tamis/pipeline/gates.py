"""Which verify stage speaks for which column: what select stages wait for, and what they say was not verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from tamis.errors import SpecError
from tamis.expressions import Expression
from tamis.selectors.base import Gate, Selector

ESTIMATES = ("attribution", "influence")  # scorers whose columns may be worth nothing: worth a word if not verified

SELF_JUDGED = ("distill",)  # scorers whose training says how well it went, for the column of their name

NOBODY = ("", "")

Verdict = tuple[str, str]  # a verify stage, and which of its scores


class Gates:
    """The columns that stages have made so far, and the scores that verify stages have looked at.

    A verdict on a column speaks for all columns of the stage that made it, unless one of these has a verdict of its
    own; also for columns that were made `of` one of them. That on an expression speaks for the same expression.
    A stage that learns a column from others judges its own work: that counts beside verdicts on what it learnt.
    """

    def __init__(self) -> None:
        self._components: dict[str, str] = {}  # name of a stage → its component
        self._makers: dict[str, tuple[str, Any]] = {}  # column → name and options of the stage that made it
        self._of_scores: dict[str, list[Verdict]] = {}  # column, or expression → verdicts
        self._of_makers: dict[str, list[Verdict]] = {}  # name of a stage → verdicts on its columns
        self._own: dict[str, list[Verdict]] = {}  # column → the verdict of the stage that learnt it

    def made(self, name: str, component: str, built: Any) -> None:
        """A stage that makes columns; those that hold no measure (whether, how many) have nothing to verify."""
        self._components[name] = component
        if component in SELF_JUDGED:
            self._own[name] = [(name, name)]
        measures = [column for column, kind in built.columns(name).items() if pa.types.is_floating(kind)]
        self._makers.update(dict.fromkeys(measures, (name, built)))

    def verified(self, stage: str, scores: Sequence[str]) -> None:
        """A verify stage, and the columns and expressions that it looks at."""
        for score in scores:
            self._of_scores.setdefault(_plain(score), []).append((stage, score))
            if _plain(score) in self._makers:
                self._of_makers.setdefault(self._makers[_plain(score)][0], []).append((stage, score))

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
        found: dict[str, list[Verdict]] = {}
        score = getattr(selector, "score", None)
        for name in (*([] if score is None else [_plain(score)]), *selector.reads):
            if verdicts := self._behind(name):
                found[name] = verdicts
        for stage in selector.uses:
            if verdicts := self._of_makers.get(stage) or ([NOBODY] if self._components.get(stage) in ESTIMATES else []):
                found[stage] = verdicts
        return found

    def _behind(self, name: str) -> list[Verdict]:
        """The verdicts that speak for a column or an expression; that of nobody, if it is an estimate without one."""
        if name in self._of_scores:
            return self._of_scores[name]
        if name not in self._makers:
            return []
        stage, built = self._makers[name]
        if stage in self._of_makers:
            return self._of_makers[stage]
        source = getattr(built, "of", None)
        behind = Expression(source).columns if isinstance(source, str) else ()
        learnt = [verdict for column in behind for verdict in self._behind(column)]
        if verdicts := [*self._own.get(name, []), *learnt]:
            return list(dict.fromkeys(verdicts))
        return [NOBODY] if self._components[stage] in ESTIMATES else []


def _plain(expression: str) -> str:
    """An expression as one line, so that the way it is written says nothing."""
    return " ".join(expression.split())
