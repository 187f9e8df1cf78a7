"""Do scores predict what training does? Models trained on random subsets, and rank correlations with intervals.

A score toward a target is worth ranking by if subsets of the pool for which it predicts more do lower the target's loss
more. That is measured here, for any column: docs/verify.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from tamis.errors import ContractError
from tamis.expressions import Expression
from tamis.models.reference import ModelRef, OfModels, trained
from tamis.models.sizes import Size, size, size_in
from tamis.models.tokenizer import Tokenizer
from tamis.pipeline.stages.reliability import judge_scores, refusals, told
from tamis.pipeline.stages.subsets import MARGIN, MOST, Lottery, deal, first_documents, scores_of, share_of
from tamis.steps import Batch, Documents, Fold, Pool, Publish, Steps, Summary, Train, Use, Workshop

BYTES_PER_TOKEN = 3.5  # of English text and the tokenizer that a run trains by default, about

Told = Mapping[str, Any]


def _several(scores: Any) -> Any:
    """One score may be written without a list."""
    return (scores,) if isinstance(scores, str) else tuple(scores) if isinstance(scores, list) else scores


@dataclass(frozen=True)
class Verify(OfModels):
    """Trains small models on random subsets of the pool and writes what it found: do scores predict their losses?

    score : columns, or expressions over columns, per token; more should mean a lower loss on the target. Several are
    judged by the same models.
    target : documents whose loss is measured. subsets : models. tokens : of each subset, and training tokens.
    start : the model that each training starts from (`from:` in stages.yaml); without it, the same first weights.
    size : of new models. seeds : trainings per subset, with other first weights and another order; their mean counts.
    evaluate_bytes : text of the target, drawn by document. level : of the interval.
    A subset's prediction is the mean score of its tokens; documents without a score are in no subset. A score is
    reliable if the interval of its rank correlation over subsets lies above 0.
    Source: Park et al. 2023, TRAK, section 4 (linear datamodeling score); an interval by bootstrap over subsets.
    """

    score: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_several)]
    target: Documents
    subsets: Annotated[int, Field(ge=10, le=10_000)] = 100
    tokens: Annotated[int, Field(gt=0)] = 50_000
    start: ModelRef | None = None
    size: str | None = None
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    evaluate_bytes: Annotated[int, Field(gt=0)] = 200_000
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    version: ClassVar[int] = 2
    seeded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.start is None:
            size(self.size or "tiny")
        elif self.size is not None:
            raise ValueError(
                f"size: expected none beside `from:`, whose model has a size of its own, got {self.size!r}"
            )

    @property
    def models(self) -> tuple[str | None, ...]:
        return (self.start,)

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for score in self.score for column in Expression(score).columns))

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("doc_id", "text", "n_tokens", *self._columns)))

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        del name
        return {}

    def notes(self) -> Sequence[str]:
        models, kind = self.subsets * self.seeds, f"from {self.start}" if self.start else f"size {self.size or 'tiny'}"
        cost = f"{models} models ({kind}), {self.tokens:,} tokens each, {models * self.tokens:,} in all"
        return (f"trains {cost}",)

    @property
    def fewest_tokens(self) -> int:
        """Of a pool that is large enough for its subsets."""
        return round(MARGIN * self.tokens / MOST)

    def steps(self, pool: Pool) -> Steps:
        start = None if self.start is None else (yield from trained(self.start))
        tokenizer = (yield Use("tokens"))["folder"] if start is None else start["folder"]
        narrow = tuple(dict.fromkeys(("n_tokens", *self._columns)))
        row_tokens = self._size(start).row_tokens
        found = yield Fold(narrow, partial(self._tokens_of, row_tokens))
        total = (int(found["tokens"]), int(found["tokens_in_rows"]))
        gather = partial(self._deal, pool, total, tokenizer, start)
        pretend = partial(self._time, pool, tokenizer, start)
        dealt = yield Train("subsets", self.reads, gather, over=(self.target,), gpu=False, pretend=pretend)
        measured = yield self._trainings(pool, dealt, tokenizer, start)
        judge = partial(self._judge, pool, dealt, [each["folder"] for each in measured])
        found = yield Train("verdict", (), judge, gpu=False, pretend=self._pretence)
        content = {name: value for name, value in found.items() if name != "folder"}
        return Publish(f"findings/{pool.name}.json", content, told(found))

    @property
    def _pretence(self) -> Told:
        """A verdict that stops nobody."""
        certain = {"reliable": True, "lds": 1.0, "low": 1.0, "high": 1.0}
        facts = {"subsets": self.subsets, "tokens": self.tokens, "refusals": {}}
        return {"scores": dict.fromkeys(self.score, certain), **facts}

    def _trainings(self, pool: Pool, dealt: Told, tokenizer: str, start: Told | None) -> list[Train]:
        """One step per subset and seed: they run side by side, and each is kept."""
        runs = [(subset, seed) for subset in range(self.subsets) for seed in range(self.seeds)]
        return [
            Train(
                f"subset-{subset:03d}" + (f"-{seed}" if self.seeds > 1 else ""),
                (),
                partial(self._train, pool, dealt["folder"], tokenizer, start, subset, seed),
                pretend={"_seconds": dealt.get("seconds", 0.0)},
            )
            for subset, seed in runs
        ]

    def _tokens_of(self, row_tokens: int, batch: Batch) -> Summary:
        """Tokens of the documents with scores, and those of them that would be left if none had more than a row."""
        tokens = pc.fill_null(batch["n_tokens"], 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
        tokens = tokens[~np.isnan(scores_of(self.score, batch)).any(axis=0)]
        in_rows = np.minimum(tokens, row_tokens)
        return {"tokens": np.array(tokens.sum(), np.int64), "tokens_in_rows": np.array(in_rows.sum(), np.int64)}

    def _size(self, start: Told | None) -> Size:
        return size(self.size or "tiny") if start is None else size_in(Path(start["folder"]))

    def _deal(
        self, pool: Pool, total: tuple[int, int], tokenizer: str, start: Told | None, workshop: Workshop
    ) -> dict[str, Any]:
        """Every subset's rows and prediction, and the target's tokens, from one reading of the pool."""
        encoder, row_tokens = Tokenizer.load(Path(tokenizer)), self._size(start).row_tokens
        share = share_of(self.tokens, row_tokens, *total)
        if share > MOST:
            raise ContractError(
                f"{pool.name}: expected a pool of {self.fewest_tokens:,} scored tokens or more for subsets "
                f"of {self.tokens:,}, got {total[0]:,}; lower `tokens:`"
            )
        dealt = deal(
            workshop.documents(columns=self.reads), self.score, Lottery(pool.seed, self.subsets, share), encoder
        )
        subsets = []
        for number in range(self.subsets):
            subset = dealt.subset(number, self.tokens, row_tokens, encoder.end)
            if not len(subset.rows):
                raise ContractError(
                    f"{pool.name}: expected a row of {row_tokens} tokens or more in every subset, got none in subset "
                    f"{number} of a pool of {total[0]:,}; give it more documents, or a smaller `size:`"
                )
            np.save(workshop.folder / f"rows-{number:04d}.npy", subset.rows)
            held = len(subset.rows) * row_tokens
            told = {"predicted": subset.predicted.tolist(), "documents": subset.documents, "tokens": held}
            subsets.append(told)
        ids, offsets = encoder.encode(self._target(pool, workshop))
        np.savez(workshop.folder / "target.npz", ids=ids, offsets=offsets)
        return {"subsets": subsets, "target_documents": len(offsets) - 1, "target_tokens": len(ids)}

    def _target(self, pool: Pool, workshop: Workshop) -> list[str]:
        """Texts of the target to measure losses on. Raises ContractError if there is none."""
        texts = first_documents(workshop.documents(self.target), pool.seed, self.evaluate_bytes)
        if not texts:
            raise ContractError(f"{pool.name}: target: expected documents with text, got none; check its paths")
        return texts

    def _train(
        self,
        pool: Pool,
        dealt: str,
        tokenizer: str,
        start: Told | None,
        subset: int,
        seed: int,
        workshop: Workshop,
    ) -> dict[str, Any]:
        """The target's loss after training on one subset: nats of each document, in `nats.npy`. The model goes."""
        from tamis.models.build import load
        from tamis.models.device import choose
        from tamis.models.loss import document_losses
        from tamis.models.train import train

        shape = self._size(start)
        device = choose(shape.width)
        model_folder = workshop.folder / "_model"
        with device.alone():
            facts = train(
                np.load(Path(dealt) / f"rows-{subset:04d}.npy", mmap_mode="r", allow_pickle=False),
                shape,
                seed=(pool.seed * 1000 + seed) % 2**63,
                tokens=self.tokens,
                folder=model_folder,
                tokenizer_folder=Path(tokenizer),
                start_from=None if start is None else Path(start["folder"]),
                device=device,
                report=workshop.report,
            )
            end = Tokenizer.load(model_folder).end
            with np.load(Path(dealt) / "target.npz", allow_pickle=False) as target:
                nats, counts = document_losses(
                    load(model_folder), target["ids"], target["offsets"], end=end, device=device
                )
        np.save(workshop.folder / "nats.npy", nats)
        shutil.rmtree(model_folder)  # what was measured is kept; models of a real size would fill the disk
        return {
            "nats_per_token": float(nats.sum() / counts.sum()),
            "training_loss": facts["final_loss"],
            "epochs": facts["epochs"],
            "_tokens_per_second": facts["tokens_per_second"],
        }

    def _judge(self, pool: Pool, dealt: Told, folders: Sequence[str], workshop: Workshop) -> dict[str, Any]:
        """The rank correlation of each score's predictions with losses."""
        del workshop
        with np.load(Path(dealt["folder"]) / "target.npz", allow_pickle=False) as target:
            counts = np.diff(target["offsets"])
        nats = np.stack([np.load(Path(folder) / "nats.npy", allow_pickle=False) for folder in folders])
        nats = nats.reshape(self.subsets, self.seeds, len(counts))
        predicted = np.array([each["predicted"] for each in dealt["subsets"]]).T
        found = {
            "stage": pool.name,
            "subsets": self.subsets,
            "tokens": self.tokens,
            "seeds": self.seeds,
            "target_documents": dealt["target_documents"],
            "target_tokens": dealt["target_tokens"],
            "documents": [subset["documents"] for subset in dealt["subsets"]],
            **judge_scores(dict(zip(self.score, predicted, strict=True)), nats, counts, self.level, pool.seed),
        }
        return {**found, "refusals": refusals(found)}

    def _time(self, pool: Pool, tokenizer: str, start: Told | None, workshop: Workshop) -> dict[str, Any]:
        """How long one training and the reading of the target will take: `seconds`. Raises ContractError as `_deal`."""
        from tamis.models.device import choose
        from tamis.models.flops import seconds_to_train

        self._target(pool, workshop)
        shape, vocabulary = self._size(start), Tokenizer.load(Path(tokenizer)).vocab_size
        device = choose(shape.width)
        with device.alone():
            seconds = seconds_to_train(shape, vocabulary, shape.recipe(self.tokens), device)
        read = self.evaluate_bytes / BYTES_PER_TOKEN  # forward passes alone, a third of what training on them costs
        return {"seconds": seconds * (1 + read / 3 / self.tokens)}
