"""Fixed-point directions, exact products, k-means and pair kernels against boring twins."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tamis.clustering import SAMPLE, first_different, fitted, nearest_centroids
from tamis.kernels.directions import UNIT, add_up, directions, inverse_lengths, products
from tamis.kernels.pairs import NOBODY, drop_near_kept, float32_below, linked, roots, unite

SHAPES = st.tuples(st.integers(0, 12), st.integers(1, 6))
VECTORS = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_subnormal=False))
# few values, so that equal vectors, ties and zeros are common
FEW = hnp.arrays(np.float32, st.tuples(st.integers(1, 25), st.integers(2, 4)), elements=st.sampled_from([-1, 0, 1, 2]))
DIRECTIONS = FEW.map(directions)
NEAR = st.integers(0, 9).flatmap(lambda n: hnp.arrays(np.bool_, (n, n)))


def random_directions(n, d=24, seed=0, clumps=5):
    draw = np.random.default_rng(seed)
    middle = draw.normal(size=(clumps, d))
    return directions((middle[draw.integers(0, clumps, n)] + 0.5 * draw.normal(size=(n, d))).astype(np.float32))


# ---- directions ----


def twin_direction(vector):
    square = 0.0
    for x in vector.tolist():
        square += x * x
    if not 0 < square < math.inf:
        return [0] * len(vector)
    return [round(x / math.sqrt(square) * 32767) for x in vector.tolist()]


@given(VECTORS)
def test_directions_are_the_rounded_unit_vectors(vectors):
    assert directions(vectors).tolist() == [twin_direction(vector) for vector in vectors]


@given(VECTORS, st.integers(0, 12))
def test_a_direction_is_the_vectors_own(vectors, cut):
    whole = directions(vectors)
    assert np.array_equal(np.concatenate([directions(vectors[:cut]), directions(vectors[cut:])]), whole)


def test_what_has_no_direction_is_zero():
    odd = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [3, 4]], np.float32)
    assert directions(odd).tolist() == [[0, 0], [0, 0], [0, 0], [19660, 26214]]


@given(hnp.arrays(np.int16, SHAPES), st.data())
def test_sums_of_groups(vectors, data):
    groups = data.draw(st.integers(1, 4))
    group = np.array([data.draw(st.integers(0, groups - 1)) for _ in vectors], np.int64)
    expected = [[sum(int(x) for x in vectors[group == g, j]) for j in range(vectors.shape[1])] for g in range(groups)]
    assert add_up(vectors, group, groups).tolist() == expected


@pytest.mark.parametrize("d", [3, 256, 1024])
def test_products_are_exact_in_any_block(d):
    left, right = random_directions(67, d, 1), random_directions(41, d, 2)
    exact = left.astype(np.int64) @ right.astype(np.int64).T
    for rows in (1, 2, 19, 67):
        found = np.concatenate([products(left[i : i + rows], right) for i in range(0, 67, rows)])
        assert np.array_equal(found, exact)
    assert abs(exact).max() < 2**31


@given(DIRECTIONS)
def test_a_cosine_with_itself_is_one(vectors):
    scale = inverse_lengths(vectors)
    known = vectors.any(axis=1)
    own = (np.diag(products(vectors, vectors)) * scale * scale).astype(np.float32)
    assert (own == known.astype(np.float32)).all()


# ---- k-means ----


def twin_nearest(vectors, centroids):
    found = [[int(a.astype(np.int64) @ b.astype(np.int64)) for b in centroids] for a in vectors]
    return [each.index(max(each)) for each in found], [max(each) for each in found]


@pytest.mark.parametrize("few", [0, 1 << 22], ids=["faiss", "exact"])
@given(vectors=DIRECTIONS, k=st.integers(1, 6))
def test_the_nearest_centroid_is_the_first_of_the_best(few, vectors, k):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tamis.clustering.FEW", few)
        index, product = nearest_centroids(vectors, vectors[:k])
    assert (index.tolist(), product.tolist()) == twin_nearest(vectors, vectors[:k])


@pytest.mark.parametrize("at_once", [1, 2, 19, 20, 333, 3000])
def test_assignment_does_not_depend_on_how_many_are_asked_about(at_once, monkeypatch):
    """faiss and BLAS give other last bits for other numbers of queries, and these centroids lie in pairs."""
    monkeypatch.setattr("tamis.clustering.FEW", 0)
    vectors, centroids = random_directions(3000, 64), random_directions(50, 64, 3, clumps=50)
    twins = centroids.copy()
    twins[:, 0] += 1  # closer than float32 can tell
    centroids = np.concatenate([centroids, twins])
    found = [nearest_centroids(vectors[i : i + at_once], centroids) for i in range(0, 3000, at_once)]
    exact = vectors.astype(np.int64) @ centroids.astype(np.int64).T
    assert np.array_equal(np.concatenate([index for index, _ in found]), exact.argmax(axis=1))
    assert np.array_equal(np.concatenate([product for _, product in found]), exact.max(axis=1))


def twin_first(hashes, vectors, most):
    chosen = []
    for i in sorted(range(len(hashes)), key=lambda i: (hashes[i], vectors[i].tobytes())):
        if vectors[i].tobytes() not in [known for _, known in chosen]:
            chosen.append((hashes[i], vectors[i].tobytes()))
    return chosen[:most]


@given(DIRECTIONS, st.integers(1, 9), st.data())
def test_the_first_centroids_are_the_first_different_vectors_and_merge_exactly(vectors, most, data):
    hashes = np.array(data.draw(st.permutations(range(len(vectors)))), np.uint64)
    whole = first_different(hashes, vectors, most)
    expected = twin_first(hashes.tolist(), vectors, most)
    assert list(zip(whole["hashes"].tolist(), [row.tobytes() for row in whole["vectors"]], strict=True)) == expected
    cut = data.draw(st.integers(0, len(vectors)))
    halves = [first_different(hashes[part], vectors[part], most) for part in (slice(cut), slice(cut, None))]
    halves = data.draw(st.permutations(halves))
    both = {key: np.concatenate([half[key] for half in halves]) for key in whole}
    merged = first_different(both["hashes"], both["vectors"], most)
    assert all(np.array_equal(merged[key], whole[key]) for key in whole)


@given(DIRECTIONS, st.integers(1, 5), st.integers(1, 4))
def test_a_round_moves_centroids_to_the_direction_of_the_sum(vectors, k, rounds):
    hashes = np.arange(len(vectors), dtype=np.uint64)
    centroids = first_different(hashes, vectors, k)["vectors"]
    for _ in range(rounds):
        nearest, _ = twin_nearest(vectors, centroids)
        for c in range(len(centroids)):
            total = np.array(
                [
                    sum(int(v[j]) for v, n in zip(vectors, nearest, strict=True) if n == c)
                    for j in range(vectors.shape[1])
                ]
            )
            if any(total):
                centroids[c] = twin_direction(total.astype(np.float64))
    assert np.array_equal(fitted(hashes, vectors, k, rounds), centroids)


def test_the_objective_is_that_of_faiss():
    """Mean cosine to the nearest centroid within one percent of faiss' own spherical k-means, over five seeds."""
    import faiss

    vectors = random_directions(6000, 32, clumps=60)
    wide = vectors.astype(np.float32) / UNIT
    hashes = np.random.default_rng(0).permutation(6000).astype(np.uint64)
    ours = nearest_centroids(vectors, fitted(hashes, vectors, 40, 20))[1].mean() / UNIT**2
    theirs = []
    for seed in range(5):
        kmeans = faiss.Kmeans(32, 40, niter=20, spherical=True, seed=seed, max_points_per_centroid=10**6)
        kmeans.train(wide)
        theirs.append(float((wide @ kmeans.centroids.T).max(axis=1).mean()))
    assert ours >= min(theirs) * 0.99
    assert ours > 0.5, "the clumps are found"
    assert SAMPLE == 256


# ---- pairs ----


def twin_links(vectors, mode, epsilon):
    """The definition, pair by pair."""
    n, items = len(vectors), vectors.tolist()
    scale = [1 / math.sqrt(sum(x * x for x in item)) for item in items]
    cosine = [[-2.0] * n for _ in range(n)]
    for j in range(n):
        for i in range(j):
            product = sum(x * y for x, y in zip(items[j], items[i], strict=True))
            cosine[j][i] = float(np.float32(product * scale[j] * scale[i]))
    removed, parent = [False] * n, list(range(n))
    for j in range(n):
        earlier = [i for i in range(j) if mode != "greedy" or not removed[i]]
        near = [i for i in earlier if cosine[j][i] > 1 - epsilon]
        if near:
            removed[j] = True
            parent[j] = max(near, key=lambda i: (cosine[j][i], -i))
    if mode == "components":
        parent = list(range(n))
        changed = True
        while changed:
            changed = False
            for j in range(n):
                for i in range(j):
                    if cosine[j][i] > 1 - epsilon and parent[i] != parent[j]:
                        parent[i] = parent[j] = min(parent[i], parent[j])
                        changed = True
    nearest = [max(range(j), key=lambda i: (cosine[j][i], -i)) if j else 0 for j in range(n)]
    similarity = [cosine[j][nearest[j]] if j else -2.0 for j in range(n)]
    return similarity, nearest, parent


@given(
    DIRECTIONS,
    st.sampled_from(["reference", "greedy", "components"]),
    st.sampled_from([0.01, 0.1, 0.3, 1.0]),
    st.integers(1, 30),
)
def test_links_are_those_of_the_definition_in_blocks_of_any_size(vectors, mode, epsilon, block):
    vectors = vectors[vectors.any(axis=1)]
    links = linked(vectors, mode, 1 - epsilon, block)
    similarity, nearest, parent = twin_links(vectors, mode, epsilon)
    assert links.similarity.tolist() == similarity
    assert links.nearest.tolist() == nearest
    found = roots(links.parent).tolist() if mode == "components" else links.parent.tolist()
    assert found == parent


@pytest.mark.parametrize("mode", ["reference", "greedy", "components"])
def test_blocks_change_nothing(mode):
    vectors = random_directions(700, 48)
    whole = linked(vectors, mode, 0.9, 1000)
    assert 0 < (roots(whole.parent) != np.arange(700)).sum() < 700
    for block in (1, 64, 333):
        found = linked(vectors, mode, 0.9, block)
        assert np.array_equal(found.similarity, whole.similarity)
        assert np.array_equal(found.nearest, whole.nearest)
        assert np.array_equal(roots(found.parent), roots(whole.parent))


def test_modes_keep_more_in_this_order():
    """Components keep least, then the reference, then greedy: each keeps what the one before it keeps."""
    vectors = random_directions(700, 48)
    stays = {
        mode: roots(linked(vectors, mode, 0.85).parent) == np.arange(700)
        for mode in ("components", "reference", "greedy")
    }
    assert not (stays["components"] & ~stays["reference"]).any()
    assert not (stays["reference"] & ~stays["greedy"]).any()
    assert stays["components"].sum() < stays["reference"].sum() < stays["greedy"].sum()


def test_the_first_item_has_no_earlier_one():
    links = linked(random_directions(1), "reference", 0.5)
    assert links.similarity.tolist() == [NOBODY]
    assert links.nearest.tolist() == links.parent.tolist() == [0]
    assert len(linked(random_directions(0), "greedy", 0.5).parent) == 0


@given(NEAR, st.data())
def test_dropping_near_kept_items(near, data):
    gone = np.array([data.draw(st.booleans()) for _ in near], np.bool_)
    expected = gone.tolist()
    for j in range(len(near)):
        expected[j] = expected[j] or any(near[j, i] and not expected[i] for i in range(j))
    drop_near_kept(near, gone)
    assert gone.tolist() == expected


@given(NEAR, st.integers(0, 3))
def test_uniting_near_pairs(near, left):
    n = len(near)
    parent = np.arange(2 * n + left)
    unite(near, n + left, left, parent)
    expected = list(range(2 * n + left))
    for _ in range(2 * n):
        for r in range(n):
            for c in range(n):
                if near[r, c]:
                    a, b = n + left + r, left + c
                    expected[a] = expected[b] = min(expected[a], expected[b])
    assert roots(parent).tolist() == expected


@given(st.lists(st.integers(0, 100), max_size=20))
def test_roots_are_where_links_end(links):
    parent = [link % (i + 1) for i, link in enumerate(links)]
    expected = []
    for i in range(len(parent)):
        at = i
        while parent[at] != at:
            at = parent[at]
        expected.append(at)
    assert roots(np.array(parent, np.int64)).tolist() == expected


@given(st.floats(-1, 1), st.floats(-1, 1, width=32))
def test_the_same_float32_are_above_a_bound_in_float32(number, value):
    bound = float32_below(number)
    assert (np.float32(value) > bound) == (Fraction(value) > Fraction(number))
