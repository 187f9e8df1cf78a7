import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.exact import exact_keys
from tamis.kernels.members import are_members, count_shared_ngrams, members_of, ngrams_of
from tamis.kernels.ngrams import (
    count_ngrams,
    extend,
    hashed_vectors,
    ngram_totals,
    reference_bucket,
    weigh_ngrams,
)
from tamis.kernels.shingles import words_of
from tamis.kernels.words import tokenize

WORD64 = 2**64 - 1


def extended(gram, token):
    h = ((gram << 23 | gram >> 41) & WORD64 ^ token) * 0x9E3779B97F4A7C15 & WORD64
    return h ^ h >> 29


def grams(hashes, longest):
    """Hashes of all 1- to `longest`-grams of a list of token hashes."""
    found = []
    for i in range(len(hashes)):
        for n in range(1, longest + 1):
            if i + n <= len(hashes):
                gram = hashes[i]
                for token in hashes[i + 1 : i + n]:
                    gram = extended(gram, token)
                found.append(gram)
    return found


def documents(tokens, words_only=False):
    """The token hashes of each document."""
    found = []
    for d in range(len(tokens)):
        part = slice(tokens.document[d], tokens.document[d + 1])
        hashes = tokens.hash[part][tokens.is_word[part]] if words_only else tokens.hash[part]
        found.append(hashes.tolist())
    return found


@given(st.data(), st.integers(1, 3), st.sampled_from([1, 7, 100, 10_000]))
def test_counts_and_weights_are_those_of_the_twin(texts, sliced, data, longest, buckets):
    tokens = tokenize(sliced(data.draw(texts)))
    expected = np.zeros(buckets, np.int64)
    weights = np.random.default_rng(3).normal(size=buckets)
    scores = []
    for hashes in documents(tokens):
        places = [(gram >> 32) * buckets >> 32 for gram in grams(hashes, longest)]
        np.add.at(expected, places, 1)
        scores.append(math.fsum(weights[places]))
    assert (count_ngrams(tokens, longest, buckets) == expected).all()
    assert weigh_ngrams(tokens, longest, weights) == pytest.approx(np.array(scores), abs=1e-9)
    assert ngram_totals(tokens, longest).tolist() == [len(grams(hashes, longest)) for hashes in documents(tokens)]


@given(st.data(), st.integers(1, 2), st.sampled_from([1, 5, 64]))
def test_vectors_are_signed_counts_at_unit_length(texts, sliced, data, longest, dimensions):
    tokens = tokenize(sliced(data.draw(texts)))
    vectors = hashed_vectors(tokens, longest, dimensions)
    assert vectors.dtype == np.float32
    for vector, hashes in zip(vectors, documents(tokens, words_only=True), strict=True):
        counts = np.zeros(dimensions, np.int64)
        for gram in grams(hashes, longest):
            counts[(gram >> 32) * dimensions >> 32] += 1 if gram >> 31 & 1 else -1
        norm = math.sqrt(int((counts * counts).sum()))
        expected = (counts / norm if norm else counts).astype(np.float32)
        assert (vector == expected).all()


def test_order_of_tokens_matters():
    assert extend(np.uint64(5), np.uint64(9)) != extend(np.uint64(9), np.uint64(5))


@given(st.data())
def test_exact_keys_are_equal_where_the_words_are(texts, sliced, data):
    tokens = tokenize(sliced(data.draw(texts)))
    high, low, has_words = exact_keys(words_of(tokens))
    words = documents(tokens, words_only=True)
    assert has_words.tolist() == [bool(hashes) for hashes in words]
    for i in range(len(words)):
        assert has_words[i] or high[i] == low[i] == 0
        for j in range(i):
            assert (high[i] == high[j]) == (low[i] == low[j]) == (words[i] == words[j])


@given(st.data(), st.integers(1, 5))
def test_ngrams_of_are_equal_where_the_words_are(texts, sliced, data, n):
    tokens = tokenize(sliced(data.draw(texts)))
    document, hashes = ngrams_of(words_of(tokens), n)
    names, at = {}, 0
    for d, words in enumerate(documents(tokens, words_only=True)):
        assert document[d] == at
        for i in range(len(words) - n + 1):
            assert names.setdefault(tuple(words[i : i + n]), int(hashes[at])) == int(hashes[at])
            at += 1
    assert at == len(hashes) == document[-1]
    assert len(set(names.values())) == len(names)


@given(st.sets(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_members_are_found_and_others_are_not(inside, others):
    members = members_of(np.array(sorted(inside), np.uint64))
    keys = [*inside, *others]
    assert are_members(members, np.array(keys, np.uint64)).tolist() == [key in inside for key in keys]


@given(st.data(), st.integers(1, 4), st.integers(1, 5))
def test_shared_ngrams_are_counted_at_each_place(texts, sliced, data, n, step):
    tokens = tokenize(sliced(data.draw(texts)))
    document, hashes = ngrams_of(words_of(tokens), n)
    inside = np.unique(hashes)[::step]
    expected = [np.isin(hashes[a:b], inside).sum() for a, b in pairwise(document)]
    assert count_shared_ngrams(words_of(tokens), n, members_of(inside)).tolist() == expected


def test_reference_buckets_are_the_published_ones():
    assert reference_bucket(["alice"], 10_000) == 6720
    assert reference_bucket(["alice", "went"], 10_000) == 114


def test_five_words_have_nine_features(sliced):
    assert ngram_totals(tokenize(sliced(["Alice went to the store"])), 2).tolist() == [9]
