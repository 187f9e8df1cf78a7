"""Rows are what a slow loop over documents gives, in any order and from any slice of documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.models import packing
from tamis.models.packing import pack

END = 0
documents = st.lists(st.lists(st.integers(1, 500), max_size=12), max_size=20)


def flat(texts, dtype=np.uint16):
    ids = np.array([token for text in texts for token in text], dtype)
    return ids, np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)


def slow_pack(texts, row_tokens):
    stream = [END]
    for text in texts:
        stream += [*text, END]
    rows = []
    while len(stream) > row_tokens:
        rows.append(stream[: row_tokens + 1])
        stream = stream[row_tokens:]
    return np.array(rows, np.uint16).reshape(-1, row_tokens + 1)


@settings(deadline=None)
@given(documents, st.integers(1, 9))
def test_packing_matches_its_twin(texts, row_tokens):
    np.testing.assert_array_equal(pack(*flat(texts), row_tokens, END), slow_pack(texts, row_tokens))


@settings(deadline=None)
@given(documents, st.integers(1, 9), st.integers(1, 30))
def test_blocks_change_nothing(texts, row_tokens, block):
    before = packing._BLOCK_TOKENS
    packing._BLOCK_TOKENS = block
    try:
        np.testing.assert_array_equal(pack(*flat(texts), row_tokens, END), slow_pack(texts, row_tokens))
    finally:
        packing._BLOCK_TOKENS = before


@settings(deadline=None)
@given(documents.filter(len), st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_caller_orders_and_repeats_documents(texts, row_tokens, random):
    order = [random.randrange(len(texts)) for _ in range(2 * len(texts))]
    rows = pack(*flat(texts), row_tokens, END, order=np.array(order))
    np.testing.assert_array_equal(rows, slow_pack([texts[i] for i in order], row_tokens))


def test_slices_of_a_larger_array_are_packed_alike():
    ids, offsets = flat([[1, 2, 3], [4], [5, 6]])
    np.testing.assert_array_equal(pack(ids, offsets[1:], 2, END), slow_pack([[4], [5, 6]], 2))


def test_the_width_of_tokens_is_kept():
    assert pack(*flat([[70_000, 2]], np.uint32), 2, END).dtype == np.uint32
    assert pack(*flat([[7, 2]]), 2, END).dtype == np.uint16


def test_an_empty_row_is_refused():
    with pytest.raises(ValueError, match="row_tokens must be at least 1, got 0"):
        pack(*flat([[1]]), 0, END)
