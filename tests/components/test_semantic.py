"""SemDeDup against its definition: the oracle, a brute force over all pairs, and what must not matter."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.dedup.base import Best
from tamis.dedup.semantic import EPSILON, EPSILONS, Semantic, packed, parts, unpacked
from tamis.inline import Inline
from tamis.kernels.arrow import half_vectors, text_of, vectors_of
from tamis.kernels.directions import directions, inverse_lengths
from tamis.scorers.prototypes import Prototypes
from tamis.seeds import hash64
from tamis.steps import Pool


def at_angles(*degrees):
    """Unit vectors in the plane."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def clumped(n, d=32, seed=0, clumps=12, spread=0.35):
    """Vectors around some middles, some of them twice: near duplicates at every distance."""
    draw = np.random.default_rng(seed)
    middle = draw.normal(size=(clumps, d))
    vectors = middle[draw.integers(0, clumps, n)] + spread * draw.normal(size=(n, d))
    vectors[: n // 20] = vectors[n // 2 : n // 2 + n // 20]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def documents(batches, vectors, ids=None, cuts=(), **columns):
    rows = len(vectors)
    columns = {"vector": half_vectors(vectors), "source": pa.array(["web"] * rows, pa.string()), **columns}
    return batches([""] * rows, ids, cuts, **columns)


@pytest.fixture(scope="module")
def semantic(run, batches):
    """vectors → the columns of a semantic deduplication of them, as lists, without the component's name."""

    def found(vectors, ids=None, cuts=(), seed=0, columns=None, **options):
        given = documents(batches, vectors, ids, cuts, **(columns or {}))
        table = run(Semantic(**options), given, name="x", seed=seed)
        return {name.removeprefix("x_"): table[name].to_pylist() for name in table.schema.names}

    return found


def whole_findings(component, vectors, **columns):
    """Its columns and findings, over documents in one batch."""
    rows = len(vectors)
    table = pa.table({"doc_id": [f"d{i:03}" for i in range(rows)], "vector": half_vectors(vectors), **columns})
    inline = Inline(table, {}, rows + 1)
    return inline.run(component, Pool("x", 0)), inline.findings


# ---- what it means ----


@pytest.mark.parametrize(
    ("mode", "angles", "stay"),
    [
        ("reference", (0, 15, 30, 45), [0]),
        ("greedy", (0, 15, 30, 45), [0, 30]),
        ("components", (0, 15, 30, 45), [0]),
        ("reference", (15, 0, 30, 45), [15]),
        ("greedy", (15, 0, 30, 45), [15, 45]),
        ("components", (15, 0, 30, 45), [15]),
    ],
)
def test_a_chain_of_near_documents_in_each_mode(semantic, mode, angles, stay):
    found = semantic(at_angles(*angles), mode=mode, epsilon=0.05, clusters=1, order="keep")
    assert [angle for angle, gone in zip(angles, found["duplicate"], strict=True) if not gone] == stay


def test_who_is_kept_and_who_is_nearest_are_told_apart(semantic):
    found = semantic(at_angles(0, 15, 30, 120), epsilon=0.05, clusters=1, order="keep")
    assert found["kept_by"] == [None, "d000", "d000", None]
    assert found["nearest"] == [None, "d000", "d001", "d002"]
    assert found["similarity"][1] == pytest.approx(np.cos(np.radians(15)), abs=2e-4)
    assert found["similarity"][3] == pytest.approx(0, abs=2e-4)
    assert found["size"] == [3, 3, 3, 1]
    assert found["cluster"][0] == found["cluster"][1] == found["cluster"][2] is not None
    assert found["cluster"][3] is None


def test_far_from_the_centroid_comes_first_unless_it_is_said_otherwise(semantic):
    vectors = at_angles(0, 1, 2, 12)  # the centroid lies at 3.75 degrees
    stays = {
        order: [i for i, gone in enumerate(semantic(vectors, clusters=1, order=order)["duplicate"]) if not gone]
        for order in ("hard", "easy")
    }
    assert stays == {"hard": [3], "easy": [2]}
    drawn = {semantic(vectors, clusters=1, order="random", seed=seed)["duplicate"].index(False) for seed in range(30)}
    assert drawn == {0, 1, 2, 3}


@pytest.mark.parametrize("mode", ["reference", "greedy", "components"])
def test_similarity_exactly_at_the_threshold_is_no_duplicate(semantic, mode):
    """Strictly larger than 1 - epsilon, as in the paper's code."""
    vectors = np.array([[1, 0], [1, 1]], np.float32)
    cosine = semantic(vectors, clusters=1, mode=mode)["similarity"]
    cosine = next(value for value in cosine if value is not None)
    assert semantic(vectors, clusters=1, mode=mode, epsilon=1 - cosine)["duplicate"] == [False, False]
    above = 1 - float(np.nextafter(np.float32(cosine), np.float32(0)))
    assert sum(semantic(vectors, clusters=1, mode=mode, epsilon=above)["duplicate"]) == 1


def test_equals_are_in_the_order_of_a_hash_or_of_ids_for_keep(semantic):
    ids = [f"d{i:03}" for i in range(40)]
    hashes = hash64(0, "semantic", text_of(pa.array(ids)))
    assert hashes.argmin() != 0
    stays = {
        order: semantic(at_angles(*[5] * 40), ids, order=order)["duplicate"].index(False) for order in ("hard", "keep")
    }
    assert stays == {"hard": hashes.argmin(), "keep": 0}


def test_what_has_no_direction_is_nobodys_duplicate(semantic):
    vectors = np.array([[0, 0], [1, 0], [0, 0], [np.nan, 1], [1, 0]], np.float32)
    found = semantic(vectors, clusters=1, order="keep")
    assert found["duplicate"] == [False, False, False, False, True]
    assert found["size"] == [1, 2, 1, 1, 2]
    assert found["similarity"] == [None, None, None, None, 1.0]


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_compare(semantic, rows):
    assert semantic(at_angles(*range(rows)))["duplicate"] == [False] * rows
    assert semantic(np.zeros((3, 2), np.float32), keep_fraction=0.5)["duplicate"] == [False] * 3


# ---- equal to the brute force ----


def brute_force(vectors, centroid, ids, order, epsilon, mode):
    """The paper's loop in numpy and float64: (whom each cluster keeps, the largest cosine with an earlier one)."""
    stays, largest = np.ones(len(vectors), bool), np.full(len(vectors), -2.0)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for each in np.unique(centroid):
        members = np.flatnonzero(centroid == each)
        members = members[np.lexsort((np.array(ids)[members], order[members]))]
        cosine = unit[members] @ unit[members].T
        cosine[np.triu_indices(len(members))] = -2
        near = cosine > 1 - epsilon
        kept = ~near.any(axis=1)
        if mode == "greedy":
            for j in range(len(members)):
                kept[j] = not (near[j] & kept)[:j].any()
        stays[members], largest[members] = kept, cosine.max(axis=1)
    return stays, largest


@pytest.mark.parametrize("mode", ["reference", "greedy"])
@pytest.mark.parametrize(("clusters", "epsilon"), [(1, 0.0613), (25, 0.0613), (None, 0.1217)])
def test_it_keeps_whom_a_brute_force_keeps(semantic, run, batches, mode, clusters, epsilon):
    vectors = clumped(2500)
    ids = [f"d{i:04}" for i in range(2500)]
    quality = np.random.default_rng(1).permutation(2500).astype(np.float64)
    columns = {"quality": pa.array(quality)}
    found = semantic(
        vectors, ids, columns=columns, mode=mode, clusters=clusters, epsilon=epsilon, order="keep", keep=Best("quality")
    )
    fitted = run(Prototypes(clusters=clusters, rounds=10), documents(batches, vectors, ids))
    centroid, half = fitted["x_centroid"].to_numpy(), vectors_of(half_vectors(vectors))
    stays, _ = brute_force(directions(half), centroid, ids, -quality, epsilon, mode)
    ours = ~np.array(found["duplicate"])
    assert np.array_equal(ours, stays)
    assert 50 < stays.sum() < 2400
    if mode == "reference":  # of the half floats themselves: rounding to directions is off by about 1e-5
        stays, largest = brute_force(half, centroid, ids, -quality, epsilon, mode)
        differs = ours != stays
        assert differs.sum() <= 3
        assert (abs(largest[differs] - (1 - epsilon)) < 5e-5).all()


@pytest.mark.parametrize("mode", ["reference", "greedy", "components"])
def test_decisions_balance(semantic, mode):
    vectors = clumped(600)
    found = semantic(vectors, mode=mode, epsilon=0.1, clusters=9)
    ids = [f"d{i:03}" for i in range(600)]
    place = {doc_id: i for i, doc_id in enumerate(ids)}
    gone = found["duplicate"]
    assert 0 < sum(gone) < 600
    assert [by is not None for by in found["kept_by"]] == gone
    for i, by in enumerate(found["kept_by"]):
        if by is not None:
            assert not gone[place[by]], "who is kept stays"
            assert found["cluster"][i] == found["cluster"][place[by]]
    sizes = {cluster: found["cluster"].count(cluster) for cluster in found["cluster"] if cluster is not None}
    assert [sizes.get(cluster, 1) for cluster in found["cluster"]] == found["size"]
    assert sum(size - 1 for size in sizes.values()) == sum(gone)
    unit = directions(vectors_of(half_vectors(vectors))).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for i, nearest in enumerate(found["nearest"]):
        if nearest is not None:
            assert found["similarity"][i] == pytest.approx(float(unit[i] @ unit[place[nearest]]), abs=1e-6)


def test_a_second_pass_of_greedy_removes_nothing_of_one_cluster(semantic):
    vectors = clumped(400)
    first = semantic(vectors, mode="greedy", epsilon=0.1, clusters=1)
    left = vectors[~np.array(first["duplicate"])]
    assert len(left) < 400
    assert not any(semantic(left, mode="greedy", epsilon=0.1, clusters=1)["duplicate"])


# ---- what must not matter ----


@pytest.mark.parametrize("options", [{}, {"mode": "greedy", "order": "easy"}, {"mode": "components", "keep": "random"}])
@given(data=st.data())
@settings(max_examples=8)
def test_order_and_batches_change_no_decision(semantic, options, data):
    vectors = clumped(100, d=8)
    ids = [f"id {i}" for i in range(100)]
    whole = semantic(vectors, ids, epsilon=0.08, seed=3, largest_cluster=30, clusters=2, **options)
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    moved, cuts = draw.permutation(100), tuple(sorted(draw.integers(0, 101, 4).tolist()))
    again = semantic(
        vectors[moved], [ids[i] for i in moved], cuts, epsilon=0.08, seed=3, largest_cluster=30, clusters=2, **options
    )
    for column, values in whole.items():
        assert [values[i] for i in moved] == again[column], column


def test_the_sample_is_drawn_by_id_when_there_are_more_than_256_per_cluster(semantic):
    vectors = clumped(900, d=6)
    ids = [f"id {i}" for i in range(900)]
    whole = semantic(vectors, ids, clusters=2)
    moved = np.random.default_rng(0).permutation(900)
    again = semantic(vectors[moved], [ids[i] for i in moved], (5, 500), clusters=2)
    assert all([values[i] for i in moved] == again[column] for column, values in whole.items())
    _, findings = whole_findings(Semantic(clusters=2), vectors)
    assert 400 < findings.content["fitted_to"] < 620, "512 on average, five deviations are 80"


def test_the_seed_matters_to_a_draw_alone():
    assert Semantic(order="random").seeded
    assert Semantic(mode="components", keep="random").seeded
    assert not Semantic().seeded


# ---- large clusters ----


@given(st.integers(0, 60), st.integers(2, 20), st.integers(0, 2**32))
def test_parts_hold_every_item_once_and_equal_ones_together(n, largest, seed):
    draw = np.random.default_rng(seed)
    vectors = directions(draw.integers(-2, 3, (n, 3)).astype(np.float32) + np.float32(0.01))
    hashes = draw.permutation(n).astype(np.uint64)
    found = list(parts(hashes, vectors, largest))
    assert sorted(np.concatenate([*found, np.zeros(0, np.int64)]).tolist()) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in found)
    home = {i: number for number, part in enumerate(found) for i in part}
    for i in range(n):
        assert all(home[i] == home[j] for j in range(i) if (vectors[i] == vectors[j]).all())
    for part in found:
        unit = vectors[part].astype(np.float64) * inverse_lengths(vectors[part])[:, None]
        assert len(part) <= largest or (unit @ unit.T).min() > 1 - 5e-5, "what k-means cannot tell apart"


def test_splitting_a_cluster_misses_pairs_across_a_border_and_invents_none(semantic):
    vectors = clumped(500, d=64, clumps=10, spread=0.05)
    whole, split = (semantic(vectors, clusters=1, epsilon=0.02, largest_cluster=most) for most in (1000, 100))
    seen = [(value or -2, other or -2) for value, other in zip(split["similarity"], whole["similarity"], strict=True)]
    assert all(value <= other for value, other in seen)
    assert sum(value == other for value, other in seen) > 250
    assert split["similarity"].count(1.0) == whole["similarity"].count(1.0) > 0, "copies stay together"


# ---- epsilon and the curve ----


def test_similarity_lets_another_epsilon_be_chosen_afterwards(semantic):
    vectors = clumped(500)
    found = semantic(vectors, epsilon=0.1)
    for epsilon in (0.02, 0.05, 0.2):
        again = semantic(vectors, epsilon=epsilon)
        assert [(value or 0) > 1 - epsilon for value in found["similarity"]] == again["duplicate"]
        assert again["similarity"] == found["similarity"]


def test_the_curve_is_the_share_kept_at_each_epsilon():
    vectors = clumped(500)
    _, findings = whole_findings(Semantic(epsilon=0.1), vectors)
    curve = dict(zip(findings.content["curve"]["epsilon"], findings.content["curve"]["kept"], strict=True))
    assert len(curve) == len(EPSILONS) == 225
    for epsilon in (0.0625, 0.125, 0.25):
        table, again = whole_findings(Semantic(epsilon=epsilon), vectors)
        kept = table["x_duplicate"].to_pylist().count(False)
        assert again.content["kept"] == kept
        assert curve[epsilon] == pytest.approx(kept / 500)
    assert findings.content["clusters"] == 22
    assert findings.content["epsilon"] == 0.1
    assert findings.file == "findings/x.json"
    cosines = findings.content["mean_cosine"]
    assert all(b > a - 1e-4 for a, b in pairwise(cosines)), "it rises, but for rounding"
    assert any(line.startswith("500 documents in 22 clusters; at epsilon 0.1 ") for line in findings.lines)


@pytest.mark.parametrize("share", [0.4, 0.75, 0.9])
def test_keep_fraction_chooses_epsilon(share):
    vectors = clumped(2000)
    table, findings = whole_findings(Semantic(keep_fraction=share), vectors)
    kept = table["x_duplicate"].to_pylist().count(False) / 2000
    assert abs(kept - share) < 0.01, "all of so few clusters are measured"
    again, _ = whole_findings(Semantic(epsilon=findings.content["epsilon"]), vectors)
    assert again["x_duplicate"].equals(table["x_duplicate"])


def test_without_a_word_about_it_epsilon_is_the_default():
    _, findings = whole_findings(Semantic(), at_angles(0, 10, 80))
    assert findings.content["epsilon"] == EPSILON == 0.05


# ---- options ----


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epsilon": 0.1, "keep_fraction": 0.5}, "got both"),
        ({"mode": "greedy", "keep_fraction": 0.5}, "needs mode: reference"),
        ({"keep": "longest"}, "needs order: keep or mode: components"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Semantic(**options)


def test_documents_of_different_sources_are_kept_apart(semantic):
    vectors = at_angles(0, 1, 0, 1)
    columns = {"source": pa.array(["a", "a", "b", "b"])}
    found = semantic(vectors, clusters=1, per="source", columns=columns)
    assert sum(found["duplicate"][:2]) == sum(found["duplicate"][2:]) == 1
    assert sum(semantic(vectors, clusters=1, columns=columns)["duplicate"]) == 3


def test_another_column_of_vectors(semantic):
    other = {"meaning": half_vectors(at_angles(0, 0, 90))}
    assert sum(semantic(at_angles(0, 40, 80), clusters=1, of="meaning", columns=other)["duplicate"]) == 1


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5))
def test_vectors_travel_as_they_are(before, n, d):
    vectors = np.random.default_rng(n).integers(-32767, 32768, (before + n, d)).astype(np.int16)
    column = packed(vectors)
    assert np.array_equal(unpacked(pa.chunked_array([column])), vectors)
    assert np.array_equal(unpacked(pa.chunked_array([column.slice(before)])), vectors[before:])


# ---- prototypes ----


def test_prototypes_measure_the_distance_to_the_nearest_centroid(run, batches):
    vectors = clumped(800, clumps=4, spread=0.1)
    table = run(Prototypes(clusters=4), documents(batches, vectors, cuts=(100, 300)))
    distance, centroid = table["x"].to_numpy(), table["x_centroid"].to_numpy()
    unit = vectors.astype(np.float64)
    for each in np.unique(centroid):
        middle = unit[centroid == each].sum(axis=0)
        expected = 1 - unit[centroid == each] @ (middle / np.linalg.norm(middle))
        assert np.allclose(distance[centroid == each], expected, atol=2e-3), "half floats, and centroids that settled"


def test_prototypes_of_what_has_no_direction_are_missing(run, batches):
    vectors = np.array([[0, 0], [1, 0], [np.nan, 0]], np.float32)
    table = run(Prototypes(), documents(batches, vectors))
    assert np.isnan(table["x"].to_numpy()).tolist() == [True, False, True]
    assert table["x"][1].as_py() == 0
    assert table["x_centroid"].to_pylist() == [None, 0, None]


# ---- a run ----


def test_a_run_over_other_shards_decides_the_same(run_spec, write_corpus, documents, tmp_path):
    """From files to layers: D4's steps over one shard, and over four in the opposite order with an empty one."""
    stages = [
        {"embed": {"hashed_ngrams": {"dimensions": 32}}},
        {"deduplicate": {"semantic": {"keep_fraction": 0.7, "largest_cluster": 20}}},
        {"score": {"prototypes": {"where": "not semantic_duplicate", "clusters": 5}}},
        {
            "select": {
                "name": "d4",
                "where": "not semantic_duplicate",
                "by": {"top": {"score": "prototypes"}},
                "budget_documents": 60,
            }
        },
    ]
    ran = []
    for name, how in (("one", {}), ("four", {"shards": 4, "backwards": True, "with_empty": True})):
        pool = write_corpus(tmp_path / name, documents, **how)
        corpus = {"paths": str(pool), "max_bad_fraction": 0.1}
        ran.append(run_spec({"corpus": corpus, "seed": 2, "stages": stages}, tmp_path / f"run-{name}"))
    names = [*Semantic().columns("semantic"), *Prototypes().columns("prototypes"), "d4_repeats"]
    for column in names:
        assert str(sorted(ran[0].values(column).items())) == str(sorted(ran[1].values(column).items())), column
    assert sum(value for value in ran[0].values("d4_repeats").values() if value) == 60
    found = [json.loads((each.folder / "findings" / "semantic.json").read_text("utf-8")) for each in ran]
    assert found[0] == found[1]
    assert abs(found[0]["kept"] / found[0]["documents"] - 0.7) < 0.1
    assert any("70.0% were asked for" in line for line in ran[0].lines)
