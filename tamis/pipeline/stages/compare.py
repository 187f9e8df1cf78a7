"""Does it help? A proxy model per arm and seed, on equal tokens, judged on held-out text with an interval.

The pool's held-out documents (a fixed share, drawn by id) and everything that overlaps an evaluation set are left
out of the training of every arm, and counted; passages that deduplicators marked are left out of the text, as an
export leaves them out. Protocol: docs/compare.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from tamis.kernels.spans import covered_bytes, spans_of, united
from tamis.models.rows import Chosen, draw
from tamis.models.sizes import size
from tamis.models.tokenizer import Tokenizer
from tamis.pipeline.passages import cut
from tamis.pipeline.stages.judge import encode_sets, judge
from tamis.pipeline.stages.verdict import told, verdict
from tamis.steps import Batch, Component, Documents, Fold, Pool, Publish, Steps, Summary, Train, Use, Workshop

HELD_OUT = 0.02  # of the pool, by id: kept from every arm's training, to say what a selection costs elsewhere
MARGIN = 1.25  # text drawn over the tokens wanted: `n_tokens` is an estimate


@dataclass(frozen=True)
class Compare(Component):
    """Trains a proxy model per arm × seed and writes compare.json: bits per byte, and paired differences.

    arms : names of select stages; control : the one that the others are compared with (by default the last).
    size : of the proxy models. seeds : runs per arm; each has its own first weights and order of data.
    evaluate : held-out sets by name. tokens : training tokens per run (by default those of the smallest arm).
    evaluate_bytes : text per held-out set, drawn by document. level : of the intervals. whole : arms that are trained
    on whole texts, with the passages that an export leaves out.
    Source: methods of small-scale comparison as in Magnusson et al. 2025 (DataDecide); bits per byte over seeds.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=2)]
    evaluate: Annotated[dict[str, Documents], Field(min_length=1)]
    size: str = "tiny"
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    tokens: Annotated[int, Field(gt=0)] | None = None
    control: str | None = None
    evaluate_bytes: Annotated[int, Field(gt=0)] = 400_000
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    whole: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()  # the columns of passages that an export leaves out; set by the specification
    overlap: str = "overlap"  # the column that says which documents overlap these sets; set by the specification

    seeded: ClassVar[bool] = True
    extra: ClassVar[str | None] = "train"
    needs: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "safetensors")

    def __post_init__(self) -> None:
        size(self.size)
        if self.control is not None and self.control not in self.arms:
            raise ValueError(f"control: expected one of the arms {', '.join(self.arms)}, got {self.control!r}")
        if unknown := [arm for arm in self.whole if arm not in self.arms]:
            raise ValueError(f"whole: expected some of the arms {', '.join(self.arms)}, got {unknown[0]!r}")
        reserved = [name for name in self.evaluate if name == "pool" or name.startswith("pool/")]
        if reserved:
            raise ValueError(
                f"evaluate: the name {reserved[0]!r} is taken by held-out documents of the pool; choose another"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (
            "doc_id",
            "text",
            "source",
            "n_bytes",
            "n_tokens",
            self.overlap,
            *self.spans,
            *(f"{arm}_repeats" for arm in self.arms),
        )

    @property
    def _facts(self) -> tuple[str, ...]:
        return tuple(column for column in self.reads if column not in ("text", "source"))

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        del name
        return {}

    def steps(self, pool: Pool) -> Steps:
        tokenizer = yield Use("tokens")
        counts = yield Fold(self._facts, partial(self._count, pool.seed))
        tokens = self.tokens or int(min(counts[f"{arm}_tokens"] for arm in self.arms))
        *rows, held = yield self._preparations(pool.seed, tokens, counts, tokenizer["folder"])
        folders = {arm: made["folder"] for arm, made in zip(self.arms, rows, strict=True)}
        runs = [(arm, seed) for arm in self.arms for seed in range(self.seeds)]
        trained = yield [
            Train(
                f"{arm}-{self.size}-{seed}",
                (),
                partial(
                    self._train, folders[arm], held["folder"], tokenizer["folder"], _model_seed(pool, seed), tokens
                ),
                pretend={"scores": {}, "training": {}},
            )
            for arm, seed in runs
        ]
        results = dict(zip(runs, trained, strict=True))
        found = verdict(self.arms, self.control or self.arms[-1], self.size, held["sets"], results, self.level)
        return Publish("compare.json", {**self._said(tokens, counts, rows), **found}, told(found))

    def _preparations(self, seed: int, tokens: int, counts: Summary, tokenizer: str) -> list[Train]:
        """Training rows for each arm, and the held-out sets as tokens."""
        held_share = min(1.0, self.evaluate_bytes / max(1, int(counts["held_out_bytes"])))
        rows = [partial(self._rows, seed, arm, tokens, counts, tokenizer) for arm in self.arms]
        sets = partial(self._sets, seed, held_share, tokenizer)
        beside = tuple(self.evaluate.values())
        return [
            *(
                Train(f"rows-{arm}", self.reads, train, gpu=False, pretend={"rows": 0})
                for arm, train in zip(self.arms, rows, strict=True)
            ),
            Train("sets", self.reads, sets, over=beside, gpu=False, pretend={"sets": {}}),
        ]

    def _said(self, tokens: int, counts: Summary, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What compare.json says of the arms, beside the scores."""
        return {
            "size": self.size,
            "seeds": self.seeds,
            "tokens": tokens,
            "spans": list(self.spans),
            "span_bytes_left_out": {arm: int(counts[f"{arm}_span_bytes"]) for arm in self.arms},
            "overlap_left_out": {arm: int(counts[f"{arm}_overlap"]) for arm in self.arms},
            "held_out_left_out": {arm: int(counts[f"{arm}_held_out"]) for arm in self.arms},
            "documents": {arm: int(counts[f"{arm}_documents"]) for arm in self.arms},
            "rows": {arm: made["rows"] for arm, made in zip(self.arms, rows, strict=True)},
        }

    def _held_out(self, seed: int, batch: Batch) -> npt.NDArray[np.bool_]:
        return np.asarray(seeds.uniform(seed, "held out", batch.doc_ids) < HELD_OUT)

    def _usable(
        self, seed: int, arm: str, batch: Batch
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(repeats, overlaps an evaluation set, held out) of each document."""
        repeats = pc.fill_null(batch[f"{arm}_repeats"], 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
        overlap = pc.fill_null(batch[self.overlap], True).to_numpy(zero_copy_only=False)
        return repeats, overlap, self._held_out(seed, batch)

    def _marked(self, arm: str) -> tuple[str, ...]:
        """The columns of what is left out of this arm's texts."""
        return () if arm in self.whole else self.spans

    def _count(self, seed: int, batch: Batch) -> Summary:
        facts: dict[str, Any] = {}
        tokens, sizes = (
            pc.fill_null(batch[name], 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
            for name in ("n_tokens", "n_bytes")
        )
        for arm in self.arms:
            repeats, overlap, held = self._usable(seed, arm, batch)
            used = np.where(overlap | held, 0, repeats)
            marked = [spans_of(batch[column]) for column in self._marked(arm)]
            gone = covered_bytes(united(marked)) if marked else np.zeros(len(batch), np.int64)
            facts |= {
                f"{arm}_tokens": (used * (tokens - tokens * gone // np.maximum(sizes, 1))).sum(),
                f"{arm}_span_bytes": (used * gone).sum(),
                f"{arm}_documents": np.count_nonzero(used),
                f"{arm}_overlap": np.count_nonzero((repeats > 0) & overlap),
                f"{arm}_held_out": np.count_nonzero((repeats > 0) & held & ~overlap),
            }
        facts["held_out_bytes"] = sizes[self._held_out(seed, batch)].sum()
        return {name: np.array(value, np.int64) for name, value in facts.items()}

    def _rows(
        self, seed: int, arm: str, tokens: int, counts: Summary, tokenizer: str, workshop: Workshop
    ) -> dict[str, Any]:
        """Training rows of one arm: its documents in the order of a hash of their ids, packed."""
        if not counts[f"{arm}_tokens"]:
            raise ContractError(
                f"compare: expected text to train on in the arm {arm}, got none; look at its `where:` and its budget"
            )
        share = min(1.0, MARGIN * tokens / max(1, int(counts[f"{arm}_tokens"])))
        encoder, marked = Tokenizer.load(Path(tokenizer)), self._marked(arm)
        columns = ("doc_id", "text", "n_bytes", self.overlap, f"{arm}_repeats", *marked)
        drawn = draw(workshop.documents(columns=columns), partial(self._chosen, seed, arm, share), encoder)
        rows = drawn.rows(size(self.size).row_tokens, encoder.end)
        if not len(rows):
            raise ContractError(
                f"compare: expected a row of {size(self.size).row_tokens} tokens or more in the arm {arm}, got none; "
                "give it a larger budget"
            )
        np.save(workshop.folder / "rows.npy", rows)
        return {"rows": len(rows), "documents": int(drawn.uses.sum()), "tokens": len(rows) * (rows.shape[1] - 1)}

    def _chosen(self, seed: int, arm: str, share: float, batch: Batch) -> Chosen:
        """The documents of one batch that an arm is trained on, as an export writes them."""
        times, overlap, held = self._usable(seed, arm, batch)
        order = seeds.hash64(seed, f"order {arm}", batch.doc_ids)
        chosen = np.flatnonzero((times > 0) & ~overlap & ~held & seeds.within(order, share))
        chosen, texts = _texts(batch, chosen, self._marked(arm))
        return texts.to_pylist(), order[chosen], times[chosen]

    def _sets(self, seed: int, held_share: float, tokenizer: str, workshop: Workshop) -> dict[str, Any]:
        held = self._held_batches(seed, held_share, workshop)
        sets = {
            name: _drawn(seed, self.evaluate_bytes, workshop.documents(over)) for name, over in self.evaluate.items()
        }
        return encode_sets({**sets, "pool": held}, Tokenizer.load(Path(tokenizer)), workshop.folder)

    def _held_batches(self, seed: int, share: float, workshop: Workshop) -> Sequence[tuple[int, str, str]]:
        found = []
        for batch in workshop.documents(columns=("doc_id", "text", "source", self.overlap)):
            order = seeds.hash64(seed, "evaluate", batch.doc_ids)
            fits = self._held_out(seed, batch) & seeds.within(order, share)
            chosen = np.flatnonzero(fits)
            found += _entries(batch, chosen, order)
        return sorted(found)

    def _train(
        self, rows: str, sets: str, tokenizer: str, seed: int, tokens: int, workshop: Workshop
    ) -> dict[str, Any]:
        from tamis.models.device import one_thread
        from tamis.models.train import TIMES, train

        data = np.load(Path(rows) / "rows.npy", mmap_mode="r", allow_pickle=False)
        with one_thread():
            facts = train(
                data,
                size(self.size),
                seed=seed,
                tokens=tokens,
                folder=workshop.folder,
                tokenizer_folder=Path(tokenizer),
                report=workshop.report,
            )
            scores = judge(workshop.folder, Path(sets))
        return {
            "training": {name: value for name, value in facts.items() if name not in TIMES},
            "scores": scores,
            "_tokens_per_second": facts["tokens_per_second"],
        }


def _texts(batch: Batch, chosen: npt.NDArray[np.intp], marked: Sequence[str]) -> tuple[npt.NDArray[np.intp], pa.Array]:
    """The texts of the chosen documents as an export writes them, and which documents have any words left."""
    place = pa.array(chosen)
    texts = batch["text"].take(place)
    if not marked:
        return chosen, texts
    found = cut(texts, [batch[column].take(place) for column in marked])
    return chosen[~found.is_empty], found.texts.filter(pa.array(~found.is_empty))


def _model_seed(pool: Pool, seed: int) -> int:
    """The seed of one proxy model: not negative, other for every seed of the run."""
    return (pool.seed * 1000 + seed) % 2**63


def _entries(batch: Batch, chosen: npt.NDArray[np.intp], order: npt.NDArray[np.uint64]) -> list[tuple[int, str, str]]:
    """(hash, source, text) of the chosen documents."""
    texts = batch["text"].take(pa.array(chosen)).to_pylist()
    names = (
        batch["source"].take(pa.array(chosen)).to_pylist()
        if "source" in batch.table.schema.names
        else [None] * len(chosen)
    )
    return [(int(key), name or "", text) for key, name, text in zip(order[chosen], names, texts, strict=True)]


def _drawn(seed: int, most_bytes: int, batches: Iterator[Batch]) -> list[tuple[int, str, str]]:
    """Documents of an evaluation set in the order of a hash of their ids, until there is enough text."""
    found: list[tuple[int, str, str]] = []
    for batch in batches:
        order = seeds.hash64(seed, "evaluate", batch.doc_ids)
        found += _entries(batch, np.arange(len(batch)), order)
    found.sort()
    room = np.searchsorted(np.cumsum([len(text.encode()) for _, _, text in found]), most_bytes, side="right")
    return found[: max(1, int(room))]
