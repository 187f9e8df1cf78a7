"""Influence: how much training on a document would lower the loss on a target, from gradients of a trained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.errors import SpecError
from tamis.models.queries import BYTES_PER_TOKEN, Target, by_ending, encoded, expected_tokens, first, named, sizes
from tamis.models.reference import OfModel, checkpoints_kept, checkpoints_of, trained
from tamis.models.rows import Chosen
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch, Component, Fold, Pool, Publish, Steps, Summary, Train, Workshop

if TYPE_CHECKING:
    from tamis.models.influence import Encoded
    from tamis.models.language import LanguageModel
    from tamis.models.tokenizer import Tokenizer

Told = Mapping[str, Any]

MARGIN = 2  # times the text that the sample is expected to need is drawn for it
MORE = 8  # times as much where that was not enough
# Passes over the sample, a forward and backward pass counted as one: labels are a third, products with A, G and Λ the
# rest. Only `tamis check` wants to know; measured at sizes tiny to small.
PASSES = {"identity": 0.0, "diagonal": 1.9, "kfac": 1.9, "ekfac": 3.6}
TIMED_WINDOWS = 8


@dataclass(frozen=True)
class Influence(OfModel, Scorer):
    """How much a document helps a language model with a target, per token of the document; more is more helpful.

    model : the name of a `train` stage, or a folder with a Hugging Face model and its tokenizer.
    target : documents that the model should do well on; or several sets by name, scored in one pass.
    curvature : how gradients are compared. ekfac, kfac and diagonal divide them by three estimates of the Fisher
    information, of the linear layers; identity takes plain inner products.
    damping : of a layer's mean eigenvalue, added to all. sample_tokens : of the pool, drawn by document, on which the
    curvature is measured. target_tokens : of each target, at most.
    most_tokens : of a document count at most so many, from its beginning; `<name>_truncated` is true where that was not
    all. checkpoints : the last so many that training kept, each weighted by its learning rate; needs `keep:` there.
    `<name>` is the sum over the document's tokens, `<name>_sum`, by their number; several targets have a pair each,
    `<name>_<target>` and `<name>_<target>_sum`. By the tokens trained on, the sum is what the target's mean loss (nats
    per token) would rise by without the document, to first order. A document without a token has no score.
    Source: Koh and Liang 2017; George et al. 2018 (EK-FAC); Grosse et al. 2023.
    """

    target: Target
    curvature: Literal["identity", "diagonal", "kfac", "ekfac"] = "ekfac"
    damping: Annotated[float, Field(ge=0, le=1000)] = 0.1
    sample_tokens: Annotated[int, Field(gt=0)] = 400_000
    target_tokens: Annotated[int, Field(gt=0)] = 200_000
    most_tokens: Annotated[int, Field(gt=0)] = 1024
    checkpoints: Annotated[int, Field(ge=1, le=16)] = 1

    version: ClassVar[int] = 2
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", named(self.target))
        columns = self._columns("", pa.float32(), pa.float64())
        if len({name for name, _ in columns}) < len(columns):
            names = ", ".join(ending.removeprefix("_") for ending in by_ending(self.target))
            raise ValueError(f"target: expected names that make different columns, got {names}")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("doc_id", "text", "n_bytes")

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        kept = checkpoints_kept(self.model, others)
        return () if kept is None else self._lacking(kept)

    def _lacking(self, kept: int) -> list[str]:
        if self.checkpoints == 1 or kept >= self.checkpoints:
            return []
        expected = f"expected a model that kept {self.checkpoints} or more, got {kept} of {self.model}"
        return [f"checkpoints: {expected}; write `keep: {self.checkpoints}` in the train stage that makes it"]

    def _columns(self, name: str, each: Any, total: Any) -> list[tuple[str, Any]]:
        pairs = [[(f"{name}{target}", each), (f"{name}{target}_sum", total)] for target in by_ending(self.target)]
        return [*(pair for both in pairs for pair in both), (f"{name}_truncated", pa.bool_())]

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return dict(self._columns(name, pa.float32(), pa.float64()))

    def notes(self) -> Sequence[str]:
        if self.curvature == "identity":
            return ()
        return (f"measures the curvature ({self.curvature}) on {self.sample_tokens:,} tokens of the pool at most",)

    def steps(self, pool: Pool) -> Steps:
        held = yield from sizes(pool.name, self.target)
        model = yield from trained(self.model)
        marks = self._marks(model)
        total = int((yield Fold(("n_bytes",), _bytes_of))["bytes"])
        share = min(1.0, MARGIN * BYTES_PER_TOKEN * self.sample_tokens / max(1, total))
        make = partial(self._make, pool, share, model["folder"], marks)
        found = yield Train(
            "compass",
            ("doc_id", "text"),
            make,
            over=tuple(by_ending(self.target).values()),
            pretend=partial(self._pretend, model["folder"], marks, total, expected_tokens(held, self.target_tokens)),
        )
        score = partial(self._score, model["folder"], marks, found["folder"])
        return replace(self.map(pool, score), reads=("text",), gpu=True, findings=self._found(pool, found))

    def _found(self, pool: Pool, told: Told) -> Publish:
        """What the compass was made from; a line about the text that the curvature was measured on."""
        content = {key: value for key, value in told.items() if key != "folder" and not key.startswith("_")}
        if self.curvature == "identity":
            return Publish(f"findings/{pool.name}.json", content)
        line = f"the curvature ({self.curvature}) was measured on {told['sample_tokens']:,} tokens of the pool"
        if not told["sample_tokens"]:
            line = (
                f"no document has text: nothing is scored, and no curvature ({self.curvature}) measured; see `where:`"
            )
        return Publish(f"findings/{pool.name}.json", content, (line,))

    def _marks(self, model: Told) -> tuple[Told, ...]:
        """The models that count, the last one last: "folder" (None for the model itself), its "weight", its "place".

        Raises SpecError if there are not as many.
        """
        if self.checkpoints == 1:
            return ({"folder": None, "weight": 1.0, "place": "."},)
        kept = checkpoints_of(model)
        if lacking := self._lacking(len(kept)):
            raise SpecError(lacking[0])
        last = kept[-self.checkpoints :]
        rates = sum(mark["learning_rate"] for mark in last)
        marks = [
            {"folder": mark["folder"], "weight": mark["learning_rate"] / rates, "place": str(mark["step"])}
            for mark in last
        ]
        return (*marks[:-1], {**marks[-1], "place": "."})

    def _make(self, pool: Pool, share: float, folder: str, marks: Sequence[Told], workshop: Workshop) -> dict[str, Any]:
        """A compass for each model, in the folder of the last one or below it."""
        from tamis.models.influence import build_compass
        from tamis.models.language import language_model

        model = language_model(folder)
        sample = self._sample(pool, share, model.tokenizer, workshop)
        queries = {
            name: encoded(workshop.documents(over, ("text",)), model.tokenizer, pool.seed, self.target_tokens)
            for name, over in by_ending(self.target).items()
        }
        facts: dict[str, Any] = {}
        with model.device.alone():
            for number, mark in enumerate(marks):
                place = workshop.folder / mark["place"]
                place.mkdir(exist_ok=True)
                report = partial(_told, workshop, number, len(marks))
                how = (self.curvature if len(sample[0]) else "identity", self.damping)
                compass = build_compass(_at(model, mark), sample, queries, *how, pool.seed, report)
                compass.save(place)
                facts = {key: value for key, value in compass.facts.items() if key != "ridges"}
        return {**facts, **self._needle}

    def _sample(self, pool: Pool, share: float, tokenizer: Tokenizer, workshop: Workshop) -> Encoded:
        """Text that the curvature is measured on: all there is, if that is less than asked for; none for identity."""
        batches: Callable[[], Iterator[Batch]] = partial(workshop.documents, columns=("doc_id", "text"))
        if self.curvature == "identity":
            return first((), partial(_of_pool, pool.seed, share), tokenizer, self.sample_tokens)
        while True:
            ids, offsets = first(batches(), partial(_of_pool, pool.seed, share), tokenizer, self.sample_tokens)
            if share >= 1 or len(ids) + len(offsets) - 1 >= self.sample_tokens:
                break
            share = min(1.0, MORE * share)  # documents may be much longer than the sample
        return ids, offsets

    @property
    def _needle(self) -> dict[str, Any]:
        """What others have to know to ask the compass about documents of their own."""
        known = {"model": self.model, "most_tokens": self.most_tokens, "checkpoints": self.checkpoints}
        return {**known, "wanted": self.curvature}

    def _pretend(
        self, folder: str, marks: Sequence[Told], pool_bytes: int, aimed: int, workshop: Workshop
    ) -> dict[str, Any]:
        """Compasses that point anywhere, and how long the real ones would take: of a target with `aimed` tokens."""
        from tamis.models.influence import random_compass
        from tamis.models.language import language_model

        model, names = language_model(folder), tuple(by_ending(self.target))
        compass = random_compass(model, names)
        for mark in marks:
            place = workshop.folder / mark["place"]
            place.mkdir(exist_ok=True)
            compass.save(place)
        tokens = TIMED_WINDOWS * model.context
        some = np.full(tokens, model.end, np.uint32), np.arange(0, tokens + 1, model.context)
        began = time.perf_counter()
        with model.device.alone():
            compass.scores(model, *some, None)
        sample = min(self.sample_tokens, int(pool_bytes / workshop.share / BYTES_PER_TOKEN))
        passes = PASSES[self.curvature] * sample + aimed
        seconds = (time.perf_counter() - began) / tokens * passes * len(marks)
        return {"sample_tokens": sample, "curvature": self.curvature, **self._needle, "_seconds": seconds}

    def _score(self, folder: str, marks: Sequence[Told], compasses: str, batch: Batch) -> Scores:
        from tamis.models.influence import compass_in
        from tamis.models.language import language_model

        model = language_model(folder)
        ids, offsets = model.encode(batch)
        sums, tokens = np.zeros((len(batch), len(by_ending(self.target)))), np.zeros(len(batch), np.int64)
        with model.device.alone():
            for mark in marks:
                compass = compass_in(str(Path(compasses) / mark["place"]), model.device.name)
                found, tokens = compass.scores(_at(model, mark), ids, offsets, self.most_tokens)
                sums += mark["weight"] * found
        unknown = (tokens == 0) | ~np.isfinite(sums).all(axis=1)
        columns: dict[str, pa.Array] = {}
        for place, name in enumerate(by_ending(self.target)):
            mean = (sums[:, place] / np.maximum(tokens, 1)).astype(np.float32)
            columns |= {name: pa.array(mean, mask=unknown), f"{name}_sum": pa.array(sums[:, place], mask=unknown)}
        return {**columns, "_truncated": pa.array(np.diff(offsets) > self.most_tokens)}


def _at(model: LanguageModel, mark: Told) -> LanguageModel:
    """The model, as it was at a checkpoint if the mark is one."""
    from tamis.models.dynamics import Checkpoint

    return model if mark["folder"] is None else Checkpoint(mark["folder"], 0.0).in_place_of(model)


def _told(workshop: Workshop, number: int, marks: int, done: float, line: str) -> None:
    workshop.report((number + done) / marks, line if marks == 1 else f"checkpoint {number + 1} of {marks}, {line}")


def _bytes_of(batch: Batch) -> Summary:
    return {"bytes": np.array(pc.sum(batch["n_bytes"]).as_py() or 0, np.int64)}


def _of_pool(seed: int, share: float, batch: Batch) -> Chosen:
    hashes = seeds.hash64(seed, "curvature", batch.doc_ids)
    chosen = np.flatnonzero(seeds.within(hashes, share))
    texts = batch["text"].take(pa.array(chosen)).to_pylist()
    return texts, hashes[chosen], np.ones(len(chosen), np.int64)
