"""`rank` and `zscore`: where a value stands among all documents, as a scorer and as a function in expressions."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import SpecError
from tamis.expressions import Expression, GlobalFold, without_folds
from tamis.inline import run_inline
from tamis.scorers.rank import Rank
from tamis.scorers.zscore import Zscore

NUMBERS = st.one_of(st.none(), st.just(math.nan), st.sampled_from([0.0, -0.0, 1.0, 1e300, -5e-324]), st.floats(-9, 9))


def values(component, numbers, batch_rows=4096, kind=None):
    table = pa.table(
        {"text": pa.array(["x"] * len(numbers), pa.string()), "a": pa.array(numbers, kind or pa.float64())}
    )
    return run_inline(component, table, "r", batch_rows=batch_rows)["r"].to_pylist()


def is_missing(number):
    return number is None or math.isnan(number)


def by_hand(numbers):
    """The twin: counts of smaller and of equal numbers."""
    known = [number for number in numbers if not is_missing(number)]
    return [
        None if is_missing(x) else (sum(y < x for y in known) + sum(y == x for y in known) / 2) / len(known)
        for x in numbers
    ]


@pytest.mark.parametrize("splitters", [1, 3, 1 << 14])
@settings(max_examples=40)
@given(
    numbers=st.lists(st.one_of(NUMBERS, st.just(math.inf), st.just(-math.inf)), max_size=40),
    batch_rows=st.integers(1, 50),
)
def test_a_rank_is_the_share_of_smaller_values(splitters, numbers, batch_rows):
    """However few values are drawn to part the others, the ranks are the same to the bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tamis.scorers.rank.SPLITTERS", splitters)
        assert values(Rank("a"), numbers, batch_rows) == by_hand(numbers)


def test_ranks_are_a_half_on_average_and_symmetric():
    numbers = list(np.random.default_rng(3).integers(0, 30, 500))
    ranks = values(Rank("a"), numbers, kind=pa.int64())
    assert statistics.mean(ranks) == pytest.approx(0.5, abs=1e-12)
    assert np.allclose(ranks, 1 - np.array(values(Rank("-a"), numbers, kind=pa.int64())), atol=1e-12)
    assert min(ranks) > 0
    assert max(ranks) < 1


def test_a_monotone_function_moves_no_rank():
    numbers = [float(x) for x in np.random.default_rng(5).normal(size=300)]
    assert values(Rank("exp(a) + 2"), numbers) == values(Rank("a"), numbers)


@given(
    st.lists(NUMBERS.filter(lambda x: x is None or abs(x) < 1e100 or math.isnan(x)), max_size=40), st.integers(1, 50)
)
def test_a_zscore_has_mean_zero_and_deviation_one(numbers, batch_rows):
    scores = values(Zscore("a"), numbers, batch_rows)
    assert [score is None for score in scores] == [is_missing(x) for x in numbers]
    known = [x for x in numbers if not is_missing(x)]
    deviation = statistics.pstdev(known) if known else 0
    for x, score in zip(numbers, scores, strict=True):
        if not is_missing(x):
            if len(set(known)) == 1:
                assert score == 0
            elif deviation > 1e-9 * max(map(abs, known)):
                assert score == pytest.approx((x - statistics.fmean(known)) / deviation, rel=1e-6, abs=1e-6)


def test_infinite_values_have_no_zscore_and_spoil_no_other():
    assert values(Zscore("a"), [1.0, math.inf, 3.0, -math.inf, None]) == [-1.0, None, 1.0, None, None]


@pytest.mark.parametrize("component", [Rank, Zscore])
def test_an_expression_that_is_none_is_refused(component):
    for wrong in ("sum(a)", "a >", "rank(a)"):
        with pytest.raises(SpecError, match=r"expected|elsewhere"):
            component(wrong)


# ---- in expressions ----


def test_calls_become_columns():
    text, folds = without_folds("rank(a) + 2 * ZSCORE( ln(b) ) > rank(a)")
    (first, second) = folds
    assert first == GlobalFold("rank", "a", "rank_a")
    assert (second.scorer, second.of) == ("zscore", "ln(b)")
    assert second.column.startswith("zscore_ln_b_")
    assert set(Expression(text).columns) == {"rank_a", second.column}
    table = pa.table({"rank_a": [0.5, 0.1], second.column: [0.3, -1.0]})
    assert Expression(text).over(table).to_pylist() == [True, False]
    assert without_folds("rank (a)+2*zscore(ln( b )) > rank(a)") == (text, folds), "as it is written says nothing"


def test_what_an_inner_call_needs_comes_first():
    text, (inner, outer) = without_folds("rank(a - zscore(b))")
    assert (inner.of, inner.column) == ("b", "zscore_b")
    assert outer.of == "a - zscore_b"
    assert text == outer.column


def test_an_expression_without_calls_is_left_as_it_is():
    for text in ("a   >3", "rank_a > 0.5", "a = 'rank'", "b.rank > 2"):
        assert without_folds(text) == (text, ())


@pytest.mark.parametrize("wrong", ["rank()", "rank(a, b)", "zscore(distinct a)", "rank(a) filter (where b > 1)"])
def test_a_call_without_exactly_one_argument_is_refused(wrong):
    with pytest.raises(SpecError, match=r"(rank|zscore) expects one expression over columns, e\.g\. (rank|zscore)\("):
        without_folds(wrong)


def test_elsewhere_the_scorer_is_named():
    with pytest.raises(SpecError, match=r"rank\(\) is about all documents; .* elsewhere add the scorer 'rank'"):
        Expression("rank(a) > 1")


# ---- in a run ----


@pytest.fixture(scope="module")
def ran(tmp_path_factory, run_spec, corpus):
    stages = [
        {"score": ["length", {"repetition": {"where": "rank(length) > 0.5"}}]},
        {
            "select": {
                "name": "mixed",
                "where": "zscore(ln(length)) < 1.5 and length > 5",
                "by": {"top": {"score": "rank(length) + 0.5 * rank(stars)"}},
                "budget_documents": 40,
            }
        },
        {"select": {"name": "drawn", "by": {"sample": {"score": "rank(length)"}}, "budget_documents": 10}},
        {"score": {"rank": {"of": "length", "as": "among_web", "where": "source = 'web'"}}},
    ]
    specification = {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.05}, "stages": stages}
    return run_spec(specification, tmp_path_factory.mktemp("ranks"))


def column(ran, documents, name):
    """Values in the order of the documents."""
    found = ran.values(name)
    return [found[doc_id] for doc_id in documents["id"].to_pylist()]


def test_a_run_adds_each_scorer_once(ran):
    names = [stage["name"] for stage in ran.catalog["stages"]]
    assert [name for name in names if name.startswith("rank")] == ["rank_length", "rank_stars"]
    assert len([name for name in names if name.startswith("zscore")]) == 1
    assert names.index("rank_length") < names.index("repetition")


def test_ranks_in_a_run_are_over_all_documents_with_text(ran, documents):
    lengths = column(ran, documents, "length")
    assert column(ran, documents, "rank_length") == by_hand(lengths)
    has_text = documents["text"].is_valid().to_pylist()
    stars = [x if has else None for x, has in zip(documents["stars"].to_pylist(), has_text, strict=True)]
    assert column(ran, documents, "rank_stars") == by_hand(stars)
    web = [x if source == "web" else None for x, source in zip(lengths, documents["source"].to_pylist(), strict=True)]
    assert column(ran, documents, "among_web") == by_hand(web)


def test_what_they_restrict_is_restricted(ran, documents):
    ranks = column(ran, documents, "rank_length")
    scored = [value is not None for value in column(ran, documents, "repetition")]
    assert scored == [rank is not None and rank > 0.5 for rank in ranks]


def test_an_arm_is_chosen_by_the_sum_of_ranks(ran, documents):
    lengths, ranks, stars = (column(ran, documents, name) for name in ("length", "rank_length", "rank_stars"))
    logs = [math.log(x) for x in lengths if x]
    mean, deviation = statistics.fmean(logs), statistics.pstdev(logs)
    possible = {
        doc_id: rank + 0.5 * star
        for doc_id, x, rank, star in zip(documents["id"].to_pylist(), lengths, ranks, stars, strict=True)
        if x and x > 5 and star is not None and (math.log(x) - mean) / deviation < 1.5
    }
    best = sorted(possible.values(), reverse=True)[39]
    kept = ran.kept("mixed")
    assert len(kept) == 40
    assert {doc_id for doc_id, score in possible.items() if score > best} <= kept
    assert {possible[doc_id] >= best for doc_id in kept} == {True}
    assert set(ran.catalog["arms"]["mixed"]["dropped"]) >= {"where: length > 5", "cut", "no score"}


@pytest.mark.parametrize("option", ["of: source", "of: source || 'x'"])
def test_what_is_no_number_is_refused_before_anything_runs(run_spec, corpus, tmp_path, option):
    text = f"corpus: {corpus}\nstages:\n  - score: length\n  - score:\n      - rank: {{{option}}}\n"
    with pytest.raises(SpecError, match=r"stages\.yaml:5: score rank: .source.*: expected a number for each document"):
        run_spec(text, tmp_path)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            "select: {name: a, by: sample, where: rank(lenth) > 0.5}",
            "score rank_lenth: no column 'lenth'; did you mean",
        ),
        ("score: {repetition: {where: 'rank(length, 2) > 1'}}", "where: .*rank expects one expression over columns"),
        ("select: {name: a, by: {top: {score: 'rank(sum(length))'}}}", r"score: .*got sum\(\)"),
        (
            "score: {repetition: {as: rank_length}}\n  - select: {name: a, by: sample, where: rank(length) > 0}",
            "rank_length: is there",
        ),
    ],
    ids=["no column", "two arguments", "an aggregate", "a name that is taken"],
)
def test_mistakes_in_calls_are_refused_at_their_line(run_spec, corpus, tmp_path, stage, message):
    text = f"corpus: {corpus}\nstages:\n  - score: length\n  - {stage}\n"
    line = 4 + stage.count("\n")
    with pytest.raises(SpecError, match=rf"stages\.yaml:{line}: {message}"):
        run_spec(text, tmp_path)
