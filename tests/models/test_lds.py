"""The linear datamodeling score: ranks and intervals against slow twins, and what it is for a linear model."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from tamis.models.lds import lds, lds_interval, spearman

Float64 = npt.NDArray[np.float64]

numbers = st.lists(st.integers(-4, 4), min_size=2, max_size=12)  # few values, so that many are equal


def slow_spearman(x: list[int], y: list[int]) -> float:
    """Pearson's correlation of average ranks, one value after the other."""
    one, other = ([sum(b < a for b in v) + (sum(b == a for b in v) + 1) / 2 for a in v] for v in (x, y))
    middle = (len(x) + 1) / 2
    top = sum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    below = math.sqrt(sum((a - middle) ** 2 for a in one) * sum((b - middle) ** 2 for b in other))
    return top / below if below else 0.0


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=12))
def test_spearman_is_the_correlation_of_average_ranks(pairs: list[tuple[int, int]]) -> None:
    x, y = map(list, zip(*pairs, strict=True))
    assert spearman(x, y) == pytest.approx(slow_spearman(x, y), abs=1e-14)


def test_spearman_agrees_with_scipy() -> None:
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(5, 40)).round(1), draw.normal(size=(5, 40)).round(1)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected, rtol=0, atol=1e-14)


@given(numbers)
def test_only_the_order_counts(values: list[int]) -> None:
    other = list(range(len(values)))
    assert spearman(np.exp(np.array(values, float)), other) == spearman(values, other)
    assert spearman(values, [-number for number in other]) == -spearman(values, other)


def test_a_side_without_spread_predicts_nothing() -> None:
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0
    assert lds_interval([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == (0.0, 0.0, 0.0)


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN has no rank, got 1 of 3"):
        spearman([1.0, math.nan, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"two or more values, as many in x as in y, got \(1,\) and \(1,\)"):
        spearman([1.0], [1.0])
    with pytest.raises(ValueError, match=r"got \(1, 3\) and \(1, 2\)"):
        lds([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="expected a level between 0 and 1"):
        lds_interval([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], level=1.0)


def test_the_score_is_a_mean_over_queries() -> None:
    up, down = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]
    assert lds([up, up, up], [up, up, down]) == pytest.approx(1 / 3)


def slow_interval(predicted: Float64, actual: Float64, level: float, seed: int, resamples: int) -> tuple[float, float]:
    """Resample by resample, from the same stream of random integers."""
    queries, subsets = predicted.shape
    stream = np.random.Philox(key=np.array([seed, 0], np.uint64))
    chosen = [[int(stream.random_raw()) % subsets for _ in range(subsets)] for _ in range(resamples)]
    asked = [[int(stream.random_raw()) % queries for _ in range(queries)] for _ in range(resamples)]
    means = []
    for places, names in zip(chosen, asked, strict=True):
        found = [slow_spearman(predicted[q, places].tolist(), actual[q, places].tolist()) for q in names]
        means.append(sum(found) / len(found))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def test_the_interval_is_that_of_resampled_subsets_and_queries() -> None:
    draw = np.random.default_rng(5)
    predicted = draw.normal(size=(4, 9)).round(1)
    actual = predicted + draw.normal(size=(4, 9)).round(1)
    found = lds_interval(predicted, actual, level=0.9, seed=7, resamples=200)
    assert found[1:] == pytest.approx(slow_interval(predicted, actual, 0.9, 7, 200), abs=1e-12)
    assert found.lds == lds(predicted, actual)
    assert lds_interval(predicted, actual, seed=8) != lds_interval(predicted, actual, seed=7)


def test_of_scores_that_know_nothing_few_are_called_reliable() -> None:
    """400 pairs of independent columns over 24 subsets: 2.5 % of the intervals should lie above 0.

    Binomial(400, 0.025) has mean 10, deviation 3.1: 22 or more come up once in 2,000.
    """
    draw = np.random.default_rng(11)
    above = sum(
        lds_interval(draw.normal(size=24), draw.normal(size=24), resamples=400, seed=i).low > 0 for i in range(400)
    )
    assert 1 <= above < 22


def test_the_interval_holds_the_true_value() -> None:
    """Normal pairs of correlation 0.6: Spearman's is 6/π·asin(0.3) = 0.582; 200 intervals of 95 %.

    Binomial(200, 0.95) has mean 190, deviation 3.1: 178 or fewer come up less than once in 1,000.
    """
    true = 6 / math.pi * math.asin(0.3)
    draw = np.random.default_rng(13)
    held = 0
    for turn in range(200):
        x = draw.normal(size=50)
        _, low, high = lds_interval(x, 0.6 * x + 0.8 * draw.normal(size=50), resamples=400, seed=turn)
        held += low <= true <= high
    assert held > 178


def test_by_chance_the_score_of_one_query_over_100_subsets_strays_by_a_tenth() -> None:
    """Its deviation under the null is 1/√99 = 0.1005: of 4,000 queries, known to 1.1 %."""
    draw = np.random.default_rng(17)
    found = spearman(draw.normal(size=(4000, 100)), draw.normal(size=(4000, 100)))
    assert found.std() == pytest.approx(1 / math.sqrt(99), rel=0.04)
    assert found.mean() == pytest.approx(0.0, abs=4 * 0.1005 / math.sqrt(4000))


DOCUMENTS, WIDTH, SUBSETS, QUERIES = 500, 20, 100, 50


def linear_scores(dropped: float, seed: int) -> tuple[float, float]:
    """LDS of influence in a linear model, with P and without, over subsets without a share of the documents.

    Retrained for real: least squares on what is left. A query's loss is half its squared residual; what a document
    adds to it, if it is left out, is the query's gradient times P = (XᵀX)⁻¹ (or nothing) times the document's.
    """
    draw = np.random.default_rng(seed)
    scale = np.linspace(1, 0.1, WIDTH)  # of the features: P is what undoes it
    x = draw.normal(size=(DOCUMENTS, WIDTH)) * scale
    truth = draw.normal(size=WIDTH)
    y = x @ truth + draw.normal(size=DOCUMENTS)
    x_query = draw.normal(size=(QUERIES, WIDTH)) * scale
    y_query = x_query @ truth + draw.normal(size=QUERIES)
    theta = np.linalg.lstsq(x, y, rcond=None)[0]
    slopes, query_slopes = x * (x @ theta - y)[:, None], x_query * (x_query @ theta - y_query)[:, None]
    gone = np.stack([draw.permutation(DOCUMENTS)[: int(dropped * DOCUMENTS)] for _ in range(SUBSETS)])
    losses = []
    for places in gone:
        left = np.setdiff1d(np.arange(DOCUMENTS), places)
        refit = np.linalg.lstsq(x[left], y[left], rcond=None)[0]
        losses.append(0.5 * (x_query @ refit - y_query) ** 2)
    actual = np.array(losses).T
    scores = []
    for metric in (np.linalg.inv(x.T @ x), np.eye(WIDTH)):
        rise = query_slopes @ metric @ slopes.T  # (q, n): of the query's loss, if the document is left out
        scores.append(lds(rise[:, gone].sum(-1), actual))
    return scores[0], scores[1]


@pytest.mark.parametrize(
    ("dropped", "expected", "expected_without"), [(0.01, 0.992, 0.75), (0.1, 0.974, 0.74), (0.5, 0.923, 0.68)]
)
def test_influence_in_a_linear_model_predicts_what_retraining_does(
    dropped: float, expected: float, expected_without: float
) -> None:
    """The published values, to 0.02 (0.05 without P, where they hang on the spread of the features)."""
    found = np.mean([linear_scores(dropped, seed) for seed in range(3)], axis=0)
    assert found[0] == pytest.approx(expected, abs=0.02)
    assert found[1] == pytest.approx(expected_without, abs=0.05)
