"""The `vendi` scorer: what a document adds, against adding it."""

import math

import numpy as np
import pyarrow as pa
import pytest

from tamis.families import build
from tamis.kernels.arrow import half_vectors
from tamis.kernels.spectrum import spectrum, vendi
from tamis.scorers.vendi import Vendi


def drawn(n, d, shift=0.0, seed=0):
    """Vectors of length one with more spread in some directions than in others: float32, (n, d)."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, d)) * np.linspace(1, 0.2, d) + shift * np.eye(d)[0]
    return (x / np.linalg.norm(x, axis=1)[:, None]).astype(np.float32)


def column(vectors):
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


@pytest.fixture
def scores(run, batches):
    """(vectors, cuts=(), other columns, options) → the scores, NaN where there is none."""

    def of(vectors, cuts=(), repeats=None, **options):
        array = vectors if isinstance(vectors, pa.Array) else column(vectors)
        more = {} if repeats is None else {"arm_repeats": pa.array(repeats, pa.uint8())}
        table = run(Vendi(**options), batches(["x"] * len(array), cuts=cuts, vector=array, **more))
        assert table["x"].type == pa.float32()
        return np.array(table["x"].to_numpy(zero_copy_only=False) if table.num_rows else [], np.float64)

    return of


def log_vendi(vectors, centre=0.0):
    z = vectors.astype(np.float64) - centre
    return math.log(vendi(spectrum(z.T @ z)))


@pytest.mark.parametrize("centred", [False, True])
def test_a_score_is_what_adding_the_document_changes(scores, centred):
    """Once more with every document: n · Δ ln VS agrees to first order; the rest is of the order of 1 / n."""
    x = drawn(2000, 12, 0.8)
    found = scores(x, centred=centred)
    centre = x.astype(np.float64).mean(axis=0) if centred else 0.0
    before = log_vendi(x, centre)
    changes = np.array([2001 * (log_vendi(np.vstack([x, x[i : i + 1]]), centre) - before) for i in range(40)])
    assert found[:40] == pytest.approx(changes, abs=0.01)
    assert np.ptp(changes) > 0.5


def test_scores_of_all_documents_add_up_to_zero(scores):
    for options in ({}, {"centred": True}):
        assert scores(drawn(3000, 20, 0.5), **options).mean() == pytest.approx(0, abs=1e-4)


def test_the_error_of_whole_numbers_is_small(scores):
    """Against float64 without rounding: below a ten-thousandth of a nat."""
    x = drawn(4000, 64, 0.5)
    exact = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None]
    values, vectors = np.linalg.eigh(exact.T @ exact / 4000)
    entropy = -(values * np.log(values)).sum()
    expected = -((exact @ vectors) ** 2 @ np.log(values)) - entropy
    assert scores(x) == pytest.approx(expected, abs=1e-4)


def test_a_vector_unlike_all_others_gains_most_and_exactly(scores):
    x = np.hstack([drawn(499, 6), np.zeros((499, 1), np.float32)])
    arm = [1] * 499 + [0]
    x = np.vstack([x, np.eye(7, dtype=np.float32)[6:]])
    found = scores(x, repeats=arm, against="arm")
    assert found.argmax() == 499
    assert found[499] == pytest.approx(math.log(500) + 1 - log_vendi(x[:499]), abs=1e-3)
    assert found[499] == pytest.approx(500 * (log_vendi(x) - log_vendi(x[:499])), rel=0.01)


def test_against_an_arm_counts_its_documents_as_often_as_it_uses_them(scores):
    x = drawn(300, 8, 0.3)
    repeats = np.random.default_rng(4).integers(0, 4, 300)
    found = scores(x, repeats=repeats, against="arm")
    written_out = np.vstack([x, np.repeat(x, repeats, axis=0)])
    expected = scores(written_out, repeats=[0] * 300 + [1] * int(repeats.sum()), against="arm")[:300]
    assert found.tolist() == expected.tolist()
    assert np.abs(found - scores(x)).max() > 0.1


def test_null_repeats_are_not_used(scores):
    x = drawn(50, 4)
    arm = [1] * 25 + [None] * 25
    assert (
        scores(x, repeats=arm, against="arm").tolist() == scores(x, repeats=[1] * 25 + [0] * 25, against="arm").tolist()
    )


def test_documents_without_a_vector_have_no_score_and_count_nothing(scores):
    x = drawn(40, 5)
    with_gaps = np.insert(x, [3, 9, 40], np.array([[0.0] * 5, [np.nan] * 5, [np.inf] * 5], np.float32), axis=0)
    found = scores(with_gaps)
    missing = np.isnan(found)
    assert np.flatnonzero(missing).tolist() == [3, 10, 42]
    assert found[~missing].tolist() == scores(x).tolist()
    null = pa.array([*x.tolist(), None], pa.list_(pa.float32(), 5))
    assert np.isnan(scores(null)).tolist() == [False] * 40 + [True]


def test_half_floats_score_like_floats(scores):
    x = drawn(500, 16)
    assert scores(half_vectors(x)) == pytest.approx(scores(x), abs=0.02)
    assert scores(half_vectors(x)).tolist() == scores(x.astype(np.float16).astype(np.float32)).tolist()


def test_lengths_of_vectors_do_not_count(scores):
    x = drawn(100, 6)
    stretched = x * np.random.default_rng(1).choice([0.5, 1, 4, 64], 100)[:, None].astype(np.float32)
    assert scores(stretched).tolist() == scores(x).tolist()


@pytest.mark.parametrize("vectors", [np.zeros((3, 4), np.float32), np.zeros((0, 4), np.float32)])
def test_where_nothing_is_known_nothing_is_scored(scores, vectors):
    assert np.isnan(scores(vectors)).tolist() == [True] * len(vectors)


def test_an_empty_arm_leaves_every_score_open(scores):
    assert np.isnan(scores(drawn(5, 3), repeats=[0] * 5, against="arm")).all()


def test_documents_that_are_all_alike(scores):
    """Measured from zero another of them adds nothing; from their mean there is no variety to add to."""
    x = np.repeat(drawn(1, 6), 30, axis=0)
    assert scores(x) == pytest.approx(np.zeros(30), abs=1e-5)
    assert np.isnan(scores(x, centred=True)).all()


@pytest.mark.parametrize("options", [{}, {"centred": True}, {"against": "arm"}])
def test_batches_and_their_order_move_no_bit(scores, options):
    x, repeats = drawn(700, 33, 0.4), np.random.default_rng(0).integers(0, 3, 700)
    whole = scores(x, repeats=repeats, **options)
    assert scores(x, (1, 2, 300, 301), repeats, **options).tobytes() == whole.tobytes()
    order = np.random.default_rng(2).permutation(700)
    shuffled = scores(x[order], (50, 650), repeats[order], **options)
    assert shuffled.tobytes() == whole[order].tobytes()


def test_mistakes_in_the_options_are_named():
    from tamis.errors import SpecError

    with pytest.raises(SpecError, match="centred"):
        build(Vendi, {"centred": "yes"})
    with pytest.raises(SpecError, match="did you mean 'against'"):
        build(Vendi, {"aganst": "curated"})
    assert build(Vendi, {"of": "v", "against": "curated"}).reads == ("v", "curated_repeats")
