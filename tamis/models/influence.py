"""Influence of documents on what a language model makes of others: in one forward and backward pass, nothing stored.

The gradients of a set of queries are summed and preconditioned once: V = P g_q, per linear layer, divided by the
queries' tokens. A document's influence is Σ over layers of ⟨V, ∇W⟩ = Σ_t δ_tᵀ V a_t, with ∇W the gradient of its
summed loss. It is positive if training on the document lowers the queries' loss: to first order the queries' mean loss
falls by influence / n where n is the number of tokens trained on, and by rate · influence for one step of plain
gradient descent with P the identity.
Source: Koh, Liang 2017; Grosse et al. 2023, Studying large language model generalization with influence functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError
from tamis.models.curvature import DAMPING, How, Preconditioner, Sample, preconditioners
from tamis.models.gradients import backward, exact, linear_layers, window_gradients
from tamis.models.language import LanguageModel
from tamis.models.libraries import safetensors, torch
from tamis.models.windows import batches_of, windows_of

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32
Encoded = tuple[Tokens, Int64]  # ids and offsets, as of `Tokenizer.encode`
Report = Callable[[float, str], None]

MOST_TOKENS = 1024  # of a document are scored
WEIGHTS, FACTS = "compass.safetensors", "compass.json"

# Measured on a CPU, ms per 2,048 tokens of a layer of 384 × 1152: windows of 16 tokens, products with V token by token
# 9 per query, gradients of windows 26 and 11 more for every further query; windows of 128, 9 and 11 plus 1.
_SHORT = 64


@dataclass(frozen=True)
class Compass:
    """Which way the parameters should go for the sake of some queries.

    names : of the q sets of queries. directions : V of each linear layer, float32, (q, d_out, d_in).
    facts : how it was made.
    """

    names: tuple[str, ...]
    directions: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes compass.safetensors and compass.json."""
        weights = {name: values.cpu().contiguous() for name, values in self.directions.items()}
        safetensors.torch.save_file(weights, folder / WEIGHTS)
        facts = {"names": self.names, **self.facts}
        (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Compass:
        """What `save` wrote. Raises FileNotFoundError if there is nothing."""
        if not (folder / FACTS).is_file():
            raise FileNotFoundError(f"{folder}: no compass here; a folder of one holds {FACTS} and {WEIGHTS}")
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        names = tuple(facts.pop("names"))
        return cls(names, safetensors.torch.load_file(folder / WEIGHTS, device=device), facts)

    def scores(
        self, language_model: LanguageModel, ids: Tokens, offsets: Int64, most_tokens: int | None = MOST_TOKENS
    ) -> tuple[Float64, Int64]:
        """(influence of the summed loss, tokens it was summed over) of n documents: float64, (n, q), and int64, (n).

        most_tokens : only the first so many tokens of a document count, None for all.
        Products are in the precision that the device computes in, sums over a layer's numbers float32, totals float64.
        On one CPU thread the company a document is in moves no bit of its scores.
        Raises ContractError if the compass was made for a model of another shape.
        """
        self._check(language_model)
        device, queries = language_model.device, len(self.names)
        windows = windows_of(offsets, language_model.context, most_tokens)
        found = np.zeros((len(windows), queries))
        for batch in batches_of(ids, windows, language_model.end, device):
            rows = len(batch.index)
            totals = exact(torch.zeros(len(batch.inputs), queries, device=device.name))
            backward(language_model, batch, partial(self._add, totals, rows))
            found[batch.index] = totals[:rows].cpu().numpy()
        sums = np.zeros((len(offsets) - 1, queries))
        np.add.at(sums, windows.document, found)
        lengths = np.diff(offsets).astype(np.int64)
        return sums, lengths if most_tokens is None else np.minimum(lengths, most_tokens)

    def _check(self, language_model: LanguageModel) -> None:
        layers = linear_layers(language_model.model)
        have = {name: tuple(values.shape[1:]) for name, values in self.directions.items()}
        if have != layers:
            raise ContractError(
                f"influence: expected a compass for layers {_few(layers)}, got one for {_few(have)}; "
                "make it with the model that is to score"
            )

    def _add(self, totals: torch.Tensor, rows: int, name: str, a: torch.Tensor, slope: torch.Tensor) -> None:
        """Adds Σ_t δ_tᵀ V a_t of one layer to the totals, (B, q), of each window and each V."""
        directions = self.directions[name].to(a.device)
        if len(directions) <= max(1, _SHORT // a.shape[1]):
            for query, direction in enumerate(directions.to(a.dtype)):
                products = (a @ direction.T).mul_(slope)
                totals[:, query] += exact(products.sum(2, dtype=torch.float32)).sum(1)
            return
        flat = directions.flatten(1).T
        for start, gradients in window_gradients(a[:rows], slope[:rows]):
            totals[start : start + len(gradients)] += exact(gradients.flatten(1).float() @ flat)


def build_compass(
    language_model: LanguageModel,
    sample: Encoded,
    queries: Mapping[str, Encoded],
    how: How = "ekfac",
    damping: float = DAMPING,
    seed: int = 0,
    report: Report | None = None,
) -> Compass:
    """A compass for these sets of queries, each the mean over its tokens.

    sample : documents that the curvature is measured on, with labels drawn from the model; for `identity`, none.
    seed : of these labels, a signed 64-bit integer. report : called with the share done and a line of text.
    Raises ValueError if a set of queries has no tokens, or the sample, where one is needed.
    """
    tell = report or (lambda _done, _line: None)
    for name, (_, offsets) in queries.items():
        if offsets[-1] == offsets[0]:
            raise ValueError(f"influence: expected queries with tokens, got none in {name!r}; give it some text")
    preconditioner: Mapping[str, Preconditioner] = {}
    if how != "identity":
        tell(0.0, "drawing labels")
        drawn = Sample.drawn(language_model, *sample, seed)
        preconditioner = preconditioners(language_model, drawn, how, damping, lambda done, line: tell(0.9 * done, line))
    plain = Preconditioner()
    turned: dict[str, list[torch.Tensor]] = {name: [] for name in linear_layers(language_model.model)}
    for done, (name, encoded) in enumerate(queries.items()):
        tell(0.9 + 0.1 * done / len(queries), f"gradient of {name}")
        for layer, gradient in mean_gradient(language_model, *encoded).items():
            turned[layer].append(preconditioner.get(layer, plain)(gradient).float())
    facts = {
        "curvature": how,
        "damping": damping,
        "sample_tokens": int(sample[1][-1] - sample[1][0]),
        "query_tokens": {name: int(offsets[-1] - offsets[0]) for name, (_, offsets) in queries.items()},
        "ridges": {layer: found.ridge for layer, found in preconditioner.items()},
    }
    return Compass(tuple(queries), {layer: torch.stack(values) for layer, values in turned.items()}, facts)


def mean_gradient(language_model: LanguageModel, ids: Tokens, offsets: Int64) -> dict[str, torch.Tensor]:
    """The gradient of the mean token loss of some documents, of every linear layer: float64, (d_out, d_in).

    Raises ValueError if they have no tokens.
    """
    if offsets[-1] == offsets[0]:
        raise ValueError("influence: expected documents with tokens, got none; give it some text")
    sums: dict[str, torch.Tensor] = {}

    def take(name: str, a: torch.Tensor, slope: torch.Tensor) -> None:
        found = exact(slope.flatten(0, 1).float().T @ a.flatten(0, 1).float())
        sums[name] = sums[name].add_(found) if name in sums else found

    windows, device = windows_of(offsets, language_model.context), language_model.device
    tokens = int(windows.tokens.sum())
    for batch in batches_of(ids, windows, language_model.end, device, min(tokens, device.batch_tokens)):
        backward(language_model, batch, take)
    return {name: total / tokens for name, total in sums.items()}


def random_compass(language_model: LanguageModel, names: tuple[str, ...]) -> Compass:
    """A compass that points anywhere, of the shape that fits the model."""
    generator = torch.Generator().manual_seed(0)
    shapes = linear_layers(language_model.model)
    directions = {layer: torch.randn(len(names), *shape, generator=generator) for layer, shape in shapes.items()}
    return Compass(names, directions, {"curvature": "none"})


@lru_cache(maxsize=8)
def compass_in(folder: str, device: str) -> Compass:
    """The compass in a folder, on a device; loaded once per process."""
    return Compass.load(Path(folder), device)


def _few(layers: Mapping[str, tuple[int, ...]]) -> str:
    shown = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in list(layers.items())[:2])
    return f"{shown}, … ({len(layers)})"
