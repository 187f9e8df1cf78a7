"""EL2N, GraNd, VoG: closed forms, autograd's own numbers, and no bit from a document's company."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models import build, dynamics, head, sizes
from tamis.models.device import Device, choose
from tamis.models.gradients import linear_layers
from tamis.models.influence import build_compass
from tamis.models.language import LanguageModel

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

V, END, CONTEXT = 300, 0, 16
SIZE = dataclasses.replace(sizes.size("tiny"), layers=2, width=16, heads=2, ffn=24, row_tokens=CONTEXT)
LENGTHS = [5, 0, 16, 17, 1, 40, 3, 33]


class Words:
    """As much of a tokenizer as is needed here."""

    end = END


def language(model, device=None):
    return LanguageModel(model.requires_grad_(False), Words(), "", device or Device("cpu", "float32"))


def llama(seed=1, size=SIZE):
    model = build.build(size, V, seed)
    with torch.no_grad():  # far from uniform
        for weight in model.parameters():
            weight.mul_(4) if weight.dim() > 1 else None
    return model


def gpt2(seed=0):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=V, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(5)
    ids = rng.integers(1, V, sum(LENGTHS)).astype(np.uint16)
    return ids, np.concatenate([[0], np.cumsum(LENGTHS)])


def slow_windows(ids, offsets, most=None):
    """Per document: its windows as (inputs, targets)."""
    for first, last in pairwise(offsets.tolist()):
        tokens = ids[first:last].astype(np.int64).tolist()[:most]
        cut = [tokens[start : start + CONTEXT] for start in range(0, len(tokens), CONTEXT)]
        yield [([before[-1], *part[:-1]], part) for before, part in pairwise([[END], *cut])]


def fixed(lm, scores, ids, offsets):
    """What each document comes out as by itself, and as the last of them all."""
    alone = [scores(lm, ids, offsets[i : i + 2])[0] for i in range(len(offsets) - 1)]
    order = np.argsort(np.diff(offsets), kind="stable")[::-1]
    parts = [ids[offsets[i] : offsets[i + 1]] for i in order]
    turned = scores(lm, np.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]))
    return alone, turned[np.argsort(order)].tolist()


# ---- EL2N ----


def test_an_error_of_two_logits_is_root_two_times_the_other_probability():
    """p = (σ, 1 − σ): √(Σp² − 2p_y + 1) = √2 (1 − p_y)."""
    for logits in ([0.0, 0.0], [1.5, -0.5], [30.0, 0.0]):
        p = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0)
        weights = (torch.tensor([logits, logits]) - max(logits)).exp()
        found = head._distance(weights.clone(), torch.tensor([0, 1]), weights.sum(1))
        assert found.tolist() == pytest.approx([math.sqrt(2) * float(1 - p[0]), math.sqrt(2) * float(p[0])], rel=1e-6)


def test_uniform_logits_are_wrong_by_the_root_of_one_less_a_vocabularys_share(documents):
    model = build.build(SIZE, V, 1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = dynamics.mean_errors(language(model), *documents)
    expected = [math.sqrt(1 - 1 / V) if n else math.nan for n in LENGTHS]
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("family", [llama, gpt2])
@pytest.mark.parametrize("most", [None, 20])
def test_errors_match_a_slow_loop(family, documents, most):
    model = family()
    slow = []
    for windows in slow_windows(*documents, most):
        errors = []
        for inputs, targets in windows:
            with torch.inference_mode():
                p = model(input_ids=torch.tensor([inputs])).logits[0].double().softmax(1)
            y = p[range(len(targets)), targets]
            errors += (p.square().sum(1) - 2 * y + 1).sqrt().tolist()
        slow.append(np.mean(errors) if errors else math.nan)
    found = dynamics.mean_errors(language(model), *documents, most)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, slow, rtol=1e-5)


# ---- GraNd ----


def slow_squared_norms(model, ids, offsets, most=None):
    """Autograd over a document's windows, then the norm of what the linear layers' weights collected."""
    names = [f"{name}.weight" for name in linear_layers(model)]
    model.requires_grad_(True)
    slow = []
    for windows in slow_windows(ids, offsets, most):
        model.zero_grad()
        for inputs, targets in windows:
            logits = model(input_ids=torch.tensor([inputs])).logits[0]
            torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum").backward()
        weights = dict(model.named_parameters())
        slow.append(sum(float(weights[n].grad.double().square().sum()) for n in names) if windows else 0.0)
    model.zero_grad()
    model.requires_grad_(False)
    return np.array(slow)


@pytest.mark.parametrize("family", [llama, gpt2])
@pytest.mark.parametrize("most", [None, 20])
def test_squared_norms_match_autograd(family, documents, most):
    model = family()
    found = dynamics.squared_norms(language(model), *documents, most)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, slow_squared_norms(model, *documents, most), rtol=1e-4)
    assert found[1] == 0


def test_gradients_of_windows_are_added_before_the_norm(documents):
    """A text of two windows is not two texts: the squares of the parts do not add up to its own."""
    ids, _ = documents
    ids = np.concatenate([ids[:CONTEXT], [END], ids[: CONTEXT - 1]]).astype(np.uint16)  # windows much alike
    whole = dynamics.squared_norms(language(llama()), ids, np.array([0, 2 * CONTEXT]))
    parts = dynamics.squared_norms(language(llama()), ids, np.array([0, CONTEXT, 2 * CONTEXT]))
    assert whole[0] > 1.5 * parts.sum()


def test_inner_products_of_tokens_and_whole_gradients_give_the_same_norm():
    generator = torch.Generator().manual_seed(0)
    for d_in, d_out, length in ((64, 96, 16), (64, 96, 48), (8, 4, 32)):
        a, slope = (torch.randn(6, length, d, generator=generator) for d in (d_in, d_out))
        expected = torch.einsum("bto,bti->boi", slope.double(), a.double()).square().sum((1, 2))
        torch.testing.assert_close(dynamics._squares(a, slope), expected, rtol=1e-5, atol=0.0)


def test_a_documents_influence_on_itself_is_its_squared_norm(documents):
    """With the identity for curvature; influence is on the mean loss of the query, so by its tokens."""
    lm = language(llama())
    ids, offsets = documents
    norms = dynamics.squared_norms(lm, ids, offsets)
    for i in np.flatnonzero(LENGTHS).tolist():
        own = (ids, offsets[i : i + 2])
        compass = build_compass(lm, own, {"itself": own}, how="identity")
        influence, tokens = compass.scores(lm, *own, None)
        assert influence[0, 0] * tokens[0] == pytest.approx(norms[i], rel=1e-4)


def test_how_many_gradients_are_held_changes_no_bit(documents, monkeypatch):
    lm = language(llama())
    found = dynamics.squared_norms(lm, *documents).tolist()
    monkeypatch.setattr(dynamics, "HELD_NUMBERS", 1)
    assert dynamics.squared_norms(lm, *documents).tolist() == found


# ---- VoG ----


def slow_slopes(model, inputs, targets):
    """Of the sum of the true tokens' logits by each input embedding, through transformers' own forward pass."""
    kept = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, _given, made: kept.append(made.requires_grad_()) or made
    )
    logits = model(input_ids=torch.tensor([inputs])).logits[0]
    hook.remove()
    return torch.autograd.grad(logits[range(len(targets)), targets].sum(), kept[0])[0][0].double()


@pytest.mark.parametrize("family", [llama, gpt2])
@pytest.mark.parametrize("most", [None, 20])
def test_variances_match_a_slow_loop(family, documents, most):
    models = [family(seed).requires_grad_(False) for seed in (1, 2, 3)]
    slow = []
    for windows in slow_windows(*documents, most):
        each = []
        for inputs, targets in windows:
            slopes = torch.stack([slow_slopes(model, inputs, targets) for model in models])
            each += slopes.var(0, correction=0).mean(1).tolist()
        slow.append(np.mean(each) if each else math.nan)
    found = dynamics.gradient_variances(language(models[0]), models, *documents, most)
    np.testing.assert_allclose(found, slow, rtol=1e-4)


def test_a_model_that_stood_still_has_no_variance(documents):
    model = llama().requires_grad_(False)
    found = dynamics.gradient_variances(language(model), [model] * 4, *documents)
    assert found == pytest.approx([0.0 if n else math.nan for n in LENGTHS], abs=1e-12, nan_ok=True)
    assert dynamics.gradient_variances(language(model), [model, llama(2)], *documents)[0] > 0


def test_a_larger_step_between_two_checkpoints_has_four_times_the_variance():
    """Two checkpoints whose logits, and so whose slopes, are −s and +s: the variance is s²."""
    found = []
    ids, offsets = np.arange(1, 13).astype(np.uint16), np.array([0, 12])
    for scale in (1.0, 2.0):
        models = [llama(), llama()]
        with torch.no_grad():
            for sign, model in zip((-scale, scale), models, strict=True):
                model.model.norm.weight.mul_(sign)
        found += dynamics.gradient_variances(language(models[0]), models, ids, offsets).tolist()
    assert found[1] == pytest.approx(4 * found[0], rel=1e-5)


def test_one_checkpoint_is_too_few(documents):
    model = llama()
    with pytest.raises(ValueError, match="expected two checkpoints or more, got 1"):
        dynamics.gradient_variances(language(model), [model], *documents)


# ---- TracIn ----


def test_self_influence_is_squared_norms_by_learning_rates(documents, tmp_path):
    """Over two checkpoints that lie in folders without a tokenizer."""
    models = [llama(1), llama(2)]
    for place, model in zip(("a", "b"), models, strict=True):
        build.save(model, tmp_path / place)
    kept = [dynamics.Checkpoint(str(tmp_path / place), rate) for place, rate in (("a", 0.5), ("b", 0.125))]
    found = dynamics.self_influence(language(llama(3)), kept, *documents, 20)
    norms = [dynamics.squared_norms(language(model), *documents, 20) for model in models]
    assert found.tolist() == (0.5 * norms[0] + 0.125 * norms[1]).tolist()
    assert not any(weight.requires_grad for weight in dynamics.snapshot(kept[0].folder).parameters())


# ---- company ----


def variances(lm, ids, offsets):
    return dynamics.gradient_variances(
        lm, [lm.model, llama(2, dataclasses.replace(SIZE)).requires_grad_(False)], ids, offsets
    )


@pytest.mark.parametrize("scores", [dynamics.mean_errors, dynamics.squared_norms, variances])
def test_company_and_place_move_no_bit(scores, documents):
    lm = language(llama())
    ids, offsets = documents
    together = scores(lm, ids, offsets)
    for found in fixed(lm, scores, ids, offsets):
        np.testing.assert_array_equal(found, together)


@pytest.mark.parametrize(("name", "dtype"), [("tiny", "float32"), ("tiny", "bfloat16")])
def test_company_moves_no_bit_at_a_real_size(name, dtype):
    size = sizes.size(name)
    lm = language(build.build(size, 1000, 1), choose(size.width, "cpu", dtype))
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum([7, 100, size.row_tokens, 33, size.row_tokens + 40, 16])])
    ids = rng.integers(1, 1000, offsets[-1]).astype(np.uint16)
    for scores in (dynamics.mean_errors, dynamics.squared_norms):
        together = scores(lm, ids, offsets)
        for found in fixed(lm, scores, ids, offsets):
            np.testing.assert_array_equal(found, together)


def test_no_documents_have_no_scores():
    lm, ids, offsets = language(llama()), np.zeros(0, np.uint16), np.zeros(1, np.int64)
    for scores in (dynamics.mean_errors, dynamics.squared_norms, variances):
        assert scores(lm, ids, offsets).shape == (0,)
