"""The `uniform` scorer: a draw that belongs to the document, and samples that nest."""

import hashlib
import math

import numpy as np
import pyarrow as pa
import pytest

from tamis.scorers.uniform import Uniform

SEED = 17


@pytest.fixture
def drawn(run, batches):
    """(ids, cuts=(), seed=SEED, options) → the numbers."""

    def of(ids, cuts=(), seed=SEED, **options):
        table = run(Uniform(**options), batches(["x"] * len(ids), ids=ids, cuts=cuts), seed=seed)
        assert table["x"].type == pa.float64()
        return np.array(table["x"].to_pylist(), np.float64)

    return of


def ids_of(n):
    return [f"document {i}" for i in range(n)]


def test_a_number_is_the_hash_of_seed_stream_and_id(drawn):
    """The twin, by the standard library: 53 bits of BLAKE2b, in the middle of their interval."""
    ids = ["", "a", "ключ", "x" * 300]
    for draw, found in ((0, drawn(ids)), (3, drawn(ids, draw=3))):
        for doc_id, value in zip(ids, found, strict=True):
            head = SEED.to_bytes(8, "little", signed=True) + f"uniform {draw}".encode() + b"\0"
            digest = hashlib.blake2b(head + doc_id.encode(), digest_size=8).digest()
            assert value == ((int.from_bytes(digest, "little") >> 11) + 0.5) / 2**53


def test_numbers_are_spread_evenly(drawn):
    """Kolmogorov's distance of 20,000 numbers exceeds 1.95 / √n with probability 0.001; the seed is fixed."""
    found = np.sort(drawn(ids_of(20_000)))
    assert found[0] > 0
    assert found[-1] < 1
    steps = np.arange(1, len(found) + 1) / len(found)
    assert np.abs(steps - found).max() < 1.95 / math.sqrt(len(found))


def test_draws_and_seeds_are_independent(drawn):
    """The correlation of independent numbers exceeds 4 / √n with probability 6e-5, for each of the three pairs."""
    ids = ids_of(20_000)
    first, second, other = drawn(ids), drawn(ids, draw=1), drawn(ids, seed=SEED + 1)
    for one, two in ((first, second), (first, other), (second, other)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / math.sqrt(len(ids))


def test_batches_and_order_move_no_number(drawn):
    ids = ids_of(50)
    whole = drawn(ids)
    assert drawn(ids, cuts=range(1, 50)).tobytes() == whole.tobytes()
    assert drawn(ids[::-1]).tobytes() == whole[::-1].tobytes()


POOL = {"max_bad_fraction": 0.05}


def test_a_sample_in_where_is_scored_and_a_larger_one_holds_it(corpus, target, run_spec, tmp_path):
    """Text is read for the sample only; documents outside it are null."""
    stages = [{"score": "uniform"}] + [
        {"score": {"by": [{"importance": {"target": str(target), "as": name}}], "where": f"uniform < {share}"}}
        for name, share in (("a", 0.1), ("b", 0.4))
    ]
    ran = run_spec({"corpus": {"paths": str(corpus), **POOL}, "seed": SEED, "stages": stages}, tmp_path)
    drawn, small, large = (ran.values(name) for name in ("uniform", "a", "b"))
    usable = {doc_id for doc_id, value in drawn.items() if value is not None}
    assert len(usable) == 298
    for share, scored in ((0.1, small), (0.4, large)):
        inside = {doc_id for doc_id in usable if drawn[doc_id] < share}
        assert {doc_id for doc_id, value in scored.items() if value is not None} <= inside
        assert 0.2 * share < len(inside) / 298 < 2 * share
    assert {doc_id for doc_id, value in small.items() if value is not None} < {
        doc_id for doc_id, value in large.items() if value is not None
    }
