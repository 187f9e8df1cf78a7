"""Attribution: whether a document's stored gradient points where a target's does; no text of the pool is read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from tamis.errors import SpecError
from tamis.kernels.arrow import vectors_of
from tamis.kernels.gram import FINE_BITS, fixed_point
from tamis.models.queries import Target, by_ending, encoded, expected_tokens, named, sizes
from tamis.models.reference import trained
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch, Component, Documents, Pool, Steps, Train, Use, Workshop

Float64 = npt.NDArray[np.float64]

DIRECTIONS = "directions.npy"
TIMED_WINDOWS = 8  # that `tamis check` looks at


@dataclass(frozen=True)
class Attribution(Scorer):
    """How well a document's gradient agrees with a target's: their cosine, from the vectors of a `gradients` stage.

    of : the name of that stage, and so of its column. Its model, projection and H^(-1/2) make the target's vector, from
    the gradient of the target's mean token loss. target : documents that the model should do well on; or several sets
    by name, with columns `<name>_<target>`. target_tokens : of each target, at most.
    A positive cosine says that a small step for the document is one for the target, too; how long a step the document
    makes it does not say. A document without a token, or without a vector, has no score.
    Source: Chang et al. 2024 (TrackStar). Their mixing of H with the queries' own cannot be had from stored vectors.
    """

    target: Target
    of: str = "gradients"
    target_tokens: Annotated[int, Field(gt=0)] = 200_000

    seeded: ClassVar[bool] = True
    extra: ClassVar[str | None] = "train"
    needs: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "safetensors")

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", named(self.target))

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.of,)

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        if _has_space(others.get(self.of)):
            return ()
        there = [name for name, other in others.items() if _has_space(other)]
        do = (
            f"there are {', '.join(there)}"
            if there
            else f"add `- embed: {{by: {{gradients: {{as: {self.of}, model: …}}}}}}`"
        )
        return (f"of: expected the name of an `embed: gradients` stage before this one, got {self.of!r}; {do}",)

    @property
    def _targets(self) -> dict[str, Documents]:
        return by_ending(self.target)

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {f"{name}{ending}": pa.float32() for ending in self._targets}

    def steps(self, pool: Pool) -> Steps:
        held = yield from sizes(pool.name, self.target)
        space = yield Use(self.of)
        if "numbers_per_layer" not in space:
            raise SpecError(f"{pool.name}: of: expected the name of an `embed: gradients` stage, got {self.of!r}")
        model = (yield from trained(space["model"]))["folder"]
        aim = partial(self._aim, pool, model, space["folder"])
        over = tuple(self._targets.values())
        pretend = partial(self._pretend, model, space["folder"], expected_tokens(held, self.target_tokens))
        found = yield Train("directions", (), aim, over=over, pretend=pretend)
        return self.map(pool, partial(self._score, found["folder"]))

    def _aim(self, pool: Pool, model: str, space: str, workshop: Workshop) -> dict[str, Any]:
        """Each target's gradient as a vector of the space that the documents' are in."""
        from tamis.models.influence import mean_gradient
        from tamis.models.language import language_model
        from tamis.models.projection import space_in

        read, within = language_model(model), space_in(space, "cpu")
        directions, tokens = [], {}
        for place, (ending, over) in enumerate(self._targets.items()):
            workshop.report(place / len(self._targets), f"gradient of {ending[1:] or 'the target'}")
            documents = workshop.documents(over, ("text",))
            ids, offsets = encoded(documents, read.tokenizer, pool.seed, self.target_tokens)
            with read.device.alone():
                directions.append(within.direction(read, mean_gradient(read, ids, offsets)))
            tokens[ending] = len(ids)
        np.save(workshop.folder / DIRECTIONS, np.stack(directions))
        return {"target_tokens": tokens}

    def _pretend(self, model: str, space: str, aimed: int, workshop: Workshop) -> dict[str, Any]:
        """Directions that point anywhere, and how long the gradients of that many tokens would take."""
        from tamis.models.influence import mean_gradient
        from tamis.models.language import language_model
        from tamis.models.projection import space_in

        anywhere = np.eye(len(self._targets), space_in(space, "cpu").dimensions, dtype=np.float32)
        np.save(workshop.folder / DIRECTIONS, anywhere)
        read = language_model(model)
        tokens = TIMED_WINDOWS * read.context
        began = time.perf_counter()
        with read.device.alone():
            mean_gradient(read, np.full(tokens, read.end, np.uint32), np.arange(0, tokens + 1, read.context))
        seconds = (time.perf_counter() - began) / tokens * aimed
        return {"target_tokens": {}, "_seconds": seconds}

    def _score(self, folder: str, batch: Batch) -> Scores:
        directions = np.load(Path(folder) / DIRECTIONS, allow_pickle=False)
        cosines = exact_cosines(vectors_of(batch[self.of]), directions).astype(np.float32)
        columns = (pa.array(each, mask=np.isnan(each)) for each in cosines.T)
        return dict(zip(self._targets, columns, strict=True))


def _has_space(stage: Component | None) -> bool:
    """Whether what it trains is a space of projected gradients."""
    return hasattr(stage, "projection")


def exact_cosines(vectors: npt.NDArray[np.float32], directions: npt.NDArray[np.float32]) -> Float64:
    """The cosine of each vector with each direction: float64, (n, q); NaN where either has none.

    vectors, directions : float32, (n, d) and (q, d). They are rounded to multiples of 2^-25 first, so that the sums are
    whole numbers, the same in whatever order they are added up.
    """
    whole, known = fixed_point(vectors, FINE_BITS)
    aims, aimed = fixed_point(directions, FINE_BITS)
    cosines = (whole @ aims.T) / float(1 << (2 * FINE_BITS))
    return np.asarray(np.where(known[:, None] & aimed, cosines, np.nan), np.float64)
