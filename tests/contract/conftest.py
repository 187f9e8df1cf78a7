"""Every component there is, with the fewest options it needs: a new component needs one line in OPTIONS.

A line holds options as stages.yaml would, with stand-ins where a test has something of its own:

TARGET          a set of documents: texts in memory, or a file in a run
MODEL           the folder of a tiny sentence model
LANGUAGE_MODEL  the folder of a tiny language model (called "conditional"; it has checkpoints)
PRIOR           another one with the same tokenizer (called "prior")

They may stand within lists and mappings. A test of a component whose line names a model, or whose class `needs`
packages, is skipped where these are not installed.

Components that it `asks()` for are added by themselves. A component that by its options reads the columns or uses the
training of other stages has a line in AFTER, too: the stages that stand before it, each an Ask with the name that the
options say. In a run of all components, a stage of AFTER with the name, component and options of a line in OPTIONS (a
scorer's, by its own name) is the same stage; one with other options needs a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.families import FAMILIES, build, find, names
from tamis.inline import run_inline
from tamis.kernels.arrow import half_vectors, text_of
from tamis.kernels.ngrams import hashed_vectors
from tamis.kernels.words import tokenize
from tamis.steps import Ask

TARGET = object()
MODEL, LANGUAGE_MODEL, PRIOR = object(), object(), object()
MODELS = {id(MODEL): "sentence", id(LANGUAGE_MODEL): "conditional", id(PRIOR): "prior"}

GRADIENTS = {"model": LANGUAGE_MODEL, "dimensions": 64, "most_tokens": 48, "sample": 100}

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("embed", "gradients"): GRADIENTS,
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
    ("score", "attribution"): {"target": TARGET, "target_tokens": 1000},
    ("score", "distill"): {"of": "stars", "features": ["vector", "n_bytes"]},
    ("score", "dynamics"): {
        "model": LANGUAGE_MODEL,
        "scores": ["el2n", "grand", "vog", "tracin"],
        "most_tokens": 48,
    },
    ("score", "importance"): {"target": TARGET, "buckets": 256},
    ("score", "influence"): {
        "model": LANGUAGE_MODEL,
        "target": TARGET,
        "sample_tokens": 3000,
        "target_tokens": 1000,
        "most_tokens": 48,
    },
    ("score", "length"): {},
    ("score", "loss_reduction"): {"prior": PRIOR, "conditional": LANGUAGE_MODEL},
    ("score", "losses"): {"model": LANGUAGE_MODEL},
    ("score", "min_k"): {"model": LANGUAGE_MODEL},
    ("score", "overlap"): {"against": TARGET, "ngram_words": 4},
    ("score", "perplexity"): {"model": LANGUAGE_MODEL, "per": "source"},
    ("score", "prototypes"): {"clusters": 8},
    ("score", "rank"): {"of": "stars"},
    ("score", "repetition"): {},
    ("score", "uniform"): {},
    ("score", "vendi"): {},
    ("score", "zscore"): {"of": "stars / 2 - n_bytes"},
    ("select", "cluster_bandit"): {
        "score": "length",
        "alpha": 0.5,
        "threshold": 0.1,
        "portion": 10,
        "draws": 3,
        "most_pulls": 40,
        "budget_tokens": 3000,
    },
    ("select", "sample"): {"score": "stars", "budget_documents": 50},
    ("select", "top"): {"score": "stars", "where": "source = 'web' or stars > 2", "budget_tokens": 5000},
}
AFTER: dict[tuple[str, str], list[Ask]] = {
    ("score", "attribution"): [Ask("embed", "gradients", "gradients", GRADIENTS)],
    ("select", "cluster_bandit"): [
        Ask("score", "length", "length", {}),
        Ask("score", "prototypes", "prototypes", {"clusters": 8}),
    ],
}
ALL = [(verb, name) for verb in FAMILIES for name in names(verb)]


@dataclass(frozen=True)
class Case:
    """One component: where it is found and what its line in OPTIONS says."""

    verb: str
    name: str
    target: tuple[str, ...]
    models: Mapping[str, str]

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
        return self._meant(self.line, documents)

    def after(self, documents: Any) -> list[Ask]:
        """The stages that stand before it."""
        stages = AFTER.get((self.verb, self.name), ())
        return [Ask(ask.verb, ask.component, ask.name, self._meant(ask.options, documents)) for ask in stages]

    def _meant(self, value: Any, documents: Any) -> Any:
        """An option without stand-ins."""
        if isinstance(value, dict):
            return {key: self._meant(item, documents) for key, item in value.items()}
        if isinstance(value, list):
            return [self._meant(item, documents) for item in value]
        if id(value) in MODELS:
            return self.models[MODELS[id(value)]]
        return documents if value is TARGET else value

    def component(self) -> Any:
        return build(self.cls, self.options(list(self.target)), texts=True)

    def run(self, documents: pa.Table, batch_rows: int = 4096, name: str = "x", component: Any = None) -> pa.Table:
        """Its columns about documents in memory. component : instead of its own."""
        after = self.after({"texts": list(self.target)})
        component = component or self.component()
        return run_inline(component, documents, name, seed=5, batch_rows=batch_rows, after=after).combine_chunks()

    def stages(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, item of `stages:`) of what stands before it, and of itself, with the target in a file."""
        own = Ask(self.verb, self.name, self.called, self.options([str(path)]))
        for ask in (*self.after([str(path)]), own):
            if ask.verb == "select":
                yield ask.name, {"select": {"name": ask.name, "by": {ask.component: ask.options}}}
            else:
                yield ask.name, {ask.verb: {ask.component: {**ask.options, "as": ask.name}}}


def stand_ins(value: Any) -> Iterator[str]:
    """The models that options name."""
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from stand_ins(item)
    elif id(value) in MODELS:
        yield MODELS[id(value)]


def lacking(verb: str, name: str) -> Sequence[str]:
    """Packages that a component and the stages before it want, and that are not installed."""
    needs = list(find(verb, name).needs)
    lines = [OPTIONS.get((verb, name), {})]
    for ask in AFTER.get((verb, name), ()):
        needs += find(ask.verb, ask.component).needs
        lines.append(ask.options)
    needs += ["torch", "transformers"] if any(True for _ in stand_ins(lines)) else []
    return [package for package in needs if find_spec(package) is None]


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest) -> dict[str, str]:
    """The folders behind the stand-ins, by what they are called; none where torch is not installed."""
    if any(find_spec(package) is None for package in ("torch", "transformers")):
        return {}
    language = request.getfixturevalue("language_models")
    return {"sentence": str(request.getfixturevalue("tiny_model")), **{k: str(v) for k, v in language.items()}}


@pytest.fixture(params=ALL, ids=[f"{verb}-{name}" for verb, name in ALL])
def case(request: pytest.FixtureRequest, target_texts: list[str], models: dict[str, str]) -> Case:
    """Each component in turn."""
    if missing := lacking(*request.param):
        pytest.skip(f"{' and '.join(missing)} not installed")
    return Case(*request.param, tuple(target_texts), models)


@pytest.fixture(scope="session")
def lines() -> dict[tuple[str, str], dict[str, Any]]:
    """The smallest options of each component."""
    return OPTIONS


@pytest.fixture(scope="session")
def every_case(target_texts: list[str], models: dict[str, str]) -> list[Case]:
    """All components at once, but those that lack a package."""
    return [Case(verb, name, tuple(target_texts), models) for verb, name in ALL if not lacking(verb, name)]


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
