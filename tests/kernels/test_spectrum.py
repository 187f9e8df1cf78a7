"""Vendi scores against numbers that are known exactly, and the properties that every spectrum has."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.gram import fixed_point, gram, sum_of
from tamis.kernels.spectrum import (
    Moments,
    entropy,
    gain_weights,
    influence_weights,
    spectrum,
    vendi,
    within,
)

INF = math.inf
PAIR_AND_ONE = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])


def moments(vectors, repeats=None):
    """Of float32 vectors, through whole numbers."""
    whole, known = fixed_point(vectors.astype(np.float32))
    repeats = np.where(known, 1 if repeats is None else repeats, 0).astype(np.int64)
    return Moments(int((repeats > 0).sum()), int(repeats.sum()), sum_of(whole, repeats), gram(whole, repeats))


def isotropic(n, d, shift=0.0, seed=0):
    """Vectors of length one around `shift` times the first axis, with noise of length one: float64, (n, d)."""
    noise = np.random.default_rng(seed).standard_normal((n, d)) / math.sqrt(d)
    shifted = noise + shift * np.eye(d)[0]
    return shifted / np.linalg.norm(shifted, axis=1)[:, None]


@pytest.mark.parametrize(("order", "expected"), [(0, 3), (0.5, 2.4203), (1, 2.1573), (2, 1.9481), (INF, 1.5789)])
def test_orders_of_two_alike_and_one_apart(order, expected):
    assert vendi(spectrum(PAIR_AND_ONE), order) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("cosine", "expected"), [(0, 2), (0.25, 1.9378), (0.5, 1.7548), (0.75, 1.4576), (1, 1)])
def test_two_things_with_a_cosine(cosine, expected):
    assert vendi(spectrum(np.array([[1, cosine], [cosine, 1]]))) == pytest.approx(expected, abs=5e-5)


def test_a_thing_and_its_copy_count_less_than_two():
    assert vendi(spectrum(np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))) == pytest.approx(1.8899, abs=5e-5)


def test_four_things_half_alike():
    assert vendi(spectrum(0.5 * np.eye(4) + 0.5)) == pytest.approx(2.9257, abs=5e-5)


@pytest.mark.parametrize(("order", "expected"), [(0.1, 3.25), (0.5, 1.65), (1, 1.18), (2, 1.06)])
def test_low_orders_see_what_is_rare(order, expected):
    assert vendi(np.array([0.97, 0.01, 0.01, 0.01]), order) == pytest.approx(expected, abs=5e-3)


def test_orthogonal_groups_multiply():
    """VS = exp(H(p)) · Π VS_g^{p_g}, and the part within groups is the product."""
    random = np.random.default_rng(3)
    shares, blocks = (5, 3, 12), []
    for at, (count, d) in enumerate(zip(shares, (2, 4, 3), strict=True)):
        inside = random.standard_normal((count, d))
        inside /= np.linalg.norm(inside, axis=1)[:, None]
        blocks.append(np.hstack([np.zeros((count, (0, 2, 6)[at])), inside, np.zeros((count, (7, 3, 0)[at]))]))
    everything = np.vstack(blocks)
    p = np.array(shares) / 20
    product = math.prod(vendi(spectrum(b.T @ b)) ** share for b, share in zip(blocks, p, strict=True))
    assert vendi(spectrum(everything.T @ everything)) == pytest.approx(math.exp(entropy(p)) * product, rel=1e-12)
    assert within([b.T @ b for b in blocks]) == pytest.approx(product, rel=1e-12)


def test_within_is_the_conditional_entropy_of_the_kernels():
    """exp(H(K_X ∘ K_T / n) - H(K_T / n)) with K_T one for equal groups, computed on n × n matrices."""
    x, groups = isotropic(60, 7, 0.5), np.arange(60) % 7 % 3
    kernel, same = x @ x.T, (groups[:, None] == groups).astype(float)
    expected = math.exp(entropy(spectrum(kernel * same)) - entropy(spectrum(same)))
    assert within([x[groups == g].T @ x[groups == g] for g in range(3)]) == pytest.approx(expected, rel=1e-10)
    assert within([x.T @ x]) == pytest.approx(vendi(spectrum(kernel)), rel=1e-10)
    assert within([np.zeros((3, 3))]) == 0


def test_copies_change_nothing():
    x = isotropic(40, 6)
    once, thrice = moments(x), moments(x, np.full(40, 3))
    for order in (0.5, 1, 2, INF):
        assert vendi(spectrum(thrice.covariance()), order) == pytest.approx(
            vendi(spectrum(once.covariance()), order), rel=1e-12
        )
        assert vendi(spectrum(np.tile(x, (5, 1)) @ np.tile(x, (5, 1)).T), order) == pytest.approx(
            vendi(spectrum(x @ x.T), order), rel=1e-9
        )


@pytest.mark.parametrize(
    ("shift", "raw", "centred"), [(0, 63.9, 63.9), (1, 15.6, 63.6), (2, 3.7, 63.2), (4, 1.6, 63.0)]
)
def test_a_common_direction_hides_variety_unless_it_is_taken_off(shift, raw, centred):
    found = moments(isotropic(20_000, 64, shift))
    assert vendi(spectrum(found.covariance())) == pytest.approx(raw, abs=0.06 if shift else 0.11)
    assert vendi(spectrum(found.covariance(found.mean))) == pytest.approx(centred, abs=0.11)


@pytest.mark.parametrize(("n", "expected"), [(64, 38.8), (256, 56.7), (1024, 62.1), (4096, 63.5)])
def test_fewer_documents_look_less_diverse(n, expected):
    numbers = [vendi(spectrum(moments(isotropic(n, 64, seed=seed)).covariance())) for seed in range(6)]
    assert np.mean(numbers) == pytest.approx(expected, abs=0.5)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32))
def test_the_number_lies_between_one_and_n_and_falls_with_the_order(n, d, seed):
    x = isotropic(n, d, seed=seed)
    shares = spectrum(x @ x.T)
    assert spectrum(x.T @ x) == pytest.approx(shares, abs=1e-9)
    numbers = [vendi(shares, order) for order in (0, 0.1, 0.5, 0.999, 1, 1.001, 2, 7.5, 1000, INF)]
    assert all(one >= other * (1 - 1e-9) for one, other in pairwise(numbers))
    assert numbers[-1] >= 1 - 1e-9
    assert numbers[0] == len(shares) <= min(n, d)


def test_nothing_has_no_variety():
    assert vendi(spectrum(np.zeros((3, 3)))) == vendi(spectrum(np.zeros((0, 0)))) == 0
    assert moments(np.zeros((4, 3))).covariance().tolist() == np.zeros((3, 3)).tolist()
    assert gain_weights(np.zeros(3), 1e-3).tolist() == [0, 0, 0]
    assert influence_weights(np.zeros(3), 2).tolist() == [0, 0, 0]


def test_order_two_needs_no_eigenvalues():
    """VS_2 = 1 / ‖C‖², and adding x xᵀ to A = Σ x xᵀ adds 2 xᵀ A x + 1 to ‖A‖²: the least xᵀ A x adds most."""
    x = isotropic(200, 9, 0.6)
    a = x.T @ x
    assert vendi(spectrum(a), 2) == pytest.approx(200**2 / np.sum(a * a), rel=1e-12)
    new = isotropic(30, 9, 0.6, seed=1)
    squares = [np.sum((a + np.outer(z, z)) ** 2) for z in new]
    inner = np.einsum("ni,ij,nj->n", new, a, new)
    assert np.sum(a * a) + 2 * inner + 1 == pytest.approx(squares, rel=1e-12)
    more = [vendi(spectrum(a + np.outer(z, z)), 2) for z in new]
    assert np.argmax(more) == np.argmin(inner)


def test_parts_add_up_exactly():
    x = isotropic(90, 5)
    parts = moments(x[:40]) + moments(x[40:])
    whole = moments(x)
    assert (parts.documents, parts.uses) == (whole.documents, whole.uses)
    assert parts.covariance(parts.mean).tobytes() == whole.covariance(whole.mean).tobytes()


def test_what_is_no_kernel_is_refused():
    with pytest.raises(ValueError, match="negative eigenvalue"):
        spectrum(np.array([[1.0, 2], [2, 1]]))
    with pytest.raises(ValueError, match="0 or more, got -1"):
        vendi(np.ones(1), -1)
    with pytest.raises(ValueError, match="got nan"):
        vendi(np.ones(1), math.nan)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("order", [0.5, 1, 2, 3.5, INF])
def test_weights_are_the_derivative_of_the_logarithm(order, centred):
    """One more copy of a document, a thousandth of its weight at a time."""
    x = isotropic(50, 5, 0.7)
    centre = x.mean(axis=0) if centred else np.zeros(5)
    z = x - centre
    values, vectors = np.linalg.eigh(z.T @ z / 50)
    values, vectors = values[::-1], vectors.T[::-1]
    weights = influence_weights(values, order, 1e-12)
    step = 1e-5
    for row in z[:8]:
        changed = spectrum((1 - step) * (z.T @ z / 50) + step * np.outer(row, row))
        slope = (math.log(vendi(changed, order)) - math.log(vendi(spectrum(z.T @ z), order))) / step
        assert weights @ (vectors @ row) ** 2 == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_the_interval_of_the_logarithm_covers_what_other_documents_give():
    """200 samples of 2,000 from one population: the estimated deviation is that of the samples, within a tenth."""
    random = np.random.default_rng(8)
    spread = np.linspace(1, 0.05, 20)
    found, told = {order: [] for order in (0.5, 1, 2, INF)}, {order: [] for order in (0.5, 1, 2, INF)}
    for _ in range(200):
        x = random.standard_normal((2000, 20)) * spread
        x /= np.linalg.norm(x, axis=1)[:, None]
        values, vectors = np.linalg.eigh(x.T @ x / 2000)
        values, squares = values[::-1], (x @ vectors[:, ::-1]) ** 2
        for order, numbers in found.items():
            numbers.append(math.log(vendi(values, order)))
            told[order].append(math.sqrt(np.sum((squares @ influence_weights(values, order)) ** 2)) / 2000)
    for order, numbers in found.items():
        assert np.mean(told[order]) == pytest.approx(np.std(numbers), rel=0.15), order
        covered = np.abs(np.array(numbers) - np.mean(numbers)) < 1.96 * np.array(told[order])
        assert 0.90 <= covered.mean() <= 0.99, order  # 95 % of 200: outside by chance once in 500


def test_a_document_in_a_new_direction_gains_what_one_over_n_e_stands_for():
    """The floor 1 / (e (n + 1)) is exact for a vector orthogonal to all others: n · Δ ln VS = ln(n + 1) + 1 - H."""
    x = np.hstack([isotropic(300, 4), np.zeros((300, 1))])
    values = np.linalg.eigvalsh(x.T @ x / 300)[::-1]
    weights = gain_weights(values, 1 / (math.e * 301))
    more = np.vstack([x, np.eye(5)[4]])
    gained = math.log(vendi(spectrum(more.T @ more))) - math.log(vendi(spectrum(x.T @ x)))
    assert weights[4] / 301 == pytest.approx(gained, rel=0.01)
