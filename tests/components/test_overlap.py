import gzip
import json
from pathlib import Path

import pytest

from tamis.scorers.overlap import Overlap
from tamis.steps import Documents

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def test_thirteen_words_in_a_row_overlap_whatever_stands_between(run, batches):
    texts = [
        f"Before. {THIRTEEN.upper().replace(' ', ', ')}; after",
        THIRTEEN.replace("seven", "SEVENTH"),
        " ".join(THIRTEEN.split()[:12]),
        f"{THIRTEEN} x {THIRTEEN} fourteen",
        "",
    ]
    table = run(Overlap(against=(Documents(texts=(f"{THIRTEEN}, fourteen",)),)), batches(texts))
    assert table["x"].to_pylist() == [True, False, False, True, False]
    assert table["x_ngrams"].to_pylist() == [1, 0, 0, 3, 0]


def test_a_short_evaluation_document_is_found_as_a_whole_only(run, batches):
    table = run(
        Overlap(against=(Documents(texts=("What is it?", "")),)), batches(["what is it", "So: what is it?", "", "!"])
    )
    assert table["x"].to_pylist() == [True, False, False, False]
    assert table["x_ngrams"].to_pylist() == [0, 0, 0, 0]


def test_several_sets_count_like_one(run, batches):
    texts = [f"text {i} {' '.join(f'w{i + j}' for j in range(20))}" for i in range(6)]
    one = Overlap(against=(Documents(texts=(texts[0], texts[3])),), ngram_words=4)
    two = Overlap(against=(Documents(texts=(texts[3],)), Documents(texts=(texts[0],))), ngram_words=4)
    assert run(one, batches(texts)).equals(run(two, batches(texts, cuts=(2, 5))))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the shared evaluation texts are not beside this checkout")
def test_planted_benchmark_texts_are_found_and_clean_ones_are_not(run, batches):
    probes = read(SHARED / "decontam_probe.jsonl.gz")
    against = Documents(texts=tuple(record["text"] for record in read(SHARED / "benchmark_texts.jsonl.gz")))
    found = run(Overlap(against=(against,)), batches([probe["text"] for probe in probes]))["x"].to_pylist()
    share = {}
    for kind in {probe["kind"] for probe in probes}:
        hits = [hit for hit, probe in zip(found, probes, strict=True) if probe["kind"] == kind]
        share[kind] = sum(hits) / len(hits)
    assert share["verbatim"] > 0.99
    assert share["clean"] < 0.02


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
