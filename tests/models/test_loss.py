"""Losses against oracles: uniform logits, a slow loop over documents, memorised text; and documents never mix."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models import build, sizes
from tamis.models.device import choose
from tamis.models.loss import bits_per_byte, document_losses
from tamis.models.packing import pack
from tamis.models.tokenizer import Tokenizer, train_tokenizer
from tamis.models.train import train

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

V, END = 300, 0
SIZE = dataclasses.replace(sizes.size("tiny"), layers=1, width=16, heads=2, ffn=32, row_tokens=16, batch_rows=4)
LENGTHS = [5, 0, 16, 17, 1, 40, 3, 3, 33, 0]


@pytest.fixture(scope="module")
def model():
    model = build.build(SIZE, V, 1)
    with torch.no_grad():  # far from uniform, so that a wrong token or a wrong context shows
        for weight in model.parameters():
            weight.mul_(12) if weight.dim() > 1 else None
    return model


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(5)
    ids = rng.integers(1, V, sum(LENGTHS)).astype(np.uint16)
    return ids, np.concatenate([[0], np.cumsum(LENGTHS)])


def slow_losses(model, ids, offsets, context):
    """One window at a time, transformers' own logits, float64 log-softmax."""
    totals = []
    for first, last in pairwise(offsets):
        tokens, total = ids[first:last].astype(np.int64).tolist(), 0.0
        for start in range(0, len(tokens), context):
            targets = tokens[start : start + context]
            inputs = [END if start == 0 else tokens[start - 1], *targets[:-1]]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([inputs])).logits[0].double()
            total -= float(torch.log_softmax(logits, 1)[range(len(targets)), targets].sum())
        totals.append(total)
    return np.array(totals)


def test_losses_match_a_slow_loop(model, documents):
    ids, offsets = documents
    nats, predicted = document_losses(model, ids, offsets, end=END)
    assert (nats.dtype, predicted.dtype) == (np.float64, np.int64)
    np.testing.assert_allclose(nats, slow_losses(model, ids, offsets, 16), rtol=1e-5)
    assert predicted.tolist() == LENGTHS
    assert nats[1] == 0


def test_company_does_not_matter(model, documents):
    ids, offsets = documents
    nats, _ = document_losses(model, ids, offsets, end=END)
    for batch_tokens in (1, 50, 100_000):  # other shapes of matrices, other orders of sums
        again, _ = document_losses(model, ids, offsets, end=END, batch_tokens=batch_tokens)
        np.testing.assert_allclose(again, nats, rtol=1e-5)
    for i in range(len(LENGTHS)):
        alone, _ = document_losses(model, ids, offsets[i : i + 2], end=END)
        assert alone == nats[i], "to the bit"


def test_bfloat16_stays_near(model, documents):
    ids, offsets = documents
    nats, _ = document_losses(model, ids, offsets, end=END)
    low, _ = document_losses(model, ids, offsets, end=END, device=choose(16, "cpu", "bfloat16"))
    np.testing.assert_allclose(low, nats, rtol=2e-2)


def test_uniform_logits_cost_log2_of_the_vocabulary(documents):
    ids, offsets = documents
    model = build.build(SIZE, V, 1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    nats, predicted = document_losses(model, ids, offsets, end=END)
    np.testing.assert_allclose(nats / np.log(2), predicted * np.log2(V), rtol=1e-6)


def test_no_documents_have_no_losses(model):
    nats, predicted = document_losses(model, np.zeros(0, np.uint16), np.zeros(1, np.int64), end=END)
    assert (len(nats), len(predicted)) == (0, 0)


def test_another_model_family_is_scored_by_its_own_logits(documents):
    from transformers import GPT2Config, GPT2LMHeadModel

    ids, offsets = documents
    config = GPT2Config(vocab_size=V, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
    nats, _ = document_losses(model, ids, offsets, end=END)
    np.testing.assert_allclose(nats, slow_losses(model, ids, offsets, 16), rtol=1e-5)


def test_bits_per_byte_of_known_numbers():
    np.testing.assert_allclose(bits_per_byte(np.array([np.log(2) * 6, 0.0]), [3, 0]), [2.0, np.nan])


def test_a_memorised_text_costs_almost_nothing(tmp_path):
    """Overfitting drives a text's loss to nearly 0, which token frequencies alone never could."""
    texts = [f"{i * i} sieves, {i} drums and {7 * i} mills; " * 2 for i in range(12)]
    train_tokenizer(texts, 300, tmp_path / "tokenizer")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    ids, offsets = tokenizer.encode(texts)
    size = dataclasses.replace(SIZE, layers=2, width=64, ffn=128, row_tokens=32)
    order = np.random.default_rng(0).integers(0, len(texts), 3_000)
    rows = pack(ids, offsets, size.row_tokens, tokenizer.end, order=order)
    train(rows, size, seed=0, tokens=40_000, folder=tmp_path / "m", tokenizer_folder=tmp_path / "tokenizer")
    nats, predicted = document_losses(build.load(tmp_path / "m"), ids, offsets, end=tokenizer.end)
    counts = np.bincount(ids)
    unigram = -(counts[counts > 0] * np.log(counts[counts > 0] / len(ids))).sum() / len(ids)
    openings = len(texts) * np.log(len(texts))  # which of the texts this is cannot be known at its first token
    assert nats.sum() / predicted.sum() < 0.15 * unigram
    assert nats.sum() < 1.5 * openings
