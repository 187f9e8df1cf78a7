"""A score as a function of cheap features: ridge, or gradient boosting, tried on documents that it was not fitted to.

Documents come in parts: `FOLDS` folds, between which the setting is chosen (the penalty, the number of trees), and
those held out, which take no part in it. The numbers about a method are those of the model of all folds on what was
held out; the model that is kept is fitted to all documents with the same setting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError, missing_extra
from tamis.kernels.arrow import Float32, Int64, UInt64
from tamis.kernels.eigen import eigen
from tamis.kernels.ridge import add_products, quadratic_form, shrunken, spreads, standardised, weighted_sums

Float64 = npt.NDArray[np.float64]

FOLDS = 5
HELD_OUT = -1
ROWS_TOGETHER = 4096  # turned into float64 at once; a multiple of four, as `add_products` asks
MOST_FEATURES = 4096  # of a ridge: a matrix of 128 MB per part, and minutes for its eigenvectors
PATIENCE = 30  # trees without a better error, after which the best number is taken as found


def parts_of(hashes: UInt64, held_out: float) -> Int64:
    """The part of each document: int64, (n), HELD_OUT for a share `held_out` of them, else a fold in turn.

    hashes : uint64, (n), random; the smallest are held out.
    """
    part = np.empty(len(hashes), np.int64)
    place = np.arange(len(hashes))
    part[np.argsort(hashes, kind="stable")] = np.where(place < round(held_out * len(hashes)), HELD_OUT, place % FOLDS)
    return part


class Model(Protocol):
    """Predicts a score from features."""

    def predict(self, x: Float32) -> Float64: ...

    def save(self, folder: Path) -> None: ...


class Trial(NamedTuple):
    """What a method gave. model : fitted to all documents. setting : what was chosen between the folds.

    predicted : float64, (h), of the documents held out, in their order, by the model of the others.
    """

    model: Model
    setting: Mapping[str, float]
    predicted: Float64


# ---- ridge ----


@dataclass(frozen=True)
class Ridge:
    """intercept + Σⱼ weights[j] · z[j], with z = (x - mean) / deviation, and x taken to lie between low and high.

    All float64, (d), but the intercept. A missing value (NaN) counts as the mean; a number beyond those of the fit as
    the nearest of them, so that a document unlike any of these is not carried to either end of the ranking.
    """

    low: Float64
    high: Float64
    mean: Float64
    deviation: Float64
    weights: Float64
    intercept: float

    def predict(self, x: Float32) -> Float64:
        """float64, (n). x : float32, (n, d). Every row is computed by itself, to the bit."""
        out = np.empty(len(x), np.float64)
        for rows in _chunks(len(x)):
            out[rows] = weighted_sums(self.standard(x[rows]), self.weights, self.intercept)
        return out

    def standard(self, x: Float32) -> Float64:
        """z: float64, (n, d)."""
        return standardised(x, self.low, self.high, self.mean, self.deviation)

    def save(self, folder: Path) -> None:
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(folder / "ridge.npz", **arrays)

    @classmethod
    def load(cls, folder: Path) -> Ridge:
        with np.load(folder / "ridge.npz", allow_pickle=False) as stored:
            arrays = {field.name: stored[field.name] for field in fields(cls)}
        return cls(**{**arrays, "intercept": float(arrays["intercept"])})


def try_ridge(x: Float32, y: Float64, part: Int64, penalties: Sequence[float]) -> Trial:
    """Ridge regression; the penalty is the one with the least squared error over the folds, the larger of equal ones.

    It minimises the mean of (y - intercept - w · z)² plus penalty · |w|², z being standardised.
    x : float32, (n, d), NaN where a value is missing. y : float64, (n). part : int64, (n), as `parts_of` makes it.
    Raises ContractError for more than 4,096 features.
    Source: Hoerl and Kennard 1970, Ridge regression.
    """
    if x.shape[1] > MOST_FEATURES:
        raise ContractError(
            f"ridge: expected at most {MOST_FEATURES:,} features, got {x.shape[1]:,}; take `by: boosting`, or vectors "
            "of fewer dimensions"
        )
    frame = Ridge(*spreads(x), np.zeros(x.shape[1]), 0.0)
    sums = moments(frame.standard, x, y, part)
    fit = sums[:FOLDS].sum(axis=0)
    grid = sorted(penalties, reverse=True)
    errors = np.zeros(len(grid))
    for fold in range(FOLDS):
        for at, solution in enumerate(solve(fit - sums[fold], grid)):
            errors[at] += quadratic_form(sums[fold], np.array([-solution[0], *(-solution[1:]), 1.0]))
    chosen = grid[int(errors.argmin())]
    models = [_with(frame, next(solve(total, [chosen]))) for total in (fit, sums.sum(axis=0))]
    return Trial(models[1], {"penalty": chosen}, models[0].predict(x[part == HELD_OUT]))


def moments(standard: Callable[[Float32], Float64], x: Float32, y: Float64, part: Int64) -> Float64:
    """Σ r rᵀ over the rows r = (1, z, y) of each part: float64, (FOLDS + 1, d + 2, d + 2), upper triangles.

    standard : x → z. The last part is what was held out. Rows are added in the order in which they come.
    """
    d = x.shape[1]
    sums = np.zeros((FOLDS + 1, d + 2, d + 2))
    for number in range(FOLDS + 1):
        own = np.flatnonzero(part == (number if number < FOLDS else HELD_OUT))
        for rows in _chunks(len(own)):
            z = standard(x[own[rows]])
            add_products(np.concatenate([np.ones((len(z), 1)), z, y[own[rows], None]], axis=1), sums[number])
    return sums


def solve(total: Float64, penalties: Sequence[float]) -> Iterator[Float64]:
    """(intercept, weights) for each penalty: float64, (d + 1). total : float64, (d + 2, d + 2), as of `moments`."""
    n = total[0, 0]
    full = np.triu(total) + np.triu(total, 1).T
    centred = full[1:, 1:] - np.outer(full[0, 1:], full[0, 1:]) / n
    means = full[0, 1:] / n
    values, vectors = eigen(centred[:-1, :-1])
    for penalty in penalties:
        weights = shrunken(vectors, values, np.ascontiguousarray(centred[:-1, -1]), penalty * n)
        intercept = means[-1] - math.fsum(weights * means[:-1])
        yield np.concatenate([[intercept], weights])


def _with(frame: Ridge, solution: Float64) -> Ridge:
    return Ridge(frame.low, frame.high, frame.mean, frame.deviation, solution[1:], float(solution[0]))


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, ROWS_TOGETHER):
        yield slice(start, start + ROWS_TOGETHER)


# ---- boosting ----


@dataclass(frozen=True)
class Boosting:
    """mean + deviation · the sum of LightGBM's trees, kept as LightGBM's own text."""

    text: str
    mean: float
    deviation: float

    def predict(self, x: Float32) -> Float64:
        """float64, (n). x : float32, (n, d). Every row is computed by itself, to the bit."""
        if not len(x):
            return np.zeros(0)
        raw = self._booster.predict(x, num_threads=1)
        return np.asarray(self.mean + self.deviation * raw, np.float64)

    @cached_property
    def _booster(self) -> Any:
        return _lightgbm().Booster(model_str=self.text)

    def save(self, folder: Path) -> None:
        (folder / "boosting.txt").write_text(self.text, encoding="utf-8")
        (folder / "units.json").write_text(json.dumps({"mean": self.mean, "deviation": self.deviation}))

    @classmethod
    def load(cls, folder: Path) -> Boosting:
        units = json.loads((folder / "units.json").read_text(encoding="utf-8"))
        return cls((folder / "boosting.txt").read_text(encoding="utf-8"), **units)


def try_boosting(x: Float32, y: Float64, part: Int64, trees: int, leaves: int, rate: float) -> Trial:
    """Gradient boosting of regression trees (LightGBM), at most `trees` of them: as many as suit the first fold best.

    One thread and its deterministic mode: the same bytes from the same rows in the same order.
    x : float32, (n, d), NaN where a value is missing. y : float64, (n). part : int64, (n), as `parts_of` makes it.
    Source: Ke et al. 2017, LightGBM.
    """
    known = part != HELD_OUT
    mean = math.fsum(y) / len(y)
    deviation = math.sqrt(math.fsum((y - mean) ** 2) / len(y))
    unit = (y - mean) / deviation if deviation > 0 else np.zeros(len(y))  # LightGBM takes tiny gains for none
    first = part == 0
    number = _grown(x, unit, known & ~first, trees, leaves, rate, against=first).best_iteration
    kept = [
        Boosting(_grown(x, unit, rows, number, leaves, rate).model_to_string(), mean, deviation)
        for rows in (known, np.ones(len(y), bool))
    ]
    return Trial(kept[1], {"trees": number}, kept[0].predict(x[~known]))


def _grown(
    x: Float32,
    y: Float64,
    rows: npt.NDArray[np.bool_],
    trees: int,
    leaves: int,
    rate: float,
    against: npt.NDArray[np.bool_] | None = None,
) -> Any:
    """A booster. against : rows whose error ends the growth."""
    lightgbm = _lightgbm()
    options = {
        "objective": "regression",
        "num_leaves": leaves,
        "learning_rate": rate,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": 0,
        "verbosity": -1,
    }
    fit = lightgbm.Dataset(x[rows], label=y[rows], params=options)
    if against is None:
        return lightgbm.train(options, fit, trees)
    valid = fit.create_valid(x[against], label=y[against])
    return lightgbm.train(
        options, fit, trees, valid_sets=[valid], callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)]
    )


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise missing_extra("lightgbm", "distill", "boosting") from error
    return lightgbm
