"""A language model by name: of a `train` stage of the same run, or a Hugging Face folder on disk."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ValidationInfo

from tamis.models.folder import content_digest
from tamis.models.sizes import Size, size, size_in
from tamis.steps import Ask, Component, Use, absolute

STAGE = re.compile(r"\w+")


def _located(name: str, context: ValidationInfo) -> str:
    """A folder's path made absolute; a word is the name of a stage. Raises ValueError if the folder has no model."""
    if STAGE.fullmatch(name):
        return name
    path = absolute(name, (context.context or {}).get("base", "."))
    if not (Path(path) / "config.json").is_file():
        raise ValueError(
            f"the name of a `train` stage, or a folder with config.json and model.safetensors; none at {path}"
        )
    if not (Path(path) / "tokenizer.json").is_file():
        raise ValueError(f"a model with its tokenizer; there is no tokenizer.json in {path}")
    return path


ModelRef = Annotated[str, AfterValidator(_located)]  # an option that names a language model


class OfModels(Component):
    """Parent of components that work with language models: which they are says what else a run must know of them."""

    extra: ClassVar[str | None] = "train"
    needs: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "safetensors")

    @property
    @abstractmethod
    def models(self) -> tuple[str | None, ...]:
        """The models among the options, as the options name them."""

    @property
    def uses(self) -> tuple[str, ...]:
        return stages_in(*self.models)

    def contents(self) -> tuple[str, ...]:
        return digests_of(*self.models)


@dataclass(frozen=True)
class OfModel(OfModels):
    """Parent of those that work with one. model : a `train` stage, or a folder with a model and its tokenizer."""

    model: ModelRef

    @property
    def models(self) -> tuple[str | None, ...]:
        return (self.model,)


def stages_in(*models: str | None) -> tuple[str, ...]:
    """Those of the models that are stages: what a component says it `uses`."""
    return tuple(dict.fromkeys(model for model in models if model is not None and STAGE.fullmatch(model)))


def digests_of(*models: str | None) -> tuple[str, ...]:
    """The content digests of those that are folders: what a component says of its `contents`."""
    return tuple(content_digest(Path(model)) for model in models if model is not None and not STAGE.fullmatch(model))


def trained(model: str) -> Generator[Use, Any, dict[str, Any]]:
    """What is known of a model, its "folder" at least. A part of a program: it is used with `yield from`."""
    if STAGE.fullmatch(model):
        return dict((yield Use(model)))
    return {"folder": model}


def checkpoints_of(model: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The models that training kept on its way, first to last: "folder" (absolute), "step", "learning_rate" of each.

    model : what `trained` told. A folder that a train stage filled has its result.json, whoever names it.
    """
    folder = Path(model["folder"])
    if "checkpoints" not in model and (folder / "result.json").is_file():
        model = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return tuple({**kept, "folder": str(folder / kept["folder"])} for kept in model.get("checkpoints", ()))


def checkpoints_kept(model: str, others: Mapping[str, Component]) -> int | None:
    """How many models training keeps on its way: what a `train` stage is told, or what lies in a folder.

    others : the stages so far, by their names. None if `model` is the name of no `train` stage among them.
    """
    if not STAGE.fullmatch(model):
        return len(checkpoints_of({"folder": model}))
    keep = getattr(others.get(model), "keep", None)
    return keep if isinstance(keep, int) else None


def size_of(model: str, others: Mapping[str, Component]) -> Size | None:
    """The size that a `train` stage's model will have, or that of the model in a folder.

    others : the stages so far, by their names. None if `model` is no `train` stage among them, or no Llama's folder.
    """
    if not STAGE.fullmatch(model):
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        return size_in(Path(model)) if config.get("model_type") == "llama" else None
    stage = others.get(model)
    if not hasattr(stage, "recipe"):
        return None
    if (start := getattr(stage, "start", None)) is not None:
        return size_of(start, others)
    return size(getattr(stage, "size", None) or "tiny")


def called(model: str) -> str:
    """A name for what is made with a model: the stage's, or the folder's."""
    return re.sub(r"\W", "_", Path(model).name)


def losses_of(model: str, chunk_tokens: int | None = None) -> Ask:
    """A model's losses of documents, or of their chunks, as every component asks for them: one layer for all."""
    name = f"{called(model)}_losses" + ("" if chunk_tokens is None else f"_{chunk_tokens}")
    return Ask("score", "losses", name, {"model": model, "chunk_tokens": chunk_tokens})


def beyond_context(
    chunk_tokens: int | None, models: Sequence[str | None], others: Mapping[str, Component]
) -> tuple[str, ...]:
    """The objection to chunks that are longer than what one of these models sees at a time; None are no chunks.

    others : the stages so far, by their names.
    """
    for model in filter(None, models):
        shape = size_of(model, others)
        if chunk_tokens is not None and shape is not None and chunk_tokens > shape.row_tokens:
            return (too_long(chunk_tokens, shape.row_tokens, model),)
    return ()


def too_long(chunk_tokens: int, context: int, model: str) -> str:
    """The complaint about chunks of `chunk_tokens` tokens, of which a model sees `context` at a time."""
    return (
        f"chunk_tokens: expected at most {context}, what {model} sees at a time, got {chunk_tokens}; "
        f"say chunk_tokens: {context}, or take a model that sees more"
    )
