"""Gradients of documents in few numbers: random projections of each linear layer's, whitened by their own curvature.

A layer's gradient Σ_t δ_t a_tᵀ, (d_out, d_in), becomes k numbers whose inner products are, on average, those of the
gradients. `two_sided`: the p × p matrix Uᵀ (Σ δ aᵀ) V, k = p², with U and V of ±1/√p, which costs as much as p more
outputs and inputs per layer. `one_sided`: the k inner products with matrices u_j v_jᵀ, of ±1 and divided by √k, which
costs as much as k more. Signs are hashes of the layer's name, the side and the seed.

The squared length of what becomes of a gradient of rank one has the relative deviation √((1 + 2/p)² − 1) two-sided
and √(8/k) one-sided; of one of high rank about √(2/k) both ways. Layers are projected apart: their errors average out.
Source: Park et al. 2023 (TRAK); Choe et al. 2024 (LoGra); Chang et al. 2024 (TrackStar): without the correction by the
optimiser's second moments, which are not kept after training.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError
from tamis.models.device import one_thread
from tamis.models.gradients import backward, linear_layers
from tamis.models.language import LanguageModel
from tamis.models.libraries import safetensors, torch
from tamis.models.windows import batches_of, windows_of

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32
Kind = Literal["two_sided", "one_sided"]
Layers = Mapping[str, tuple[int, int]]  # (d_out, d_in) of each, by name, in the model's order
Report = Callable[[float, str], None]

ROOTS, FACTS = "roots.safetensors", "projection.json"
HELD_NUMBERS = 1 << 23  # of documents at once: 64 MB as float64
BLOCK_ROWS = 64  # documents per product with H^(−1/2): one shape for all


@dataclass(frozen=True)
class Projection:
    """Signs for each of a model's layers. maps : ±1 scaled, float32, (d_out, c) and (d_in, c), by the layer's name."""

    kind: Kind
    maps: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def drawn(cls, layers: Layers, dimensions: int, kind: Kind, seed: int) -> Projection:
        """The projection to as many numbers per layer as `dimensions` has for each, a square number if two-sided.

        Raises ValueError if that is none.
        """
        share = dimensions // len(layers)
        if not share:
            raise ValueError(
                f"projection: expected at least a number for each of {len(layers)} layers, got {dimensions} dimensions"
            )
        columns = math.isqrt(share) if kind == "two_sided" else share
        scale = columns**-0.5 if kind == "two_sided" else columns**-0.25
        maps = {
            name: tuple(
                torch.from_numpy(signs(seed, name, side, width, columns) * np.float32(scale))
                for side, width in (("slopes", d_out), ("inputs", d_in))
            )
            for name, (d_out, d_in) in layers.items()
        }
        return cls(kind, {name: (slopes, inputs) for name, (slopes, inputs) in maps.items()})

    @property
    def numbers(self) -> int:
        """k, of each layer."""
        columns = int(next(iter(self.maps.values()))[0].shape[1])
        return columns**2 if self.kind == "two_sided" else columns

    def windows(self, name: str, a: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Of the gradients Σ_t δ_t a_tᵀ of one layer, from (B, T, d_in) and (B, T, d_out): float32, (B, k)."""
        slopes, inputs = (side.to(a.device) for side in self.maps[name])
        left, right = slope.float() @ slopes, a.float() @ inputs
        return (left.mT @ right).flatten(1) if self.kind == "two_sided" else (left * right).sum(1)

    def whole(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """Of a gradient of one layer, (d_out, d_in): float64, (k)."""
        slopes, inputs = (side.cpu().double() for side in self.maps[name])
        left = slopes.T @ gradient.cpu().double()
        return (left @ inputs).flatten() if self.kind == "two_sided" else (left * inputs.T).sum(1)

    def documents(self, language_model: LanguageModel, ids: Tokens, offsets: Int64, most: int | None) -> Float64:
        """Of the gradients of documents' summed losses: float64, (n, layers, k); 0 without a token.

        most : only the first tokens of each document count, None for all. Products are float32, sums over windows
        float64. On one CPU thread no bit of a document's depends on the others.
        """
        places = {name: place for place, name in enumerate(self.maps)}
        windows = windows_of(offsets, language_model.context, most)
        sums = np.zeros((len(offsets) - 1, len(places), self.numbers))
        for batch in batches_of(ids, windows, language_model.end, language_model.device):
            found = torch.empty((len(batch.inputs), len(places), self.numbers), device=language_model.device.name)

            def take(name: str, a: torch.Tensor, slope: torch.Tensor, found: torch.Tensor = found) -> None:
                found[:, places[name]] = self.windows(name, a, slope)

            backward(language_model, batch, take)
            for document, row in zip(windows.document[batch.index].tolist(), found.cpu().numpy(), strict=False):
                sums[document] += row
        return sums


def signs(seed: int, layer: str, side: str, rows: int, columns: int) -> Float32:
    """±1 that depend on these alone: float32, (rows, columns); bits of Philox under a BLAKE2b hash of the names.

    seed : a signed 64-bit integer.
    """
    named = seed.to_bytes(8, "little", signed=True) + f"{layer}\0{side}".encode()
    key = np.frombuffer(hashlib.blake2b(named, digest_size=16).digest(), "<u8").astype(np.uint64)
    words = np.random.Philox(key=key).random_raw(-(-rows * columns // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=rows * columns, bitorder="little")
    return (bits.astype(np.float32) * 2 - 1).reshape(rows, columns)


@dataclass(frozen=True)
class GradientSpace:
    """Where gradients of documents are unit vectors: projected, and turned by H^(−1/2) of each layer.

    H : the mean of z zᵀ over a sample of documents, z a document's projected gradient, plus a ridge.
    roots : H^(−1/2), float64, (layers, k, k). dimensions : of a vector; what the layers leave over is 0.
    most_tokens : of a document. facts : how it was made.
    """

    projection: Projection
    roots: torch.Tensor
    dimensions: int
    most_tokens: int
    facts: Mapping[str, Any]

    @classmethod
    def plain(cls, layers: Layers, dimensions: int, kind: Kind, seed: int, most_tokens: int) -> GradientSpace:
        """The one whose H is the identity: nothing but the projection."""
        projection = Projection.drawn(layers, dimensions, kind, seed)
        roots = torch.eye(projection.numbers, dtype=torch.float64).repeat(len(layers), 1, 1)
        facts = {"kind": kind, "seed": seed, "layers": {name: list(shape) for name, shape in layers.items()}}
        return cls(projection, roots, dimensions, most_tokens, facts)

    def on(self, device: str) -> GradientSpace:
        """The same, its signs on a device."""
        maps = {name: (slopes.to(device), inputs.to(device)) for name, (slopes, inputs) in self.projection.maps.items()}
        return replace(self, projection=replace(self.projection, maps=maps))

    def whitened(
        self, language_model: LanguageModel, ids: Tokens, offsets: Int64, damping: float, report: Report
    ) -> GradientSpace:
        """The one with the H of these documents and a ridge of `damping` times a layer's mean eigenvalue.

        Sums are float64, in the documents' order. A layer without any gradient keeps the identity.
        """
        grams = torch.zeros_like(self.roots)
        with language_model.device.alone():
            for done, (_, found) in enumerate(self._some(language_model, ids, offsets), 1):
                z = torch.from_numpy(found).transpose(0, 1)
                grams += z.mT @ z
                seen = min(done * self._together, len(offsets) - 1)
                report(seen / (len(offsets) - 1), f"{seen:,} of {len(offsets) - 1:,} documents")
            roots = torch.stack([_inverse_root(gram / max(1, len(offsets) - 1), damping) for gram in grams])
        facts = {**self.facts, "damping": damping, "documents": len(offsets) - 1, "tokens": int(offsets[-1])}
        return replace(self, roots=roots.float().double(), facts=facts)

    def vectors(self, language_model: LanguageModel, ids: Tokens, offsets: Int64) -> Float32:
        """One per document, of length one, or zero without a token: float32, (n, dimensions).

        On one CPU thread no bit of a document's depends on the others. Raises ContractError if the space was made for
        another model.
        """
        self._check(language_model)
        out = np.zeros((len(offsets) - 1, self.dimensions), np.float32)
        with language_model.device.alone():
            for first, found in self._some(language_model, ids, offsets):
                out[first : first + len(found), : self._used] = self._turned(found)
        return out

    def direction(self, language_model: LanguageModel, gradients: Mapping[str, torch.Tensor]) -> Float32:
        """Of one gradient of the model, (d_out, d_in) by layer: float32, (dimensions), of length one, or zero."""
        self._check(language_model)
        with one_thread():
            whole = torch.stack([self.projection.whole(name, gradients[name]) for name in self.projection.maps])
            out = np.zeros(self.dimensions, np.float32)
            out[: self._used] = self._turned(whole[None].numpy())[0]
        return out

    @property
    def _used(self) -> int:
        return len(self.roots) * self.projection.numbers

    @property
    def _together(self) -> int:
        """Documents whose projected gradients are held at once."""
        return max(1, HELD_NUMBERS // self.dimensions)

    def _some(self, language_model: LanguageModel, ids: Tokens, offsets: Int64) -> Iterator[tuple[int, Float64]]:
        """(the first of some documents, their projected gradients) of all in turn."""
        for first in range(0, len(offsets) - 1, self._together):
            own = offsets[first : first + self._together + 1]
            yield first, self.projection.documents(language_model, ids, own, self.most_tokens)

    def _turned(self, projected: Float64) -> Float32:
        """Times H^(−1/2), at length one: float32, (n, layers · k), of (n, layers, k)."""
        out = np.zeros((len(projected), self._used), np.float32)
        for start in range(0, len(projected), BLOCK_ROWS):
            some = projected[start : start + BLOCK_ROWS]
            block = torch.zeros(len(self.roots), BLOCK_ROWS, self.projection.numbers, dtype=torch.float64)
            block[:, : len(some)] = torch.from_numpy(some).transpose(0, 1)
            turned = (block @ self.roots).transpose(0, 1).flatten(1)
            length = turned.square().sum(1, keepdim=True).sqrt()
            unit = torch.where(length > 0, turned / length, 0.0)
            out[start : start + len(some)] = unit[: len(some)].float().numpy()
        return out

    def _check(self, language_model: LanguageModel) -> None:
        have, own = linear_layers(language_model.model), self.facts["layers"]
        if {name: list(shape) for name, shape in have.items()} != own:
            raise ContractError(
                f"gradients: expected the model that the projection was made for, of {len(own)} layers, got another, "
                f"of {len(have)}; use the one that the `gradients` stage names"
            )

    def save(self, folder: Path) -> None:
        """Writes projection.json and roots.safetensors; the signs are made anew when they are wanted."""
        safetensors.torch.save_file({"roots": self.roots.float().contiguous()}, folder / ROOTS)
        facts = {**self.facts, "dimensions": self.dimensions, "most_tokens": self.most_tokens}
        (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> GradientSpace:
        """What `save` wrote. Raises FileNotFoundError if there is nothing."""
        if not (folder / FACTS).is_file():
            raise FileNotFoundError(f"{folder}: no projection here; a folder of one holds {FACTS} and {ROOTS}")
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        dimensions, most_tokens = facts.pop("dimensions"), facts.pop("most_tokens")
        layers = {name: (shape[0], shape[1]) for name, shape in facts["layers"].items()}
        projection = Projection.drawn(layers, dimensions, facts["kind"], facts["seed"])
        roots = safetensors.torch.load_file(folder / ROOTS)["roots"].double()
        return cls(projection, roots, dimensions, most_tokens, facts)


def _inverse_root(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """(gram + damping · mean eigenvalue)^(−1/2), float64; the identity for zeros."""
    values, vectors = torch.linalg.eigh(gram)
    ridge = damping * float(values.clamp(min=0).mean())
    if not ridge:
        return torch.eye(len(gram), dtype=torch.float64)
    return (vectors * (values.clamp(min=0) + ridge).rsqrt()) @ vectors.T


@lru_cache(maxsize=4)
def space_in(folder: str, device: str) -> GradientSpace:
    """The space in a folder, its signs on a device; loaded once per process."""
    return GradientSpace.load(Path(folder)).on(device)
