"""Held-out sets as token arrays, and a model's bits per byte on each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tamis.models.tokenizer import Tokenizer

SOURCES = 12  # of the pool, judged one by one: those with the most held-out text
SOURCE_DOCUMENTS = 10  # fewer held-out documents than this say nothing about a source


class SetFacts(TypedDict):
    """How large a held-out set is. kind: evaluate, pool (all held-out documents) or source (those of one)."""

    documents: int
    bytes: int
    kind: str


def encode_sets(
    sets: Mapping[str, Sequence[tuple[int, str, str]]], tokenizer: Tokenizer, folder: Path
) -> dict[str, Any]:
    """Saves every set's tokens; the pool's documents also form one set per large source."""
    facts: dict[str, SetFacts] = {}
    for position, (name, entries) in enumerate(sets.items()):
        texts = [text for _, _, text in entries]
        ids, offsets = tokenizer.encode(texts)
        sizes = np.array([len(text.encode()) for text in texts], np.int64)
        members = {name: np.arange(len(texts))} if texts else {}
        if name == "pool":
            members |= _by_source([source for _, source, _ in entries], sizes)
        np.savez(folder / f"set-{position:02d}.npz", ids=ids, offsets=offsets, bytes=sizes)
        (folder / f"set-{position:02d}.json").write_text(
            json.dumps({key: rows.tolist() for key, rows in members.items()}), encoding="utf-8"
        )
        for member, rows in members.items():
            kind = "evaluate" if name != "pool" else "pool" if member == "pool" else "source"
            facts[member] = {"documents": len(rows), "bytes": int(sizes[rows].sum()), "kind": kind}
    return {"sets": facts}


def _by_source(sources: Sequence[str], sizes: np.ndarray[Any, Any]) -> dict[str, Any]:
    names, place, counts = np.unique(np.array(sources, dtype=str), return_inverse=True, return_counts=True)
    mass = np.bincount(place, weights=sizes, minlength=len(names))
    largest = sorted(
        (i for i in range(len(names)) if names[i] and counts[i] >= SOURCE_DOCUMENTS), key=lambda i: (-mass[i], names[i])
    )
    return {f"pool/{names[i]}": np.flatnonzero(place == i) for i in largest[:SOURCES]}


def judge(model_folder: Path, sets_folder: Path) -> dict[str, dict[str, float]]:
    """Nats, bytes and bits per byte of a model on every set; each document by itself."""
    from tamis.models.build import load
    from tamis.models.loss import bits_per_byte, document_losses

    model = load(model_folder)
    end = Tokenizer.load(model_folder).end
    scores = {}
    for path in sorted(sets_folder.glob("set-*.npz")):
        members = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(path, allow_pickle=False) as stored:
            nats, _ = document_losses(model, stored["ids"], stored["offsets"], end=end)
            sizes = stored["bytes"]
        for name, rows in members.items():
            total, size = float(nats[rows].sum()), int(sizes[rows].sum())
            scores[name] = {"nats": total, "bytes": size, "bits_per_byte": float(bits_per_byte(np.array(total), size))}
    return scores
