"""How well a model predicts each document: nats per document, every token counted, documents never mixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.kernels.lowest import sums_of
from tamis.models import head
from tamis.models.device import Device, choose
from tamis.models.libraries import torch
from tamis.models.windows import Windows, batches_of, windows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32


def document_losses(
    model: PreTrainedModel,
    ids: Tokens,
    offsets: Int64,
    *,
    end: int,
    context: int | None = None,
    batch_tokens: int | None = None,
    device: Device | None = None,
) -> tuple[Float64, Int64]:
    """(nats, predicted) of n documents: float64 and int64, (n); every token of a document is predicted, once.

    A document is scored by itself, its first token given `end`. One longer than `context` (by default what the model
    was made for) is cut into windows that do not overlap: a window's first input is the last token of the window
    before, so no token is skipped, but tokens early in a window see little context, exactly as in training rows.
    Log-softmax is float32, totals float64. On one CPU thread the company a document is in moves no bit of its total.
    """
    offsets = np.asarray(offsets, np.int64)
    windows = windows_of(offsets, context or int(model.config.max_position_embeddings))
    losses = losses_in_place(model, ids, windows, end=end, batch_tokens=batch_tokens, device=device)
    return sums_of(losses, offsets[:-1], offsets[1:]), np.diff(offsets)


def losses_in_place(
    model: PreTrainedModel,
    ids: Tokens,
    windows: Windows,
    *,
    end: int,
    batch_tokens: int | None = None,
    device: Device | None = None,
) -> Float32:
    """The loss in nats of every token at the token's place in `ids`: float32, like `ids`; NaN in no window."""
    found = np.full(len(ids), np.nan, np.float32)
    for index, losses, starts in window_losses(model, ids, windows, end=end, batch_tokens=batch_tokens, device=device):
        place = np.repeat(windows.first[index] - starts, windows.tokens[index])
        found[np.arange(len(losses)) + place] = losses
    return found


def window_losses(
    model: PreTrainedModel,
    ids: Tokens,
    windows: Windows,
    *,
    end: int,
    batch_tokens: int | None = None,
    device: Device | None = None,
) -> Iterator[tuple[Int64, Float32, Int64]]:
    """(which windows, losses of their tokens in nats, where each window's begin), a batch at a time: every window once.

    losses : float32, (tokens of these windows), in their order. starts : int64, one per window.
    """
    device = device or choose(int(model.config.hidden_size))
    model = device.place(model)
    for batch in batches_of(ids, windows, end, device, batch_tokens):
        with torch.inference_mode(), device.autocast():
            losses = head.token_losses(model, batch.inputs, batch.targets)
        counts = windows.tokens[batch.index]
        yield batch.index, losses[batch.real].cpu().numpy(), np.cumsum(counts) - counts


def bits_per_byte(nats: Float64, n_bytes: npt.ArrayLike) -> Float64:
    """Bits per UTF-8 byte of each document, or of a set when both are sums: float64; NaN where there is no byte."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bytes_ = np.asarray(n_bytes, np.float64)
        return np.where(bytes_ > 0, np.asarray(nats, np.float64) / (np.log(2) * bytes_), np.nan)
