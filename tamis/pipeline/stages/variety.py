"""What sums of vectors say about variety: effective numbers at several orders, raw and centred, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32
from tamis.kernels.eigen import eigen
from tamis.kernels.gram import quadratic
from tamis.kernels.spectrum import QUANTUM_FLOOR, Moments, influence_weights, spectrum, vendi, within

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

LEVEL = 0.95
DEVIATIONS = 1.959964  # either side of a normal distribution's middle that hold LEVEL of it
DRAWN_SHARES = 48  # eigenvalues of a spectrum that are written down, at ranks spread evenly on a logarithmic axis
SQUARE_UNIT = 2.0**16  # squares of influences are added up as multiples of 1 / SQUARE_UNIT
LARGEST_SQUARE = 2.0**26  # and count as this at most, so that a million of them fit an int64
VIEWS = ("raw", "centred")


def order_named(name: str | float) -> float:
    return math.inf if name == "inf" else float(name)


def order_label(name: str | float) -> str:
    return "inf" if name == "inf" else f"{name:g}"


def rounded(value: float) -> float:
    """Six digits, about as many as the rounding of vectors leaves a meaning."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Numbers:
    """How a run counts: the orders, and the mean of all vectors of the pool, from which centred numbers start.

    orders : as written, 0 to "inf". centre : float64, (d), frozen: the same for every group of documents.
    """

    orders: tuple[str | float, ...]
    centre: Float64

    def covariance(self, found: Moments, view: str) -> Float64:
        return found.covariance(self.centre if view == "centred" else None)

    def spectra(self, found: Moments) -> dict[str, Float64]:
        """View → eigenvalues as shares."""
        return {view: spectrum(self.covariance(found, view), QUANTUM_FLOOR) for view in VIEWS}

    def effective(self, spectra: Mapping[str, Float64]) -> dict[str, dict[str, float]]:
        """View → order → effective number of documents."""
        return {
            view: {order_label(order): rounded(vendi(shares, order_named(order))) for order in self.orders}
            for view, shares in spectra.items()
        }

    def between(self, groups: Sequence[Moments], spectra: Mapping[str, Float64]) -> dict[str, dict[str, float]]:
        """View → the number within groups, between them, and their product, which is that of all at order 1."""
        found = {}
        for view, shares in spectra.items():
            inner = within([self.covariance(group, view) * group.uses for group in groups], QUANTUM_FLOOR)
            total = vendi(shares)
            between = total / inner if inner else 0.0
            found[view] = {"within": rounded(inner), "between": rounded(between), "all": rounded(total)}
        return found


def thinned(shares: Float64) -> list[list[float]]:
    """(rank, share) of some eigenvalues, spread evenly over the logarithm of the rank."""
    if len(shares) == 0:
        return []
    ranks = np.unique(np.rint(np.geomspace(1, len(shares), DRAWN_SHARES)).astype(np.int64))
    return [[int(rank), rounded(float(shares[rank - 1]))] for rank in ranks]


@dataclass(frozen=True)
class Influences:
    """What one document adds to ln VS of each of some groups: the eigenvectors are found once in a process."""

    numbers: Numbers
    groups: tuple[Moments, ...]

    @cached_property
    def _projections(self) -> list[list[tuple[Float64, Float64, Float64]]]:
        return [[self._projection(group, view) for view in VIEWS] for group in self.groups]

    def _projection(self, group: Moments, view: str) -> tuple[Float64, Float64, Float64]:
        """(eigenvectors, centre, weights by order) of one group."""
        values, vectors = eigen(self.numbers.covariance(group, view))
        values = np.maximum(values, 0.0)
        weights = [influence_weights(values, order_named(order)) for order in self.numbers.orders]
        centre = self.numbers.centre if view == "centred" else np.zeros(len(values))
        return vectors, centre, np.stack(weights, axis=1)

    def squares(self, group: int, vectors: Float32, repeats: Int64) -> Int64:
        """The sum of squared influences of these documents on one group: int64, (views, orders).

        vectors : float32, (n, d), known ones. repeats : int64, (n), how often the group uses each.
        """
        total = np.zeros((len(VIEWS), len(self.numbers.orders)), np.int64)
        if len(vectors):
            for view, (axes, centre, weights) in enumerate(self._projections[group]):
                found = quadratic(vectors, axes, centre, weights) * repeats[:, None]
                total[view] = np.rint(np.minimum(found * found, LARGEST_SQUARE) * SQUARE_UNIT).astype(np.int64).sum(0)
        return total

    def intervals(self, group: int, squares: Int64) -> dict[str, dict[str, list[float | None]]]:
        """View → order → effective number, and the ends of its interval on the logarithmic scale; none at order 0."""
        found = self.groups[group]
        values = self.numbers.effective(self.numbers.spectra(found))
        deviations = np.sqrt(squares / SQUARE_UNIT) / max(found.uses, 1)
        told: dict[str, dict[str, list[float | None]]] = {}
        for view, by_order in zip(VIEWS, deviations, strict=True):
            told[view] = {}
            for order, deviation in zip(self.numbers.orders, by_order.tolist(), strict=True):
                value = values[view][order_label(order)]
                factor = math.exp(DEVIATIONS * deviation)
                known = order_named(order) > 0 and found.documents > 1
                ends = [rounded(value / factor), rounded(value * factor)] if known else [None, None]
                told[view][order_label(order)] = [value, *ends]
        return told


def told(content: Mapping[str, Any]) -> list[str]:
    """One line about the pool, and one about each arm against it at equal numbers of documents."""
    pool = next((row for row in content["rows"] if row["kind"] == "pool"), None)
    if pool is None or not pool["documents"]:
        return [f"no document has a vector in {content['of']}"]
    numbers = pool["groups"] or {}
    parts = (
        f", {numbers['raw']['within']:,.4g} within and {numbers['raw']['between']:,.4g} between sources"
        if numbers
        else ""
    )
    key = "1" if "1" in content["orders"] else content["orders"][0]
    said = f"{pool['documents']:,} documents are as varied as {pool['raw'][key]:,.4g} that have nothing in common"
    lines = [f"pool: {said}{parts}"]
    lines += [_against(row, pool, key) for row in content["rows"] if row["kind"] == "arm" and row["documents"]]
    return lines


def _against(row: Mapping[str, Any], pool: Mapping[str, Any], key: str) -> str:
    (arm, arm_low, arm_high), (all_, low, high) = row["equal"]["raw"][key], pool["equal"]["raw"][key]
    said = f"{row['name']}: {arm:,.4g}{_span(arm_low, arm_high)} against the pool's {all_:,.4g}{_span(low, high)}"
    if None in (arm_low, low):
        return said
    verdict = "less varied" if arm_high < low else "more varied" if arm_low > high else "no different, as far as shown"
    return f"{said} at {row['equal']['documents']:,} documents: {verdict}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None else f" [{low:,.4g}, {high:,.4g}]"
