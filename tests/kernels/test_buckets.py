"""Buckets, forests and survivors against boring twins: who has an edge to whom, who belongs together, who stays."""

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tamis.kernels.arrow import flattened, text_of
from tamis.kernels.bits import spread
from tamis.kernels.buckets import ANCHORS, FOUND, GIANT, planted_hits, similarities, star_edges, unique_edges
from tamis.kernels.survivors import survivors
from tamis.kernels.union import Forest, forest_of, labels_of

IDS = ["", "a", "a ", "b", "é", "\0"]
ROWS = st.sampled_from([0, 1, 2, 3, 2**32, 2**32 + 1, 7 << 32, 2**64 - 1])


def uint64(values):
    return np.array(values, np.uint64)


# ---- stars ----

# one member of a bucket: (key, row, order, planted)
MEMBERS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 3), st.sampled_from([0, 0, 0, 4, 87])), max_size=30
)


def columns(members):
    members = sorted(members, key=lambda member: member[0])
    key, row, order, planted = zip(*members, strict=True) if members else ([], [], [], [])
    return uint64(key), uint64(row), uint64(order), np.array(planted, np.uint8)


def stars(members, giant=GIANT, anchors=ANCHORS):
    found = []
    for bucket in sorted({member[0] for member in members}):
        inside = [(order, row) for key, row, order, planted in members if key == bucket and not planted]
        if len(inside) < 2:
            continue
        first = sorted(inside)[: anchors if len(inside) > giant else 1]
        found += [(row, anchor) for order, row in inside for place, anchor in first if (place, anchor) <= (order, row)]
    return sorted(found)


def edges(columns):
    first, last = star_edges(*columns)
    return list(zip(first.tolist(), last.tolist(), strict=True))


@given(MEMBERS.map(lambda members: list({member[:2]: member for member in members}.values())))
def test_members_of_a_bucket_have_an_edge_to_its_anchor(members):
    assert sorted(edges(columns(members))) == stars(members)


@pytest.mark.parametrize(("size", "anchors"), [(GIANT, 1), (GIANT + 1, ANCHORS), (1000, ANCHORS)])
def test_giant_buckets_have_several_anchors(size, anchors):
    draw = np.random.default_rng(size)
    members = [(5, int(row), int(order), 0) for row, order in enumerate(draw.permutation(size))]
    members += [(5, int(row), 0, 44) for row in range(50)]  # planted copies make no bucket giant and are no anchors
    members += [(6, 1, 1, 0), (6, 2, 2, 8)]
    found = edges(columns(members))
    assert sorted(found) == stars(members)
    hubs = [row for row, other in found if row == other]
    assert len(hubs) == anchors
    assert len(found) == anchors * size - anchors * (anchors - 1) // 2


@given(MEMBERS, st.randoms(use_true_random=False))
def test_the_order_of_members_changes_no_edge(members, draw):
    members = list({member[:2]: member for member in members}.values())
    moved = members.copy()
    draw.shuffle(moved)
    assert sorted(edges(columns(members))) == sorted(edges(columns(moved)))


def test_members_of_equal_order_are_told_apart_by_row():
    assert edges(columns([(1, 9, 3, 0), (1, 4, 3, 0)])) == [(9, 4), (4, 4)]


@given(st.lists(st.tuples(ROWS, ROWS), max_size=40))
def test_each_edge_is_kept_once_in_order_of_occurrence(given_edges):
    first, last = (uint64([edge[side] for edge in given_edges]) for side in (0, 1))
    kept = unique_edges(first, last)
    assert list(zip(*(side.tolist() for side in kept), strict=True)) == list(dict.fromkeys(given_edges))


@given(MEMBERS)
def test_planted_copies_are_found_where_their_original_is(members):
    one_each = list(
        {(key, row, planted > 0): (key, row, order, planted) for key, row, order, planted in members}.values()
    )
    key, row, _, planted = columns(one_each)
    rows, codes = planted_hits(key, row, planted)
    originals = {(member[0], member[1]) for member in one_each if not member[3]}
    copies = [member for member in sorted(one_each, key=lambda member: member[0]) if member[3]]
    assert rows.tolist() == [member[1] for member in copies]
    expected = [planted | (int(FOUND) if (key, row) in originals else 0) for key, row, _, planted in copies]
    assert codes.tolist() == expected


def test_a_giant_bucket_of_planted_copies_takes_no_quadratic_time():
    size = 200_000  # 4·10¹⁰ comparisons would take half a minute
    row = np.repeat(np.arange(size, dtype=np.uint64), 2)
    planted = np.tile(np.array([0, 4], np.uint8), size)
    _, codes = planted_hits(np.zeros(2 * size, np.uint64), row, planted)
    assert (codes == 4 | FOUND).all()


# ---- similarities ----

VALUES = st.sets(st.integers(0, 6), max_size=6).map(sorted)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), VALUES), max_size=15), st.booleans())
def test_similarity_with_the_hub_is_that_of_the_twin(members, as_sets):
    by_row = {row: values for _, row, values in members}  # a row has the same values wherever it is sent
    if not as_sets:
        by_row = {row: [*values, 7, 8, 9, 7, 8, 9][:6] for row, values in by_row.items()}
    members = sorted((hub, row) for hub, row, _ in members)
    hub, row = uint64([hub for hub, _ in members]), uint64([row for _, row in members])
    lengths = [len(by_row[row]) for _, row in members]
    values = uint64([value for _, row in members for value in by_row[row]])
    found = similarities(hub, row, np.cumsum([0, *lengths]).astype(np.int64), values, as_sets)
    assert found.dtype == np.float32
    for (hub, row), similarity in zip(members, found, strict=True):
        if row == hub or (hub, hub) not in members:
            assert math.isnan(similarity), "the hub itself, once or twice, and members of a hub that is not there"
            continue
        mine, theirs = by_row[row], by_row[hub]
        if as_sets:
            common, total = len({*mine} & {*theirs}), len({*mine} | {*theirs})
        else:
            common, total = sum(a == b for a, b in zip(mine, theirs, strict=True)), len(mine)
        assert math.isnan(similarity) if total == 0 else similarity == np.float32(common / total)


def test_a_large_hub_after_a_small_one_and_back():
    sizes = [3, 40, 1000, 2, 500]
    sets = [np.arange(2 * i, 2 * i + size, dtype=np.uint64) * np.uint64(2**40 + 1) for i, size in enumerate(sizes)]
    hub = np.repeat(np.arange(5, dtype=np.uint64), 5)
    row = np.tile(np.arange(5, dtype=np.uint64), 5)
    start = np.cumsum([0, *(sizes * 5)]).astype(np.int64)
    found = similarities(hub, row, start, np.concatenate(sets * 5), as_sets=True).reshape(5, 5)
    for i in range(5):
        for j in range(5):
            common = len(np.intersect1d(sets[i], sets[j]))
            assert i == j or found[i, j] == np.float32(common / (sizes[i] + sizes[j] - common))


# ---- forests ----


def components(pairs):
    """{node: least node of its component}, by scipy."""
    nodes = sorted({node for pair in pairs for node in pair})
    at = {node: i for i, node in enumerate(nodes)}
    matrix = coo_array(
        (np.ones(len(pairs)), ([at[a] for a, _ in pairs], [at[b] for _, b in pairs])), (len(nodes), len(nodes))
    )
    _, label = connected_components(matrix, directed=False)
    least: dict[int, int] = {}
    for node, number in zip(nodes, label.tolist(), strict=True):
        least.setdefault(number, node)
    return {node: least[number] for node, number in zip(nodes, label.tolist(), strict=True)}


def forest(pairs):
    return forest_of(uint64([a for a, _ in pairs]), uint64([b for _, b in pairs]))


def merged(forests):
    return forest_of(*(np.concatenate([forest[side] for forest in forests]) for side in (0, 1)))


def as_dict(forest):
    assert (np.diff(forest.node.astype(object)) > 0).all(), "sorted, each node once"
    return dict(zip(forest.node.tolist(), forest.root.tolist(), strict=True))


PAIRS = st.lists(st.tuples(ROWS, ROWS) | st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)


@given(PAIRS.filter(len))
def test_a_forest_has_the_components_that_scipy_finds(pairs):
    assert as_dict(forest(pairs)) == components(pairs)


@given(PAIRS, st.lists(st.integers(0, 40), max_size=4), st.randoms(use_true_random=False))
def test_forests_of_any_split_merge_to_the_same(pairs, cuts, draw):
    moved = [draw.choice([pair, pair[::-1]]) for pair in pairs]
    draw.shuffle(moved)
    edges = sorted({0, *(cut for cut in cuts if cut < len(pairs)), len(pairs)})
    parts = [forest(moved[a:b]) for a, b in pairwise(edges)] or [forest([])]
    draw.shuffle(parts)
    assert as_dict(merged(parts)) == as_dict(forest(pairs))
    in_turn = parts[0]
    for part in parts[1:]:
        in_turn = merged([part, in_turn])
    assert as_dict(in_turn) == as_dict(forest(pairs))


def test_no_edges_make_no_forest():
    assert forest([]).node.tolist() == forest([]).root.tolist() == []
    assert merged([forest([]), forest([])]).node.dtype == np.uint64


def large(kind):
    """Edges of a graph with 10^5 nodes, or of cliques."""
    draw = np.random.default_rng(4)
    if kind == "path":
        nodes = draw.permutation(100_000)
        return nodes[:-1], nodes[1:]
    if kind == "cliques":
        first, last = np.triu_indices(60, 1)
        return np.concatenate([first + 1000 * i for i in range(30)]), np.concatenate(
            [last + 1000 * i for i in range(30)]
        )
    first, last = np.triu_indices(200, 1)
    return np.concatenate([first, first + 500, [7]]), np.concatenate([last, last + 500, [500 + 9]])


@pytest.mark.parametrize(("kind", "trees"), [("path", 1), ("cliques", 30), ("two cliques and a bridge", 1)])
def test_long_paths_cliques_and_bridges(kind, trees):
    draw = np.random.default_rng(5)
    first, last = large(kind)
    shuffled = draw.permutation(len(first))
    first, last = uint64(first[shuffled]), uint64(last[shuffled])
    whole = forest_of(first, last)
    size = int(max(first.max(), last.max())) + 1
    matrix = coo_array((np.ones(len(first)), (first.astype(int), last.astype(int))), (size, size))
    _, label = connected_components(matrix, directed=False)
    label = label[whole.node.astype(int)]
    assert len(np.unique(whole.root)) == len(np.unique(label)) == trees
    least = np.full(label.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, label, whole.node)
    assert (least[label] == whole.root).all()
    thirds = [forest_of(a, b) for a, b in zip(np.array_split(first, 3), np.array_split(last, 3), strict=True)]
    assert all((a == b).all() for a, b in zip(merged(thirds), whole, strict=True))


@given(PAIRS, st.lists(ROWS | st.integers(0, 35), max_size=20))
def test_labels_are_those_of_the_rows_in_the_forest(pairs, rows):
    found = forest(pairs)
    places, roots = labels_of(found, uint64(rows))
    root_of = as_dict(found)
    assert places.tolist() == [i for i, row in enumerate(rows) if row in root_of]
    assert roots.tolist() == [root_of[row] for row in rows if row in root_of]
    assert roots.dtype == np.uint64


def test_a_forest_of_nothing_labels_nothing():
    empty = Forest(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    places, roots = labels_of(empty, uint64([1, 2]))
    assert len(places) == len(roots) == 0


# ---- survivors ----


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2**64 - 1]), st.sampled_from(IDS)),
        min_size=1,
        max_size=15,
    ),
    st.randoms(use_true_random=False),
)
def test_the_lowest_rank_stays_then_the_smallest_id_then_the_lowest_row(members, draw):
    rows = [10 * i for i in range(len(members))]
    draw.shuffle(rows)
    known = sorted({number for number, _, _ in members})
    number = np.array([known.index(number) for number, _, _ in members])
    ids = text_of(pa.array(["before", *(doc_id for _, _, doc_id in members)]).slice(1))
    found = survivors(number, uint64([rank for _, rank, _ in members]), uint64(rows), ids)
    expected = [
        min(
            (i for i in range(len(members)) if number[i] == cluster),
            key=lambda i: (members[i][1], members[i][2].encode(), rows[i]),
        )
        for cluster in range(len(known))
    ]
    assert found.tolist() == expected


# ---- small ones ----


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=30))
def test_spread_keys_stay_apart(numbers):
    found = spread(uint64(numbers))
    assert len(np.unique(found)) == len(numbers)
    assert len(np.unique(spread(np.arange(10_000, dtype=np.uint64)) >> np.uint64(54))) == 1024, "over all of the range"


@given(st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3), max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_flattened_lists_know_their_lengths(lists, start, length):
    for kind in (pa.list_(pa.uint64()), pa.large_list(pa.uint64())):
        part = pa.array(lists, kind).slice(start, length)
        lengths, values = flattened(part)
        chosen = [values or [] for values in lists[start : start + length]]
        assert lengths.dtype == np.int64
        assert lengths.tolist() == list(map(len, chosen))
        assert values.to_pylist() == [value for values in chosen for value in values]


@pytest.mark.parametrize("strings", [["a", "b"], ["", ""], [], ["e\u0301"]])
def test_text_is_read_only_whatever_it_came_from(strings):
    """A kernel is compiled once, not once more for the first batch of another kind, in the middle of a run."""
    for kind in (pa.string(), pa.large_string(), pa.binary()):
        assert not text_of(pa.array(strings, kind)).data.flags.writeable
