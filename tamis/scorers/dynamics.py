"""Dynamics: how a language model learnt a document: its errors, its gradient, and both on the way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from tamis.errors import SpecError
from tamis.models.reference import OfModel, checkpoints_kept, checkpoints_of, trained
from tamis.scorers.base import Scorer, Scores, Values
from tamis.steps import Batch, Component, Pool, Steps

if TYPE_CHECKING:
    from tamis.models.dynamics import Checkpoint
    from tamis.models.language import LanguageModel

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Score = Literal["el2n", "grand", "vog", "tracin"]
Told = Mapping[str, Any]  # of a checkpoint: "folder", absolute, and "learning_rate"

FEWEST = {"el2n": 0, "grand": 0, "vog": 2, "tracin": 1}  # checkpoints that a score needs


@dataclass(frozen=True)
class Dynamics(OfModel, Scorer):
    """How hard a document is for a language model, by its predictions, its gradient and their course in training.

    model : the name of a `train` stage, or a folder with a Hugging Face model and its tokenizer.
    scores : any of
    el2n, the distance of the predicted distribution from the token that came, √(Σp² − 2p_y + 1), a mean over tokens;
    grand, the length of the gradient of the mean token loss by the linear layers;
    vog, the variance, over checkpoints, of the slope of the tokens' own logits by the input embeddings, a mean over
    embedding dimensions and tokens; tracin, Σ_c η_c ‖g_c‖² over checkpoints c with learning rate η_c, ‖g‖ as in grand.
    The last two need a model that kept its checkpoints (`keep: 4` in its train stage).
    most_tokens : of a document count at most so many, from its beginning; `<name>_tokens` has how many did, and
    `<name>_truncated` is true where that was not all. Of the summed loss, grand is times the tokens, tracin times their
    square. A document without a token has no score.
    Source: Paul, Ganguli, Dziugaite 2021 (EL2N, GraNd); Agarwal, D'souza, Hooker 2022 (VoG); Pruthi et al. 2020.
    """

    scores: Annotated[tuple[Score, ...], Field(min_length=1)] = ("el2n", "grand")
    most_tokens: Annotated[int, Field(gt=0)] = 1024

    def __post_init__(self) -> None:
        if len(set(self.scores)) < len(self.scores):
            raise ValueError(f"scores: expected each once, got {', '.join(self.scores)}")

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        kept = checkpoints_kept(self.model, others)
        return () if kept is None else self._lacking(kept)

    def _lacking(self, kept: int) -> list[str]:
        """What scores need more checkpoints than there are."""
        do = "write `keep: 4` in the train stage that makes it, or leave"
        return [
            f"scores: {score} expected a model that kept {FEWEST[score]} checkpoints or more, got {kept} of "
            f"{self.model}; {do} {score} out"
            for score in self.scores
            if kept < FEWEST[score]
        ]

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        own = {f"{name}_{score}": pa.float32() for score in self.scores}
        return {**own, f"{name}_tokens": pa.uint32(), f"{name}_truncated": pa.bool_()}

    def steps(self, pool: Pool) -> Steps:
        model = yield from trained(self.model)
        score = partial(self._score, model["folder"], self._checkpoints(model))
        return replace(self.map(pool, score), gpu=True)

    def _checkpoints(self, model: Told) -> tuple[Told, ...]:
        """What there is of them, where they are needed. Raises SpecError if that is not enough."""
        if not any(FEWEST[score] for score in self.scores):
            return ()
        found = checkpoints_of(model)
        if lacking := self._lacking(len(found)):
            raise SpecError(lacking[0])
        return found

    def _score(self, folder: str, checkpoints: tuple[Told, ...], batch: Batch) -> Scores:
        from tamis.models.dynamics import Checkpoint
        from tamis.models.language import language_model

        model = language_model(folder)
        ids, offsets = model.encode(batch)
        kept = [Checkpoint(told["folder"], told["learning_rate"]) for told in checkpoints]
        lengths = np.diff(offsets)
        tokens = np.minimum(lengths, self.most_tokens)
        found: dict[str, Values] = {}
        for score in self.scores:
            values = _values(score, model, kept, (ids, offsets, self.most_tokens), np.maximum(tokens, 1))
            unknown = (tokens == 0) | ~np.isfinite(values)
            found[f"_{score}"] = pa.array(values.astype(np.float32), mask=unknown)
        return {**found, "_tokens": tokens.astype(np.uint32), "_truncated": lengths > self.most_tokens}


def _values(
    score: Score, model: LanguageModel, kept: Sequence[Checkpoint], some: tuple[Any, Any, int], tokens: Int64
) -> Float64:
    """One score of each document: float64, (n)."""
    from tamis.models import dynamics

    if score == "el2n":
        return dynamics.mean_errors(model, *some)
    if score == "vog":
        return dynamics.gradient_variances(model, [each.in_place_of(model).model for each in kept], *some)
    if score == "grand":
        return np.asarray(np.sqrt(dynamics.squared_norms(model, *some)) / tokens, np.float64)
    return dynamics.self_influence(model, kept, *some) / tokens.astype(np.float64) ** 2
