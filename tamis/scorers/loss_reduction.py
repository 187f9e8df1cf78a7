"""Loss reduction: how much better a model that knows the target predicts a document than one that does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.errors import ContractError
from tamis.kernels.arrow import flattened, text_of
from tamis.kernels.correlation import BITS, described, moments, whole
from tamis.kernels.log import log
from tamis.models.reference import ModelRef, OfModels, beyond_context, called, losses_of, trained
from tamis.models.tokenizer import tokenizer_digest
from tamis.models.weights import forward_flops
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Ask, Batch, Component, Fold, Pool, Publish, Steps, Summary

MOST_SOURCES = 4096  # that are told apart; of more, those with the smallest hashes
SHOWN_SOURCES = 64  # in the findings: the largest
NAME_CHARACTERS = 80  # of a source's name

Float64 = npt.NDArray[np.float64]
Trained = Mapping[str, Any]


@dataclass(frozen=True)
class LossReduction(OfModels, Scorer):
    """Loss under a prior model less loss under a conditional one, in nats per token; high is like the target.

    prior, conditional : names of `train` stages, or folders with a Hugging Face model and its tokenizer. The
    conditional is the prior, trained on with documents of the target.
    mode : "document" reads whole documents. "chunk" reads their whole chunks of `chunk_tokens` tokens, as the paper
    does, each by itself: the score is the mean over them, `<name>_chunks` has each; a document without one has none.
    `<name>_prior` is the loss under the prior, in nats per token. `<name>_per_byte` (documents) counts per byte of
    UTF-8. Tokens are the prior's: the two may have different tokenizers for documents, but not for chunks, which would
    not be the same text. The score is a float64, a small difference of large sums; the same model twice gives 0.
    findings/<name>.json holds mean and deviation, the share above 0, correlation with length, sources, costs.
    Source: Brandfonbrener et al. 2024, CoLoR-Filter: conditional loss reduction filtering.
    """

    prior: ModelRef
    conditional: ModelRef
    mode: Literal["document", "chunk"] = "document"
    chunk_tokens: Annotated[int, Field(gt=0)] = 512

    def __post_init__(self) -> None:
        if self.prior != self.conditional and called(self.prior) == called(self.conditional):
            raise ValueError(
                f"conditional: expected a model with another name than the prior's, both are called "
                f"{called(self.prior)!r}; rename a folder"
            )

    def asks(self) -> tuple[Ask, ...]:
        chunk = self.chunk_tokens if self.mode == "chunk" else None
        return tuple(losses_of(model, chunk) for model in dict.fromkeys((self.prior, self.conditional)))

    def objections(self, others: Mapping[str, Component]) -> Sequence[str]:
        return beyond_context(self._chunk, self.models, others)

    @property
    def models(self) -> tuple[str | None, ...]:
        return (self.prior, self.conditional)

    @property
    def reads(self) -> tuple[str, ...]:
        told = ("nats", "tokens") if self.mode == "document" else ("nats", "tokens", "chunks")
        size = ("n_bytes",) if self.mode == "document" else ()
        return (*(f"{ask.name}_{what}" for ask in self.asks() for what in told), *size, "source")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        besides = f"{name}_per_byte" if self.mode == "document" else f"{name}_chunks"
        kind = pa.float64() if self.mode == "document" else pa.list_(pa.float32())
        return {name: pa.float64(), f"{name}_prior": pa.float64(), besides: kind}

    def steps(self, pool: Pool) -> Steps:
        prior, conditional = (yield from trained(self.prior)), (yield from trained(self.conditional))
        if self.mode == "chunk":
            check_tokenizers(pool.name, prior, conditional)
        sums = yield Fold(self.reads, self._sum, merge=merge_sums)
        found = Publish(f"findings/{pool.name}.json", *self._told(sums, prior, conditional))
        return replace(self.map(pool, self._score), findings=found)

    def _score(self, batch: Batch) -> Scores:
        nats, tokens = self._losses(batch)
        score, unknown = (nats[0] - nats[1]) / tokens[0], np.isnan(nats[0] - nats[1])
        found = {"": pa.array(score, mask=unknown), "_prior": pa.array(nats[0] / tokens[0], mask=unknown)}
        if self.mode == "document":
            size = _numbers(batch["n_bytes"])
            return {**found, "_per_byte": pa.array((nats[0] - nats[1]) / size, mask=unknown)}
        return {**found, "_chunks": self._chunks(batch)}

    def _losses(self, batch: Batch) -> tuple[Float64, Float64]:
        """(nats, tokens) under the prior and the conditional: float64, (2, n), each; NaN where there are none."""
        names = [losses_of(model, self._chunk).name for model in (self.prior, self.conditional)]
        nats, tokens = (np.stack([_numbers(batch[f"{name}_{what}"]) for name in names]) for what in ("nats", "tokens"))
        return nats, tokens

    @property
    def _chunk(self) -> int | None:
        return self.chunk_tokens if self.mode == "chunk" else None

    def _chunks(self, batch: Batch) -> pa.Array:
        """The score of each chunk: a list of float32, null where a document has none."""
        names = [losses_of(model, self._chunk).name for model in (self.prior, self.conditional)]
        columns = [batch[f"{name}_chunks"] for name in names]
        known = pc.and_(columns[0].is_valid(), columns[1].is_valid())
        (lengths, nats), (_, others) = (flattened(pc.if_else(known, column, None)) for column in columns)
        each = (nats.to_numpy() - others.to_numpy()) / np.float32(self.chunk_tokens)
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(each), mask=pc.invert(known))

    # ---- what is found out about the pool ----

    def _sum(self, batch: Batch) -> Summary:
        nats, tokens = self._losses(batch)
        known = ~np.isnan(nats[0] - nats[1])
        nats, tokens = nats[:, known], tokens[:, known]
        score = (nats[0] - nats[1]) / tokens[0]
        units, positive = whole(score), score > 0
        column = batch["source"].filter(pa.array(known))
        keys = seeds.hash64(0, "source", text_of(column))
        keys[column.is_null().to_numpy(zero_copy_only=False)] = 0
        names = np.array([(name or "")[:NAME_CHARACTERS] for name in column.to_pylist()], f"U{NAME_CHARACTERS}")
        each = np.stack([np.ones(len(units), np.int64), tokens[0].astype(np.int64), units, positive], axis=1)
        return {
            "moments": moments(units, whole(log(tokens[0]))),
            "tokens": tokens.sum(axis=1).astype(np.int64),
            "positive": np.array(positive.sum(), np.int64),
            **by_source(keys, names, each.astype(np.int64)),
        }

    def _told(self, sums: Summary, prior: Trained, conditional: Trained) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The findings, and what of them is said on the terminal."""
        mean, deviation, correlation = described(sums["moments"])
        documents = int(sums["moments"][0])
        sources = _sources(sums)
        content = {
            "mode": self.mode,
            "chunk_tokens": self._chunk,
            "documents": documents,
            "tokens": dict(zip(("prior", "conditional"), sums["tokens"].tolist(), strict=True)),
            "mean": _finite(mean),
            "deviation": _finite(deviation),
            "share_positive": int(sums["positive"]) / documents if documents else None,
            "correlation_with_log_tokens": _finite(correlation),
            "sources": sources[:SHOWN_SOURCES],
            "costs": _costs(sums, prior, conditional),
        }
        return content, _lines(content)


def check_tokenizers(name: str, prior: Trained, conditional: Trained) -> None:
    """Raises ContractError unless both models have the same tokenizer: chunks must be of the same bytes."""
    one, other = (tokenizer_digest(Path(model["folder"])) for model in (prior, conditional))
    if one != other:
        raise ContractError(
            f"{name}: expected models with one tokenizer for chunks of the same text, {prior['folder']} has {one[:8]} "
            f"and {conditional['folder']} {other[:8]}; train the conditional `from:` the prior, or take mode: document"
        )


def by_source(keys: npt.NDArray[np.uint64], names: npt.NDArray[np.str_], each: npt.NDArray[np.int64]) -> Summary:
    """Sums by source, at most MOST_SOURCES of them: one among the smallest hashes of all is so in every part."""
    found, first, place = np.unique(keys, return_index=True, return_inverse=True)
    sums = np.zeros((len(found), each.shape[1]), np.int64)
    np.add.at(sums, place, each)
    kept = slice(MOST_SOURCES)
    return {"keys": found[kept], "names": names[first][kept], "sums": sums[kept]}


def merge_sums(one: Summary, other: Summary) -> Summary:
    """Sums of integers, and those by source together."""
    together = (np.concatenate([one[key], other[key]]) for key in ("keys", "names", "sums"))
    return {**{key: one[key] + other[key] for key in ("moments", "tokens", "positive")}, **by_source(*together)}


def _lines(content: Mapping[str, Any]) -> tuple[str, ...]:
    """What the user should read of it on the terminal."""
    if not content["documents"]:
        return ("no document has losses to compare",)
    correlation = content["correlation_with_log_tokens"]
    length = "" if correlation is None else f", correlation with log length {correlation:+.2f}"
    spread = f"mean {content['mean']:.4f} nats per token, deviation {content['deviation']:.4f}"
    first = f"{spread}, above 0 for {content['share_positive']:.1%} of {content['documents']:,} documents{length}"
    ranked = sorted(content["sources"], key=lambda each: float(each["mean"]))
    if len(ranked) == 1:
        return (first,)
    (least, low), (most, high) = (
        (each["source"] or "no source", f"{each['mean']:+.4f}") for each in (ranked[0], ranked[-1])
    )
    if low == high:
        return first, f"alike for all {len(ranked):,} sources"
    return first, f"most for {most} ({high}), least for {least} ({low})"


def _sources(sums: Summary) -> list[dict[str, Any]]:
    """Sources with their documents and mean scores, the largest first."""
    order = np.lexsort((sums["keys"], -sums["sums"][:, 0]))
    return [
        {
            "source": str(sums["names"][i]) or None,
            "documents": int(documents),
            "tokens": int(tokens),
            "mean": int(units) / int(documents) / (1 << BITS),
            "share_positive": int(positive) / int(documents),
        }
        for i in order.tolist()
        for documents, tokens, units, positive in [sums["sums"][i]]
    ]


def _costs(sums: Summary, prior: Trained, conditional: Trained) -> dict[str, Any]:
    """Tokens and operations of training and scoring with each model; training is three forward passes.

    A folder does not tell what it was trained on: null.
    """
    costs, models = {}, {"prior": prior, "conditional": conditional}
    for (name, model), scored in zip(models.items(), sums["tokens"].tolist(), strict=True):
        per_token, seen = forward_flops(Path(model["folder"])), model.get("tokens")
        costs[name] = {
            "forward_flops_per_token": per_token,
            "trained_tokens": seen,
            "training_flops": None if seen is None else 3 * per_token * int(seen),
            "scored_tokens": scored,
            "scoring_flops": per_token * scored,
        }
    return costs


def _numbers(column: pa.Array) -> Float64:
    """float64, (n); NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
