"""Which rows a step is trained on: a new permutation every epoch, and with InfoBatch not all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from tamis.models.sizes import Recipe

if TYPE_CHECKING:
    import torch

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

FEWEST_EPOCHS = 2  # a row's score is its loss the last time it was seen
_OTHER_STREAM = 1 << 63  # numbers that decide what is left out are not those that order the rows


@dataclass(frozen=True)
class Prune:
    """Leaves out rows that the model predicts well (InfoBatch): in every epoch, some of those below the mean loss.

    ratio : the probability with which a row whose last loss was below the mean of all is left out of an epoch; if
    it stays, it counts 1 / (1 − ratio), so that the expected gradient is that of all rows.
    until : the share of the epochs after which nothing is left out any more.
    Source: Qin et al., InfoBatch (ICLR 2024), algorithm 1, with a draw by row instead of an exact count.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    until: Annotated[float, Field(ge=0, le=1)] = 0.875

    def check(self, recipe: Recipe, rows: int) -> None:
        """Raises ValueError if rows come back less than once."""
        once = rows * recipe.row_tokens
        if recipe.tokens < FEWEST_EPOCHS * once:
            raise ValueError(
                f"prune: expected {FEWEST_EPOCHS} epochs or more, since a row is judged by its loss when it was last "
                f"seen, got {recipe.tokens / once:.2f}; raise tokens to {FEWEST_EPOCHS * once:,}, or leave prune out"
            )

    def weights(self, scores: Float32, seed: int, epoch: int) -> Float32:
        """What each row counts in an epoch, 0 where it is left out: float32, (R). scores : NaN where none is known."""
        known = scores[~np.isnan(scores)].astype(np.float64)
        if not len(known):
            return np.ones(len(scores), np.float32)
        low = scores < math.fsum(known) / len(known)  # exact, so that equal scores are not below their mean
        keys = np.random.Philox(key=np.array([seed, _OTHER_STREAM + epoch], np.uint64)).random_raw(len(scores))
        stays = (keys >> np.uint64(11)) * 2.0**-53 >= self.ratio
        return np.where(low, stays / (1 - self.ratio), 1.0).astype(np.float32)


@dataclass(frozen=True)
class Step:
    """Rows of one step. rows : int64, (B). weights : float32, (B), or None where all are 1. tokens : targets, in order.

    at, seen : tokens that the run has gone through before and after it, rows that are left out among them.
    """

    rows: Int64
    weights: Float32 | None
    tokens: int
    at: int
    seen: int


@dataclass
class Order:
    """The steps of a run over `count` rows, one after the other; with `prune`, what is known of the rows.

    place : rows gone by, trained on or left out.
    """

    recipe: Recipe
    count: int
    seed: int
    prune: Prune | None = None
    place: int = 0
    trained: int = 0  # rows
    scores: Float32 = field(init=False)  # the loss of each row when it was last seen
    weights: Float32 = field(init=False)  # what each row counts in this epoch
    _fresh: list[tuple[Int64, torch.Tensor]] = field(default_factory=list)  # scores that are still on the device

    def __post_init__(self) -> None:
        known = self.count if self.prune else 0
        self.scores, self.weights = np.full(known, np.nan, np.float32), np.ones(known, np.float32)

    @property
    def places(self) -> int:
        """Rows that the whole run goes through."""
        return -(-self.recipe.tokens // self.recipe.row_tokens)

    def next(self) -> Step | None:
        """The next step; None after the last."""
        at, stays = self.place, True
        rows: list[int] = []
        counts: list[float] = []  # of an epoch's rows before the next one is planned
        while len(rows) < self.recipe.batch_rows and self.place < self.places:
            epoch, turn = divmod(self.place, self.count)
            if self.prune and not turn:
                self._plan(epoch)
            row = int(row_order(self.seed, epoch, self.count)[turn])
            self.place += 1
            stays = not self.prune or bool(self.weights[row])
            rows += [row] * stays
            counts += [float(self.weights[row]) if self.prune else 1.0] * stays
        if not rows:
            return None
        self.trained += len(rows)
        chosen = np.array(rows, np.int64)
        width = self.recipe.row_tokens
        is_cut = stays and self.place == self.places  # the run's last row
        tokens = len(rows) * width - (self.places * width - self.recipe.tokens if is_cut else 0)
        weights = np.array(counts, np.float32)
        return Step(chosen, weights if (weights != 1).any() else None, tokens, at * width, self.place * width)

    def note(self, step: Step, losses: torch.Tensor) -> None:
        """What the rows of a step lost, in nats per token: float32, (B)."""
        if self.prune:
            self._fresh.append((step.rows, losses))

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it, as arrays."""
        self._settle()
        return {"order": np.array([self.place, self.trained]), "scores": self.scores, "row_weights": self.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.place, self.trained = (int(value) for value in state["order"])
        self.scores, self.weights = state["scores"], state["row_weights"]

    def _plan(self, epoch: int) -> None:
        assert self.prune is not None
        self._settle()
        if epoch < self.prune.until * self.recipe.tokens / (self.count * self.recipe.row_tokens):
            self.weights = self.prune.weights(self.scores, self.seed, epoch)
        else:
            self.weights = np.ones(self.count, np.float32)

    def _settle(self) -> None:
        for rows, losses in self._fresh:
            self.scores[rows] = losses.cpu().numpy()
        self._fresh.clear()


@lru_cache(maxsize=2)
def row_order(seed: int, epoch: int, rows: int) -> Int64:
    """The permutation of rows of one epoch: int64, (rows); from Philox's raw output, whose stream numpy keeps."""
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(rows)
    return np.argsort(keys, kind="stable")
