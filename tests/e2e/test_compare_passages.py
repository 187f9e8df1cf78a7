"""Proxy models are trained on what an export writes: without marked passages, but for arms named in `whole`."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import SpecError
from tamis.pipeline.export import export
from tamis.pipeline.workers import Serial

FOOTER = "zanzibar quokka zanzibar quokka zanzibar quokka zanzibar"
WORDS = ["sieve", "drum", "flour", "grain", "shard", "river", "matrix", "proof"]
COMPARE = {"arms": ["one", "other"], "whole": ["other"], "seeds": 1, "tokens": 4096}


@pytest.fixture(scope="module")
def specification(tmp_path_factory, write_corpus):
    """Two arms of the same documents, each of which ends in the same line; one document holds that line alone."""
    folder = tmp_path_factory.mktemp("passages")
    draw = random.Random(3)
    texts = [f"{' '.join(draw.choice(WORDS) for _ in range(60))}\n{FOOTER}" for _ in range(80)] + [f"{FOOTER}\n"]
    table = pa.table({"id": [f"d{i}" for i in range(len(texts))], "text": texts})
    pq.write_table(table.slice(0, 20), folder / "target.parquet")
    by = {"by": "sample", "budget_documents": 1000}
    return {
        "corpus": {"paths": str(write_corpus(folder / "pool", table, 2))},
        "tokenizer": {"vocabulary": 300},
        "stages": [
            {"deduplicate": {"by": {"paragraph": {"min_words": 5}}}},
            {"select": {"name": "one", **by}},
            {"select": {"name": "other", **by}},
            {"compare": {**COMPARE, "evaluate": {"target": str(folder / "target.parquet")}}},
        ],
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory, run_spec, specification):
    """The finished run."""
    for package in ("torch", "transformers", "tokenizers", "safetensors"):
        pytest.importorskip(package)
    own = {**specification, "stages": [*specification["stages"]]}
    own["stages"][-1] = {
        "compare": {**specification["stages"][-1]["compare"], "evaluate": {"t": _apart(specification)}}
    }
    return run_spec(own, tmp_path_factory.mktemp("ran"))


def _apart(specification):
    """An evaluation set that no document of the pool overlaps."""
    path = specification["stages"][-1]["compare"]["evaluate"]["target"]
    apart = path.replace("target", "apart")
    pq.write_table(
        pa.table({"id": ["x", "y"], "text": ["other words altogether " * 9, "and some more of them " * 9]}), apart
    )
    return apart


def trained_on(ran, arm):
    """The text of an arm's training rows."""
    from tamis.models.tokenizer import Tokenizer

    (rows,) = [path for path in (ran.folder / "models").glob("*/rows.npy") if f"rows-{arm}" in str(path)] or [None]
    (tokenizer,) = {path.parent for path in (ran.folder / "models").glob("*/tokenizer.json") if "tokens" in str(path)}
    return Tokenizer.load(tokenizer).bpe.decode(np.load(rows, allow_pickle=False).ravel().tolist())


def test_marked_passages_are_not_trained_on_but_by_whole_arms(ran):
    assert trained_on(ran, "one").count(FOOTER) <= 1
    assert trained_on(ran, "other").count(FOOTER) > 8


def test_compare_says_what_it_left_out(ran, tmp_path):
    told = json.loads((ran.folder / "compare.json").read_text("utf-8"))
    assert told["spans"] == ["paragraph_spans"]
    assert told["span_bytes_left_out"]["other"] == 0
    export(ran.folder, "one", tmp_path / "out", "parquet", Serial())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    held_out = told["held_out_left_out"]["one"]
    assert 0 < told["span_bytes_left_out"]["one"] <= manifest["left_out"]["bytes"]
    assert manifest["left_out"]["bytes"] - told["span_bytes_left_out"]["one"] <= (len(FOOTER) + 1) * held_out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"whole": ["nobody"]}, "whole: expected some of the arms one, other, got 'nobody'"),
        ({"spans": ["paragraph_spans"]}, "compare has no key 'spans'"),
    ],
)
def test_arms_that_are_not_compared_are_refused(specification, run_spec, tmp_path, change, message):
    stages = [*specification["stages"][:-1], {"compare": {**specification["stages"][-1]["compare"], **change}}]
    with pytest.raises(SpecError, match=message):
        run_spec({**specification, "stages": stages}, tmp_path)
