"""What a model's errors and gradients say about documents, at the end of training and at checkpoints on the way.

A document counts up to its first `most` tokens. Gradients are those of the linear layers (see gradients.py), of a
document's whole loss: they are added up over its windows before a norm is taken. Everything is worked out in fixed
shapes, a row at a time where documents differ, so that on one CPU thread no bit depends on a document's company.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.models import head
from tamis.models.build import load
from tamis.models.gradients import backward, exact, linear_layers, window_gradients
from tamis.models.language import LanguageModel
from tamis.models.libraries import torch
from tamis.models.windows import Filled, Windows, batches_of, windows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32

HELD_NUMBERS = 1 << 25  # of documents' gradients that are held at once: 128 MB


def mean_errors(language_model: LanguageModel, ids: Tokens, offsets: Int64, most: int | None = None) -> Float64:
    """EL2N of each document: ‖p − onehot(y)‖₂ of its tokens on average, from 0 to √2; float64, (n), NaN without one."""
    windows = windows_of(offsets, language_model.context, most)
    sums = np.zeros(len(windows))
    with language_model.device.alone():
        for batch in batches_of(ids, windows, language_model.end, language_model.device):
            with torch.inference_mode(), language_model.device.autocast():
                errors = head.token_errors(language_model.model, batch.inputs, batch.targets)
            sums[batch.index] = _window_sums(errors, batch, windows)
    return _means(sums, windows, len(offsets) - 1)


def squared_norms(language_model: LanguageModel, ids: Tokens, offsets: Int64, most: int | None = None) -> Float64:
    """‖∇ℓ‖² of each document's summed loss over the linear layers, in nats²: float64, (n), 0 without a token.

    Source: GraNd of Paul, Ganguli, Dziugaite 2021; with itself as the query, TracIn of Pruthi et al. 2020.
    """
    windows = windows_of(offsets, language_model.context, most)
    counts = np.bincount(windows.document, minlength=len(offsets) - 1)
    found = np.zeros(len(counts))
    with language_model.device.alone():
        alone = _taken(windows, np.flatnonzero(counts[windows.document] == 1))
        found[alone.document] = _squares_of_windows(language_model, ids, alone)
        numbers = sum(d_out * d_in for d_out, d_in in linear_layers(language_model.model).values())
        for some in _groups(np.flatnonzero(counts > 1), max(1, HELD_NUMBERS // numbers)):
            own = _taken(windows, np.flatnonzero(np.isin(windows.document, some)))
            found[some] = _squares_of_documents(language_model, ids, own, some)
    return found


def gradient_variances(
    language_model: LanguageModel,
    models: Sequence[PreTrainedModel],
    ids: Tokens,
    offsets: Int64,
    most: int | None = None,
) -> Float64:
    """VoG of each document: how much the slopes of its tokens' logits by its input embeddings vary over checkpoints.

    S_c is the slope of the sum of the logits of the tokens that came, at checkpoint c of C; its variance over the
    checkpoints, Σ_c (S_c − mean)² / C, is averaged over embedding dimensions and positions: float64, (n), NaN without
    a token. models : the checkpoints, frozen, on the device. Raises ValueError if there are fewer than two.
    Source: Agarwal, D'souza, Hooker 2022, Estimating example difficulty using variance of gradients; there Σ_c is
    divided by √C, which makes every value √C times as large and changes no order.
    """
    if len(models) < 2:
        raise ValueError(f"gradient_variances: expected two checkpoints or more, got {len(models)}; keep more of them")
    windows = windows_of(offsets, language_model.context, most)
    sums = np.zeros(len(windows))
    with language_model.device.alone():
        for batch in batches_of(ids, windows, language_model.end, language_model.device):
            mean = squares = torch.zeros(
                (), device=language_model.device.name
            )  # Welford's running mean and sum of squared deviations
            for count, model in enumerate(models, 1):
                slopes = _input_slopes(replace(language_model, model=model), batch)
                change = slopes - mean
                mean = mean + change / count
                squares = squares + change * (slopes - mean)
            sums[batch.index] = _window_sums((squares / len(models)).mean(2), batch, windows)
    return _means(sums, windows, len(offsets) - 1)


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was during training. folder : absolute, a Hugging Face folder. learning_rate : of its last step."""

    folder: str
    learning_rate: float

    def in_place_of(self, language_model: LanguageModel) -> LanguageModel:
        """The model that it became, as it was then: same tokenizer, same device."""
        model = language_model.device.place(snapshot(self.folder))
        return replace(language_model, model=model)


def self_influence(
    language_model: LanguageModel,
    checkpoints: Sequence[Checkpoint],
    ids: Tokens,
    offsets: Int64,
    most: int | None = None,
) -> Float64:
    """TracIn of each document on itself: Σ_c η_c ‖∇ℓ_c‖² of its summed loss, float64, (n).

    It takes steps to be η times the gradient, whatever the optimiser made of them. Source: Pruthi et al. 2020.
    """
    total = np.zeros(len(offsets) - 1)
    for checkpoint in checkpoints:
        norms = squared_norms(checkpoint.in_place_of(language_model), ids, offsets, most)
        total += checkpoint.learning_rate * norms
    return total


@lru_cache(maxsize=16)
def snapshot(folder: str) -> PreTrainedModel:
    """The frozen model in a folder without a tokenizer. Raises FileNotFoundError if there is none."""
    return load(Path(folder)).requires_grad_(False)


def _input_slopes(language_model: LanguageModel, batch: Filled) -> torch.Tensor:
    """By the input embeddings, of the sum of the logits of a batch's real targets: float32, (B, T, d)."""
    model, device = language_model.model, language_model.device
    with torch.enable_grad(), device.autocast():
        embeddings = model.get_input_embeddings()(batch.inputs).detach().requires_grad_()
        logits = head.target_logits(model, embeddings, batch.targets)
        total = torch.where(batch.real, logits.float(), 0.0).sum()
    with device.repeatable():
        (slopes,) = torch.autograd.grad(total, embeddings)
    return slopes.float()


def _squares_of_windows(language_model: LanguageModel, ids: Tokens, windows: Windows) -> Float64:
    """‖∇ℓ‖² of each window's summed loss: float64, (w)."""
    found = np.zeros(len(windows))
    for batch in batches_of(ids, windows, language_model.end, language_model.device):
        squares: list[torch.Tensor] = []

        def add(_name: str, a: torch.Tensor, slope: torch.Tensor, into: list[torch.Tensor] = squares) -> None:
            into.append(_squares(a, slope))

        backward(language_model, batch, add)
        found[batch.index] = torch.stack(squares).sum(0).cpu().numpy()[: len(batch.index)]
    return found


def _squares(a: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """‖Σ_t δ_t a_tᵀ‖² of each row: float64, (B).

    a, slope : (B, T, d_in) and (B, T, d_out). Inner products of tokens, (a_t·a_u)(δ_t·δ_u), where these are less work
    than the gradient itself.
    """
    a, slope = a.float(), slope.float()
    (_, length, d_in), d_out = a.shape, slope.shape[2]
    if length * (d_in + d_out) < d_in * d_out:
        return exact((a @ a.mT) * (slope @ slope.mT)).sum((1, 2)).clamp_min(0.0)
    return torch.cat([exact(some.square()).sum((1, 2)) for _, some in window_gradients(a, slope)])


def _squares_of_documents(language_model: LanguageModel, ids: Tokens, windows: Windows, documents: Int64) -> Float64:
    """‖∇ℓ‖² of documents whose windows these are: float64, (documents); their whole gradients are held."""
    shapes = linear_layers(language_model.model)
    held = {
        name: torch.zeros((len(documents), d_out, d_in), device=language_model.device.name)
        for name, (d_out, d_in) in shapes.items()
    }
    places = np.searchsorted(documents, windows.document)
    for batch in batches_of(ids, windows, language_model.end, language_model.device):
        owners = places[batch.index].tolist()

        def add(name: str, a: torch.Tensor, slope: torch.Tensor, owners: list[int] = owners) -> None:
            rows = (row for _, some in window_gradients(a.float(), slope.float()) for row in some)
            for owner, row in zip(owners, rows, strict=False):  # what follows the owners' rows is filling
                held[name][owner] += row

        backward(language_model, batch, add)
    squares = torch.stack([exact(layer.square()).sum((1, 2)) for layer in held.values()]).sum(0)
    return np.asarray(squares.cpu().numpy(), np.float64)


def _window_sums(values: torch.Tensor, batch: Filled, windows: Windows) -> Float64:
    """The sums of a batch's windows over their real positions: float64, (windows of the batch). values : (B, T)."""
    counts = windows.tokens[batch.index]
    sums = np.add.reduceat(values[batch.real].cpu().numpy().astype(np.float64), np.cumsum(counts) - counts)
    return np.asarray(sums, np.float64)


def _means(sums: Float64, windows: Windows, documents: int) -> Float64:
    """Sums of windows as means over the tokens of documents: float64, (documents), NaN without a token."""
    totals = np.bincount(windows.document, weights=sums, minlength=documents)
    tokens = np.bincount(windows.document, weights=windows.tokens, minlength=documents)
    with np.errstate(invalid="ignore"):
        return np.asarray(totals / tokens, np.float64)


def _taken(windows: Windows, places: Int64) -> Windows:
    """Some of the windows."""
    return replace(
        windows,
        document=windows.document[places],
        first=windows.first[places],
        tokens=windows.tokens[places],
        opens=windows.opens[places],
    )


def _groups(documents: Int64, size: int) -> Iterator[Int64]:
    return (documents[start : start + size] for start in range(0, len(documents), size))
