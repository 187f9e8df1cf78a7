"""Bands that suit a threshold, by published values and brute force; planted copies and their similarity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from tamis.kernels.bits import mix, spread
from tamis.kernels.canaries import BINS, LEVELS, bin_of, planted_copies, taken
from tamis.kernels.lsh import bands_for, candidate_share, half_point
from tamis.kernels.shingles import Units


@pytest.mark.parametrize(
    ("threshold", "k", "expected"),
    [(0.8, 128, (9, 13)), (0.5, 128, (25, 5)), (0.7, 240, (24, 10)), (0.8, 256, (17, 15))],
)
def test_bands_are_the_published_optimum(threshold, k, expected):
    assert bands_for(threshold, k) == expected


@pytest.mark.parametrize(
    ("bands", "rows", "half", "shares"),
    [
        (14, 8, 0.685, (0.21, 0.56, 0.92, 1.0)),
        (450, 20, 0.723, (0.016, 0.30, 0.995, 1.0)),
        (20, 13, 0.771, (0.026, 0.18, 0.68, 0.997)),
        (93, 15, 0.721, (0.043, 0.36, 0.96, 1.0)),
        (8, 16, 0.856, (0.002, 0.026, 0.20, 0.81)),
        (9, 13, 0.819, (0.01, 0.08, 0.40, 0.93)),
    ],
)
def test_half_points_and_shares_are_those_of_the_published_settings(bands, rows, half, shares):
    assert half_point(bands, rows) == pytest.approx(half, abs=5e-4)
    assert candidate_share(half_point(bands, rows), bands, rows) == pytest.approx(0.5)
    for similarity, share in zip((0.6, 0.7, 0.8, 0.9), shares, strict=True):
        assert candidate_share(similarity, bands, rows) == pytest.approx(share, abs=0.006)


def test_bands_and_rows_in_each_others_place_are_almost_exact_duplicates():
    assert half_point(20, 450) == pytest.approx(0.9925, abs=5e-5)


def test_shares_go_from_none_to_all():
    assert candidate_share([0, 1], 14, 8).tolist() == [0, 1]
    assert (np.diff(candidate_share(np.linspace(0, 1, 200), 20, 13)) >= 0).all()


def error(threshold, bands, rows):
    """What bands_for makes least, by an adaptive integral."""
    below = quad(lambda s: 1 - (1 - s**rows) ** bands, 0, threshold, epsabs=1e-12)[0]
    return below + quad(lambda s: (1 - s**rows) ** bands, threshold, 1, epsabs=1e-12)[0]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.62, 0.9, 0.99])
@pytest.mark.parametrize("k", [2, 16, 30])
def test_no_other_bands_err_less(threshold, k):
    every = {
        (bands, rows): error(threshold, bands, rows) for bands in range(1, k + 1) for rows in range(1, k // bands + 1)
    }
    assert every[bands_for(threshold, k)] == pytest.approx(min(every.values()), abs=1e-10)


# ---- planted copies ----

UNITS = st.lists(st.lists(st.integers(0, 5), max_size=25), min_size=1, max_size=5)


def units_of(documents):
    edges = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    return Units(edges, np.array([h for hashes in documents for h in hashes], np.uint64))


def listed(units):
    return [units.hash[a:b].tolist() for a, b in zip(units.document[:-1], units.document[1:], strict=True)]


def shingles(hashes, n):
    length = min(n, len(hashes))
    return {tuple(hashes[i : i + length]) for i in range(len(hashes) - length + 1)} if hashes else set()


def edited(hashes, drawn, n):
    """The twin of a planted copy."""
    aimed = 0.5 + 0.05 * (drawn % 10)
    replaced = 1 - (1 - (1 - aimed) / (1 + aimed)) ** (1 / n)
    numbers = [int(mix(np.uint64((drawn + (i + 1) * 0x9E3779B97F4A7C15) % 2**64))) for i in range(len(hashes))]
    return [number if (number >> 11) * 2.0**-53 < replaced else h for h, number in zip(hashes, numbers, strict=True)]


@given(UNITS, st.data(), st.integers(1, 6))
def test_planted_copies_and_their_similarity_are_those_of_the_twin(documents, data, n):
    chosen = data.draw(st.lists(st.integers(0, len(documents) - 1), unique=True).map(sorted))
    drawn = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=len(chosen), max_size=len(chosen)))
    units = units_of(documents)
    copies, similarity = planted_copies(units, n, np.array(chosen, np.int64), np.array(drawn, np.uint64))
    assert listed(taken(units, np.array(chosen, np.int64))) == [documents[d] for d in chosen]
    assert listed(copies) == [edited(documents[d], number, n) for d, number in zip(chosen, drawn, strict=True)]
    for d, copy, found in zip(chosen, listed(copies), similarity, strict=True):
        mine, theirs = shingles(documents[d], n), shingles(copy, n)
        assert found == len(mine & theirs) / max(1, len(mine | theirs))
    assert listed(units) == documents, "the originals stay as they were"


@pytest.mark.parametrize("n", [1, 5, 13])
def test_long_documents_get_the_similarity_that_is_aimed_at(n):
    """10,000 different units each: at n = 13 and .5 some 310 edits, which spreads the similarity by .025 at most."""
    draw = np.random.default_rng(n)
    documents, size = 60, 10_000
    units = Units(np.arange(documents + 1) * size, draw.integers(0, 2**64, size * documents, np.uint64))
    drawn = spread(np.arange(documents, dtype=np.uint64))
    _, similarity = planted_copies(units, n, np.arange(documents), drawn)
    aimed = LEVELS[(drawn % np.uint64(10)).astype(int)]
    assert len(np.unique(aimed)) == 10
    assert np.abs(similarity - aimed).max() < 0.1
    assert abs((similarity - aimed).mean()) < 0.015


def test_every_similarity_has_a_bin_and_twentieths_begin_one():
    assert bin_of(np.arange(21) / 20).tolist() == list(range(BINS))
    assert bin_of(np.array([0, 0.049, 0.051, 0.949, 0.999, 1.0])).tolist() == [0, 0, 1, 18, 19, 20]
    assert bin_of(np.array([0.1 + 0.2, 0.7 + 0.1])).tolist() == [6, 16]
