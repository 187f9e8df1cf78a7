"""Token windows of documents in batches of fixed shapes: what a document comes out as does not depend on its company.

A window is padded to one of few lengths, and as many of that length go together as the device is given at a time; a
batch that is not full is filled up with nothing. Every product of matrices then has the same shape whatever else is
scored, and each row of it the same sums in the same order (tests/models/test_windows.py looks at every bit).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.models.device import Device
from tamis.models.libraries import torch

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32

STEP = 16  # lengths are multiples of it, and of an eighth of the power of two below: at most an eighth is padding


@dataclass(frozen=True)
class Windows:
    """Pieces of documents that a model sees at a time, in document order: int64, (w), each.

    document : whose it is. first : its first target in the flat token ids. tokens : how many targets.
    opens : bool; the first target is predicted from the end token, not from the token before it.
    context : tokens that a window may have at most.
    """

    document: Int64
    first: Int64
    tokens: Int64
    opens: npt.NDArray[np.bool_]
    context: int

    def __len__(self) -> int:
        return len(self.document)


def windows_of(offsets: Int64, context: int, most: int | None = None) -> Windows:
    """Windows of at most `context` tokens that do not overlap and leave no token out: a window's first input is the
    last token of the window before.

    offsets : int64, (n + 1). most : only the first tokens of each document, None for all.
    """
    offsets = np.asarray(offsets, np.int64)
    lengths = np.diff(offsets)
    kept = lengths if most is None else np.minimum(lengths, most)
    counts = -(-kept // context)
    document, place = _places(counts)
    tokens = np.minimum(kept[document] - place * context, context)
    return Windows(document, offsets[document] + place * context, tokens, place == 0, context)


def chunks_of(offsets: Int64, chunk_tokens: int) -> Windows:
    """The whole chunks of exactly `chunk_tokens` tokens of each document, each predicted from the end token on.

    What is left at the end of a document is in none. Source: Brandfonbrener et al. 2024, CoLoR-Filter.
    """
    offsets = np.asarray(offsets, np.int64)
    document, place = _places(np.diff(offsets) // chunk_tokens)
    tokens = np.full(len(document), chunk_tokens, np.int64)
    return Windows(
        document, offsets[document] + place * chunk_tokens, tokens, np.ones(len(document), bool), chunk_tokens
    )


def _places(counts: Int64) -> tuple[Int64, Int64]:
    """(document, its how manieth) of each window."""
    document = np.repeat(np.arange(len(counts)), counts)
    return document, np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclass(frozen=True)
class Filled:
    """A batch of windows on its device. inputs, targets : int64, (B, T). real : bool, (B, T), where a target is.

    index : which windows the first rows are, int64; the other rows are filling.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    real: torch.Tensor
    index: Int64


def batches_of(
    ids: Tokens, windows: Windows, end: int, device: Device, batch_tokens: int | None = None
) -> Iterator[Filled]:
    """All windows with at least one token, longest first, in batches whose shapes depend on their lengths alone.

    batch_tokens : inputs of a batch, padding included; None takes what the device is good at.
    """
    size = batch_tokens or device.batch_tokens
    lengths = np.minimum(padded(windows.tokens), windows.context)
    order = np.argsort(-lengths, kind="stable")
    order = order[windows.tokens[order] > 0]
    for length in np.unique(lengths[order])[::-1].tolist():
        same = order[lengths[order] == length]
        rows = max(1, size // length)
        for start in range(0, len(same), rows):
            yield _filled(ids, windows, same[start : start + rows], (rows, length), end, device)


def padded(tokens: Int64) -> Int64:
    """The length that a window of so many tokens is padded to: int64, (w)."""
    tokens = np.maximum(tokens, 1)
    octave = np.left_shift(1, np.floor(np.log2(tokens)).astype(np.int64))
    step = np.maximum(octave // 8, STEP)
    return np.asarray(-(-tokens // step) * step, np.int64)


def _filled(ids: Tokens, windows: Windows, index: Int64, shape: tuple[int, int], end: int, device: Device) -> Filled:
    length = shape[1]
    first, tokens = windows.first[index, None], windows.tokens[index, None]
    place = np.arange(length)
    real = np.zeros(shape, bool)
    real[: len(index)] = place < tokens
    targets = np.full(shape, end, np.int64)
    targets[: len(index)] = np.where(real[: len(index)], ids[np.where(place < tokens, first + place, first)], end)
    inputs = np.full(shape, end, np.int64)
    inputs[:, 1:] = targets[:, :-1]
    before = ids[np.maximum(windows.first[index] - 1, 0)].astype(np.int64)
    inputs[: len(index), 0] = np.where(windows.opens[index], end, before)
    on_device = [torch.from_numpy(values).to(device.name) for values in (inputs, targets, real)]
    return Filled(on_device[0], on_device[1], on_device[2], index)
