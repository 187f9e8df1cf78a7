"""Clusters whose documents help a target, found by looking at few documents of each (Quad)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.errors import ContractError
from tamis.expressions import Expression
from tamis.models.bandit import Arms, Played, Rule, play
from tamis.models.draws import Cells, Draws, Notes, Texts, added, joined, per_cluster, spill
from tamis.models.queries import by_ending
from tamis.models.reference import trained
from tamis.selectors.base import Float64, Selector
from tamis.steps import Batch, Columns, Component, Fold, Map, Pool, Publish, Steps, Summary, Train, Use, Workshop

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

Values = Callable[[Int64], Float64]  # of documents by their places among the draws
Measure = Callable[[Sequence[str | None]], Float64]
Find = Callable[[Draws, Workshop], Values]

TEXTS = "_drawn.arrow"
TIMED = 8  # influences that a rehearsal computes, to tell the time
MOST_PORTIONS = 1 << 22  # of all clusters: what is kept about each is in memory


@dataclass(frozen=True, kw_only=True)
class ClusterBandit(Selector):
    """Portions of clusters, taken if documents of the cluster that were looked at are good enough on the average.

    Clusters are the arms of a bandit. First every cluster is pulled once, then again and again the `at_once` clusters
    with the highest mean + alpha · √(2 ln Σ T / T), T the documents of a cluster looked at so far. A pull looks at
    `draws` documents of the cluster's next portion, and takes the portion if the mean is above the threshold. It ends
    with the budget, after `most_pulls`, or with the last portion; the arm holds the portions in the order in which
    they were taken, cut to the budget.

    clusters : a column of whole numbers; a document without one (null or negative) is not taken.
    influence : the name of an `influence` stage, whose measure of influence per token is computed for the documents
    looked at, and no others. target : which of its targets, if they have names.
    score : instead of `influence`, an expression over columns that every document has.
    alpha : 0 is greedy. threshold : results depend on it more than on anything else; there is no good default.
    unit : of alpha and threshold. `deviations` measures from the mean of the documents looked at first, in their
    standard deviations; `score` is the plain value, as in the paper.
    portion : documents that a pull decides about, roughly. draws : documents it looks at.
    Source: Zhang et al. 2024, Harnessing diversity for important data selection in pretraining large language models.
    """

    alpha: Annotated[float, Field(ge=0, le=1e12)]
    threshold: Annotated[float, Field(ge=-1e12, le=1e12)]
    portion: Annotated[int, Field(ge=1)]
    most_pulls: Annotated[int, Field(ge=1)]
    clusters: str = "prototypes_centroid"
    influence: str | None = None
    target: str | None = None
    score: str | None = None
    draws: Annotated[int, Field(ge=1, le=10_000)] = 10
    at_once: Annotated[int, Field(ge=1)] = 1
    unit: Literal["deviations", "score"] = "deviations"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.influence is None) == (self.score is None):
            got = "neither" if self.score is None else "both"
            raise ValueError(f"score: expected either score or influence (the name of a stage), got {got}")
        if self.target is not None and self.influence is None:
            raise ValueError("target: belongs to influence, got score; leave one of them out")

    @property
    def used(self) -> Sequence[str]:
        return (self.clusters, *(Expression(self.score).columns if self.score else ()))

    @property
    def _columns(self) -> Sequence[str]:
        """What the bandit itself reads."""
        return (*self.reads, "text") if self.influence else self.reads

    @property
    def uses(self) -> tuple[str, ...]:
        return (*super().uses, *((self.influence,) if self.influence else ()))

    def notes(self) -> Sequence[str]:
        most = self.most_pulls * self.draws
        what = "influences are computed" if self.influence else "scores are looked at"
        per = "standard deviations" if self.unit == "deviations" else "units of the score"
        line = f"at most {most:,} {what}; alpha {self.alpha:g}, threshold {self.threshold:g} {per}"
        return [*super().notes(), line]

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        about_influence = () if self.influence is None else self._about_influence(others.get(self.influence), others)
        return (*self._about_clusters(others), *about_influence)

    def _about_clusters(self, others: Mapping[str, Component]) -> Iterator[str]:
        """A `where:` may leave whole clusters out: how many pulls are enough is then known when they are counted."""
        made = [
            getattr(other, "clusters", None) for name, other in others.items() if self.clusters in other.columns(name)
        ]
        for many in made:
            if self.where is None and isinstance(many, int) and many > self.most_pulls:
                yield _few_pulls(many, self.most_pulls)

    def _about_influence(self, stage: Component | None, others: Mapping[str, Component]) -> Iterator[str]:
        target = getattr(stage, "target", None)
        if not hasattr(stage, "curvature") or target is None:
            there = ", ".join(name for name, other in others.items() if hasattr(other, "curvature")) or "none"
            yield (
                f"influence: expected the name of an `influence` stage before this one, got {self.influence!r}; "
                f"there are {there}"
            )
            return
        if (checkpoints := getattr(stage, "checkpoints", 1)) > 1:
            yield _many_checkpoints(checkpoints, self.influence or "")
        if _ending(self.target) not in by_ending(target):
            yield _no_target(tuple(by_ending(target)), self.target)

    def steps(self, pool: Pool) -> Steps:
        yield from self.approved(pool)
        counted = yield Fold(self.reads, self._count, merge=added)
        cells = self._cells(pool, counted)
        found = yield Fold(self.reads, partial(self._look, pool, cells), merge=partial(joined, self.draws))
        find: Find = partial(self._scored, pool, cells)
        pretend = None
        if self.influence is not None:
            find = partial(self._influenced, pool, cells, (yield from self._measure(self.influence)))
            pretend = partial(self._rehearse, pool, cells, found, find)
        play_it = partial(self._play, pool, cells, found, find)
        result = yield Train("bandit", self._columns, play_it, gpu=self.influence is not None, pretend=pretend)
        place = np.load(Path(result["folder"]) / "place.npy", allow_pickle=False)
        chosen = yield from self.chosen(pool, partial(self._priority, pool, cells, place))
        content = json.loads((Path(result["folder"]) / "bandit.json").read_text(encoding="utf-8"))
        findings = Publish(f"findings/{pool.name}.json", content, _told(content))
        assert isinstance(chosen, Map)
        return replace(chosen, apply=partial(self._explained, chosen.apply), findings=findings)

    # ---- the clusters and their portions ----

    def _possible(self, batch: Batch) -> tuple[UInt64, Bools]:
        """(cluster, whether it has one and nothing else is against it) of each document.

        Raises ContractError if the column is not of whole numbers.
        """
        column = batch[self.clusters]
        if not pa.types.is_integer(column.type):
            raise ContractError(
                f"clusters: expected a column of whole numbers, got {self.clusters!r} of {column.type}; "
                "name another column"
            )
        numbers = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        known = column.is_valid().to_numpy(zero_copy_only=False) & (numbers >= 0)
        return np.where(known, numbers, 0).astype(np.uint64), known & (self._first_reason(batch) < 0)

    def _count(self, batch: Batch) -> Summary:
        cluster, possible = self._possible(batch)
        at, documents = np.unique(cluster[possible], return_counts=True)
        return {"at": at, "documents": documents.astype(np.int64)}

    def _cells(self, pool: Pool, counted: Summary) -> Cells:
        cells = Cells(counted["at"], -(-counted["documents"] // self.portion))
        if len(cells.clusters) > self.most_pulls:
            raise ContractError(f"{pool.name}: {_few_pulls(len(cells.clusters), self.most_pulls)}")
        if cells.first[-1] > MOST_PORTIONS:
            raise ContractError(
                f"{pool.name}: portion: expected at most {MOST_PORTIONS:,} portions in all, got {cells.first[-1]:,}; "
                "raise it"
            )
        return cells

    def _portions(self, pool: Pool, cells: Cells, batch: Batch) -> tuple[Int64, UInt64]:
        """(portion, hash) of each document, -1 for one that has none."""
        cluster, possible = self._possible(batch)
        hashes = seeds.hash64(pool.seed, "cluster bandit", batch.doc_ids)
        return np.where(possible, cells.portions(cluster, hashes), -1), hashes

    def _look(self, pool: Pool, cells: Cells, batch: Batch) -> Summary:
        """What portions hold: documents and mass of each, and the hashes of those documents that come first."""
        portions, hashes = self._portions(pool, cells, batch)
        inside = portions >= 0
        at, group = np.unique(portions[inside], return_inverse=True)
        mass = np.zeros(len(at), np.int64)
        np.add.at(mass, group, self._mass(batch)[inside])
        documents = np.bincount(group, minlength=len(at)).astype(np.int64)
        first = Draws.lowest(portions[inside], hashes[inside], self.draws)
        return {"at": at, "documents": documents, "mass": mass, "portions": first.portions, "hashes": first.hashes}

    # ---- the game ----

    def _play(self, pool: Pool, cells: Cells, found: Summary, find: Find, workshop: Workshop) -> dict[str, Any]:
        draws = Draws(found["portions"], found["hashes"])
        first = np.searchsorted(found["at"], cells.first).astype(np.int64)
        limit = self.budget_tokens or self.budget_documents
        rule = Rule(self.alpha, self.threshold, self.at_once, self.most_pulls, limit, self.unit == "deviations")
        values = find(draws, workshop)
        played = play(Arms(first, found["mass"], cells.ties(pool.seed)), rule, partial(draws.values, values))
        place = np.full(int(cells.first[-1]), -1, np.int64)
        place[found["at"]] = played.place
        np.save(workshop.folder / "place.npy", place)
        held = {name: per_cluster(found[name], first) for name in ("documents", "mass")}
        by_cluster = {"cluster": cells.clusters.tolist(), "portions": np.diff(first).tolist(), **held}
        content = {**_facts(rule, played), "clusters": {**by_cluster, **played.by_arm()}}
        (workshop.folder / "bandit.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        (workshop.folder / TEXTS).unlink(missing_ok=True)
        return {"pulls": int(played.pulls.sum()), "taken": int(played.taken.sum()), "stopped": played.stopped}

    def _rehearse(self, pool: Pool, cells: Cells, found: Summary, find: Find, workshop: Workshop) -> dict[str, Any]:
        """The game with made up values, and how long the most influences that there may be would take."""
        draws = Draws(found["portions"], found["hashes"])
        values, some = find(draws, workshop), np.arange(min(1 + TIMED, len(draws)))
        values(some[:1])  # loads the model
        began = time.perf_counter()
        values(some)
        seconds = (time.perf_counter() - began) / TIMED * self.most_pulls * self.draws
        return {**self._play(pool, cells, found, lambda draws, _: draws.made_up, workshop), "_seconds": seconds}

    def _looked_at(
        self, pool: Pool, cells: Cells, draws: Draws, workshop: Workshop
    ) -> Iterator[tuple[Int64, pa.RecordBatch]]:
        """(places, documents) of each batch, of those that a pull may look at."""
        for batch in workshop.documents(columns=self._columns):
            places = draws.places(*self._portions(pool, cells, batch))
            yield places[places >= 0], batch.table.filter(pa.array(places >= 0))

    def _scored(self, pool: Pool, cells: Cells, draws: Draws, workshop: Workshop) -> Values:
        """The values of `score`; of documents that share an id, the lowest counts."""
        expression, values = Expression(self.score or ""), np.full(len(draws), np.nan)
        for places, documents in self._looked_at(pool, cells, draws, workshop):
            np.fmin.at(values, places, expression.over(documents).cast(pa.float64()).to_numpy(zero_copy_only=False))
        return lambda places: values[places]

    def _influenced(self, pool: Pool, cells: Cells, measure: Measure, draws: Draws, workshop: Workshop) -> Values:
        """Influence per token, found when asked for; texts and what was found are kept in the step's folder."""
        path, most = workshop.folder / TEXTS, self.most_pulls * self.draws
        if not path.exists():
            found = self._looked_at(pool, cells, draws, workshop)
            spill(path, ((places, documents["text"]) for places, documents in found))
        texts, notes = Texts.open(path, len(draws)), Notes(workshop.folder / "_influence.bin", len(draws))

        def find(places: Int64) -> Float64:
            workshop.report(len(notes) / most, f"{len(notes):,} influences, of at most {most:,}")
            return measure(texts.of(places).to_pylist())

        return lambda places: notes.values(places, find)

    def _measure(self, stage: str) -> Generator[Use, Any, Measure]:
        """What finds the influence of texts, by the compass of a stage and the model that it was made with."""
        made = yield Use(stage)
        if made["checkpoints"] > 1:
            raise ContractError(_many_checkpoints(made["checkpoints"], stage))
        if made["curvature"] != made["wanted"]:
            raise ContractError(_no_curvature(made["wanted"], stage))
        model = yield from trained(made["model"])
        return partial(_influence, model["folder"], made["folder"], made["most_tokens"], self.target)

    # ---- what comes of it ----

    def _priority(self, pool: Pool, cells: Cells, place: Int64, batch: Batch) -> Float64:
        """Portions in the order in which they were taken; within one, the cut goes by a hash."""
        portions, _ = self._portions(pool, cells, batch)
        places = place[portions] if len(place) else portions
        return np.where((portions >= 0) & (places >= 0), -places.astype(np.float64), np.nan)

    def _explained(self, decide: Callable[[Batch], Columns], batch: Batch) -> Columns:
        """What the cut decided; a document without a rank is told why."""
        columns = dict(decide(batch))
        numbers = batch[self.clusters]
        known = pc.fill_null(pc.greater_equal(numbers, pa.scalar(0, numbers.type)), False)
        (reason,) = (name for name in columns if name.endswith("_reason"))
        why = pc.if_else(known, "cluster not taken", "no cluster")
        columns[reason] = pc.if_else(pc.equal(columns[reason], "no score"), why, columns[reason])
        return columns


def _few_pulls(clusters: int, most_pulls: int) -> str:
    expected = f"expected at least one for each of {clusters:,} clusters"
    return f"most_pulls: {expected}, got {most_pulls:,}; raise it, or make fewer clusters"


def _many_checkpoints(checkpoints: int, stage: str) -> str:
    expected = f"expected a stage with one checkpoint, got {checkpoints} of {stage}"
    return f"influence: {expected}; give the bandit a stage of its own"


def _no_curvature(wanted: str, stage: str) -> str:
    expected = f"expected a stage that measured its curvature ({wanted}) on documents of the pool"
    return f"influence: {expected}, got none that {stage} could read; let more through its `where:`"


def _ending(target: str | None) -> str:
    """What follows the name of an influence stage in the columns of a target."""
    return "" if target is None else f"_{target}"


def _no_target(endings: Sequence[str], target: str | None) -> str:
    known = ", ".join(ending.removeprefix("_") or "none" for ending in endings)
    return f"target: expected one of the influence stage's ({known}), got {target!r}"


def _influence(
    model_folder: str, compass_folder: str, most_tokens: int, target: str | None, texts: Sequence[str | None]
) -> Float64:
    """Influence per token of each text: float64, (n); NaN where there is no token."""
    from tamis.models.influence import compass_in
    from tamis.models.language import language_model

    model = language_model(model_folder)
    compass = compass_in(compass_folder, model.device.name)
    name = _ending(target)
    if name not in compass.names:
        raise ContractError(_no_target(compass.names, target))
    ids, offsets = model.tokenizer.encode([text or "" for text in texts])
    with model.device.alone():
        sums, tokens = compass.scores(model, ids, offsets, most_tokens)
    return np.where(tokens > 0, sums[:, compass.names.index(name)] / np.maximum(tokens, 1), np.nan)


def _facts(rule: Rule, played: Played) -> dict[str, Any]:
    """What the findings say of the whole game."""
    return {
        **asdict(rule),
        "pulls": int(played.pulls.sum()),
        "documents_looked_at": int(played.drawn.sum()),
        "rounds": played.rounds,
        "centre": played.centre,
        "spread": played.spread,
        "taken": int(played.taken.sum()),
        "mass_taken": played.mass,
        "stopped": played.stopped,
    }


def _told(content: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal."""
    clusters = content["clusters"]
    some = sum(taken > 0 for taken in clusters["taken"])
    line = (
        f"{content['pulls']:,} pulls of {len(clusters['cluster']):,} clusters, {content['documents_looked_at']:,} "
        f"documents looked at; {content['taken']:,} portions of {some:,} clusters taken"
    )
    if content["stopped"] == "budget" and content["rounds"] == 1:
        full = "the budget was full after the first round, before any cluster was chosen by what was seen"
        return [line, f"{full}; raise threshold ({content['threshold']:g}), or make portions smaller"]
    if content["stopped"] == "budget" or content["budget"] is None:
        return [line]
    ended = "most_pulls" if content["stopped"] == "pulls" else "all portions"
    return [line, f"the budget was not reached: {content['mass_taken']:,} of {content['budget']:,} after {ended}"]
