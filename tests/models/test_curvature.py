"""Factors, eigenvalues and preconditioners against float64 autograd, dense matrices and closed forms."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import dataclasses
import hashlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models import build, curvature, head, sizes
from tamis.models.curvature import Basis, Preconditioner, Sample, mean_moments, mean_squares, preconditioners
from tamis.models.device import Device
from tamis.models.gradients import linear_layers, window_gradients
from tamis.models.language import LanguageModel
from tamis.models.windows import windows_of

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

V, END = 60, 0
SIZE = dataclasses.replace(sizes.size("tiny"), layers=1, width=12, heads=2, ffn=16, row_tokens=16)
LENGTHS = [5, 0, 16, 17, 1, 40, 3, 9, 12, 30, 14, 16, 7, 22, 11]


class Words:
    """As much of a tokenizer as is needed here."""

    end = END


@pytest.fixture(scope="module")
def lm():
    model = build.build(SIZE, V, 1)
    with torch.no_grad():  # predictions that differ by token, so that drawn labels are no uniform noise
        for weight in model.parameters():
            weight.mul_(3) if weight.dim() > 1 else None
    return LanguageModel(model.requires_grad_(False), Words(), "", Device("cpu", "float32"))


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(5)
    return rng.integers(1, V, sum(LENGTHS)).astype(np.uint16), np.concatenate([[0], np.cumsum(LENGTHS)])


@pytest.fixture(scope="module")
def explicit(lm, documents):
    """Of every window, by layer: inputs and slopes of a float64 model with labels drawn as the sample's are."""
    ids, offsets = documents
    sample = Sample.drawn(lm, ids, offsets, seed=3)
    model = build.build(SIZE, V, 1).double()
    model.load_state_dict({name: weight.double() for name, weight in lm.model.state_dict().items()})
    windows, found = windows_of(offsets, lm.context), {name: [] for name in linear_layers(lm.model)}
    for w in range(len(windows)):
        first, n = int(windows.first[w]), int(windows.tokens[w])
        inputs = [END if windows.opens[w] else int(ids[first - 1]), *ids[first : first + n - 1].tolist()]
        kept, hooks = {}, []
        for name in found:

            def keep(_, given, made, name=name):
                made.retain_grad()
                kept[name] = (given[0].detach(), made)

            hooks.append(model.get_submodule(name).register_forward_hook(keep))
        logits = model(input_ids=torch.tensor([inputs])).logits[0]
        labels = torch.from_numpy(sample.labels[first : first + n])
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
        for name, (a, made) in kept.items():
            found[name].append((a[0], made.grad[0]))
        for hook in hooks:
            hook.remove()
    return sample, found


def gradients(windows):
    """(windows, d_out, d_in)."""
    return torch.stack([slope.T @ a for a, slope in windows])


# ---- labels ----


def test_tokens_are_drawn_as_the_model_says(lm):
    inputs = torch.tensor([[0, 5, 9, 44, 2, 13, 7, 7]])
    with torch.inference_mode():
        running = lm.model(input_ids=inputs).logits[0].double().softmax(1).cumsum(1)
        for u in np.linspace(0.003, 0.997, 50):
            drawn = head.drawn_tokens(lm.model, inputs, torch.full((1, 8), float(u)))
            slow = [next(v for v in range(V) if running[t, v] >= u) for t in range(8)]
            assert drawn.tolist() == [slow]


def test_another_family_draws_by_its_own_logits():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=V, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
    inputs = torch.tensor([[0, 5, 9]])
    with torch.inference_mode():
        running = model(input_ids=inputs).logits[0].double().softmax(1).cumsum(1)
        drawn = head.drawn_tokens(model, inputs, torch.full((1, 3), 0.4))
    assert drawn.tolist() == [[next(v for v in range(V) if running[t, v] >= 0.4) for t in range(3)]]


def slow_uniform(seed, ids, place):
    """SplitMix64 in Python's integers."""
    content = seed.to_bytes(8, "little", signed=True) + b"".join(int(i).to_bytes(4, "little") for i in ids)
    state = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    x = (state + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    x ^= x >> 31
    return ((x >> 41) + 0.5) / 2**23


def test_chance_belongs_to_the_seed_the_document_and_the_place(documents):
    ids, offsets = documents
    found = curvature._uniform(ids, offsets, -7)
    assert found.dtype == np.float32
    for d in range(len(LENGTHS)):
        own = ids[offsets[d] : offsets[d + 1]]
        assert found[offsets[d] : offsets[d + 1]].tolist() == [slow_uniform(-7, own, t) for t in range(len(own))]


def test_chance_is_uniform():
    """Kolmogorov's distance of 200,000 numbers is below 1.95 / √n but for one set in a thousand; the seed is fixed."""
    found = np.sort(curvature._uniform(np.arange(200_000, dtype=np.uint32) % 999, np.arange(0, 200_001, 400), 1))
    assert np.abs(found - np.arange(1, 200_001) / 200_000).max() < 1.95 / np.sqrt(200_000)
    assert found[0] > 0
    assert found[-1] < 1


def test_labels_do_not_depend_on_company(lm, documents):
    ids, offsets = documents
    whole = Sample.drawn(lm, ids, offsets, seed=3)
    for d in range(len(LENGTHS)):
        alone = Sample.drawn(lm, ids, offsets[d : d + 2], seed=3)
        assert alone.labels.tolist() == whole.labels[offsets[d] : offsets[d + 1]].tolist()
    assert (Sample.drawn(lm, ids, offsets, seed=4).labels != whole.labels).mean() > 0.3
    assert Sample.empirical(ids, offsets).labels.tolist() == ids.tolist()


# ---- factors and eigenvalues ----


def test_factors_are_means_over_tokens(lm, explicit):
    sample, found = explicit
    for name, (A, G) in mean_moments(lm, sample).items():
        a, slopes = (torch.cat(parts) for parts in zip(*found[name], strict=True))
        assert len(a) == sum(LENGTHS)
        assert A.dtype == G.dtype == torch.float64
        torch.testing.assert_close(A, a.T @ a / len(a), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(G, slopes.T @ slopes / len(a), rtol=1e-4, atol=1e-6)


def test_squares_are_of_windows_in_their_basis(lm, explicit):
    sample, found = explicit
    bases = {name: Basis.of(*pair) for name, pair in mean_moments(lm, sample).items()}
    plain, turned = mean_squares(lm, sample, {}), mean_squares(lm, sample, bases)
    for name, basis in bases.items():
        each = gradients(found[name])
        expected = each.square().sum(0) / sum(LENGTHS)
        torch.testing.assert_close(plain[name], expected, rtol=1e-3, atol=1e-3 * float(expected.mean()))
        each = basis.slopes.T @ each @ basis.inputs
        expected = each.square().sum(0) / sum(LENGTHS)
        torch.testing.assert_close(turned[name], expected, rtol=1e-3, atol=1e-3 * float(expected.mean()))
        assert turned[name].sum() == pytest.approx(float(plain[name].sum()), rel=1e-3), "a rotation keeps lengths"


def test_corrected_eigenvalues_come_nearer_to_the_fisher(lm, explicit):
    """Of all diagonals in one basis the corrected eigenvalues are nearest (George et al. 2018, Theorem 2)."""
    sample, found = explicit
    bases = {name: Basis.of(*pair) for name, pair in mean_moments(lm, sample).items()}
    squares = mean_squares(lm, sample, bases)
    for name, basis in bases.items():
        each = (basis.slopes.T @ gradients(found[name]) @ basis.inputs).flatten(1)
        fisher = each.T @ each / sum(LENGTHS)
        kfac = torch.linalg.norm(fisher - torch.diag(basis.kronecker.flatten()))
        ekfac = torch.linalg.norm(fisher - torch.diag(squares[name].flatten()))
        assert ekfac < 0.99 * kfac


# ---- preconditioners ----


def drawn_factors(rng, d_out, d_in):
    x, y = rng.standard_normal((40, d_in)), rng.standard_normal((40, d_out))
    return torch.from_numpy(x.T @ x / 40), torch.from_numpy(y.T @ y / 40)


def test_a_product_of_factors_is_inverted_as_the_dense_matrix_is():
    rng = np.random.default_rng(0)
    A, G = drawn_factors(rng, 4, 6)
    gradient = torch.from_numpy(rng.standard_normal((4, 6)))
    basis = Basis.of(A, G)
    dense = torch.kron(G, A) + 0.3 * torch.eye(24, dtype=torch.float64)
    expected = torch.linalg.solve(dense, gradient.flatten()).view(4, 6)
    torch.testing.assert_close(Preconditioner(basis.kronecker, 0.3, basis)(gradient), expected, rtol=1e-10, atol=1e-12)
    damped = Preconditioner.damped(basis.kronecker, 0.1, basis)
    assert damped.ridge == pytest.approx(0.1 * float(torch.linalg.eigvalsh(torch.kron(G, A)).mean()))


def test_ridge_regression_is_left_one_out_exactly():
    """Removing x_i moves the weights by -H⁻¹ x_i r_i / (1 - h_i): a query's loss by g_qᵀ H⁻¹ g_i / (1 - h_i).

    One layer of one output: A = XᵀX / n, G = 1, ridge = μ / n; divided by n, P is the inverse of H = XᵀX + μ.
    """
    rng = np.random.default_rng(1)
    n, d, mu = 50, 7, 0.8
    X, y, query, wanted = rng.standard_normal((n, d)), rng.standard_normal(n), rng.standard_normal(d), 0.7
    H = X.T @ X + mu * np.eye(d)
    w = np.linalg.solve(H, X.T @ y)
    basis = Basis.of(torch.from_numpy(X.T @ X / n), torch.ones(1, 1, dtype=torch.float64))
    P = Preconditioner(basis.kronecker, mu / n, basis)
    slope = query @ w - wanted  # of (query·w - wanted)² / 2
    direction = P(torch.from_numpy(slope * query)[None])[0].numpy() / n
    for i in range(n):
        rest = np.arange(n) != i
        without = np.linalg.solve(X[rest].T @ X[rest] + mu * np.eye(d), X[rest].T @ y[rest])
        leverage = X[i] @ np.linalg.solve(H, X[i])
        influence = direction @ (X[i] * (X[i] @ w - y[i])) / (1 - leverage)
        assert slope * (query @ (without - w)) == pytest.approx(influence, rel=1e-10, abs=1e-13)


def test_factors_are_exact_where_slopes_do_not_depend_on_inputs():
    """Every slope with every input, once: E[vec(g) vec(g)ᵀ] = G ⊗ A, and the corrected eigenvalues change nothing."""
    rng = np.random.default_rng(2)
    a, slopes = torch.from_numpy(rng.standard_normal((9, 5))), torch.from_numpy(rng.standard_normal((8, 3)))
    each = torch.einsum("po,qi->pqoi", slopes, a).flatten(0, 1)
    fisher = each.flatten(1).T @ each.flatten(1) / len(each)
    basis = Basis.of(a.T @ a / 9, slopes.T @ slopes / 8)
    corrected = (basis.slopes.T @ each @ basis.inputs).square().mean(0)
    torch.testing.assert_close(corrected, basis.kronecker, rtol=1e-10, atol=1e-12)
    gradient = torch.from_numpy(rng.standard_normal((3, 5)))
    expected = torch.linalg.solve(fisher + 0.1 * torch.eye(15, dtype=torch.float64), gradient.flatten()).view(3, 5)
    torch.testing.assert_close(Preconditioner(basis.kronecker, 0.1, basis)(gradient), expected, rtol=1e-9, atol=1e-12)


def test_a_direction_without_curvature_and_ridge_is_left_out():
    gradient = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    found = Preconditioner.damped(torch.tensor([[0.0, 4.0]], dtype=torch.float64), 0.0)(gradient)
    assert found.tolist() == [[0.0, 0.5]]
    assert Preconditioner.damped(torch.zeros(1, 2, dtype=torch.float64), 0.1)(gradient).tolist() == [[0.0, 0.0]]
    assert Preconditioner()(gradient) is gradient


def test_the_four_ways_are_what_they_are_called(lm, explicit):
    sample, _ = explicit
    moments, squares = mean_moments(lm, sample), mean_squares(lm, sample, {})
    assert preconditioners(lm, sample, "identity") == {}
    diagonal = preconditioners(lm, sample, "diagonal", 0.2)
    kfac, ekfac = preconditioners(lm, sample, "kfac"), preconditioners(lm, sample, "ekfac")
    for name, (A, G) in moments.items():
        assert torch.equal(diagonal[name].eigenvalues, squares[name])
        assert diagonal[name].ridge == pytest.approx(0.2 * float(squares[name].mean()))
        dense = kfac[name].basis.slopes @ torch.diag(kfac[name].basis.slope_values) @ kfac[name].basis.slopes.T
        torch.testing.assert_close(dense, G)
        assert kfac[name].ridge == pytest.approx(0.1 * float(A.trace() * G.trace()) / (len(A) * len(G)))
        assert torch.equal(ekfac[name].eigenvalues, mean_squares(lm, sample, {name: ekfac[name].basis})[name])


def test_nothing_to_measure_on_is_an_error(lm, documents):
    empty = Sample.empirical(documents[0], documents[1][:1])
    assert preconditioners(lm, empty, "identity") == {}
    with pytest.raises(ValueError, match="expected documents with tokens to measure ekfac on, got none"):
        preconditioners(lm, empty)


def test_progress_goes_from_nothing_to_all(lm, explicit):
    told = []
    preconditioners(lm, explicit[0], "ekfac", report=lambda done, line: told.append((done, line)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (1.0, f"Λ, {sum(LENGTHS)} of {sum(LENGTHS)} tokens")


def test_gradients_of_windows_come_in_their_order():
    a, slope = torch.randn(5, 4, 3), torch.randn(5, 4, 2)
    found = torch.cat([gradients for _, gradients in window_gradients(a, slope)])
    torch.testing.assert_close(found, torch.einsum("bto,bti->boi", slope, a))
    assert [first for first, _ in window_gradients(a, slope)] == [0, 1, 2, 3, 4]
