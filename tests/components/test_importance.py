import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import ContractError
from tamis.scorers.importance import FLOOR, Importance, log_ratio
from tamis.steps import Documents

POOL = ["Alice went to the store", "the cat sat", "", "Stock prices fell. Stock prices rose!", "a a a a", "the store"]
TARGET = Documents(texts=("Alice went to the market", "the store was closed"))


def scored(run, batches, texts=POOL, cuts=(), **options):
    table = run(Importance(target=TARGET, **options), batches(texts, cuts=cuts))
    return table["x"].to_numpy(), table["x_features"].to_numpy()


def test_an_equal_target_and_pool_score_exactly_zero(run, batches):
    scorer = Importance(target=Documents(texts=tuple(POOL)), pseudo_count=0, norm="sum")
    scores = run(scorer, batches(POOL))["x"].to_numpy()
    assert scores[[0, 1, 3, 4, 5]].tolist() == [0.0] * 5
    assert math.isnan(scores[2])


def test_five_words_have_nine_features_and_no_text_has_no_score(run, batches):
    scores, features = scored(run, batches)
    assert features.tolist() == [9, 5, 0, 15, 7, 3]
    assert np.isnan(scores).tolist() == [False, False, True, False, False, False]


def test_a_mean_is_the_sum_over_the_features(run, batches):
    mean, features = scored(run, batches)
    total, _ = scored(run, batches, norm="sum")
    assert np.delete(mean, 2) == pytest.approx(np.delete(total / np.maximum(features, 1), 2))


def test_concatenation_adds_scores_up_to_the_ngrams_across_the_border(run, batches):
    texts = ["Alice went to", "the store", "Alice went to the store", "to the", "to", "the"]
    one, _ = scored(run, batches, texts, ngrams=1, norm="sum")
    assert one[0] + one[1] == pytest.approx(one[2])
    two, _ = scored(run, batches, texts, ngrams=2, norm="sum")
    across = two[3] - two[4] - two[5]
    assert two[0] + two[1] + across == pytest.approx(two[2])


def test_what_the_target_has_scores_above_what_it_has_not(run, batches):
    scores, _ = scored(run, batches)
    assert scores[0] > scores[1] > scores[3]


@pytest.mark.parametrize("cuts", [(1,), (2, 3), (0, 6), (1, 2, 3, 4, 5)])
def test_splitting_into_batches_changes_no_bit(run, batches, cuts):
    whole, _ = scored(run, batches)
    parts, _ = scored(run, batches, cuts=cuts)
    assert whole.tobytes() == parts.tobytes()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20), st.floats(0, 5))
def test_the_ratio_follows_its_formula(pairs, pseudo_count):
    target, pool = np.array(pairs).T
    if target.sum() + pseudo_count * len(target) == 0:
        return
    found = log_ratio(target, pool, pseudo_count)
    for i, (t, q) in enumerate(pairs):
        p = (t + pseudo_count) / (target.sum() + pseudo_count * len(pairs))
        expected = math.log(p + FLOOR) - math.log(q / max(pool.sum(), 1) + FLOOR)
        assert found[i] == pytest.approx(expected, abs=1e-9)


def test_a_target_without_text_is_an_error(run, batches):
    with pytest.raises(ContractError, match="no words"):
        run(Importance(target=Documents(texts=("", "  "))), batches(POOL))
