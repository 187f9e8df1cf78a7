"""Losses: how well a language model predicts each document; computed once for all scores that are made of losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from tamis.errors import ContractError
from tamis.kernels.lowest import TENTHS, lowest_means, sums_of
from tamis.models.reference import OfModel, beyond_context, too_long, trained
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Batch, Component, Pool, Steps

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Losses(OfModel, Scorer):
    """A document's loss under a language model in nats, over how many tokens, and how likely its least likely are.

    model : the name of a `train` stage, or a folder with a Hugging Face model and its tokenizer.
    chunk_tokens : only whole chunks of exactly so many tokens count, each read as if it were a document; None reads
    documents from end to end, in windows as long as the model's context, each of which follows from the last token of
    the window before.
    Every token that counts is predicted once, the first from the end token. Log-softmax is float32, totals float64.
    `<name>_lowest` has the mean log-probability of the least likely 10 %, 20 %, … 100 % of a document's tokens; chunks
    have `<name>_chunks` instead, the nats of each. A document without a token, or without a whole chunk, has no losses.
    On a CPU they depend on the document alone, to the bit; on a GPU its company moves what rounding makes of another
    order of additions.
    """

    chunk_tokens: Annotated[int, Field(gt=0)] | None = None

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        return beyond_context(self.chunk_tokens, self.models, others)

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        totals = {f"{name}_nats": pa.float64(), f"{name}_tokens": pa.uint32()}
        if self.chunk_tokens is None:
            return {**totals, f"{name}_lowest": pa.list_(pa.float32(), TENTHS)}
        return {**totals, f"{name}_chunks": pa.list_(pa.float32())}

    def steps(self, pool: Pool) -> Steps:
        model = yield from trained(self.model)
        score = self._documents if self.chunk_tokens is None else self._chunks
        return replace(self.map(pool, partial(score, model["folder"])), gpu=True)

    def _documents(self, folder: str, batch: Batch) -> Scores:
        from tamis.models.language import language_model
        from tamis.models.loss import losses_in_place
        from tamis.models.windows import windows_of

        model = language_model(folder)
        ids, offsets = model.encode(batch)
        windows = windows_of(offsets, model.context)
        with model.device.alone():
            losses = losses_in_place(model.model, ids, windows, end=model.end, device=model.device)
        nats = sums_of(losses, offsets[:-1], offsets[1:])
        unknown = (np.diff(offsets) == 0) | ~np.isfinite(nats)
        lowest = pa.array(lowest_means(losses, offsets).ravel(), mask=np.repeat(unknown, TENTHS))
        return {
            **_totals(nats, np.diff(offsets), unknown),
            "_lowest": pa.FixedSizeListArray.from_arrays(lowest, TENTHS, mask=pa.array(unknown)),
        }

    def _chunks(self, folder: str, batch: Batch) -> Scores:
        from tamis.models.language import language_model
        from tamis.models.loss import losses_in_place
        from tamis.models.windows import chunks_of

        assert self.chunk_tokens is not None
        model = language_model(folder)
        if self.chunk_tokens > model.context:
            raise ContractError(too_long(self.chunk_tokens, model.context, folder))
        ids, offsets = model.encode(batch)
        windows = chunks_of(offsets, self.chunk_tokens)
        with model.device.alone():
            losses = losses_in_place(model.model, ids, windows, end=model.end, device=model.device)
        counts = np.diff(offsets) // self.chunk_tokens
        tokens = counts * self.chunk_tokens
        nats = sums_of(losses, offsets[:-1], offsets[:-1] + tokens)
        unknown = (counts == 0) | ~np.isfinite(nats)
        each = sums_of(losses, windows.first, windows.first + windows.tokens).astype(np.float32)
        return {**_totals(nats, tokens, unknown), "_chunks": lists_of(each, counts, unknown)}


def _totals(nats: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64], unknown: Bools) -> dict[str, pa.Array]:
    return {"_nats": pa.array(nats, mask=unknown), "_tokens": pa.array(tokens.astype(np.uint32), mask=unknown)}


def lists_of(values: npt.NDArray[Any], counts: npt.NDArray[np.int64], unknown: Bools) -> pa.ListArray:
    """A list column: the next counts[i] of the values are row i's; null where `unknown`."""
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values), mask=pa.array(unknown))
