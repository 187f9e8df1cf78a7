"""The run's tokenizer, and how many of its tokens each document has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tamis import seeds
from tamis.kernels.arrow import strings_of
from tamis.models.tokenizer import Tokenizer, train_tokenizer
from tamis.steps import Batch, Columns, Component, Fold, Map, Pool, Steps, Summary, Train, Workshop

WRITES = {"n_tokens": pa.uint32()}
FEW = 200  # documents that the tokenizer sees, if there are as many


@dataclass(frozen=True)
class Tokens(Component):
    """Trains a byte-level BPE tokenizer on a random sample of the pool, and writes `n_tokens`.

    vocabulary : tokens it may have. sample_bytes : text it is trained on, drawn by document.
    exact : count by encoding every document; otherwise UTF-8 bytes divided by the sample's bytes per token
    (exact counting costs about a hundred times a scorer).
    """

    vocabulary: Annotated[int, Field(ge=257, le=1 << 20)] = 4096
    sample_bytes: Annotated[int, Field(gt=0)] = 4_000_000
    exact: bool = False

    version: ClassVar[int] = 2
    seeded: ClassVar[bool] = True
    extra: ClassVar[str | None] = "train"
    needs: ClassVar[tuple[str, ...]] = ("tokenizers",)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("doc_id", "text", "n_bytes")

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        del name
        return WRITES

    def steps(self, pool: Pool) -> Steps:
        total = yield Fold(("n_bytes",), total_bytes)
        # a pool of few, large documents gives at least a couple of hundred of them
        share = min(1.0, max(self.sample_bytes / max(1, int(total["bytes"])), FEW / max(1, int(total["documents"]))))
        drawn = yield Fold(self.reads, partial(_draw, pool.seed, share), merge=_join)
        trained = yield Train("tokenizer", ("doc_id",), partial(self._train, drawn), gpu=False)
        if self.exact:
            return Map(("text",), WRITES, partial(_count, trained["folder"]))
        return Map(("n_bytes",), WRITES, partial(_estimate, trained["bytes_per_token"]))

    def _train(self, drawn: Summary, workshop: Workshop) -> dict[str, Any]:
        order = np.lexsort((drawn["lengths"], drawn["hashes"]))
        texts = strings_of(np.concatenate([[0], np.cumsum(drawn["lengths"])]).astype(np.int64), drawn["bytes"])
        chosen = texts.take(pa.array(order))
        return train_tokenizer(chosen.to_pylist(), self.vocabulary, workshop.folder)


def total_bytes(batch: Batch) -> Summary:
    size = pc.sum(batch["n_bytes"]).as_py() or 0
    return {"bytes": np.array(size, np.int64), "documents": np.array(len(batch), np.int64)}


def _draw(seed: int, share: float, batch: Batch) -> Summary:
    """The texts of documents whose random number falls below `share`."""
    hashes = seeds.hash64(seed, "tokenizer", batch.doc_ids)
    chosen = np.flatnonzero(seeds.within(hashes, share))
    text = batch.text
    starts, stops = text.offsets[chosen], text.offsets[chosen + 1]
    pieces = [text.data[start:stop] for start, stop in zip(starts, stops, strict=True)]
    joined: npt.NDArray[np.uint8] = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
    return {"hashes": hashes[chosen], "lengths": (stops - starts).astype(np.int64), "bytes": joined}


def _join(one: Summary, other: Summary) -> Summary:
    """Both samples, in any order: training sorts them by hash."""
    return {key: np.concatenate([one[key], other[key]]) for key in one}


def _estimate(bytes_per_token: float, batch: Batch) -> Columns:
    sizes = batch["n_bytes"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    counts = np.maximum(np.rint(np.nan_to_num(sizes) / bytes_per_token), 1)
    return {"n_tokens": pa.array(counts.astype(np.uint32), mask=np.isnan(sizes))}


def _count(folder: str, batch: Batch) -> Columns:
    from pathlib import Path

    _, offsets = Tokenizer.load(Path(folder)).encode(batch["text"].to_pylist())
    return {"n_tokens": np.diff(offsets).astype(np.uint32)}
