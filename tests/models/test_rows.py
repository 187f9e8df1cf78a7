"""Documents as they are drawn for training: in an order that belongs to them."""

import itertools

import numpy as np
import pytest

from tamis.models.rows import draw
from tamis.models.tokenizer import Tokenizer

pytest.importorskip("tokenizers")
pytestmark = pytest.mark.train


def test_documents_of_one_id_come_in_one_order_however_they_arrive(toy_tokenizer):
    """Two of them have as many bytes and as many tokens."""
    tokenizer = Tokenizer.load(toy_tokenizer)
    documents = [(7, "ab"), (7, "ba"), (3, "sea"), (7, "a"), (7, "ab")]

    def chosen(batch):
        ids, texts = zip(*batch, strict=True)
        return list(texts), np.array(ids, np.uint64), np.ones(len(texts), np.int64)

    found = set()
    for arrival in itertools.permutations(documents):
        drawn = draw((arrival[:2], arrival[2:]), chosen, tokenizer)
        ids, offsets = drawn.arranged()
        found.add(tuple(tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(offsets)))
    assert found == {("sea", "a", "ab", "ab", "ba")}
