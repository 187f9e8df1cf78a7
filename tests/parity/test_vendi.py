"""Vendi scores against the authors' package, `vendi-score`, on the same vectors and similarities."""

import math
import warnings

import numpy as np
import pytest

from tamis.kernels.gram import fixed_point, gram, sum_of
from tamis.kernels.spectrum import Moments, spectrum, vendi

ORDERS = [0.1, 0.5, 1, 2, 3.7, math.inf]


@pytest.fixture(scope="module")
def reference():
    """The module with the scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports parts of scipy by old names
        return pytest.importorskip("vendi_score.vendi", exc_type=ImportError)


def drawn(n, d, seed):
    random = np.random.default_rng(seed)
    return (random.standard_normal((n, d)) * np.linspace(1, 0.05, d) + 0.2 * np.eye(d)[0]).astype(np.float32)


def theirs(order):
    return "inf" if order == math.inf else order


@pytest.mark.parametrize(
    ("n", "d", "order"),
    [
        *((500, 30, order) for order in ORDERS),
        *((40, 90, order) for order in ORDERS if order >= 0.5),  # below, theirs counts eigenvalues that are rounding
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vectors_have_the_same_score(reference, n, d, order):
    """Through whole numbers: off by what the rounding of vectors does, a few hundred-thousandths."""
    x = drawn(n, d, 5)
    whole, _ = fixed_point(x)
    ones = np.ones(n, np.int64)
    ours = vendi(spectrum(Moments(n, n, sum_of(whole, ones), gram(whole, ones)).covariance(), 2.0**-28), order)
    assert ours == pytest.approx(reference.score_dual(x.astype(np.float64), q=theirs(order)), rel=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_similarities_have_the_same_score(reference, seed, order):
    """A kernel that is not a product of vectors: exp(-distance)."""
    points = np.random.default_rng(seed).standard_normal((60, 3))
    kernel = np.exp(-np.linalg.norm(points[:, None] - points, axis=2))
    assert vendi(spectrum(kernel), order) == pytest.approx(reference.score_K(kernel, q=theirs(order)), rel=1e-9)
