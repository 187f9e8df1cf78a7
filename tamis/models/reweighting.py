"""Loss-based reweighting: rows of a batch count by how their loss compares with the others' (Sow et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

if TYPE_CHECKING:
    import torch

_BURN_IN = (1_000, 1 / 20)  # steps, as in the source, whose runs have 20,000; no more than this share of a shorter run
_FEWEST_TO_CLIP = 8  # rows


@dataclass(frozen=True)
class Reweight:
    """Weights of the rows of a batch: softmax(f(h) / temperature), where h in [−1, 1] is the loss between the extremes.

    strategy : lin_upper, f = h + 1, at most 1: rows of low loss count less. quadratic, f = 1 − h²: so do those of
    high loss. extremes, f = |h|: the opposite of quadratic.
    temperature : the largest weight is at most e^(1/temperature) times the smallest; infinity is no reweighting.
    burn_in : steps without it at first; by default 1,000, but no more than a twentieth of the run.
    clip : share of the losses on each side that is brought in to the next one, so that one outlier does not make all
    others equal; rounded up to whole rows, from 8 rows on.
    anneal : cosine goes from the temperature `start` at the end of the burn-in to `temperature` at the end of the run.
    Source: Sow et al., Dynamic Loss-Based Sample Reweighting (ICLR 2025), and its code.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    strategy: Literal["lin_upper", "quadratic", "extremes"] = "lin_upper"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    burn_in: Annotated[int, Field(ge=0)] | None = None
    clip: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    anneal: Literal["constant", "cosine"] = "constant"
    start: Annotated[float, Field(gt=0)] = 10.0

    def burn_in_steps(self, steps: int) -> int:
        """Steps of a run of so many that are trained as if there were no weights."""
        if self.burn_in is not None:
            return self.burn_in
        return min(_BURN_IN[0], math.ceil(_BURN_IN[1] * steps))

    def temperature_at(self, step: float, steps: int) -> float:
        """The temperature of a step after the burn-in."""
        if self.anneal == "constant":
            return self.temperature
        first = self.burn_in_steps(steps)
        progress = min(max((step - first) / max(steps - 1 - first, 1), 0.0), 1.0)
        return self.temperature + (self.start - self.temperature) * (1 + math.cos(math.pi * progress)) / 2

    def weights(self, losses: torch.Tensor, temperature: float) -> torch.Tensor:
        """float32, (B), sum 1, of mean losses per row, float32, (B); no gradient flows through them."""
        losses = _clipped(losses.detach().float(), self.clip)
        low, high = losses.min(), losses.max()
        h = (2 * losses - high - low) / (high - low).clamp_min(1e-6)
        f = {"lin_upper": (h + 1).clamp_max(1), "quadratic": 1 - h.square(), "extremes": h.abs()}[self.strategy]
        return (f / temperature).softmax(0)


def effective_rows(weights: torch.Tensor) -> torch.Tensor:
    """How many rows of equal weight would vary as much: 1 / Σw², a scalar in [1, B]."""
    return 1 / weights.square().sum()


def _clipped(losses: torch.Tensor, share: float) -> torch.Tensor:
    """Losses between the `share` and 1 − `share` quantiles, both taken inwards to a loss that occurs."""
    if len(losses) < _FEWEST_TO_CLIP or not share:
        return losses
    beyond = min(math.ceil(share * (len(losses) - 1)), (len(losses) - 1) // 2)
    ordered = losses.sort().values
    return losses.clamp(ordered[beyond], ordered[-1 - beyond])
