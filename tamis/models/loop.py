"""The training loop: a model, its optimiser and how far they are; every step the same for any number of processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError
from tamis.models import build, checkpoint, flops, head
from tamis.models.device import Device
from tamis.models.libraries import torch
from tamis.models.method import Method
from tamis.models.order import Order, Step
from tamis.models.parallel import Ranks
from tamis.models.reweighting import effective_rows
from tamis.models.sizes import Recipe
from tamis.models.step import Here

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32
Report = Callable[[float, str], None]

CHECKPOINTS = "checkpoints"  # folder of the models that are kept along the way
_QUIET_SECONDS = 1.0  # between two reports of a long run; a short one reports fifty times
_UNSAVED_SECONDS = 300.0  # between two checkpoints, at most


@dataclass
class Loop:
    """As many steps are done as there are losses.

    keep : models to keep along the way, in `folder`. key : of the run, in its checkpoints. body : the transformer, if
    not the model's own. losses : mean nats per token of each step. effective : rows that would vary as much, each step.
    """

    model: PreTrainedModel
    recipe: Recipe
    method: Method
    rows: Tokens
    seed: int
    device: Device
    folder: Path
    key: str
    keep: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    body: Callable[..., Any] | None = None
    losses: list[float] = field(default_factory=list)
    effective: list[float] = field(default_factory=list)
    kept: list[tuple[int, float]] = field(default_factory=list)  # steps, and the rates of the last of them
    _compiled_rows: int = 0
    _pending: list[tuple[torch.Tensor, torch.Tensor | None]] = field(default_factory=list)  # reading them waits

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.named = sorted(self.model.named_parameters())
        groups = [
            {"params": [p for _, p in self.named if p.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for _, p in self.named if p.dim() <= 1], "weight_decay": 0.0},
        ]
        fused = self.device.kind != "mps"
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, eps=recipe.epsilon, fused=fused)
        self.order = Order(recipe, len(self.rows), self.seed, self.method.prune)
        self.flops_per_token = flops.flops_per_token(self.model, recipe.row_tokens)
        self.peak_flops = flops.peak_flops(self.device)

    def run(self, path: Path, every: int, report: Report) -> tuple[float, int]:
        """Trains to the end, with a checkpoint in `path` now and then; returns seconds and the tokens they took."""
        clock = _Clock(self.recipe, self.order.place)
        told, whole, step = max(1, self.recipe.steps // 50), self.recipe.tokens, None
        while (following := self.order.next()) is not None:
            step = following
            self._train_on(step)
            done = len(self.losses) + len(self._pending)
            clock.tokens += step.tokens
            if done % told == 0 or clock.is_due or step.seen >= whole:
                self._collect()
                report(min(step.seen / whole, 1.0), self._line(clock, step, done))
            self._keep(step, done)
            if (done % every == 0 or clock.is_at_risk) and step.seen < whole and self.ranks.is_first:
                self._collect()
                checkpoint.write(path, self.key, self.state(), self.named, self.optimizer)
                clock.saved()
        self._collect()
        if step and self.keep and step.seen < whole:  # no row after it was trained on: it was the last step
            self._save(len(self.losses), self.recipe.learning_rate_after(step.seen))
        return clock.seconds, clock.tokens

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and optimiser, as arrays."""
        return {
            "losses": np.array(self.losses, np.float64),
            "effective": np.array(self.effective, np.float64),
            "kept": np.array(self.kept, np.float64).reshape(-1, 2),
            **self.order.state(),
        }

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint."""
        state: Mapping[str, Any] = checkpoint.read(path, self.key, self.named, self.optimizer)
        self.losses, self.effective = state["losses"].tolist(), state["effective"].tolist()
        self.kept = [(int(step), rate) for step, rate in state["kept"].tolist()]
        self.order.restore(state)

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilisation, in [0, 1]; None where the device's peak is unknown."""
        if self.peak_flops is None:
            return None
        return tokens_per_second * self.flops_per_token / (self.peak_flops * self.ranks.count)

    def compile(self, report: Report) -> None:
        """Compiles the transformer and tries it on rows; where that does not work, says so and goes on without."""
        rows = max(1, self.device.micro_tokens // self.recipe.row_tokens)
        shape = (min(rows, self.ranks.share(self.recipe.batch_rows).stop or 1), self.recipe.row_tokens)
        tokens = torch.zeros(shape, dtype=torch.int64, device=self.device.name)
        try:
            body = torch.compile(self.model.model, dynamic=False)
            with self.device.autocast():
                head.scaled_losses(self.model, tokens, tokens.flatten(), 1.0, body)[0].backward()
        except Exception as error:  # noqa: BLE001 - whatever a compiler may raise, the model trains without it
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            report(0.0, f"torch.compile does not work here, training goes on without it: {reason}")
        else:
            self.body, self._compiled_rows = body, len(tokens)
        self.optimizer.zero_grad()

    # ---- one step ----

    def _train_on(self, step: Step) -> None:
        here = Here.of(step, self.ranks.share(len(step.rows)), self.rows, self.device.name)
        temperature = self._temperature(step)
        rows = max(1, self.device.micro_tokens // self.recipe.row_tokens)
        at_once = 0 < len(here.inputs) <= rows  # then weights are known before the last layer, without a pass for them
        if temperature is not None and not at_once:
            self._look(here, rows)
            self._weigh(here, temperature)
        loss = torch.zeros((), device=self.device.name)
        for part in here.parts(rows):
            scale = partial(self._scale_at_once, here, temperature) if temperature is not None and at_once else None
            inputs = here.inputs[part]
            body = self.body if len(inputs) == self._compiled_rows else None  # other shapes would be compiled again
            with self.device.autocast():
                summed, losses = head.scaled_losses(
                    self.model, inputs, here.wanted(part), scale or here.scales(part), body
                )
            summed.backward()
            loss += summed.detach()
            if temperature is None and self.method.prune:
                here.note(part, losses)
        self._note(here, loss, temperature)
        self._update(step)

    def _temperature(self, step: Step) -> float | None:
        """Of the weights that rows have by their losses; None where they have none."""
        reweight, at = self.method.reweight, step.at / self.recipe.batch_tokens
        if reweight is None or at < reweight.burn_in_steps(self.recipe.steps):
            return None
        return reweight.temperature_at(at, self.recipe.steps)

    def _look(self, here: Here, rows: int) -> None:
        """The losses of this process's rows, without gradients."""
        for part in here.parts(rows):
            with torch.no_grad(), self.device.autocast():
                here.note(part, head.token_losses(self.model, here.inputs[part], here.targets[part]).flatten())

    def _weigh(self, here: Here, temperature: float) -> None:
        """Gathers the losses of all rows, and turns them into weights whose mean is 1."""
        assert self.method.reweight is not None
        self.ranks.add(here.losses)
        weights = self.method.reweight.weights(here.losses, temperature)
        here.effective = effective_rows(weights)
        weights = weights * len(weights)
        here.weights = weights if here.weights is None else weights * here.weights

    def _scale_at_once(self, here: Here, temperature: float, losses: torch.Tensor) -> torch.Tensor:
        """What each token counts, from the losses of all of this process's tokens."""
        everything = slice(None)
        here.note(everything, losses)
        self._weigh(here, temperature)
        scales = here.scales(everything)
        assert isinstance(scales, torch.Tensor)
        return scales

    def _note(self, here: Here, loss: torch.Tensor, temperature: float | None) -> None:
        """Keeps what the step lost."""
        if temperature is None and self.method.prune:
            self.ranks.add(here.losses)
        if here.weights is None:
            self.ranks.add(loss)
        else:
            loss = here.mean_loss()
        self._pending.append((loss, here.effective))
        self.order.note(here.step, here.losses)

    def _update(self, step: Step) -> None:
        weights = [weight for _, weight in self.named]
        self.ranks.add_gradients(weights)
        torch.nn.utils.clip_grad_norm_(weights, self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_after(step.seen)
        self.optimizer.step()
        self.optimizer.zero_grad()

    # ---- what is known of it ----

    def _collect(self) -> None:
        """Reads the losses that are still on the device. Raises ContractError if one is no longer finite."""
        if not self._pending:
            return
        fresh = torch.stack([loss for loss, _ in self._pending]).cpu().tolist()
        effective = [rows for _, rows in self._pending if rows is not None]
        self._pending.clear()
        self.losses += fresh
        self.effective += torch.stack(effective).cpu().tolist() if effective else []
        if not np.isfinite(fresh).all():
            raise ContractError(
                f"training, step {len(self.losses)}: the loss is no longer finite; "
                f"lower the learning rate (now {self.recipe.learning_rate:.2g})"
            )

    def _keep(self, step: Step, done: int) -> None:
        """Saves the model whenever another of `keep` equal parts of the run is behind it."""
        whole = self.recipe.tokens
        if self.keep * min(step.seen, whole) // whole > self.keep * step.at // whole:
            self._save(done, self.recipe.learning_rate_after(step.seen))

    def _save(self, done: int, rate: float) -> None:
        self.kept.append((done, rate))
        if not self.ranks.is_first:
            return
        beside, place = self.folder / CHECKPOINTS / "_partial", self.folder / CHECKPOINTS / str(done)
        for path in (beside, place):
            shutil.rmtree(path, ignore_errors=True)
        build.save(self.model, beside)
        beside.rename(place)

    def _line(self, clock: _Clock, step: Step, done: int) -> str:
        """What a report says."""
        speed, left = clock.lap(step.seen)
        of = "" if self.method.prune else f" of {self.recipe.steps}"
        used = "unknown" if (share := self.mfu(speed)) is None else f"{share:.0%}"
        utilised = f", MFU {used}" if self.device.kind == "cuda" else ""
        return (
            f"step {done}{of}, loss {self.losses[-1]:.3f}, {speed:,.0f} tokens/s{utilised}, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )


class _Clock:
    """Tokens and seconds of this call, in all and since the last report."""

    def __init__(self, recipe: Recipe, place: int) -> None:
        self._whole, self._first = recipe.tokens, place * recipe.row_tokens
        self._began = self._lap = self._saved = time.perf_counter()
        self._told = self.tokens = 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def is_due(self) -> bool:
        """Whether nothing has been reported for a while."""
        return time.perf_counter() - self._lap >= _QUIET_SECONDS

    @property
    def is_at_risk(self) -> bool:
        """Whether much would be lost by now."""
        return time.perf_counter() - self._saved >= _UNSAVED_SECONDS

    def saved(self) -> None:
        """Nothing would be lost now."""
        self._saved = time.perf_counter()

    def lap(self, seen: int) -> tuple[float, float]:
        """(tokens per second since the last report, seconds that are left) at this place in the run."""
        now = time.perf_counter()
        speed = (self.tokens - self._told) / max(now - self._lap, 1e-9)
        left = (now - self._began) * max(0, self._whole - seen) / max(1, seen - self._first)
        self._lap, self._told = now, self.tokens
        return speed, left
