"""Vectors of gradients: which way a document would move a language model, stored for queries that come later."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tamis import seeds
from tamis.embedders.base import Embedder
from tamis.errors import ContractError
from tamis.kernels.arrow import Float32
from tamis.models.reference import ModelRef, OfModels, size_of, trained
from tamis.models.rows import Chosen, draw
from tamis.steps import Batch, Component, Fold, Pool, Steps, Summary, Train, Workshop

TIMED = 64  # documents that `tamis check` projects
LLAMA_LAYERS = 7  # linear ones of a block: query, key, value, output, gate, up, down
SAMPLE = "gradients"  # the stream that decides which documents the curvature is measured on


@dataclass(frozen=True)
class Gradients(OfModels, Embedder):
    """The gradient of each document's loss under a language model, projected and whitened: one vector of length one.

    The gradients of all linear layers but embedding and head are projected to `dimensions` numbers in all, the same
    for each layer, and multiplied layer by layer by H^(-1/2), H the mean outer product over a sample of the pool plus
    a ridge. The scorer `attribution` takes their cosine with a target's gradient.
    model : the name of a `train` stage, or a folder with a Hugging Face model and its tokenizer.
    projection : two_sided makes p × p numbers of a layer, from p random mixtures of its inputs and p of its outputs;
    one_sided as many inner products with random matrices of rank one, which are more exact for short documents and
    cost more. most_tokens : of a document count at most so many, from its beginning.
    sample : documents that H is measured on, drawn by a hash of their ids. damping : the ridge, in mean eigenvalues.
    Source: Chang et al. 2024, Scalable influence and fact tracing for large language model pretraining (TrackStar),
    without the optimiser's second moments.
    """

    model: ModelRef
    dimensions: Annotated[int, Field(gt=0, le=65536)] = 4096
    projection: Literal["two_sided", "one_sided"] = "two_sided"
    most_tokens: Annotated[int, Field(gt=0)] = 1024
    sample: Annotated[int, Field(gt=0)] = 10_000
    damping: Annotated[float, Field(gt=0, le=1000)] = 0.1

    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    @property
    def models(self) -> tuple[str | None, ...]:
        return (self.model,)

    @property
    def width(self) -> int:
        return self.dimensions

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        size = size_of(self.model, others)
        return () if size is None else self._lacking(LLAMA_LAYERS * size.layers)

    def _lacking(self, layers: int) -> list[str]:
        if self.dimensions >= layers:
            return []
        expected = f"expected {layers} or more, a number for each linear layer of {self.model}"
        return [f"dimensions: {expected}, got {self.dimensions}; raise it"]

    def steps(self, pool: Pool) -> Steps:
        model = (yield from trained(self.model))["folder"]
        documents = int((yield Fold(("doc_id",), _count))["documents"])
        wanted = self.sample + 4 * math.sqrt(self.sample)  # falls short of `sample` in 1 of 30,000 runs
        fit = partial(self._fit, pool, min(1.0, wanted / max(1, documents)), model)
        space = yield Train(
            "curvature", ("doc_id", "text"), fit, pretend=partial(self._pretend, pool, documents, model)
        )
        return replace(self.map(pool, partial(self._vectors, model, space["folder"])), gpu=True)

    def _chosen(self, pool: Pool, share: float, batch: Batch) -> Chosen:
        hashes = seeds.hash64(pool.seed, SAMPLE, batch.doc_ids)
        chosen = np.flatnonzero(seeds.within(hashes, share))
        texts = batch["text"].take(pa.array(chosen)).to_pylist()
        return texts, hashes[chosen], np.ones(len(chosen), np.int64)

    def _fit(self, pool: Pool, share: float, model: str, workshop: Workshop) -> dict[str, Any]:
        """Measures H on the first documents of the pool in the order of a hash of their ids."""
        from tamis.models.language import language_model

        read = language_model(model)
        batches = workshop.documents(None, ("doc_id", "text"))
        drawn = draw(batches, partial(self._chosen, pool, share), read.tokenizer)
        ids, offsets = replace(drawn, order=drawn.order[: self.sample]).arranged()
        space = self._plain(pool, model).whitened(read, ids, offsets, self.damping, workshop.report)
        space.save(workshop.folder)
        return {"model": self.model, "documents": len(offsets) - 1, "tokens": len(ids), **self._shape(space)}

    def _pretend(self, pool: Pool, documents: int, model: str, workshop: Workshop) -> dict[str, Any]:
        """Projections that are not whitened, and how long the sample would take."""
        from tamis.models.language import language_model

        read, space = language_model(model), self._plain(pool, model)
        space.save(workshop.folder)
        texts = next(workshop.documents(None, ("doc_id", "text")))["text"].slice(0, TIMED).to_pylist()
        began = time.perf_counter()
        space.vectors(read, *read.tokenizer.encode(texts))
        seconds = (time.perf_counter() - began) / max(1, len(texts))
        seconds *= min(self.sample, documents / workshop.share)
        return {"model": self.model, "_seconds": seconds, **self._shape(space)}

    def _plain(self, pool: Pool, model: str) -> Any:
        from tamis.models.gradients import linear_layers
        from tamis.models.language import language_model
        from tamis.models.projection import GradientSpace

        layers = linear_layers(language_model(model).model)
        if lacking := self._lacking(len(layers)):
            raise ContractError(f"{pool.name}: {lacking[0]}")
        return GradientSpace.plain(layers, self.dimensions, self.projection, pool.seed, self.most_tokens)

    def _shape(self, space: Any) -> dict[str, int]:
        return {"layers": len(space.roots), "numbers_per_layer": space.projection.numbers}

    def _vectors(self, model: str, space: str, batch: Batch) -> Float32:
        from tamis.models.language import language_model
        from tamis.models.projection import space_in

        read = language_model(model)
        return space_in(space, read.device.name).vectors(read, *read.encode(batch))


def _count(batch: Batch) -> Summary:
    return {"documents": np.array(len(batch), np.int64)}
