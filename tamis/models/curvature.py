"""How sharply a language model's loss curves, layer by layer, and the preconditioners made of it.

Everything is a mean over tokens: the curvature of the mean token loss is (1/N) Σ g gᵀ over windows, g a window's
gradient of its summed loss with labels drawn from the model (the Fisher information), N the windows' tokens. For the
curvature summed over n training tokens, divide what comes out by n.

Single letters: a, what a layer is given, δ, the slope of the loss by what it makes; A = E[a aᵀ], G = E[δ δᵀ] over
tokens; Q their eigenvectors, in columns; Λ eigenvalues, (d_out, d_in); λ, the ridge added to them.
Source: Martens, Grosse 2015 (K-FAC); George et al. 2018 (EK-FAC); Grosse et al. 2023, section 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tamis.models import head
from tamis.models.gradients import Take, backward, exact, window_gradients
from tamis.models.language import LanguageModel
from tamis.models.libraries import torch
from tamis.models.windows import Filled, Windows, batches_of, windows_of

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32
How = Literal["identity", "diagonal", "kfac", "ekfac"]
Report = Callable[[float, str], None]

DAMPING = 0.1  # of the mean eigenvalue, per layer: what kronfluence takes where it is given none


@dataclass(frozen=True)
class Sample:
    """Documents that the curvature is measured on: ids and offsets as of `Tokenizer.encode`.

    labels : what stands for the next token at each position, int64, as many as ids: drawn from the model (the Fisher
    information) or the ids themselves (the empirical Fisher, which is another matrix; Kunstner et al. 2019).
    """

    ids: Tokens
    offsets: Int64
    labels: Int64

    @classmethod
    def drawn(cls, language_model: LanguageModel, ids: Tokens, offsets: Int64, seed: int) -> Sample:
        """The sample with labels from the model's own predictions; a document's depend on the seed and itself."""
        ids, offsets = _alone(ids, offsets)
        labels = np.zeros(len(ids), np.int64)
        chance = _uniform(ids, offsets, seed)
        windows, model, device = (
            windows_of(offsets, language_model.context),
            language_model.model,
            language_model.device,
        )
        for batch in batches_of(ids, windows, language_model.end, device):
            places, real = _places(windows, batch)
            uniform = torch.from_numpy(chance[places]).to(device.name)
            with torch.inference_mode(), device.autocast():
                tokens = head.drawn_tokens(model, batch.inputs, uniform).cpu().numpy()
            labels[places[real]] = tokens[real]
        return cls(ids, offsets, labels)

    @classmethod
    def empirical(cls, ids: Tokens, offsets: Int64) -> Sample:
        """The sample with its own tokens for labels."""
        ids, offsets = _alone(ids, offsets)
        return cls(ids, offsets, ids.astype(np.int64))

    def measure(self, language_model: LanguageModel, take: Callable[[Filled], Take], report: Report) -> None:
        """A backward pass over all of it; `take` is told the batch, then handed what its layers know."""
        windows, seen = windows_of(self.offsets, language_model.context), 0
        for batch in batches_of(self.ids, windows, language_model.end, language_model.device):
            targets = torch.from_numpy(self.labels[_places(windows, batch)[0]]).to(batch.targets.device)
            backward(language_model, batch, take(batch), targets)
            seen += int(windows.tokens[batch.index].sum())
            report(seen / len(self.ids), f"{seen:,} of {len(self.ids):,} tokens")


def _alone(ids: Tokens, offsets: Int64) -> tuple[Tokens, Int64]:
    """The tokens of these documents and no others."""
    return ids[offsets[0] : offsets[-1]], np.asarray(offsets, np.int64) - offsets[0]


def _places(windows: Windows, batch: Filled) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """(where in the flat ids each target of a batch stands, 0 for filling; which are real), both (B, T)."""
    real = batch.real.cpu().numpy()
    places = np.zeros(real.shape, np.int64)
    places[: len(batch.index)] = windows.first[batch.index, None] + np.arange(real.shape[1])
    return np.where(real, places, 0), real


def _uniform(ids: Tokens, offsets: Int64, seed: int) -> npt.NDArray[np.float32]:
    """A number in (0, 1) for each token, float32, from the seed, its document's tokens and its place in it.

    Source: SplitMix64, Steele, Lea, Flood 2014; its counter starts at a BLAKE2b hash of the document.
    """
    starts = np.array([_hash(seed, ids[i:j]) for i, j in pairwise(offsets.tolist())], np.uint64)
    lengths = np.diff(offsets)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1] - offsets[0], lengths) + 1
    x = np.repeat(starts, lengths) + place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.asarray(((x >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23))


def _hash(seed: int, ids: Tokens) -> int:
    content = seed.to_bytes(8, "little", signed=True) + ids.astype("<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Basis:
    """The eigenvalues, float64, and eigenvectors of A and of G, in columns."""

    input_values: torch.Tensor
    inputs: torch.Tensor
    slope_values: torch.Tensor
    slopes: torch.Tensor

    @classmethod
    def of(cls, inputs: torch.Tensor, slopes: torch.Tensor) -> Basis:
        """inputs, slopes : A and G, float64."""
        (in_values, in_vectors), (out_values, out_vectors) = torch.linalg.eigh(inputs), torch.linalg.eigh(slopes)
        return cls(in_values.clamp(min=0), in_vectors, out_values.clamp(min=0), out_vectors)

    @property
    def kronecker(self) -> torch.Tensor:
        """The eigenvalues of A ⊗ G, (d_out, d_in)."""
        return torch.outer(self.slope_values, self.input_values)


@dataclass(frozen=True)
class Preconditioner:
    """P of one layer: V ↦ Q_G [(Q_Gᵀ V Q_A) / (Λ + λ)] Q_Aᵀ; without a basis V / (Λ + λ); without eigenvalues V."""

    eigenvalues: torch.Tensor | None = None
    ridge: float = 0.0
    basis: Basis | None = None

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """P of a gradient, float64, (d_out, d_in). A direction without curvature and ridge is left out."""
        if self.eigenvalues is None:
            return gradient
        curved = self.eigenvalues + self.ridge
        weights = torch.where(curved > 0, 1 / curved, 0.0)
        if self.basis is None:
            return gradient * weights
        slopes, inputs = self.basis.slopes, self.basis.inputs
        return slopes @ ((slopes.T @ gradient @ inputs) * weights) @ inputs.T

    @classmethod
    def damped(cls, eigenvalues: torch.Tensor, damping: float, basis: Basis | None = None) -> Preconditioner:
        """With a ridge of `damping` times the mean eigenvalue."""
        return cls(eigenvalues, damping * float(eigenvalues.mean()), basis)


def preconditioners(
    language_model: LanguageModel,
    sample: Sample,
    how: How = "ekfac",
    damping: float = DAMPING,
    report: Report = lambda _done, _line: None,
) -> dict[str, Preconditioner]:
    """P of every linear layer, by name; none, which is the identity, for `identity`.

    damping : of a layer's mean eigenvalue. Raises ValueError for an empty sample.
    """
    if how == "identity":
        return {}
    if not len(sample.ids):
        raise ValueError(f"curvature: expected documents with tokens to measure {how} on, got none; give it some text")
    if how == "diagonal":
        squares = mean_squares(language_model, sample, {}, report)
        return {name: Preconditioner.damped(values, damping) for name, values in squares.items()}
    first = 0.5 if how == "ekfac" else 1.0
    moments = mean_moments(language_model, sample, lambda done, line: report(first * done, f"factors, {line}"))
    bases = {name: Basis.of(*pair) for name, pair in moments.items()}
    if how == "kfac":
        return {name: Preconditioner.damped(basis.kronecker, damping, basis) for name, basis in bases.items()}
    squares = mean_squares(language_model, sample, bases, lambda done, line: report(0.5 + done / 2, f"Λ, {line}"))
    return {name: Preconditioner.damped(squares[name], damping, basis) for name, basis in bases.items()}


def mean_moments(
    language_model: LanguageModel, sample: Sample, report: Report = lambda _done, _line: None
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, G) of every layer: products float32 per batch, sums float64."""
    sums = _Sums()

    def take(batch: Filled) -> Take:
        real = batch.real.flatten()
        return partial(_add_moments, sums, real)

    sample.measure(language_model, take, report)
    names = dict.fromkeys(name for name, _ in sums.of)
    return {name: (sums.of[name, "A"] / len(sample.ids), sums.of[name, "G"] / len(sample.ids)) for name in names}


def mean_squares(
    language_model: LanguageModel,
    sample: Sample,
    bases: Mapping[str, Basis],
    report: Report = lambda _done, _line: None,
) -> dict[str, torch.Tensor]:
    """Σ (Q_Gᵀ ∇W Q_A)² over windows by the number of tokens, of every layer; without a basis Σ (∇W)² by it."""
    sums = _Sums()
    turns = {name: (basis.inputs.float(), basis.slopes.float()) for name, basis in bases.items()}
    sample.measure(language_model, lambda batch: partial(_add_squares, sums, turns, len(batch.index)), report)
    return {name: total / len(sample.ids) for (name, _), total in sums.of.items()}


@dataclass(frozen=True)
class _Sums:
    """Float64 totals by layer and letter."""

    of: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)

    def add(self, name: str, letter: str, values: torch.Tensor) -> None:
        values = exact(values)
        self.of[name, letter] = self.of[name, letter].add_(values) if (name, letter) in self.of else values


def _add_moments(sums: _Sums, real: torch.Tensor, name: str, a: torch.Tensor, slope: torch.Tensor) -> None:
    a, slope = a.flatten(0, 1).float() * real[:, None], slope.flatten(0, 1).float()
    sums.add(name, "A", a.T @ a)
    sums.add(name, "G", slope.T @ slope)


def _add_squares(
    sums: _Sums,
    turns: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    windows: int,
    name: str,
    a: torch.Tensor,
    slope: torch.Tensor,
) -> None:
    a, slope = a[:windows].float(), slope[:windows].float()
    if name in turns:
        inputs, slopes = (turn.to(a.device) for turn in turns[name])
        a, slope = a @ inputs, slope @ slopes
    total = torch.zeros(slope.shape[2], a.shape[2], device=a.device)
    for _, gradients in window_gradients(a, slope):
        total += gradients.square_().sum(0)
    sums.add(name, "Λ", total)
