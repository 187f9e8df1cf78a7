"""The rows of one step that one process trains on, and what is known of all rows of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.models.libraries import torch
from tamis.models.order import Step

Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32


@dataclass
class Here:
    """B rows are the step's, b of them this process's.

    share : which of the B. inputs, targets : int64, (b, T). counts : int64, (B), targets that count, from each row's
    start. losses : float32, (B), mean nats per token, 0 until known. weights : float32, (B); None where all are 1.
    """

    step: Step
    share: slice
    inputs: torch.Tensor
    targets: torch.Tensor
    counts: npt.NDArray[np.int64]
    losses: torch.Tensor
    weights: torch.Tensor | None
    effective: torch.Tensor | None = None  # rows that would vary as much, if weights come from losses

    @classmethod
    def of(cls, step: Step, share: slice, rows: Tokens, device: str) -> Here:
        """Reads this process's rows."""
        batch = torch.from_numpy(rows[step.rows[share]].astype(np.int64)).to(device)
        width = rows.shape[1] - 1
        counts = np.full(len(step.rows), width, np.int64)
        counts[-1] -= len(counts) * width - step.tokens
        weights = None if step.weights is None else torch.from_numpy(step.weights).to(device)
        losses = torch.zeros(len(counts), device=device)
        return cls(step, share, batch[:, :-1], batch[:, 1:], counts, losses, weights)

    def parts(self, rows: int) -> Iterator[slice]:
        """This process's rows, so many at a time."""
        return (slice(start, start + rows) for start in range(0, len(self.inputs), rows))

    def wanted(self, part: slice) -> torch.Tensor:
        """The targets that count, flat: int64."""
        return self.targets[part].flatten()[: int(self.counts[self.share][part].sum())]

    def scales(self, part: slice) -> float | torch.Tensor:
        """What each wanted token counts: one number for all, or float32, (n)."""
        if self.weights is None:
            return 1 / self.step.tokens
        each = (self.weights[self.share][part] / self.step.tokens).repeat_interleave(self.targets.shape[1])
        return each[: len(self.wanted(part))]

    def note(self, part: slice, losses: torch.Tensor) -> None:
        """Takes the losses of tokens, flat, as the mean losses of their rows."""
        counts = self.counts[self.share][part]
        whole = torch.zeros(len(counts) * self.targets.shape[1], device=losses.device)
        wanted = int(counts.sum())
        whole[:wanted] = losses[:wanted]
        means = whole.view(len(counts), -1).sum(1) / torch.from_numpy(counts).to(losses.device)
        self.losses[self.share][part] = means

    def mean_loss(self) -> torch.Tensor:
        """Nats per token of the step, a row that stands for others counting as much as they would."""
        counts = torch.from_numpy(self.counts).to(self.losses)
        if self.step.weights is not None:
            counts = counts * torch.from_numpy(self.step.weights).to(self.losses)
        return (self.losses * counts).sum() / counts.sum()
