"""How well a model predicts each document: nats per document, every token counted, documents never mixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.models import head
from tamis.models.device import Device, choose
from tamis.models.libraries import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32


def document_losses(
    model: PreTrainedModel,
    ids: Tokens,
    offsets: Int64,
    *,
    end: int,
    context: int | None = None,
    batch_tokens: int = 1 << 13,
    device: Device | None = None,
) -> tuple[Float64, Int64]:
    """(nats, predicted) of n documents: float64 and int64, (n); every token of a document is predicted, once.

    A document is scored by itself, its first token given `end`. One longer than `context` (by default what the model
    was made for) is cut into windows that do not overlap: a window's first input is the last token of the window
    before, so no token is skipped, but tokens early in a window see little context, exactly as in training rows.
    Windows of similar length are run together, `batch_tokens` inputs with padding at a time; log-softmax is float32,
    totals float64. On float32 devices the company a document is in moves its total by less than 1e-5 of it
    (2e-2 in bfloat16), because matrix products of other shapes add in another order.
    """
    context = context or int(model.config.max_position_embeddings)
    device = device or choose(int(model.config.hidden_size))
    model = device.place(model)
    windows = _windows(np.asarray(offsets, np.int64), context)
    nats = np.zeros(len(windows))
    with torch.inference_mode():
        for batch in _batches(windows, batch_tokens):
            nats[batch] = _window_nats(model, ids, windows[batch], end, device)
    lengths = np.diff(offsets)
    totals = np.bincount(windows[:, 0], weights=nats, minlength=len(lengths))
    return totals.astype(np.float64), lengths.astype(np.int64)


def bits_per_byte(nats: Float64, n_bytes: npt.ArrayLike) -> Float64:
    """Bits per UTF-8 byte of each document, or of a set when both are sums: float64; NaN where there is no byte."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bytes_ = np.asarray(n_bytes, np.float64)
        return np.where(bytes_ > 0, np.asarray(nats, np.float64) / (np.log(2) * bytes_), np.nan)


def _windows(offsets: Int64, context: int) -> Int64:
    """(document, first token, tokens, whether it opens the document): int64, (windows, 4), in document order."""
    lengths = np.diff(offsets)
    counts = -(-lengths // context)
    document = np.repeat(np.arange(len(lengths)), counts)
    place = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = np.minimum(lengths[document] - place * context, context)
    return np.stack([document, offsets[document] + place * context, tokens, place == 0], axis=1).astype(np.int64)


def _batches(windows: Int64, batch_tokens: int) -> Iterator[Int64]:
    """Indices of windows of similar length: longest first, so that what does not fit in memory fails at once."""
    lengths = windows[:, 2]
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def _window_nats(model: PreTrainedModel, ids: Tokens, windows: Int64, end: int, device: Device) -> Float64:
    first, tokens, opens = windows[:, 1, None], windows[:, 2, None], windows[:, 3] == 1
    place = np.arange(int(tokens.max()))
    real = place < tokens
    at = np.where(real, first + place, first)
    targets = ids[at].astype(np.int64)
    before = ids[np.maximum(first[:, 0] - 1, 0)].astype(np.int64)
    inputs = np.concatenate([np.where(opens, end, before)[:, None], targets[:, :-1]], axis=1)
    with device.autocast():
        losses = head.token_losses(model, *(torch.from_numpy(x).to(device.name) for x in (inputs, targets, real)))
    starts = np.cumsum(windows[:, 2]) - windows[:, 2]
    return np.add.reduceat(losses.cpu().numpy().astype(np.float64), starts)
