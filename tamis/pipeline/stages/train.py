"""A language model of the run: trained on a slice of the pool, an arm or other documents; anew, or from a model."""

from __future__ import annotations

import sys
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
from tamis.models.method import Method, RecipeName
from tamis.models.order import FEWEST_EPOCHS, Prune
from tamis.models.reference import ModelRef, OfModels, trained
from tamis.models.reweighting import Reweight
from tamis.models.rows import Chosen, Drawn, draw
from tamis.models.sizes import Size, size, size_in
from tamis.models.tokenizer import Tokenizer
from tamis.pipeline.stages.trained_on import On, OnArm, OnSlice, has_key, union
from tamis.steps import Batch, Columns, Documents, Fold, Map, Pool, Publish, Steps, Summary, Train, Use, Workshop

MARGIN = 1.1  # documents drawn over the tokens wanted: `n_tokens` is an estimate
SLICE = "slice"  # one stream for all models: a larger slice holds every smaller one


@dataclass(frozen=True)
class TrainModel(OfModels):
    """Trains a causal language model and keeps it as a Hugging Face folder; `in_training_<name>` marks its documents.

    on : what it is trained on: {random: {tokens: N}}, {arm: NAME}, or documents (a path, or {paths, text}).
    start : the model to start from (`from:` in stages.yaml), with a fresh optimiser; its size and its tokenizer are
    then that model's.
    size : of a new model. tokens : training tokens in all; without it `epochs` times what it is trained on. Fewer than
    those take the first documents by a hash of their ids, more go through them again.
    recipe : default (measured rates for the smallest sizes, else the step law) or color (CoLoR-Filter's auxiliary
    models); learning_rate (the peak), batch_tokens and warmup_tokens override it.
    reweight : weights of rows by their losses: {strategy, temperature, burn_in, clip, anneal, start}.
    prune : leaves out rows that the model predicts well, from the second epoch on: {ratio, until}.
    keep : how many models to keep along the way.
    compile : with torch.compile; by default in long runs on a GPU. processes : by default one per GPU that it sees.
    The mark is true for the documents of the pool that were trained on, and for those that have the words of one of
    the documents beside the pool that were. findings/<name>.json says what a slice holds of what it was asked to hold.
    """

    on: On
    start: ModelRef | None = None
    size: str | None = None
    tokens: Annotated[int, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0
    recipe: RecipeName = "default"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    batch_tokens: Annotated[int, Field(gt=0)] | None = None
    warmup_tokens: Annotated[int, Field(ge=0)] | None = None
    reweight: Reweight | None = None
    prune: Prune | None = None
    keep: Annotated[int, Field(ge=0, le=1000)] = 0
    compile: bool | None = None
    processes: Annotated[int, Field(ge=1, le=1024)] | None = None

    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    said: ClassVar[tuple[str, ...]] = ("compile", "processes")  # how it is computed, not what

    def __post_init__(self) -> None:
        if self.start is None:
            self.method.plan(size(self.size or "tiny"), self.tokens or sys.maxsize)  # are its numbers possible?
        elif self.size is not None:
            raise ValueError(
                f"size: expected none beside `from:`, whose model has a size of its own, got {self.size!r}"
            )
        if self.prune and self.tokens is None and self.epochs < FEWEST_EPOCHS:
            raise ValueError(
                f"prune: expected epochs: {FEWEST_EPOCHS} or more (or tokens:), "
                f"since rows are judged by what they lost before, got {self.epochs:g}"
            )

    @property
    def method(self) -> Method:
        """What the trainer is told beside size and tokens."""
        numbers = (self.learning_rate, self.batch_tokens, self.warmup_tokens)
        return Method(self.recipe, *numbers, self.reweight, self.prune)

    @property
    def models(self) -> tuple[str | None, ...]:
        return (self.start,)

    @property
    def reads(self) -> tuple[str, ...]:
        if isinstance(self.on, Documents):
            return ("doc_id", "text")
        arm = [f"{self.on.arm}_repeats"] if isinstance(self.on, OnArm) else []
        return ("doc_id", "text", "n_bytes", "n_tokens", *arm)

    @property
    def _narrow(self) -> tuple[str, ...]:
        return tuple(column for column in self.reads if column != "text")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {f"in_training_{name}": pa.bool_()}

    def steps(self, pool: Pool) -> Steps:
        start = None if self.start is None else (yield from trained(self.start))
        tokenizer = (yield Use("tokens"))["folder"] if start is None else start["folder"]
        share = 1.0
        if self._most and not isinstance(self.on, Documents):
            total = int((yield Fold(self._narrow, self._tokens_of))["tokens"])
            share = min(1.0, MARGIN * self._most / max(1, total))
        over = (self.on,) if isinstance(self.on, Documents) else ()
        gather = partial(self._rows, pool, share, tokenizer, start)
        rows = yield Train("rows", self.reads, gather, over=over, gpu=False, pretend=partial(gather, pretends=True))
        told = {"rows": rows["folder"], "tokens": int(self.tokens or self.epochs * rows["tokens"])}
        fit = partial(self._train, pool, told, tokenizer, start)
        yield Train("model", (), fit, pretend=partial(self._pretend, rows["tokens"], tokenizer, start))
        last = np.uint64(rows["last_hash"])
        if isinstance(self.on, Documents):
            seen = yield Fold(("text",), partial(self._keys, pool, last), over=self.on, merge=union)
            return Map(("text",), self.columns(pool.name), partial(has_key, pool.name, seen["keys"]))
        found = self._found(pool, rows, told["tokens"]) if isinstance(self.on, OnSlice) else None
        return Map(self._narrow, self.columns(pool.name), partial(self._was_drawn, pool, last), findings=found)

    @property
    def _most(self) -> int | None:
        """Tokens of text that are used at most; None where all are."""
        limits = [self.on.random.tokens] if isinstance(self.on, OnSlice) else []
        return min([*limits, *([self.tokens] if self.tokens else [])], default=None)

    def _repeats(self, batch: Batch) -> npt.NDArray[np.int64]:
        if not isinstance(self.on, OnArm):
            return np.ones(len(batch), np.int64)
        column = pc.fill_null(batch[f"{self.on.arm}_repeats"], 0).cast(pa.int64())
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def _tokens_of(self, batch: Batch) -> Summary:
        tokens = pc.fill_null(batch["n_tokens"], 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
        return {"tokens": np.array((tokens * self._repeats(batch)).sum(), np.int64)}

    def _hashes(self, pool: Pool, batch: Batch) -> npt.NDArray[np.uint64]:
        """Documents beside the pool need no ids of their own: they are told apart by their texts."""
        return seeds.hash64(pool.seed, SLICE, batch.text if isinstance(self.on, Documents) else batch.doc_ids)

    def _chosen(self, pool: Pool, share: float, batch: Batch) -> Chosen:
        hashes, repeats = self._hashes(pool, batch), self._repeats(batch)
        chosen = np.flatnonzero((repeats > 0) & seeds.within(hashes, share))
        return batch["text"].take(pa.array(chosen)).to_pylist(), hashes[chosen], repeats[chosen]

    def _drawn(self, pool: Pool, share: float, encoder: Tokenizer, workshop: Workshop) -> Drawn:
        """As many documents as are needed, and more: again with a larger share where the estimate was too low."""
        beside = self.on if isinstance(self.on, Documents) else None
        while True:
            batches = workshop.documents(beside, () if beside else self.reads)
            drawn = draw(batches, partial(self._chosen, pool, share), encoder)
            if share >= 1 or _tokens_in(drawn) >= (self._most or 0):
                return drawn
            share = min(1.0, 2 * share)

    def _rows(
        self,
        pool: Pool,
        share: float,
        tokenizer: str,
        start: Mapping[str, Any] | None,
        workshop: Workshop,
        *,
        pretends: bool = False,
    ) -> dict[str, Any]:
        """Training rows of documents in the order of a hash of their ids: full ones, of the tokens that are used."""
        encoder, row_tokens = Tokenizer.load(Path(tokenizer)), self._size(start).row_tokens
        drawn = self._drawn(pool, share, encoder, workshop)
        have = _tokens_in(drawn)
        count = min(have, self._most or have) // row_tokens
        if not count and pretends:  # a sample may hold less than a row, the corpus what is asked for
            rows, last, have = np.zeros((1, row_tokens + 1), drawn.ids.dtype), 0, self._most or row_tokens
        elif not count:
            few = self._most is not None and self._most < row_tokens
            advice = "raise its tokens" if few else "give it more text, or a wider `where:` if it has one"
            raise ContractError(
                f"{pool.name}: expected a row of {row_tokens} tokens or more to train on, "
                f"got {min(have, self._most or have)}; {advice}"
            )
        else:
            drawn = drawn.first(count * row_tokens)
            rows, last = drawn.rows(row_tokens, encoder.end)[:count], int(drawn.hashes[drawn.order[-1]])
            if pretends and self._most and not isinstance(self.on, Documents):
                marked = drawn.first(int(self._most * workshop.share))  # as large a part of the sample as of the pool
                last = int(marked.hashes[marked.order[-1]])
        np.save(workshop.folder / "rows.npy", rows)
        tokens = min(have, self._most) if self._most else len(rows) * row_tokens
        return {"tokens": tokens, "documents": int(drawn.uses[drawn.order].sum()), "last_hash": last}

    def _size(self, start: Mapping[str, Any] | None) -> Size:
        return size(self.size or "tiny") if start is None else size_in(Path(start["folder"]))

    def _train(
        self, pool: Pool, told: Mapping[str, Any], tokenizer: str, start: Mapping[str, Any] | None, workshop: Workshop
    ) -> dict[str, Any]:
        from tamis.models.device import choose
        from tamis.models.train import TIMES, train

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
                method=self.method,
                keep=self.keep,
                compile=self.compile,
                processes=self.processes,
                device=device,
                report=workshop.report,
            )
        return {f"_{name}" if name in TIMES else name: value for name, value in facts.items()}

    def _pretend(
        self, held: int, tokenizer: str, start: Mapping[str, Any] | None, workshop: Workshop
    ) -> dict[str, Any]:
        """An untrained model of the same shape, and how long the training would take."""
        from tamis.models.build import build, save
        from tamis.models.device import choose
        from tamis.models.flops import seconds_to_train
        from tamis.models.train import copy_tokenizer

        shape, vocabulary = self._size(start), Tokenizer.load(Path(tokenizer)).vocab_size
        tokens = self._expected_tokens(held, workshop.share)
        recipe = self.method.plan(shape, tokens, continues=start is not None)
        save(build(shape, vocabulary, 0), workshop.folder)
        copy_tokenizer(Path(tokenizer), workshop.folder)
        device = choose(shape.width)
        with device.alone():
            seconds = seconds_to_train(shape, vocabulary, recipe, device)
        kept = [{"folder": ".", "step": at + 1, "learning_rate": recipe.learning_rate} for at in range(self.keep)]
        return {"tokens": tokens, "checkpoints": kept, "_seconds": seconds}

    def _expected_tokens(self, held: int, share: float) -> int:
        """Training tokens of a run, if what it trains on holds `held` tokens in the share `share` of the pool."""
        if self.tokens:
            return self.tokens
        whole = float(held) if isinstance(self.on, Documents) else held / share
        if isinstance(self.on, OnSlice):
            whole = min(whole, self.on.random.tokens)
        return max(1, int(self.epochs * whole))

    def _found(self, pool: Pool, rows: Mapping[str, Any], tokens: int) -> Publish:
        """What the slice holds, at most as many tokens as are used; a line if that is less than was asked for."""
        assert self._most is not None
        epochs = tokens / rows["tokens"]
        content = {"wanted_tokens": self._most, "epochs": epochs, **{key: rows[key] for key in ("tokens", "documents")}}
        line = (
            f"expected a slice of {self._most:,} tokens, all documents together have {rows['tokens']:,}; "
            f"trains on {tokens:,}, {epochs:.3g} epoch{'' if epochs == 1 else 's'} of these"
        )
        short = rows["tokens"] < self._most
        return Publish(f"findings/{pool.name}.json", content, (line,) if short else ())

    def _keys(self, pool: Pool, last: np.uint64, batch: Batch) -> Summary:
        """128 bits of the words of each document that was trained on and has any: uint64, (n, 2), sorted."""
        high, low, has_words = exact_keys(batch.words)
        seen = has_words & (self._hashes(pool, batch) <= last)
        return {"keys": np.unique(np.stack([high, low], axis=1)[seen], axis=0)}

    def _was_drawn(self, pool: Pool, last: np.uint64, batch: Batch) -> Columns:
        has_text = pc.greater(pc.fill_null(batch["n_bytes"], 0), 0).to_numpy(zero_copy_only=False)
        used = (self._repeats(batch) > 0) & (self._hashes(pool, batch) <= last) & has_text
        return {f"in_training_{pool.name}": used}


def _tokens_in(drawn: Drawn) -> int:
    """Tokens of all documents drawn, end tokens counted, as often as they are used."""
    return int(((np.diff(drawn.offsets) + 1) * drawn.uses).sum())
