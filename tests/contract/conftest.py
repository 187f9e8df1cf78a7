"""Every component there is, with the fewest options it needs: a new component needs one line in OPTIONS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.families import FAMILIES, build, find, names
from tamis.kernels.arrow import half_vectors, text_of
from tamis.kernels.ngrams import hashed_vectors
from tamis.kernels.words import tokenize

TARGET = object()  # stands for a set of documents: texts in memory, or a file in a run
MODEL = object()  # stands for the folder of a tiny sentence model

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("embed", "hashed_ngrams"): {"dimensions": 16},
    ("embed", "sentence"): {"model": MODEL},
    ("embed", "static"): {"model": MODEL, "dimensions": 16},
    ("deduplicate", "exact"): {},
    ("deduplicate", "minhash"): {
        "ngram": 2,
        "verify": "exact",
        "canaries": 0.2,
        "per": "source",
        "keep": {"best": "stars"},
    },
    ("deduplicate", "paragraph"): {"min_words": 5},
    ("deduplicate", "semantic"): {"epsilon": 0.1},
    ("deduplicate", "substring"): {"min_tokens": 12, "min_left_tokens": 5},
    ("score", "importance"): {"target": TARGET, "buckets": 256},
    ("score", "length"): {},
    ("score", "overlap"): {"against": TARGET, "ngram_words": 4},
    ("score", "prototypes"): {"clusters": 8},
    ("score", "repetition"): {},
    ("score", "vendi"): {},
    ("select", "sample"): {"score": "stars", "budget_documents": 50},
    ("select", "top"): {"score": "stars", "where": "source = 'web' or stars > 2", "budget_tokens": 5000},
}
ALL = [(verb, name) for verb in FAMILIES for name in names(verb)]


@dataclass(frozen=True)
class Case:
    """One component: where it is found and what its line in OPTIONS says."""

    verb: str
    name: str
    target: tuple[str, ...]
    model: str

    @property
    def called(self) -> str:
        """What its columns start with in a run of all components."""
        if self.name == "hashed_ngrams":
            return "vector"  # other components read it
        return f"by_{self.name}" if self.verb == "select" else self.name

    @property
    def cls(self) -> Any:
        return find(self.verb, self.name)

    @property
    def line(self) -> dict[str, Any]:
        if (self.verb, self.name) not in OPTIONS:
            pytest.fail(f"{self.verb} {self.name}: add a line with its smallest options to OPTIONS in {__file__}")
        return OPTIONS[self.verb, self.name]

    def options(self, documents: Any) -> dict[str, Any]:
        """The options, with `documents` where a set of documents belongs."""
        meant = {id(TARGET): documents, id(MODEL): self.model}
        return {key: meant.get(id(value), value) for key, value in self.line.items()}

    def component(self) -> Any:
        return build(self.cls, self.options(list(self.target)), texts=True)

    def stage(self, path: Path) -> dict[str, Any]:
        """An item of `stages:`, with the target in a file."""
        if self.verb == "select":
            return {"select": {"name": self.called, "by": {self.name: self.options([str(path)])}}}
        return {self.verb: {self.name: {**self.options([str(path)]), "as": self.called}}}


@pytest.fixture(params=ALL, ids=[f"{verb}-{name}" for verb, name in ALL])
def case(request: pytest.FixtureRequest, target_texts: list[str], tiny_model: Path) -> Case:
    """Each component in turn."""
    return Case(*request.param, tuple(target_texts), str(tiny_model))


@pytest.fixture(scope="session")
def every_case(target_texts: list[str], tiny_model: Path) -> list[Case]:
    """All components at once."""
    return [Case(verb, name, tuple(target_texts), str(tiny_model)) for verb, name in ALL]


@pytest.fixture(scope="session")
def usable(documents: pa.Table) -> pa.Table:
    """Usable documents as a component sees them: text, and what selectors and samplers read beside it."""
    table = documents.filter(documents["text"].is_valid()).rename_columns(["doc_id", "text", "source", "stars"])
    size = np.array([len(text.encode()) for text in table["text"].to_pylist()])
    return (
        table.append_column("n_bytes", pa.array(size.astype(np.uint64)))
        .append_column("n_tokens", pa.array((size // 4 + 1).astype(np.uint32)))
        .append_column("quarantined", pa.array(np.zeros(len(size), bool)))
        .append_column("vector", half_vectors(hashed_vectors(tokenize(text_of(table["text"])), 2, 16)))
        .combine_chunks()
    )


@pytest.fixture(scope="session")
def inline() -> Callable[..., pa.Table]:
    """(component, documents, batch_rows=4096, name="x") → its columns."""
    from tamis.inline import run_inline

    return lambda component, documents, batch_rows=4096, name="x": run_inline(
        component, documents, name, seed=5, batch_rows=batch_rows
    ).combine_chunks()
