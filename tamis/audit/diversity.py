"""What diversity.json says, as the report shows it: tables of effective numbers and the spectra behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.audit.charts import Curve, curves
from tamis.audit.reader import Run

DRAWN = 7  # spectra in one chart: there are as many colours
VIEWS = ("raw", "centred")
AXES = ("rank of the eigenvalue", "its share of all")


@dataclass(frozen=True)
class Interval:
    """An effective number with the ends of its interval, None where there is none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """One group of documents. numbers: by order; within, between: by view; equal: by view, at the Vendi order."""

    label: str
    kind: str
    documents: int
    uses: int
    numbers: Mapping[str, float]
    centred: float
    within: Mapping[str, float] | None
    between: Mapping[str, float] | None
    equal_documents: int
    equal: Mapping[str, Interval] | None


@dataclass(frozen=True)
class Diversity:
    """diversity.json: the pool and the arms, the sources, and a chart of spectra by view."""

    raw: Mapping[str, Any]
    wholes: Sequence[Line]
    sources: Sequence[Line]
    charts: Mapping[str, str]
    labels: Sequence[str]  # of the curves, in the order of their colours
    order: str  # the one that intervals are shown for

    @property
    def few(self) -> Mapping[str, bool]:
        """Whether the samples for comparison are smaller than 50 documents per dimension."""
        sizes = self.raw["equal_documents"]
        return {name: size < self.raw["enough_documents"] for name, size in sizes.items()}


def load_diversity(run: Run) -> Diversity | None:
    """The run's diversity, or None if it has none (or only one from before its stages changed)."""
    path = run.path / "diversity.json"
    is_stale = any(stage.component == "diversity" and not stage.finished for stage in run.stages)
    if is_stale or not path.is_file():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not raw["documents"]:
        return None
    order = "1" if "1" in raw["orders"] else raw["orders"][0]
    lines = [_line(row, order) for row in raw["rows"]]
    wholes = [line for line in lines if line.kind in ("pool", "arm")]
    drawn = [row for row in raw["rows"] if row.get("spectrum")][:DRAWN]
    return Diversity(
        raw,
        wholes,
        [line for line in lines if line not in wholes],
        {view: _spectra(drawn, view) for view in VIEWS},
        [row["name"] for row in drawn],
        order,
    )


def _line(row: Mapping[str, Any], order: str) -> Line:
    groups, equal = row.get("groups"), row["equal"]
    return Line(
        _label(row),
        row["kind"],
        row["documents"],
        row["uses"],
        row["raw"],
        row["centred"][order],
        {view: groups[view]["within"] for view in VIEWS} if groups else None,
        {view: groups[view]["between"] for view in VIEWS} if groups else None,
        equal["documents"] if equal else 0,
        {view: Interval(*equal[view][order]) for view in VIEWS} if equal else None,
    )


def _label(row: Mapping[str, Any]) -> str:
    if row["kind"] == "rest":
        return "all other documents"
    return "(no source)" if row["name"] is None else str(row["name"])


def _spectra(rows: Sequence[Mapping[str, Any]], view: str) -> str:
    lines = [Curve(row["name"], [(rank, share) for rank, share in row["spectrum"][view]]) for row in rows]
    return curves([line for line in lines if line.points], *AXES)
