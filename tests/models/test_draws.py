"""Portions of clusters and the documents looked at: exact merges, against slow twins; files that survive a kill."""

import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tamis.models.draws import Cells, Draws, Notes, Texts, added, joined, spill

HASHES = st.integers(0, 2**64 - 1)


def uints(values):
    return np.array(values, np.uint64)


def ints(values):
    return np.array(values, np.int64)


@given(
    st.dictionaries(st.integers(0, 2**64 - 1), st.integers(1, 2**22), max_size=6),
    st.lists(HASHES, max_size=40),
    st.data(),
)
def test_a_portion_is_an_equal_range_of_hashes(pieces, hashes, data):
    known = sorted(pieces)
    cells = Cells(uints(known), ints([pieces[cluster] for cluster in known]))
    clusters = [data.draw(st.sampled_from([*known, 7])) for _ in hashes]
    starts, total = {}, 0
    for cluster in known:
        starts[cluster], total = total, total + pieces[cluster]
    expected = [
        starts[cluster] + (value >> 32) * pieces[cluster] // 2**32 if cluster in pieces else -1
        for cluster, value in zip(clusters, hashes, strict=True)
    ]
    assert cells.portions(uints(clusters), uints(hashes)).tolist() == expected
    assert cells.first.tolist() == [*starts.values(), total]


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=40)


def summary(rows, most):
    portions, hashes = ints([row[0] for row in rows]), uints([row[1] for row in rows])
    at, documents = np.unique(portions, return_counts=True)
    lowest = Draws.lowest(portions, hashes, most)
    return {"at": at, "documents": documents, "portions": lowest.portions, "hashes": lowest.hashes}


@given(ROWS, st.integers(0, 40), st.integers(1, 4))
def test_the_lowest_of_two_halves_are_those_of_the_whole(rows, cut, most):
    expected = [(p, h) for p in range(5) for h in sorted({h for q, h in rows if q == p})[:most]]
    whole = summary(rows, most)
    assert list(zip(whole["portions"].tolist(), whole["hashes"].tolist(), strict=True)) == expected
    both = joined(most, summary(rows[cut:], most), summary(rows[:cut], most))
    for name, values in whole.items():
        assert both[name].tolist() == values.tolist()
    counts = {name: whole[name] for name in ("at", "documents")}
    assert added(counts, counts)["documents"].tolist() == (2 * whole["documents"]).tolist()


@given(ROWS, st.integers(1, 3))
def test_each_document_that_is_looked_at_has_its_place(rows, most):
    draws = Draws.lowest(ints([p for p, _ in rows]), uints([h for _, h in rows]), most)
    known = list(zip(draws.portions.tolist(), draws.hashes.tolist(), strict=True))
    found = draws.places(ints([p for p, _ in rows]), uints([h for _, h in rows]))
    assert found.tolist() == [known.index(row) if row in known else -1 for row in rows]
    if known:
        index = np.arange(len(draws.first) - 1)
        values = draws.values(lambda places: draws.hashes[places].astype(float), index)
        by_portion = [[h for q, h in known if q == p] for p in sorted({p for p, _ in known})]
        assert [each.tolist() for each in values] == by_portion


def test_texts_are_found_by_place_in_whatever_order_they_were_written(tmp_path):
    parts = [
        (ints([3, 0]), pa.array(["d", "b"])),
        (ints([]), pa.array([], pa.string())),
        (ints([0, 2]), pa.array(["a", "c"])),
    ]
    for name, order in (("one", parts), ("other", parts[::-1])):
        spill(tmp_path / name, order)
        texts = Texts.open(tmp_path / name, 5)
        assert texts.of(ints([2, 0, 3, 1, 4])).to_pylist() == ["c", "a", "d", None, None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_what_was_noted_is_not_looked_for_again_even_after_a_torn_write(tmp_path):
    path, asked = tmp_path / "notes", []

    def find(places):
        asked.extend(places.tolist())
        return np.sqrt(places.astype(float))

    notes = Notes(path, 10)
    assert notes.values(ints([4, 9]), find).tolist() == [2.0, 3.0]
    path.write_bytes(path.read_bytes() + b"\1\2\3")
    notes = Notes(path, 10)
    assert len(notes) == 2
    assert notes.values(ints([9, 1, 4]), find).tolist() == [3.0, 1.0, 2.0]
    assert asked == [4, 9, 1]
    assert Notes(path, 10).values(ints([1, 4, 9]), find).tolist() == [1.0, 2.0, 3.0]
    assert asked == [4, 9, 1]


def test_ties_of_clusters_are_a_hash_of_their_numbers_and_the_seed():
    found = Cells(uints([3, 2**64 - 1]), ints([1, 1])).ties(5)
    head = (5).to_bytes(8, "little", signed=True) + b"cluster bandit: clusters\0"
    for value, name in zip(found.tolist(), (b"3", str(2**64 - 1).encode()), strict=True):
        assert value == int.from_bytes(hashlib.blake2b(head + name, digest_size=8).digest(), "little")
