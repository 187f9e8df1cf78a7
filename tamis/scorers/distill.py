"""Distill: a score that was measured on a sample, predicted for every document from columns that are cheap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from tamis import seeds
from tamis.errors import SpecError
from tamis.expressions import Expression
from tamis.models.features import Layout, layout, widths_in, widths_together
from tamis.models.held_out import Judgement, judged
from tamis.models.lds import spearman
from tamis.models.regression import HELD_OUT, Boosting, Ridge, Trial, parts_of, try_boosting, try_ridge
from tamis.scorers.base import Scorer
from tamis.steps import Batch, Columns, Fold, Map, Pool, Publish, Steps, Summary, Train, Workshop

Float64 = npt.NDArray[np.float64]

FEWEST = 10  # documents held out, and as many to fit to: with fewer nothing can be said
DEVIATIONS = 6  # by which a draw may miss its number of documents: it does so once in 10⁹


@dataclass(frozen=True)
class Distill(Scorer):
    """What a regression on other columns says an expensive score would be, for documents that were not scored, too.

    of : the score, a column or an expression over columns; documents where it is null or NaN are predicted, not learnt
    from. features : columns of numbers or of vectors, cheap ones that every document has. A missing number counts as
    the mean, and that it is missing is a feature of its own; a document with no feature at all has no score.
    by : ridge, linear in the features, or boosting (LightGBM), trees over them. penalties : of ridge, per document; the
    one with the least error over five folds is taken. trees : of boosting, at most; as many as suit a fifth of the
    documents best. leaves : of each tree. rate : what a tree's contribution is multiplied by.
    sample_documents : that are learnt from, at most, drawn by a hash of the id. held_out : share of them that the
    reported numbers are measured on; the model that scores is then fitted to all of them, with the same penalty or
    number of trees.
    findings/<name>.json holds the held-out rank correlation with its interval: where that includes 0, the column is
    worthless.
    Source: MATES (Yu et al. 2024) and PreSelect (Shum et al. 2025) score pretraining data in this way.
    """

    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    extra: ClassVar[str | None] = "distill"

    of: str
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    by: Literal["ridge", "boosting"] = "ridge"
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    sample_documents: Annotated[int, Field(ge=2 * FEWEST, le=10_000_000)] = 200_000
    penalties: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        0.0001,
        0.001,
        0.01,
        0.1,
        1.0,
        10.0,
        100.0,
    )
    trees: Annotated[int, Field(ge=1, le=100_000)] = 500
    leaves: Annotated[int, Field(ge=2, le=100_000)] = 31
    rate: Annotated[float, Field(gt=0, le=1)] = 0.05

    def __post_init__(self) -> None:
        if self.by == "boosting":  # ridge needs no package
            object.__setattr__(self, "needs", ("lightgbm",))
        try:
            learnt = Expression(self.of).columns
        except SpecError as error:
            raise ValueError(f"of: {error}") from error
        if twice := [name for name in self.features if name in learnt or self.features.count(name) > 1]:
            raise ValueError(f"features: expected each column once, and none that `of` reads, got {twice[0]!r}")

    @property
    def reads(self) -> Sequence[str]:
        return tuple(dict.fromkeys(("doc_id", "n_bytes", *Expression(self.of).columns, *self.features)))

    def steps(self, pool: Pool) -> Steps:
        found = yield Fold(self.reads, self._survey, merge=_surveys_together)
        plan = layout(pool.name, self.features, {key: found[key] for key in found if key != "documents"})
        documents = int(found["documents"])
        drawn = yield Fold(self.reads, partial(self._gather, pool.seed, plan, self._share(documents)), merge=_together)
        fit = partial(self._fit, pool.name, plan, drawn)
        learnt = yield Train("fit", (), fit, gpu=False, pretend=partial(_unjudged, fit))
        del drawn
        predict = partial(_predict, pool.name, Distilled(learnt["folder"], self.by, plan, learnt["documents"]))
        findings = self._findings(pool, documents, learnt)
        return Map(self.features, self.columns(pool.name), predict, findings=findings)

    def _share(self, documents: int) -> float:
        """The share of all hashes that holds the sample."""
        wanted = self.sample_documents + DEVIATIONS * math.sqrt(self.sample_documents)
        return min(1.0, wanted / max(1, documents))

    def _survey(self, batch: Batch) -> Summary:
        known = np.isfinite(_scores(self.of, batch))
        return {"documents": np.array(np.count_nonzero(known), np.int64), **widths_in(self.features, batch)}

    def _gather(self, seed: int, plan: Layout, share: float, batch: Batch) -> Summary:
        """The scored documents of the sample: their features, scores, sizes and two random integers each."""
        scores, hashes = _scores(self.of, batch), seeds.hash64(seed, "distill", batch.doc_ids)
        chosen = np.flatnonzero(np.isfinite(scores) & seeds.within(hashes, share))
        rows = Batch(batch.table.take(pa.array(chosen)))
        sizes = rows["n_bytes"].cast(pa.float64()).to_numpy(zero_copy_only=False)
        arrays = {f"feature {name}": values for name, values in plan.arrays(rows).items()}
        split = seeds.hash64(seed, "distill held out", rows.doc_ids)
        return {"hashes": hashes[chosen], "split": split, "scores": scores[chosen], "n_bytes": sizes, **arrays}

    def _fit(self, name: str, plan: Layout, drawn: Summary, workshop: Workshop) -> dict[str, Any]:
        """Fits, judges, and leaves the model in the folder; says why there is none."""
        arrays = {name: drawn[f"feature {name}"] for name in plan.columns}
        x, known = plan.matrix(arrays)
        order = order_of(drawn["hashes"], drawn["scores"], x)
        order = order[known[order]][: self.sample_documents]
        x, y, part = x[order], drawn["scores"][order], parts_of(drawn["split"][order], self.held_out)
        held = part == HELD_OUT
        if min(np.count_nonzero(held), np.count_nonzero(~held)) < FEWEST:
            return {"documents": 0, "scored": len(y), "held_out": int(held.sum()), "refusals": {}}
        workshop.report(0.0, f"{self.by} on {len(y):,} documents × {x.shape[1]:,} features")
        tried = self._try(x, y, part)
        tried.model.save(workshop.folder)
        sizes = {"n_bytes": drawn["n_bytes"], **{name: arrays[name][:, 0] for name in plan.numbers}}
        judgement = judged(tried.predicted, y[held])
        return {
            "documents": len(y),
            **_told(judgement),
            **tried.setting,
            "refusals": {} if judgement.reliable else {name: _refusal(name, judgement)},
            "baseline": baseline({name: values[order] for name, values in sizes.items()}, y, held),
        }

    def _try(self, x: npt.NDArray[np.float32], y: Float64, part: npt.NDArray[np.int64]) -> Trial:
        if self.by == "ridge":
            return try_ridge(x, y, part, self.penalties)
        return try_boosting(x, y, part, self.trees, self.leaves, self.rate)

    def _findings(self, pool: Pool, documents: int, learnt: Mapping[str, Any]) -> Publish:
        asked = {"of": self.of, "features": list(self.features), "by": self.by, "scored": documents}
        file = f"findings/{pool.name}.json"
        if not learnt["documents"]:
            got = f"{learnt['held_out']} of {learnt['scored']}"
            problem = (
                f"expected {FEWEST} documents or more on either side of the split, got {got} documents with a number "
                f"in `{self.of}` held out; score more of them first"
            )
            return Publish(file, {**asked, "documents": 0, "reliable": False}, problem=problem)
        found = {key: value for key, value in learnt.items() if key != "folder" and not key.startswith("_")}
        return Publish(file, {**asked, **found}, lines(self.of, found))


@dataclass(frozen=True)
class Distilled:
    """A model in a folder, read once in a process, when it is used.

    documents : it was fitted to; 0 if there is none.
    """

    folder: str
    by: str
    plan: Layout
    documents: int

    @cached_property
    def _model(self) -> Ridge | Boosting:
        return (Ridge if self.by == "ridge" else Boosting).load(Path(self.folder))

    def of(self, batch: Batch) -> Float64:
        """float64, (n), NaN for a document without features."""
        if not self.documents:
            return np.full(len(batch), np.nan)
        x, known = self.plan.matrix(self.plan.arrays(batch))
        return np.where(known, self._model.predict(x), np.nan)


def _predict(name: str, distilled: Distilled, batch: Batch) -> Columns:
    found = distilled.of(batch)
    return {name: pa.array(found.astype(np.float32), mask=np.isnan(found))}


def _scores(expression: str, batch: Batch) -> Float64:
    """float64, (n); NaN or infinite where there is no score."""
    score = Expression(expression)
    values = score.over(batch.table.select(list(dict.fromkeys(["doc_id", *score.columns])))).cast(pa.float64())
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def _surveys_together(one: Summary, other: Summary) -> Summary:
    return {"documents": one["documents"] + other["documents"], **widths_together(one, other)}


def _together(one: Summary, other: Summary) -> Summary:
    """Both samples, in any order: `order_of` puts them into one."""
    return {key: np.concatenate([one[key], other[key]]) for key in one}


def order_of(hashes: npt.NDArray[np.uint64], y: Float64, x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Documents by hash; those that share an id by score and features, so that their places in the corpus do not count.

    hashes : uint64, (n). y : float64, (n). x : float32, (n, d).
    """
    order = np.lexsort((y, hashes))
    same = np.concatenate([[False], np.diff(hashes[order]) == 0, [False]])
    edges = np.flatnonzero(np.diff(same.astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        run = slice(start, stop + 1)
        order[run] = sorted(order[run], key=lambda i: (y[i], x[i].tobytes()))
    return order


def baseline(columns: Mapping[str, npt.NDArray[Any]], y: Float64, held: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """The single number that orders the fitted documents best, up to its sign, and how it orders those held out.

    columns : name → (n), NaN for missing ones, which count as the mean. None if no column has a number.
    """
    found = {}
    for name, values in columns.items():
        known = values[~held & ~np.isnan(values)].astype(np.float64)
        if len(known):
            full = np.where(np.isnan(values), math.fsum(known) / len(known), values)
            found[name] = float(spearman(full[~held], y[~held])), float(spearman(full[held], y[held]))
    if not found:
        return None
    best = max(found, key=lambda name: abs(found[name][0]))
    return {"column": best, "spearman": math.copysign(1.0, found[best][0]) * found[best][1]}


def _refusal(name: str, found: Judgement) -> str:
    """Why a select stage should not use the column, and what to do."""
    rank = found.spearman
    got = f"a rank correlation of {rank.value:.3f} [{rank.low:.3f}, {rank.high:.3f}] on {found.documents:,} held out"
    return (
        f"expected one that orders documents that it was not learnt from, got {got} (findings/{name}.json); "
        "score more documents, or learn from other features"
    )


def _unjudged(fit: Callable[[Workshop], dict[str, Any]], workshop: Workshop) -> dict[str, Any]:
    """A fit to a sample of the sample, which says nothing about what it is worth."""
    return {**fit(workshop), "refusals": {}}


def _told(found: Judgement) -> dict[str, Any]:
    """As JSON holds it."""
    return {
        "held_out": found.documents,
        "spearman": found.spearman._asdict(),
        "r2": None if math.isnan(found.r2) else found.r2,
        "top_tenth_found": found.top_tenth,
        "reliable": found.reliable,
    }


def lines(of: str, found: Mapping[str, Any]) -> list[str]:
    """What the terminal says of a fit."""
    rank, alone = found["spearman"], found["baseline"]
    interval = f"{rank['value']:.3f} [{rank['low']:.3f}, {rank['high']:.3f}]"
    learnt = f"`{of}` learnt from {found['documents']:,} documents; rank correlation {interval}"
    if found["r2"] is None:
        return [
            f"WORTHLESS: `{of}` is the same number for all {found['held_out']:,} documents held out: no order to learn"
        ]
    said = [f"{learnt} on {found['held_out']:,} held out, {found['top_tenth_found']:.0%} of their best tenth found"]
    if not found["reliable"]:
        said.append("WORTHLESS: the interval of the rank correlation includes 0; do not select by this column")
    if alone is not None:
        verdict = "no more, as far as shown" if rank["low"] <= alone["spearman"] else "less"
        said.append(f"`{alone['column']}` alone has a rank correlation of {alone['spearman']:.3f}: {verdict}")
    return said
