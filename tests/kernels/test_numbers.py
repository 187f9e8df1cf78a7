"""Logarithm, order keys, digit histograms, BLAKE2b and seeds against their Python twins."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tamis import seeds
from tamis.kernels.blake2 import blake2b64
from tamis.kernels.histogram import digit_histogram
from tamis.kernels.log import log
from tamis.kernels.order import ordered, unordered

NUMBERS = hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(allow_nan=False))


@given(st.lists(st.floats(min_value=0, exclude_min=True, allow_infinity=False), max_size=50))
def test_log_is_within_one_unit_in_the_last_place(xs):
    for x, found in zip(xs, log(np.array(xs, np.float64)), strict=True):
        expected = math.log(x)
        assert abs(found - expected) <= math.ulp(expected)


def test_log_of_a_million_numbers_and_of_the_special_ones():
    x = np.random.default_rng(0).random(1_000_000)
    expected = np.array([math.log(value) for value in x])
    assert (np.abs(log(x) - expected) <= np.spacing(np.abs(expected))).all()
    assert log(np.array([1.0, 0.0, math.inf])).tolist() == [0.0, -math.inf, math.inf]
    assert np.isnan(log(np.array([-1.0, math.nan, -math.inf]))).all()
    assert abs(log(np.array([5e-324]))[0] - math.log(5e-324)) <= math.ulp(745.0)


@given(NUMBERS)
def test_keys_are_in_the_order_of_the_numbers_and_lead_back(x):
    keys = ordered(x)
    for i in range(len(x)):
        for j in range(len(x)):
            assert (keys[i] < keys[j]) == (x[i] < x[j])
    assert (unordered(keys) == x).all()


def test_a_missing_number_has_no_key():
    with pytest.raises(ValueError, match="1 of 2"):
        ordered(np.array([1.0, math.nan]))


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 1000)), max_size=30), st.integers(0, 3), st.data())
def test_histogram_weighs_the_digit_of_keys_with_the_prefix(pairs, digit, data):
    keys = np.array([key for key, _ in pairs], np.uint64)
    weights = np.array([weight for _, weight in pairs], np.int64)
    shift = 64 - 16 * digit
    prefix = data.draw(st.sampled_from([key >> shift for key, _ in pairs] or [0]))
    expected = np.zeros(65536, np.int64)
    for key, weight in pairs:
        if key >> shift == prefix:
            expected[key >> (shift - 16) & 0xFFFF] += weight
    assert (digit_histogram(keys, weights, prefix, digit) == expected).all()


@pytest.mark.parametrize(("prefix", "digit"), [(0, 4), (0, -1), (1, 0), (65536, 1), (-1, 2)])
def test_a_digit_that_is_not_there_is_refused(prefix, digit):
    with pytest.raises(ValueError, match="0 to 3"):
        digit_histogram(np.zeros(1, np.uint64), np.ones(1, np.int64), prefix, digit)


@given(st.binary(max_size=300), st.data())
def test_blake2_is_that_of_hashlib(texts, sliced, head, data):
    strings = data.draw(texts)
    found = blake2b64(np.frombuffer(head, np.uint8), sliced(strings))
    for string, digest in zip(strings, found.tolist(), strict=True):
        expected = hashlib.blake2b(head + string.encode(), digest_size=8).digest()
        assert digest == int.from_bytes(expected, "little")


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 255, 256, 257, 1000])
def test_blake2_at_the_edges_of_its_blocks(sliced, size):
    found = blake2b64(np.frombuffer(b"", np.uint8), sliced(["x" * size]))
    assert int(found[0]) == int.from_bytes(hashlib.blake2b(b"x" * size, digest_size=8).digest(), "little")


def test_random_numbers_follow_the_documented_bytes(sliced):
    ids = ["a", "", "wiki/é/1"]
    for doc_id, u in zip(ids, seeds.uniform(-7, "strëam", sliced(ids)), strict=True):
        raw = (-7).to_bytes(8, "little", signed=True) + "strëam".encode() + b"\0" + doc_id.encode()
        h = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
        assert u == ((h >> 11) + 0.5) * 2.0**-53
        assert 0 < u < 1


def test_random_numbers_depend_on_seed_stream_and_id_alone(sliced):
    ids = [f"doc {i}" for i in range(20)]
    whole = seeds.uniform(1, "a", sliced(ids))
    assert whole[7:9].tolist() == seeds.uniform(1, "a", sliced(ids[7:9])).tolist()
    assert not (whole == seeds.uniform(2, "a", sliced(ids))).any()
    assert not (whole == seeds.uniform(1, "b", sliced(ids))).any()


@pytest.mark.parametrize(("seed", "stream"), [(0, "a\0b"), (2**63, "a"), (-(2**63) - 1, "a")])
def test_a_seed_or_stream_that_would_be_ambiguous_is_refused(sliced, seed, stream):
    with pytest.raises(ValueError, match="hash64"):
        seeds.hash64(seed, stream, sliced(["a"]))


def test_gumbel_draws_without_replacement_in_proportion_to_the_weights(sliced):
    """For weights 1, 2, 3 and two draws; the bound is six standard deviations, the seeds are fixed."""
    ids, log_weights, n = sliced(["a", "b", "c"]), log(np.array([1.0, 2.0, 3.0])), 20_000
    taken = np.zeros(3)
    for seed in range(n):
        taken[np.argsort(log_weights + seeds.gumbel(seed, "draw", ids))[1:]] += 1
    expected = np.array([5 / 12, 11 / 15, 17 / 20])
    assert (np.abs(taken / n - expected) < 6 * np.sqrt(expected * (1 - expected) / n)).all()
