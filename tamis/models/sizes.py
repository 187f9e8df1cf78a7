"""One dial: a size names the shape of a proxy model, its rows, and how to train it on a given number of tokens."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from pathlib import Path

# Where the step law was fitted: parameters without vocabulary matrices, and training tokens.
_FITTED_PARAMETERS = (2.1e8, 1.07e9)
_FITTED_TOKENS = (4e9, 1e11)

# What the law says for 0.1M parameters, 2e-2 and more, is several times too much: with 2e-3 to 8e-3 models of 0.1M to
# 1.3M parameters trained best here, beyond that some seeds fail.
_HIGHEST_RATE = 8e-3


@dataclass(frozen=True)
class Size:
    """The shape of a Llama-style model, and its training rows.

    ffn : width of the gated feed-forward layer. row_tokens : training context.
    batch_rows, learning_rate : what was measured to be good at this size; None takes both from the step law.
    """

    name: str
    layers: int
    width: int
    heads: int
    ffn: int
    row_tokens: int
    batch_rows: int | None = None
    learning_rate: float | None = None
    tied: bool = True  # input and output embeddings share one matrix

    @property
    def parameters(self) -> int:
        """Parameters without the vocabulary matrices and norms: layers · (4·width² + 3·width·ffn)."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.ffn)

    def recipe(self, tokens: int) -> Recipe:
        """How to train this size on `tokens` tokens. Raises ValueError if `tokens` is not positive."""
        if tokens < 1:
            raise ValueError(f"size {self.name}: tokens must be at least 1, got {tokens}")
        law_rate, law_batch = step_law(self.parameters, tokens)
        highest = _HIGHEST_RATE if self.parameters < _FITTED_PARAMETERS[0] else math.inf
        rows = self.batch_rows or max(1, round(law_batch / self.row_tokens))
        rate = self.learning_rate or min(law_rate, highest)
        warmup_tokens = min(self.parameters, tokens // 10)  # tokens = parameters is the OLMo ladder's rule
        basis = self._basis(tokens, is_lowered=law_rate > highest)
        return Recipe(tokens, self.row_tokens, rows, rate, warmup_tokens, basis)

    def _basis(self, tokens: int, *, is_lowered: bool) -> str:
        if self.batch_rows and self.learning_rate:
            return "measured"
        low, high = _FITTED_PARAMETERS
        if low <= self.parameters <= high and _FITTED_TOKENS[0] <= tokens <= _FITTED_TOKENS[1]:
            return "step law"
        lowered = ", and its rate lowered to the highest that was good at small sizes" if is_lowered else ""
        return f"step law, outside the range it was fitted on{lowered}"


@dataclass(frozen=True)
class Recipe:
    """Everything about a training run but its seed and its text. basis : where the rate and the batch come from.

    betas, epsilon, weight_decay : of AdamW; only matrices decay. clip : the gradient's norm is brought down to it.
    By default as in the OLMo ladder and DataDecide.
    """

    tokens: int
    row_tokens: int
    batch_rows: int
    learning_rate: float
    warmup_tokens: int
    basis: str
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    @property
    def batch_tokens(self) -> int:
        """Tokens per step; the last step takes what is left."""
        return self.batch_rows * self.row_tokens

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(self.tokens / self.batch_tokens)

    def learning_rate_after(self, seen: int) -> float:
        """The rate of the step that ends `seen` tokens into the run: linear warm-up, then a cosine to a tenth."""
        if seen < self.warmup_tokens:
            return self.learning_rate * seen / self.warmup_tokens
        left = max(self.tokens - self.warmup_tokens, 1)
        progress = min((seen - self.warmup_tokens) / left, 1.0)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def step_law(parameters: int, tokens: int) -> tuple[float, float]:
    """(learning rate, batch in tokens) for a model of `parameters`, without vocabulary matrices, on `tokens` tokens.

    Fitted on 2.1e8 to 1.07e9 parameters and 4e9 to 1e11 tokens; elsewhere it extrapolates, and a quick look at half
    and twice the rate is advised. Source: Li et al., Predictable Scale I (Step Law), 2025.
    """
    return 1.79 * parameters**-0.713 * tokens**0.307, 0.58 * tokens**0.571


# Rates of tiny and mini were measured at 300k tokens (bits per byte on the held-out half of the text): tiny 4e-3 1.87,
# 8e-3 1.76, beyond that some seeds fail; mini 2e-3 1.76, 4e-3 1.67, 6e-3 1.64. The others take the step law, which was
# fitted on larger models. A number in a name is the count of parameters without vocabulary matrices.
SIZES = {
    size.name: size
    for size in (
        Size("tiny", 2, 64, 2, 192, 128, batch_rows=8, learning_rate=6e-3),
        Size("mini", 4, 128, 4, 384, 128, batch_rows=8, learning_rate=4e-3),
        Size("small", 6, 256, 4, 768, 256),
        Size("15m", 8, 384, 6, 1152, 512),
        Size("60m", 12, 640, 10, 1792, 1024),
        Size("150m", 16, 896, 14, 2432, 2048),
        Size("400m", 20, 1280, 20, 3456, 2048, tied=False),
    )
}


def size(name: str) -> Size:
    """The size of that name. Raises ValueError with the names there are."""
    if name in SIZES:
        return SIZES[name]
    close = difflib.get_close_matches(name, SIZES, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"size: {name!r} does not exist; there are {', '.join(SIZES)}{hint}")


def size_in(folder: Path) -> Size:
    """The size of the model in a Hugging Face folder: one of ours if it has the shape of one.

    Raises ValueError if its config.json does not say what a Llama's says.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    keys = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    if missing := [key for key in keys if not isinstance(config.get(key), int)]:
        raise ValueError(
            f"{folder}: expected a config.json like a Llama's, found no {missing[0]}; train from another model"
        )
    shape = tuple(config[key] for key in keys)
    for known in SIZES.values():
        if shape == (known.layers, known.width, known.heads, known.ffn, known.row_tokens):
            return known
    layers, width, heads, ffn, row_tokens = shape
    return Size(folder.name, layers, width, heads, ffn, row_tokens, tied=bool(config.get("tie_word_embeddings")))
