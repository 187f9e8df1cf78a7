"""A language model of the run: trained on a slice of the pool, an arm or other documents; anew, or from a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.errors import ContractError
from tamis.kernels.exact import exact_keys
from tamis.models.reference import ModelRef, digests_of, stages_in, trained
from tamis.models.rows import Chosen, draw
from tamis.models.sizes import Size, size, size_in
from tamis.models.tokenizer import Tokenizer
from tamis.steps import Batch, Columns, Component, Documents, Fold, Map, Pool, Steps, Summary, Train, Use, Workshop

MARGIN = 1.1  # documents drawn over the tokens wanted: `n_tokens` is an estimate
SLICE = "slice"  # one stream for all models: a larger slice holds every smaller one


@dataclass(frozen=True)
class Slice:
    """Documents drawn from the pool by a hash of their ids, as many as hold `tokens` tokens; slices nest."""

    tokens: Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class OnSlice:
    """`{random: {tokens: …}}`."""

    random: Slice


@dataclass(frozen=True)
class OnArm:
    """`{arm: …}`: the documents of a select stage, as often as it uses them."""

    arm: str


@dataclass(frozen=True)
class TrainModel(Component):
    """Trains a causal language model and keeps it as a Hugging Face folder; `in_training_<name>` marks its documents.

    on : what it is trained on: {random: {tokens: N}}, {arm: NAME}, or documents (a path, or {paths, text}).
    start : the model to start from (`from:` in stages.yaml), with a fresh optimiser; its size and its tokenizer are
    then that model's.
    size : of a new model. tokens : training tokens in all; without it `epochs` times what it is trained on.
    The mark is true for the documents of the slice or the arm that were trained on, and for documents of the pool
    that have the words of one of the documents beside the pool.
    """

    on: OnSlice | OnArm | Documents
    start: ModelRef | None = None
    size: str | None = None
    tokens: Annotated[int, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0

    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    extra: ClassVar[str | None] = "train"
    needs: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "safetensors")

    def __post_init__(self) -> None:
        if self.start is None:
            size(self.size or "tiny")
        elif self.size is not None:
            raise ValueError(
                f"size: expected none beside `from:`, whose model has a size of its own, got {self.size!r}"
            )

    @property
    def uses(self) -> tuple[str, ...]:
        return stages_in(self.start)

    def contents(self) -> tuple[str, ...]:
        return digests_of(self.start)

    @property
    def reads(self) -> tuple[str, ...]:
        if isinstance(self.on, Documents):
            return ("doc_id", "text")
        return ("doc_id", "text", "n_tokens", *([f"{self.on.arm}_repeats"] if isinstance(self.on, OnArm) else []))

    @property
    def _narrow(self) -> tuple[str, ...]:
        return tuple(column for column in self.reads if column != "text")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {f"in_training_{name}": pa.bool_()}

    def steps(self, pool: Pool) -> Steps:
        start = None if self.start is None else (yield from trained(self.start))
        tokenizer = (yield Use("tokens"))["folder"] if start is None else start["folder"]
        share = 1.0
        if not isinstance(self.on, Documents):
            total = int((yield Fold(self._narrow, self._tokens_of))["tokens"])
            share = min(1.0, MARGIN * self._wanted / max(1, total)) if self._wanted else 1.0
        over = (self.on,) if isinstance(self.on, Documents) else ()
        gather = partial(self._rows, pool, share, tokenizer, start)
        rows = yield Train("rows", self.reads, gather, over=over, gpu=False)
        told = {"rows": rows["folder"], "tokens": int(self.tokens or self.epochs * rows["tokens"])}
        fit = partial(self._train, pool, told, tokenizer, start)
        yield Train("model", (), fit, pretend=partial(self._pretend, told, tokenizer, start))
        if isinstance(self.on, Documents):
            seen = yield Fold(("text",), _keys, over=self.on, merge=_union)
            return Map(("text",), self.columns(pool.name), partial(_has_key, pool.name, seen["keys"]))
        last = np.uint64(rows["last_hash"])
        return Map(self._narrow, self.columns(pool.name), partial(self._was_drawn, pool, share, last))

    @property
    def _wanted(self) -> int | None:
        """Tokens of the slice, if it is one."""
        return self.on.random.tokens if isinstance(self.on, OnSlice) else None

    def _repeats(self, batch: Batch) -> npt.NDArray[np.int64]:
        if not isinstance(self.on, OnArm):
            return np.ones(len(batch), np.int64)
        column = pc.fill_null(batch[f"{self.on.arm}_repeats"], 0).cast(pa.int64())
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def _tokens_of(self, batch: Batch) -> Summary:
        tokens = pc.fill_null(batch["n_tokens"], 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
        return {"tokens": np.array((tokens * self._repeats(batch)).sum(), np.int64)}

    def _chosen(self, pool: Pool, share: float, batch: Batch) -> Chosen:
        hashes, repeats = seeds.hash64(pool.seed, SLICE, batch.doc_ids), self._repeats(batch)
        chosen = np.flatnonzero((repeats > 0) & seeds.within(hashes, share))
        return batch["text"].take(pa.array(chosen)).to_pylist(), hashes[chosen], repeats[chosen]

    def _rows(
        self, pool: Pool, share: float, tokenizer: str, start: Mapping[str, Any] | None, workshop: Workshop
    ) -> dict[str, Any]:
        """Training rows, as many whole documents as the tokens need, in the order of a hash of their ids."""
        encoder, row_tokens = Tokenizer.load(Path(tokenizer)), self._size(start).row_tokens
        beside = self.on if isinstance(self.on, Documents) else None
        batches = workshop.documents(beside, () if beside else self.reads)
        drawn = draw(map(_with_ids, batches) if beside else batches, partial(self._chosen, pool, share), encoder)
        if self._wanted:
            drawn = drawn.first(self._wanted + row_tokens)
        rows = drawn.rows(row_tokens, encoder.end)
        if not len(rows):
            raise ContractError(
                f"{pool.name}: expected a row of {row_tokens} tokens or more to train on, got none; give it more text"
            )
        np.save(workshop.folder / "rows.npy", rows)
        tokens = len(rows) * row_tokens
        last = int(drawn.hashes[drawn.order[-1]])
        return {
            "tokens": min(tokens, self._wanted or tokens),
            "documents": int(drawn.uses[drawn.order].sum()),
            "last_hash": last,
        }

    def _size(self, start: Mapping[str, Any] | None) -> Size:
        return size(self.size or "tiny") if start is None else size_in(Path(start["folder"]))

    def _train(
        self, pool: Pool, told: Mapping[str, Any], tokenizer: str, start: Mapping[str, Any] | None, workshop: Workshop
    ) -> dict[str, Any]:
        from tamis.models.device import choose
        from tamis.models.train import train

        shape = self._size(start)
        device = choose(shape.width)
        with device.alone():
            facts = train(
                np.load(Path(told["rows"]) / "rows.npy", mmap_mode="r", allow_pickle=False),
                shape,
                seed=pool.seed % 2**63,
                tokens=told["tokens"],
                folder=workshop.folder,
                tokenizer_folder=Path(tokenizer),
                start_from=None if start is None else Path(start["folder"]),
                device=device,
                report=workshop.report,
            )
        speed = facts.pop("tokens_per_second")
        return {**facts, "_tokens_per_second": speed}

    def _pretend(
        self, told: Mapping[str, Any], tokenizer: str, start: Mapping[str, Any] | None, workshop: Workshop
    ) -> dict[str, Any]:
        """An untrained model of the same shape, and how long the training would take."""
        from tamis.models.build import build, save
        from tamis.models.train import copy_tokenizer

        shape = self._size(start)
        vocabulary = Tokenizer.load(Path(tokenizer)).vocab_size
        save(build(shape, vocabulary, 0), workshop.folder)
        copy_tokenizer(Path(tokenizer), workshop.folder)
        return {"tokens": told["tokens"]}

    def _was_drawn(self, pool: Pool, share: float, last: np.uint64, batch: Batch) -> Columns:
        hashes = seeds.hash64(pool.seed, SLICE, batch.doc_ids)
        used = (self._repeats(batch) > 0) & seeds.within(hashes, share) & (hashes <= last)
        return {f"in_training_{pool.name}": used}


def _with_ids(batch: Batch) -> Batch:
    """Documents beside the pool need no ids of their own: they are told apart by their words."""
    high, _, _ = exact_keys(batch.words)
    table = batch.table.select(["text"]).append_column("doc_id", pa.array(high).cast(pa.string()))
    return Batch(table)


def _keys(batch: Batch) -> Summary:
    """128 bits of the words of each document that has any: uint64, (n, 2), sorted."""
    high, low, has_words = exact_keys(batch.words)
    return {"keys": np.unique(np.stack([high, low], axis=1)[has_words], axis=0)}


def _union(one: Summary, other: Summary) -> Summary:
    return {"keys": np.unique(np.concatenate([one["keys"], other["keys"]]), axis=0)}


def _has_key(name: str, keys: npt.NDArray[np.uint64], batch: Batch) -> Columns:
    high, low, has_words = exact_keys(batch.words)
    place = np.minimum(np.searchsorted(keys[:, 0], high), max(len(keys) - 1, 0))
    found = has_words & (keys[place, 0] == high) & (keys[place, 1] == low) if len(keys) else np.zeros(len(batch), bool)
    return {f"in_training_{name}": found}
