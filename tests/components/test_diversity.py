"""The stage `diversity`: what it publishes, against float64 on the vectors of the run, and whoever computed it."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import SpecError
from tamis.kernels.arrow import vectors_of
from tamis.kernels.spectrum import influence_weights, spectrum, vendi, within

WIDTH = 16
NAMES = ["web", "<b>böoks</b>", "code, 'quoted'", None]


def made(documents):
    """The documents with sources whose names are awkward."""
    place = documents.schema.names.index("source")
    names = dict(zip(["web", "books", "code", None], NAMES, strict=True))
    return documents.set_column(place, "source", pa.array([names[name] for name in documents["source"].to_pylist()]))


def specification(corpus, **options):
    return {
        "corpus": {"paths": str(corpus), "max_bad_fraction": 0.05},
        "seed": 4,
        "stages": [
            {"embed": {"hashed_ngrams": {"dimensions": WIDTH}}},
            {"score": ["length", "vendi"]},
            {"select": {"name": "varied", "by": {"top": {"score": "vendi"}}, "budget_documents": 90}},
            {"select": {"name": "drawn", "where": "source = 'web'", "by": "sample", "budget_documents": 50}},
            {"diversity": options or None},
        ],
    }


@pytest.fixture(scope="module")
def table(documents):
    return made(documents)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, run_spec, table, write_corpus):
    """A run over three shards and an empty one."""
    folder = tmp_path_factory.mktemp("diversity")
    return run_spec(specification(write_corpus(folder / "pool", table, 3, with_empty=True)), folder)


def found(ran):
    return json.loads((ran.folder / "diversity.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def content(ran):
    return found(ran)


@pytest.fixture(scope="module")
def exact(ran, table):
    """Unit vectors in float64 of the documents that have one, their sources and the arms' repeats."""
    layers = ran.table(["vector", "varied_repeats", "drawn_repeats"])
    vectors = vectors_of(layers["vector"]).astype(np.float64)
    length = np.linalg.norm(vectors, axis=1)
    known = length > 0
    sources = dict(zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True))
    names = np.array([sources[name] for name in layers["doc_id"].to_pylist()], object)
    arms = {
        arm: layers[f"{arm}_repeats"].to_numpy()[known] if arm != "pool" else np.ones(known.sum(), int)
        for arm in ("varied", "drawn", "pool")
    }
    return vectors[known] / length[known, None], names[known], arms


def row(content, name, kind):
    (only,) = [row for row in content["rows"] if row["name"] == name and row["kind"] == kind]
    return only


def expected(x, centre, view):
    z = x - centre if view == "centred" else x
    return spectrum(z.T @ z / len(x), 2.0**-28)


@pytest.mark.parametrize("view", ["raw", "centred"])
@pytest.mark.parametrize(
    ("name", "kind"), [("pool", "pool"), ("varied", "arm"), ("drawn", "arm"), *((name, "source") for name in NAMES)]
)
def test_numbers_are_those_of_the_vectors(content, exact, name, kind, view):
    x, sources, arms = exact
    mine = x[sources == name] if kind == "source" else x[arms[name] > 0]
    shares = expected(mine, x.mean(axis=0), view)
    said = row(content, name, kind)
    assert said["documents"] == said["uses"] == len(mine)
    for order in (0.5, 1, 2, math.inf):
        assert said[view][f"{order:g}"] == pytest.approx(vendi(shares, order), rel=1e-4)


@pytest.mark.parametrize("name", ["pool", "varied"])
@pytest.mark.parametrize("view", ["raw", "centred"])
def test_within_times_between_is_all(content, exact, name, view):
    x, sources, arms = exact
    z = x - x.mean(axis=0) if view == "centred" else x
    parts = [z[(sources == source) & (arms[name] > 0)] for source in NAMES]
    said = row(content, name, "pool" if name == "pool" else "arm")
    inner = within([part.T @ part for part in parts], 2.0**-28)
    assert said["groups"][view]["within"] == pytest.approx(inner, rel=1e-4)
    assert said["groups"][view]["between"] == pytest.approx(said[view]["1"] / inner, rel=1e-4)
    assert said["groups"][view]["between"] >= 1


def test_samples_for_comparison_have_the_size_of_the_smallest(content):
    sizes = {(row["name"], row["kind"]): row["documents"] for row in content["rows"]}
    arms = [row for row in content["rows"] if row["kind"] in ("pool", "arm")]
    sources = [row for row in content["rows"] if row["kind"] == "source"]
    assert content["equal_documents"] == {
        "arms": sizes["drawn", "arm"],
        "sources": min(row["documents"] for row in sources),
    }
    for row, size in [(row, sizes["drawn", "arm"]) for row in arms] + [
        (row, content["equal_documents"]["sources"]) for row in sources
    ]:
        assert abs(row["equal"]["documents"] - size) <= 4 * math.sqrt(size), "a binomial number around it"
        if row["documents"] == size:
            assert row["equal"]["documents"] == size
            assert row["equal"]["raw"]["1"][0] == row["raw"]["1"]


@pytest.mark.parametrize("view", ["raw", "centred"])
def test_intervals_are_those_of_the_influence_of_single_documents(content, exact, view):
    """The smallest arm is its own sample: ±1.96 root mean squares of what documents add, over the root of n."""
    x, _, arms = exact
    z = (x - x.mean(axis=0) if view == "centred" else x)[arms["drawn"] > 0]
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    said = row(content, "drawn", "arm")["equal"][view]
    for order in (0.5, 1, 2, math.inf):
        added = (z @ vectors[:, ::-1]) ** 2 @ influence_weights(values[::-1], order)
        value, low, high = said[f"{order:g}"]
        half = 1.959964 * math.sqrt(np.sum(added**2)) / len(z)
        assert math.log(high / value) == pytest.approx(half, rel=2e-3)
        assert math.log(value / low) == pytest.approx(half, rel=2e-3)


def test_choosing_by_gain_makes_an_arm_more_varied(content, ran):
    varied, pool = row(content, "varied", "arm"), row(content, "pool", "pool")
    assert varied["equal"]["raw"]["1"][1] > pool["equal"]["raw"]["1"][2]
    assert any(line.startswith("diversity: varied: ") and line.endswith("more varied") for line in ran.lines)
    assert any(line.startswith("diversity: pool: ") for line in ran.lines)


def test_what_is_counted_and_what_is_not(content, exact, table):
    x, _, _ = exact
    assert content["documents"] == len(x) < table.num_rows - 2
    assert content["documents"] + content["missing"] == table.num_rows, "documents without text have no vector"
    assert content["dimensions"] == WIDTH
    assert content["enough_documents"] == 50 * WIDTH
    assert content["sources"] == {"known": 4, "all_known": True, "shown": 4, "least_documents": WIDTH}
    assert not [row for row in content["rows"] if row["kind"] == "rest"]


def test_a_spectrum_falls_and_is_part_of_one(content):
    for name, kind in (("pool", "pool"), ("varied", "arm")):
        for points in row(content, name, kind)["spectrum"].values():
            ranks, shares = zip(*points, strict=True)
            assert ranks[0] == 1
            assert list(shares) == sorted(shares, reverse=True)
            assert sum(shares) <= 1 + 1e-5


@pytest.mark.parametrize(("shards", "options"), [(1, {}), (4, {"backwards": True})])
def test_shards_and_their_order_change_no_byte(ran, run_spec, table, write_corpus, tmp_path, shards, options):
    other = run_spec(specification(write_corpus(tmp_path / "pool", table, shards, **options)), tmp_path)
    assert (other.folder / "diversity.json").read_bytes() == (ran.folder / "diversity.json").read_bytes()


def test_shuffled_documents_in_small_batches_change_no_byte(ran, run_spec, table, write_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("tamis.corpus.BATCH_ROWS", 17)
    order = np.random.default_rng(3).permutation(table.num_rows)
    other = run_spec(specification(write_corpus(tmp_path / "pool", table.take(pa.array(order)), 2)), tmp_path)
    assert (other.folder / "diversity.json").read_bytes() == (ran.folder / "diversity.json").read_bytes()


@pytest.mark.dask
def test_two_dask_workers_change_no_byte(ran, run_spec, table, write_corpus, tmp_path, dask_workers):
    other = run_spec(specification(write_corpus(tmp_path / "pool", table, 3)), tmp_path, dask_workers)
    assert (other.folder / "diversity.json").read_bytes() == (ran.folder / "diversity.json").read_bytes()


def test_repeats_weigh(table):
    """An arm that uses a third of the documents three times, a third once and the others not at all."""
    repeats = pa.array((np.arange(table.num_rows) % 3 * 3 % 5).astype(np.uint8))
    from tamis.pipeline.stages.diversity import Diversity
    from tamis.steps import Batch

    vectors = np.random.default_rng(0).standard_normal((table.num_rows, 5)).astype(np.float32)
    batch = pa.record_batch(
        {
            "doc_id": table["id"].combine_chunks(),
            "source": table["source"].combine_chunks(),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 5),
            "mine_repeats": repeats,
        }
    )
    content = published(Diversity(arms=("mine",)), [Batch(batch)])
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]
    z = np.repeat(unit, repeats.to_numpy(), axis=0)
    said = row(content, "mine", "arm")
    assert (said["documents"], said["uses"]) == (int((repeats.to_numpy() > 0).sum()), len(z))
    assert said["raw"]["1"] == pytest.approx(vendi(spectrum(z.T @ z)), rel=1e-4)


def published(component, batches):
    """What a program publishes about batches in memory."""
    from tamis.steps import Fold, Pool

    program, value = component.steps(Pool("diversity", 4)), None
    while True:
        try:
            step = program.send(value)
        except StopIteration as stop:
            return stop.value.content
        if isinstance(step, Fold):
            parts = [step.summarize(batch) for batch in batches]
            value = parts[0]
            for part in parts[1:]:
                value = dict(step.merge(value, part))
        else:
            value = step.train(None)


def batch_of(vectors, sources, ids=None, **more):
    from tamis.steps import Batch

    n, d = vectors.shape
    return Batch(
        pa.record_batch(
            {
                "doc_id": pa.array([str(i) for i in range(n)] if ids is None else ids, pa.string()),
                "source": pa.array(sources, pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), d),
                **more,
            }
        )
    )


def test_many_sources_are_told_apart_as_far_as_there_are_enough_documents():
    """Five sources of 400, 250, 240, 3 and 1 documents in 4 dimensions: three have 50 per dimension."""
    from tamis.pipeline.stages.diversity import Diversity

    sources = [name for name, count in zip("abcde", (400, 250, 240, 3, 1), strict=True) for _ in range(count)]
    vectors = np.random.default_rng(1).standard_normal((894, 4))
    batch = batch_of(vectors, sources)
    content = published(Diversity(), [batch])
    assert content["sources"] == {"known": 5, "all_known": True, "shown": 3, "least_documents": 200}
    assert [(r["kind"], r["name"], r["documents"]) for r in content["rows"]] == [
        ("pool", "pool", 894), ("source", "a", 400), ("source", "b", 250), ("source", "c", 240), ("rest", None, 4),
    ]  # fmt: skip
    assert content["rows"][-1]["equal"] is None
    two = published(Diversity(sources=2), [batch])
    assert [r["name"] for r in two["rows"] if r["kind"] == "source"] == ["a", "b"]
    none = published(Diversity(sources=0), [batch])
    assert [r["kind"] for r in none["rows"]] == ["pool"]
    assert none["rows"][0]["groups"] is None
    assert none["rows"][0]["raw"] == content["rows"][0]["raw"]


def test_more_sources_than_are_counted_are_a_sample_of_them(monkeypatch):
    """Whatever the batches: those with the smallest hashes, with all of their documents."""
    from tamis.pipeline.stages import groups
    from tamis.pipeline.stages.diversity import Diversity

    monkeypatch.setattr(groups, "MOST_SOURCES", 7)
    sources = [f"s{i % 40}" for i in range(800)]
    vectors = np.random.default_rng(1).standard_normal((800, 3))
    ids = [str(i) for i in range(800)]
    whole = published(Diversity(), [batch_of(vectors, sources)])
    parts = [batch_of(vectors[a:b], sources[a:b], ids[a:b]) for a, b in ((0, 3), (3, 200), (200, 201), (201, 800))]
    assert published(Diversity(), parts) == whole
    assert whole["sources"] == {"known": 7, "all_known": False, "shown": 7, "least_documents": 3}
    assert [r["documents"] for r in whole["rows"] if r["kind"] == "source"] == [20] * 7


@pytest.mark.parametrize("vectors", [np.zeros((0, 4)), np.zeros((3, 4)), np.eye(4)[:1]])
def test_few_documents_or_none(vectors):
    from tamis.pipeline.stages.diversity import Diversity
    from tamis.pipeline.stages.variety import told

    known = int(vectors.any(axis=1).sum())
    batch = batch_of(vectors, [None] * len(vectors), none_repeats=pa.array([0] * len(vectors), pa.uint8()))
    content = published(Diversity(arms=("none",), orders=(0, 1, "inf")), [batch])
    assert (content["documents"], content["missing"]) == (known, len(vectors) - known)
    assert row(content, "pool", "pool")["raw"] == {"0": known, "1": known, "inf": known}
    assert row(content, "none", "arm")["raw"] == {"0": 0, "1": 0, "inf": 0}
    assert row(content, "pool", "pool")["equal"]["raw"]["0"] == [known, None, None]
    assert len(told(content)) == 1
    json.dumps(content, allow_nan=False)


def test_a_corpus_without_sources(run_spec, documents, tmp_path):
    (tmp_path / "pool").mkdir()
    pq.write_table(documents.select(["id", "text"]), tmp_path / "pool" / "x.parquet")
    content = found(
        run_spec(
            specification(tmp_path / "pool", arms=["varied"])
            | {
                "stages": [
                    {"embed": {"hashed_ngrams": {"dimensions": WIDTH}}},
                    {"score": "vendi"},
                    {"select": {"name": "varied", "by": {"top": {"score": "vendi"}}, "budget_documents": 90}},
                    {"diversity": {"orders": [1, "inf", 0.25]}},
                ]
            },
            tmp_path,
        )
    )
    assert [r["kind"] for r in content["rows"]] == ["pool", "arm"]
    assert content["orders"] == ["1", "inf", "0.25"]
    assert content["sources"]["shown"] == 0


def test_vectors_that_are_too_wide_are_refused():
    from tamis.errors import ContractError
    from tamis.pipeline.stages.diversity import Diversity

    with pytest.raises(ContractError, match=r"at most 4,096 numbers .* got 4,097"):
        published(Diversity(), [batch_of(np.eye(4097)[:2], ["a", "b"])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": [1, -1]}, "orders"),
        ({"orders": [1, 1.0]}, "every order once"),
        ({"orders": []}, "orders"),
        ({"orders": ["many"]}, "orders"),
        ({"orders": [math.nan]}, "orders"),
        ({"arms": ["other"]}, "no select stage before this one is called 'other'; there are varied, drawn"),
        ({"off": "vector"}, "did you mean 'of'"),
        ({"of": "vectr"}, "did you mean 'vector'"),
        ({"where": "sum(length) > 1"}, "where"),
        ({"sources": 1000}, "sources"),
    ],
)
def test_mistakes_are_told_before_any_work(run_spec, corpus, tmp_path, options, message):
    with pytest.raises(SpecError, match=message):
        run_spec(specification(corpus, **options), tmp_path)


def test_infinity_may_be_written_in_two_ways():
    from tamis.families import build, options_of
    from tamis.pipeline.stages.diversity import Diversity

    for written in ("inf", math.inf):
        built = build(Diversity, {"orders": [1, written]})
        assert options_of(built)["orders"] == [1.0, "inf"]
        assert build(Diversity, options_of(built)) == built


def test_one_per_file(run_spec, corpus, tmp_path):
    stages = specification(corpus)
    stages["stages"].append({"diversity": {}})
    with pytest.raises(SpecError, match="expected one per file"):
        run_spec(stages, tmp_path)


def test_where_restricts_everything(run_spec, table, write_corpus, tmp_path, exact):
    content = found(run_spec(specification(write_corpus(tmp_path / "pool", table), where="source = 'web'"), tmp_path))
    _, sources, _ = exact
    assert content["documents"] == (sources == "web").sum()
    assert content["sources"]["shown"] == 0
