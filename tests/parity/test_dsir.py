"""Parity with the reference implementation of DSIR, the PyPI package `data-selection`."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import tamis

data_selection = pytest.importorskip("data_selection", reason="the dev extra brings data-selection")

ROOT = Path(__file__).parents[2]
BUCKETS = 300_000


def documents(count):
    """Docstrings and comments of our own sources: real text that every checkout has."""
    texts = [
        paragraph
        for path in sorted((ROOT / "tamis").rglob("*.py"))
        for paragraph in path.read_text(encoding="utf-8").split("\n\n")
        if len(paragraph) > 120
    ]
    assert len(texts) >= count
    return texts[:count]


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_log_weights_rank_as_the_reference_ranks_them(tmp_path):
    texts = documents(500)
    target, pool = texts[::5], [text for i, text in enumerate(texts) if i % 5]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        dsir = data_selection.HashedNgramDSIR(
            [write_lines(tmp_path / "pool.jsonl", pool)],
            [write_lines(tmp_path / "target.jsonl", target)],
            str(tmp_path / "cache"),
            num_proc=1,
            num_buckets=BUCKETS,
        )
        dsir.fit_importance_estimator(num_tokens_to_fit="auto")
        dsir.compute_importance_weights()
    theirs = np.load(next((tmp_path / "cache" / "log_importance_weights").glob("*.npy")))
    ours = tamis.score(pool, "importance", target=target, pseudo_count=0, norm="sum", buckets=BUCKETS)[
        "importance"
    ].to_numpy()
    # other hash functions collide elsewhere; with this many buckets few n-grams do
    assert spearmanr(theirs, ours).statistic > 0.99
    assert np.median(np.abs(theirs - ours) / np.abs(theirs)) < 0.05
