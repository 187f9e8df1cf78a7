"""The bandit: its score, its choices against a slow twin, and what theory promises of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.models.bandit import Arms, Rule, play, upper_bounds

ENDLESS = 100_000


def arms_of(portions, mass=None, ties=None):
    first = np.concatenate([[0], np.cumsum(portions)]).astype(np.int64)
    mass = np.ones(first[-1], np.int64) if mass is None else np.asarray(mass, np.int64)
    ties = np.arange(len(portions)) if ties is None else ties
    return Arms(first, mass, np.asarray(ties, np.uint64))


def rule_of(alpha=1.0, threshold=math.inf, at_once=1, most_pulls=1000, budget=None, standardised=False):
    return Rule(alpha, threshold, at_once, most_pulls, budget, standardised)


def drawn(arms, value_of):
    """(arm, pull) → values, as `play` asks for them."""
    owner = np.repeat(np.arange(len(arms)), np.diff(arms.first))

    def draw(portions):
        found = [value_of(int(owner[p]), int(p - arms.first[owner[p]])) for p in portions]
        return [np.asarray(values, np.float64) for values in found]

    return draw


# ---- the score ----


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6) | st.just(math.nan), st.integers(0, 1000)), min_size=1),
    st.floats(0, 100),
)
def test_the_score_is_the_mean_and_a_bonus_for_what_was_seldom_looked_at(arms, alpha):
    standings, counts = (np.array(values) for values in zip(*arms, strict=True))
    found = upper_bounds(standings.astype(float), counts.astype(np.int64), alpha)
    total = sum(counts.tolist())
    for value, mean, count in zip(found.tolist(), standings.tolist(), counts.tolist(), strict=True):
        if count == 0:
            assert value == math.inf
        else:
            known = 0.0 if math.isnan(mean) else mean
            assert value == pytest.approx(known + alpha * math.sqrt(2 * math.log(total) / count), rel=1e-12)


# ---- the game against a slow twin ----


def slow_game(arms, rule, draw):
    """The same game as lists, one arm and one value at a time: pulls by arm, and portions in the order of taking."""
    k = len(arms)
    seen = [[] for _ in range(k)]
    looked, pulls, taken, mass = [0] * k, [0] * k, [], 0
    centre, spread = 0.0, 1.0
    left = [int(n) for n in np.diff(arms.first)]

    def known_mean(arm):
        return math.fsum(seen[arm]) / len(seen[arm]) if seen[arm] else math.nan

    def score(arm):
        mean = (known_mean(arm) - centre) / spread
        return (0.0 if math.isnan(mean) else mean) + rule.alpha * math.sqrt(2 * math.log(sum(looked)) / looked[arm])

    chosen = sorted(range(k), key=lambda arm: arms.ties[arm])
    while chosen:
        now = []
        for arm in chosen:
            portion = int(arms.first[arm]) + pulls[arm]
            (values,) = draw(np.array([portion]))
            seen[arm] += [x for x in values.tolist() if math.isfinite(x)]
            looked[arm] += len(values)
            pulls[arm] += 1
            left[arm] -= 1
            now.append((arm, portion))
        if sum(pulls) == k and rule.standardised:
            everything = [x for values in seen for x in values]
            if everything:
                centre = math.fsum(everything) / len(everything)
                spread = math.sqrt(math.fsum((x - centre) ** 2 for x in everything) / len(everything)) or 1.0
        good = [(arm, portion) for arm, portion in now if (known_mean(arm) - centre) / spread > rule.threshold]
        for _, portion in sorted(good, key=lambda each: (-known_mean(each[0]), arms.ties[each[0]])):
            if rule.budget is None or mass < rule.budget:
                taken.append(portion)
                mass += int(arms.mass[portion])
        if (rule.budget is not None and mass >= rule.budget) or sum(pulls) >= rule.most_pulls:
            break
        open_arms = [arm for arm in range(k) if left[arm]]
        open_arms.sort(key=lambda arm: (-score(arm), arms.ties[arm]))
        chosen = open_arms[: min(rule.at_once, rule.most_pulls - sum(pulls))]
    return pulls, taken


@given(st.data())
def test_the_game_is_that_of_its_slow_twin(data):
    draw = data.draw
    portions = draw(st.lists(st.integers(1, 6), min_size=1, max_size=7))
    count = sum(portions)
    mass = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    ties = draw(st.permutations(range(len(portions))))
    whole = st.lists(st.integers(-4, 4).map(float) | st.just(math.nan), min_size=1, max_size=3)
    values = draw(st.lists(whole, min_size=count, max_size=count))
    rule = rule_of(
        draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        draw(st.sampled_from([-math.inf, -1.0, 0.0, 0.3, 2.0])),
        draw(st.integers(1, 4)),
        draw(st.integers(len(portions), count + 2)),
        draw(st.none() | st.integers(1, 40)),
        draw(st.booleans()),
    )
    arms = arms_of(portions, mass, ties)

    def find(asked):
        return [np.array(values[portion]) for portion in asked]

    played = play(arms, rule, find)
    pulls, taken = slow_game(arms, rule, find)
    assert played.pulls.tolist() == pulls
    assert np.argsort(played.place, kind="stable")[count - len(taken) :].tolist() == taken
    assert sorted(played.place[played.place >= 0].tolist()) == list(range(len(taken)))
    assert played.taken.sum() == len(taken)
    assert played.mass == sum(mass[portion] for portion in taken)


# ---- what is promised of it ----


def test_without_a_bonus_the_best_mean_is_pulled_again_and_again():
    arms = arms_of([50] * 4)
    played = play(arms, rule_of(alpha=0, most_pulls=40), drawn(arms, lambda arm, _: [[0.2, 0.7, 0.1, 0.6][arm]]))
    assert played.pulls.tolist() == [1, 37, 1, 1]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("standardised", [True, False])
def test_equal_means_share_the_pulls_equally(at_once, standardised):
    arms = arms_of([30] * 5, ties=[3, 1, 4, 0, 2])
    rule = rule_of(most_pulls=100, at_once=at_once, standardised=standardised)
    played = play(arms, rule, drawn(arms, lambda _arm, _pull: [0.25, 0.25]))
    assert played.pulls.sum() == 100
    assert played.pulls.max() - played.pulls.min() <= 1


def bernoulli(means, pulls, seed):
    arms = arms_of([pulls] * len(means))
    rng = np.random.default_rng(seed)
    played = play(arms, rule_of(most_pulls=pulls), drawn(arms, lambda arm, _: [float(rng.random() < means[arm])]))
    return played.pulls


MEANS = [0.9, 0.5, 0.4, 0.3]


def regret(pulls):
    return float(((max(MEANS) - np.array(MEANS)) * pulls).sum())


def test_a_better_arm_gets_most_pulls_and_the_regret_stays_below_the_bound_of_ucb1():
    """Auer et al. 2002, theorem 1: 8 Σ ln n / Δ + (1 + π² / 3) Σ Δ in expectation; means of games are far below."""
    gaps = [0.9 - mean for mean in MEANS[1:]]
    found = {}
    for pulls in (250, 1000, 4000):
        games = [bernoulli(MEANS, pulls, seed) for seed in range(10 if pulls < 4000 else 3)]
        found[pulls] = float(np.mean([regret(game) for game in games]))
        bound = 8 * math.log(pulls) * sum(1 / gap for gap in gaps) + (1 + math.pi**2 / 3) * sum(gaps)
        assert found[pulls] < bound
        assert np.mean([game[0] for game in games]) > 0.6 * pulls
    assert found[4000] < 2 * found[1000] < 4 * found[250]  # linear regret would grow fourfold each time
    assert found[4000] / 4000 < 0.5 * found[250] / 250


def test_alpha_means_the_same_whatever_the_unit_of_the_values():
    """Standardised, a game does not notice that values were shifted and stretched by powers of two."""
    rng = np.random.default_rng(5)
    arms = arms_of([20] * 6)
    values = rng.normal(size=(120, 4)).round(3) + np.repeat(rng.normal(size=6).round(2), 20)[:, None]
    games = [
        play(
            arms,
            rule_of(threshold=0.5, most_pulls=60, standardised=True),
            lambda asked, scale=scale: [values[portion] * scale for portion in asked],
        )
        for scale in (1.0, 2.0**20, 2.0**-30)
    ]
    for game in games[1:]:
        assert np.array_equal(game.pulls, games[0].pulls)
        assert np.array_equal(game.place, games[0].place)
        assert np.allclose(game.standings, games[0].standings, rtol=1e-12)


def test_it_ends_with_the_budget_and_takes_the_best_of_a_round_first():
    arms = arms_of([3, 3, 3], mass=[5] * 9)
    values = drawn(arms, lambda arm, _: [float(arm)])
    played = play(arms, rule_of(threshold=-1, budget=12), values)
    assert played.stopped == "budget"
    assert played.place.tolist() == [2, -1, -1, 1, -1, -1, 0, -1, -1]
    assert played.mass == 15
    assert play(arms, rule_of(threshold=-1), values).stopped == "portions"
    assert play(arms, rule_of(threshold=5, most_pulls=7), values).stopped == "pulls"
    assert play(arms, rule_of(threshold=5, most_pulls=7), values).taken.sum() == 0


def test_an_arm_without_values_is_never_taken_and_counts_as_average():
    arms = arms_of([2, 2])
    played = play(
        arms, rule_of(alpha=0, threshold=-100, most_pulls=4), drawn(arms, lambda arm, _: [[math.nan], [-1.0]][arm])
    )
    assert played.taken.tolist() == [0, 2]
    assert played.by_arm()["mean"] == [None, -1.0]


def test_no_arms_at_all_end_at_once():
    assert play(arms_of([]), rule_of(most_pulls=1), drawn(arms_of([]), None)).stopped == "portions"


def test_fewer_pulls_than_arms_are_refused():
    with pytest.raises(ValueError, match=r"at least one pull per cluster \(3\), got 2"):
        play(arms_of([1, 1, 1]), rule_of(most_pulls=2), None)
