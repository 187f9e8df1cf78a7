"""Length and hashed n-grams, and what every component here promises."""

import numpy as np
import pyarrow as pa
import pytest

from tamis.dedup.exact import Exact
from tamis.embedders.hashed_ngrams import HashedNgrams
from tamis.kernels.arrow import vectors_of
from tamis.scorers.importance import Importance
from tamis.scorers.length import Length
from tamis.scorers.overlap import Overlap
from tamis.scorers.repetition import Repetition
from tamis.steps import Documents

TARGET = Documents(texts=("the cat sat on the mat",))
ALL = [
    Length(),
    Repetition(),
    Importance(target=TARGET),
    Overlap(against=(TARGET,)),
    HashedNgrams(dimensions=8),
    Exact(),
]


@pytest.mark.parametrize("component", ALL, ids=lambda component: type(component).__name__)
def test_an_empty_batch_gives_the_promised_columns(run, batches, component):
    table = run(component, batches([]), name="given")
    assert table.num_rows == 0
    assert table.schema == pa.schema(list(component.columns("given").items()))


@pytest.mark.parametrize("component", ALL, ids=lambda component: type(component).__name__)
def test_batches_of_any_size_give_the_same_values(run, batches, component):
    texts = [
        "The cat.",
        "",
        "the CAT",
        "日本語 テキスト\nтекст",
        "a " * 50,
        "  ",
        "the cat sat on the mat",
        "cafe\u0301",
    ]
    whole = run(component, batches(texts))
    apart = run(component, batches(texts, cuts=range(len(texts))))
    assert str(apart.to_pydict()) == str(whole.to_pydict())


def test_length_counts_characters_words_and_lines(run, batches):
    table = run(Length(), batches(["", "one", "deux mots\n", "日本\n\n語", "don't_stop 3.5"]))
    assert table["x"].to_pylist() == [0, 3, 10, 5, 14]
    assert table["x_words"].to_pylist() == [0, 1, 2, 2, 4]
    assert table["x_lines"].to_pylist() == [0, 1, 1, 3, 1]


def test_vectors_have_length_one_and_like_texts_are_near(run, batches):
    texts = ["the cat sat on the mat", "The cat, it sat on a mat!", "stock prices fell sharply in trading", "", "..."]
    table = run(HashedNgrams(), batches(texts), name="vector")
    vectors = vectors_of(table["vector"])
    assert np.linalg.norm(vectors[:3], axis=1) == pytest.approx(1, abs=2**-11)
    assert not vectors[3:].any()
    assert vectors[0] @ vectors[1] > 0.4 > vectors[0] @ vectors[2]
