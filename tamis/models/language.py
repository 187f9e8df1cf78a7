"""A causal language model with its tokenizer, on its device: once per process, for everything that scores with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError
from tamis.models.build import load
from tamis.models.device import Device, choose
from tamis.models.tokenizer import Tokenizer, tokenizer_digest
from tamis.steps import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32


@dataclass(frozen=True)
class LanguageModel:
    """model : in evaluation mode, its weights frozen. tokenizer_digest : of its tokenizer.json."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    tokenizer_digest: str
    device: Device

    @property
    def context(self) -> int:
        """Tokens that the model sees at a time."""
        return int(self.model.config.max_position_embeddings)

    @property
    def end(self) -> int:
        """The token that opens every document."""
        return self.tokenizer.end

    def encode(self, batch: Batch) -> tuple[Tokens, Int64]:
        """(ids, offsets) of a batch's texts; encoded once for all models that share a tokenizer."""
        found: tuple[Tokens, Int64] = batch.once(
            ("tokens", self.tokenizer_digest), lambda: self.tokenizer.encode(batch["text"].to_pylist())
        )
        return found


@lru_cache(maxsize=4)
def language_model(folder: str) -> LanguageModel:
    """The model in a Hugging Face folder.

    Raises FileNotFoundError if there is none, or no tokenizer beside it; ContractError if they do not fit together.
    """
    path = Path(folder)
    model = load(path).requires_grad_(False)
    device = choose(int(model.config.hidden_size))
    tokenizer = Tokenizer.load(path)
    if model.config.vocab_size < tokenizer.vocab_size:
        raise ContractError(
            f"{folder}: expected a model for its tokenizer's {tokenizer.vocab_size} tokens, got one for "
            f"{model.config.vocab_size}; put the tokenizer beside it that it was trained with"
        )
    return LanguageModel(device.place(model), tokenizer, tokenizer_digest(path), device)
