"""t-intervals agree with scipy and with a hand-worked case."""

import math

import numpy as np
import pytest

from tamis.models.intervals import incomplete_beta, paired_interval, t_quantile


def test_quantiles_match_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 7, 19, 100, 10_000):
        for probability in (1e-6, 0.005, 0.025, 0.3, 0.5, 0.7, 0.95, 0.975, 0.995, 1 - 1e-6):
            expected = stats.t.ppf(probability, freedom)
            assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_incomplete_beta_matches_scipy():
    special = pytest.importorskip("scipy.special")
    for a in (0.5, 1, 3.5, 50):
        for b in (0.5, 2, 20):
            for x in (0, 1e-9, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9, 1):
                assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-11, abs=1e-300)


def test_quantiles_with_closed_forms():
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-12)
    p = 0.975
    assert t_quantile(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p))), rel=1e-12)


def test_a_hand_worked_interval():
    mean, low, high = paired_interval(np.array([2.0, 4.0, 6.0]), np.array([1.0, 1.0, 1.0]))
    half = 4.302652729749464 * 2 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-12)


def test_a_shift_common_to_both_arms_cancels():
    a, b, seeds = np.array([1.0, 1.2, 0.9]), np.array([1.1, 1.15, 1.3]), np.array([5.0, -3.0, 11.0])
    assert paired_interval(a + seeds, b + seeds) == pytest.approx(paired_interval(a, b))


def test_one_seed_has_no_interval():
    mean, low, high = paired_interval(np.array([2.0]), np.array([1.5]))
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_coverage_is_the_level():
    """2,000 intervals at 95 %: the binomial share leaves [0.93, 0.97] with probability < 1e-4; the seed is fixed."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2_000):
        _, low, high = paired_interval(rng.normal(0.3, 1, 4), rng.normal(0, 1, 4))
        hits += low <= 0.3 <= high
    assert 0.93 <= hits / 2_000 <= 0.97


@pytest.mark.parametrize(
    ("a", "b", "level", "message"),
    [
        ([1.0], [1.0, 2.0], 0.95, "one value per seed"),
        ([], [], 0.95, "one value per seed"),
        ([1.0, 2.0], [1.0, 2.0], 1.0, "level must lie between"),
    ],
)
def test_arms_that_do_not_pair_are_refused(a, b, level, message):
    with pytest.raises(ValueError, match=message):
        paired_interval(np.array(a), np.array(b), level)
