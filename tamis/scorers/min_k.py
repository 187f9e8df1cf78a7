"""Min-K%: how likely a model finds the tokens of a document that it finds least likely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from tamis.kernels.arrow import vectors_of
from tamis.models.reference import OfModel, losses_of
from tamis.scorers.base import Scorer, Scores
from tamis.steps import Ask, Batch


@dataclass(frozen=True)
class MinK(OfModel, Scorer):
    """Mean log-probability (nats) of the least likely tokens of a document under a model: a diagnostic, no filter.

    model : the name of a `train` stage, or a folder with a Hugging Face model and its tokenizer.
    percent : how many of the tokens, at least one; 100 is the mean log-probability of all.
    High values are said to mark documents that the model was trained on. Detectors of this kind hardly beat guessing
    once members and others come from the same distribution (Duan et al. 2024): the score tells plain text from odd
    text as much as seen from unseen. Short documents scatter more; compare documents of one length.
    Source: Shi et al. 2024, Detecting pretraining data from large language models.
    """

    percent: Literal[10, 20, 30, 40, 50, 60, 70, 80, 90, 100] = 20

    def asks(self) -> tuple[Ask, ...]:
        return (losses_of(self.model),)

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{losses_of(self.model).name}_lowest",)

    def notes(self) -> Sequence[str]:
        return ("a diagnostic: such scores hardly tell seen from unseen documents; do not select by them",)

    def columns(self, name: str) -> Mapping[str, pa.DataType]:
        return {name: pa.float32()}

    def score(self, batch: Batch) -> Scores:
        means = vectors_of(batch[self.reads[0]])[:, self.percent // 10 - 1]
        return pa.array(means, mask=np.isnan(means))
