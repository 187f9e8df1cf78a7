"""The `distill` scorer: what is learnt from a sample, said about every document, and said about itself."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tamis.errors import RunFailedError, SpecError
from tamis.families import build
from tamis.inline import Inline, run_inline
from tamis.scorers.distill import FEWEST, Distill, baseline, order_of
from tamis.steps import Pool

N, D, SCORED = 1200, 12, 0.5
METHODS = ("ridge", "boosting")


def planted(seed=0, n=N, noise=0.5):
    """Documents with vectors (half floats), a number with gaps, and a score that half of them have."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((n, D)).astype(np.float16)
    truth = vectors.astype(np.float64) @ random.standard_normal(D) + noise * random.standard_normal(n)
    number = random.standard_normal(n)
    return pa.table(
        {
            "doc_id": [f"d{i:05}" for i in range(n)],
            "text": ["x" * (1 + i % 40) for i in range(n)],
            "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D),
            "k": pa.array(number, mask=random.random(n) < 0.2),
            "truth": truth,
            "score": pa.array(np.where(random.random(n) < 0.1, np.nan, truth), mask=random.random(n) > SCORED),
        }
    )


def distilled(table, by="ridge", batch_rows=4096, seed=1, name="x", **options):
    """(values, findings) of one program in memory."""
    if by == "boosting":
        pytest.importorskip("lightgbm")
    inline = Inline(table, {}, batch_rows)
    quick = {"trees": 60, "rate": 0.2} if by == "boosting" else {}
    options = {"of": "score", "features": ["v", "k"], "by": by, **quick, **options}
    found = inline.run(build(Distill, options), Pool(name, seed))
    return np.array(found[name].to_numpy()), inline.findings


def with_column(table, name, values):
    return table.set_column(table.schema.names.index(name), name, values)


@pytest.fixture(scope="module")
def table():
    return planted()


# ---- what it says of documents ----


@pytest.mark.parametrize("by", METHODS)
def test_documents_without_a_score_are_told_from_what_the_others_have(table, by):
    values, _ = distilled(table, by)
    unknown = ~np.isfinite(table["score"].to_numpy())
    assert 0.5 < unknown.mean() < 0.6
    assert np.corrcoef(values[unknown], table["truth"].to_numpy()[unknown])[0, 1] > (0.98 if by == "ridge" else 0.9)


@pytest.mark.parametrize("by", METHODS)
def test_scores_that_are_null_nan_or_infinite_take_no_part(table, by):
    values, findings = distilled(table, by)
    raw = table["score"].to_numpy()
    other = np.where(np.isfinite(raw), raw, np.resize([np.nan, np.inf, -np.inf], N))
    again, told = distilled(with_column(table, "score", pa.array(other)), by)
    assert again.tobytes() == values.tobytes()
    assert told.content == findings.content
    assert findings.content["scored"] == np.isfinite(raw).sum()


@pytest.mark.parametrize("by", METHODS)
def test_batches_and_order_move_no_bit(table, by):
    whole, findings = distilled(table, by)
    order = np.random.default_rng(3).permutation(N)
    for given, rows, place in ((table, 61, slice(None)), (table.take(pa.array(order)), 333, np.argsort(order))):
        values, told = distilled(given, by, rows)
        assert values[place].tobytes() == whole.tobytes()
        assert told == findings


@pytest.mark.parametrize("by", METHODS)
def test_documents_that_share_an_id_move_no_bit_either(table, by):
    """Their random numbers are equal; the order they are added in must come from elsewhere."""
    shared = with_column(table, "doc_id", pa.array([f"d{i % 300}" for i in range(N)]))
    shared = with_column(shared, "score", pa.array(np.round(table["truth"].to_numpy())))  # and so are many scores
    order = np.random.default_rng(4).permutation(N)
    whole, findings = distilled(shared, by)
    values, told = distilled(shared.take(pa.array(order)), by, 100)
    assert values[np.argsort(order)].tobytes() == whole.tobytes()
    assert told == findings


def test_a_document_without_any_feature_has_no_score_and_teaches_nothing(table):
    nothing = pa.array(np.arange(N) % 5 == 0)
    empty = with_column(table, "v", pa.chunked_array([pa.array([None] * N, table["v"].type)]))
    v = pa.array([None if gone else row for gone, row in zip(nothing.to_pylist(), table["v"].to_pylist(), strict=True)])
    k = pa.array([None if gone else x for gone, x in zip(nothing.to_pylist(), table["k"].to_pylist(), strict=True)])
    given = with_column(with_column(table, "v", v.cast(table["v"].type)), "k", k)
    values, findings = distilled(given)
    assert np.isnan(values).tolist() == nothing.to_pylist()
    without, told = distilled(given.filter(pc.invert(nothing)))
    assert values[~np.isnan(values)].tobytes() == without.tobytes()
    assert told.content["documents"] == findings.content["documents"]
    values, _ = distilled(with_column(empty, "k", pa.nulls(N, pa.float64())))
    assert np.isnan(values).all()


def test_what_is_missing_of_a_document_is_a_feature(table):
    """Documents without `k` score higher by 5, and nothing else tells."""
    gone = table["k"].is_null().to_numpy()
    score = 5.0 * gone + 0.1 * np.random.default_rng(5).standard_normal(N)
    values, findings = distilled(with_column(table, "score", pa.array(score)))
    assert values[gone].min() > values[~gone].max() + 4
    assert findings.content["r2"] > 0.9


@pytest.mark.parametrize("by", METHODS)
def test_a_step_in_one_number(table, by):
    score = np.sign(table["k"].fill_null(0).to_numpy() ** 2 - 0.5)
    _, findings = distilled(with_column(table, "score", pa.array(score)), by)
    assert (findings.content["r2"] > 0.9) == (by == "boosting")
    assert (findings.content["r2"] < 0.3) == (by == "ridge")


def test_a_score_may_be_an_expression(table):
    values, findings = distilled(table, of="2 * score + 3")
    assert values == pytest.approx(2 * distilled(table)[0] + 3, rel=1e-4, abs=1e-4)
    assert findings.content["of"] == "2 * score + 3"
    assert build(Distill, {"of": "a - b", "features": ["v"]}).reads == ("doc_id", "n_bytes", "a", "b", "v")


@pytest.mark.parametrize(
    "form", [pa.list_(pa.float64(), D), pa.list_(pa.float32()), pa.large_list(pa.float16())], ids=str
)
def test_vectors_in_lists_of_any_kind(table, form):
    expected, _ = distilled(table)
    assert distilled(with_column(table, "v", table["v"].cast(form)), batch_rows=100)[0].tobytes() == expected.tobytes()


# ---- the sample ----


def test_a_cap_draws_by_a_hash_of_the_id(table):
    """The same documents, and so the same bits, if all scores outside the sample are changed."""
    scored = np.isfinite(table["score"].to_numpy())
    values, findings = distilled(table, sample_documents=200)
    assert findings.content["documents"] == 200
    assert findings.content["scored"] == scored.sum()
    assert distilled(table)[0].tobytes() != values.tobytes()
    from tamis.kernels.arrow import text_of
    from tamis.seeds import hash64

    hashes = hash64(1, "distill", text_of(table["doc_id"]))
    last = np.sort(hashes[scored])[199]
    raw = np.where(scored & (hashes > last), 1e6, table["score"].to_numpy())
    assert distilled(with_column(table, "score", pa.array(raw)), sample_documents=200)[0].tobytes() == values.tobytes()


def test_another_seed_is_another_sample(table):
    values = [distilled(table, seed=seed, sample_documents=200)[0] for seed in (1, 2)]
    assert values[0].tobytes() != values[1].tobytes()
    assert np.corrcoef(*values)[0, 1] > 0.95


def test_the_held_out_share_is_held_out(table):
    for share in (0.1, 0.5):
        _, findings = distilled(table, held_out=share)
        assert findings.content["held_out"] == round(share * findings.content["documents"])


def test_what_is_held_out_is_not_learnt_from(table):
    """Pure noise, and features in plenty: learnt by heart the correlation would be high."""
    random = np.random.default_rng(6)
    wide = random.standard_normal((N, 400)).astype(np.float32)
    given = with_column(table, "v", pa.FixedSizeListArray.from_arrays(pa.array(wide.ravel()), 400))
    given = with_column(given, "score", pa.array(random.standard_normal(N)))
    values, findings = distilled(given, penalties=[1e-4])
    assert abs(findings.content["spearman"]["value"]) < 0.2
    assert np.corrcoef(values, given["score"].to_numpy())[0, 1] > 0.5  # the model that is kept did see it


# ---- what it says of itself ----


def test_findings_tell_how_good_it_is(table):
    _, findings = distilled(table, name="cheap")
    content = findings.content
    assert findings.file == "findings/cheap.json"
    assert findings.problem is None
    assert content["reliable"]
    assert content["spearman"]["low"] > 0.9
    assert content["spearman"]["low"] < content["spearman"]["value"] < content["spearman"]["high"]
    assert 0.6 < content["top_tenth_found"] <= 1
    assert content["baseline"]["column"] in ("k", "n_bytes")
    assert abs(content["baseline"]["spearman"]) < 0.3
    assert content["penalty"] < 1
    assert json.loads(json.dumps(content)) == content
    assert "rank correlation 0.9" in findings.lines[0]
    assert not any("WORTHLESS" in line for line in findings.lines)


@pytest.mark.parametrize("by", METHODS)
def test_noise_is_called_worthless(table, by):
    """One noise in forty has an interval above 0; this is another."""
    noise = pa.array(np.random.default_rng(8).standard_normal(N))
    _, findings = distilled(with_column(table, "score", noise), by)
    assert not findings.content["reliable"]
    assert findings.content["spearman"]["low"] <= 0
    assert any(line.startswith("WORTHLESS: the interval of the rank correlation includes 0") for line in findings.lines)


def test_a_score_without_spread_is_worthless_and_no_error(table):
    values, findings = distilled(with_column(table, "score", pa.array(np.full(N, 2.0))))
    assert values.tolist() == [2.0] * N
    assert findings.content["r2"] is None
    assert not findings.content["reliable"]
    assert findings.content["top_tenth_found"] == pytest.approx(0.1, abs=0.01), "chance"
    held = findings.content["held_out"]
    (line,) = findings.lines
    assert line == f"WORTHLESS: `score` is the same number for all {held:,} documents held out: no order to learn"


def test_the_baseline_is_the_best_number_alone(table):
    """Length decides the score: `n_bytes`, which is no feature, is told; its sign is learnt where the model learns."""
    score = -np.array([len(text) for text in table["text"].to_pylist()], np.float64)
    _, findings = distilled(with_column(table, "score", pa.array(score)))
    assert findings.content["baseline"] == {"column": "n_bytes", "spearman": pytest.approx(1)}
    assert "`n_bytes` alone has a rank correlation of 1.000: no more, as far as shown" in findings.lines[-1]


def test_a_baseline_that_does_not_hold_is_negative_and_missing_numbers_count_as_the_mean():
    y = np.array([1.0, 2, 3, 4, 3, 2, 1])
    held = np.array([False] * 4 + [True] * 3)
    columns = {"up": np.arange(7.0), "gaps": np.array([0, np.nan, 2, np.nan, 4, 5, 6]), "none": np.full(7, np.nan)}
    assert baseline(columns, y, held) == {"column": "up", "spearman": -1}
    assert baseline({"none": columns["none"]}, y, held) is None
    found = baseline({"gaps": columns["gaps"]}, y, held)
    assert found == {"column": "gaps", "spearman": -1}


def test_too_few_scores_are_a_problem_in_a_run_and_nulls_in_memory(table):
    few = [0.5 + i if i < FEWEST else None for i in range(N)]
    values, findings = distilled(with_column(table, "score", pa.array(few)))
    assert np.isnan(values).all()
    assert "expected 10 documents or more on either side of the split, got 2 of 10" in findings.problem
    assert findings.content["documents"] == 0
    assert not findings.content["reliable"]


def test_order_is_by_hash_then_score_then_features():
    hashes = np.array([5, 1, 5, 5, 1], np.uint64)
    y = np.array([2.0, 9, 2, 1, 0])
    x = np.array([[3, 1], [0, 0], [3, 0], [9, 9], [0, 0]], np.float32)
    found = order_of(hashes, y, x).tolist()
    assert found[:3] == [4, 1, 3]
    for order in ([2, 4, 0, 1, 3], [3, 1, 2, 0, 4]):
        again = order_of(hashes[order], y[order], x[order])
        assert [order[i] for i in again] == found


# ---- in a run ----


@pytest.fixture(scope="module")
def pool(tmp_path_factory, write_corpus):
    """Number of shards → a corpus whose documents carry vectors and scores of their own."""
    made = planted(8, 400).rename_columns(["id", "text", "v", "k", "truth", "score"])
    folder = tmp_path_factory.mktemp("pool")
    return {n: write_corpus(folder / f"of{n}", made, n, backwards=n > 1) for n in (1, 2, 5)}


def stages_for(by, **options):
    return [{"score": {"distill": {"of": "score", "features": ["v", "k"], "by": by, "as": "cheap", **options}}}]


@pytest.mark.parametrize("by", METHODS)
def test_shards_move_no_bit_and_models_are_equal_files(pool, run_spec, tmp_path, by):
    if by == "boosting":
        pytest.importorskip("lightgbm")
    ran = [run_spec({"corpus": str(pool[n]), "seed": 3, "stages": stages_for(by)}, tmp_path / str(n)) for n in (1, 5)]
    values = [np.array(list(run.values("cheap").values()), np.float32) for run in ran]
    assert values[0].tobytes() == values[1].tobytes()
    models = [{path.split("/")[-1]: digest for path, digest in run.files("models").items()} for run in ran]
    expected = {"ridge.npz"} if by == "ridge" else {"boosting.txt", "units.json"}
    assert set(models[0]) == {*expected, "result.json"}
    assert models[0] == models[1]
    told = [json.loads((run.folder / "findings" / "cheap.json").read_text()) for run in ran]
    assert told[0] == told[1]
    assert told[0]["by"] == by
    inline = run_inline(
        build(Distill, {"of": "score", "features": ["v", "k"], "by": by}),
        planted(8, 400).drop_columns(["truth"]), "cheap", seed=3,
    )  # fmt: skip
    assert inline["cheap"].to_numpy().tobytes() == values[0].tobytes()
    assert any("cheap: `score` learnt from" in line for line in ran[0].lines)


def test_where_restricts_what_is_learnt_from_and_what_is_scored(pool, run_spec, tmp_path):
    stage = {"score": {"by": stages_for("ridge")[0]["score"], "where": "k > 0"}}
    ran = run_spec({"corpus": str(pool[2]), "stages": [stage]}, tmp_path)
    values = ran.values("cheap")
    table = planted(8, 400)
    positive = {
        doc_id for doc_id, k in zip(table["doc_id"].to_pylist(), table["k"].to_pylist(), strict=True) if k and k > 0
    }
    assert {doc_id for doc_id, value in values.items() if value is not None} == positive
    told = json.loads((ran.folder / "findings" / "cheap.json").read_text())
    assert told["scored"] == sum(
        doc_id in positive and score is not None and np.isfinite(score)
        for doc_id, score in zip(table["doc_id"].to_pylist(), table["score"].to_pylist(), strict=True)
    )


def test_a_run_stops_where_too_little_was_scored(pool, run_spec, tmp_path):
    stages = stages_for("ridge", of="case when score > 3 then score end")
    with pytest.raises(RunFailedError, match=r"score cheap: expected 10 documents or more on either side of the split"):
        run_spec({"corpus": str(pool[1]), "stages": stages}, tmp_path)


def test_the_same_options_do_nothing_again_and_others_make_another_layer(pool, run_spec, tmp_path):
    spec = {"corpus": str(pool[2]), "stages": stages_for("ridge")}
    before = run_spec(spec, tmp_path).receipts()
    assert len(run_spec(spec, tmp_path).receipts()) == len(before)
    assert len(run_spec({**spec, "seed": 9}, tmp_path).receipts()) > len(before)


def test_check_plays_it_through_without_enough_documents(pool, tmp_path):
    from tamis.pipeline.rehearsal import rehearse
    from tamis.pipeline.spec import load_spec

    spec = {"corpus": str(pool[1]), "stages": stages_for("ridge", of="case when truth > 100 then score end")}
    (tmp_path / "stages.yaml").write_text(json.dumps(spec))
    assert "cheap" in rehearse(load_spec(tmp_path / "stages.yaml"))


# ---- options ----


def test_only_boosting_needs_its_package():
    assert build(Distill, {"of": "a", "features": ["b"]}).needs == ()
    assert build(Distill, {"of": "a", "features": ["b"], "by": "boosting"}).needs == ("lightgbm",)
    assert Distill.needs == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "sum(score)"}, "of: .*expected a row-wise, deterministic expression"),
        ({"features": []}, "features: distill expects: .*at least 1 item"),
        ({"features": ["v", "v"]}, "features: expected each column once, and none that `of` reads, got 'v'"),
        ({"features": ["score"]}, "none that `of` reads, got 'score'"),
        ({"by": "forest"}, "by: distill expects"),
        ({"held_out": 0}, "held_out: "),
        ({"held_out": 1}, "held_out: "),
        ({"penalties": [0.0]}, "penalties: "),
        ({"rate": 0}, "rate: "),
        ({"sample_documents": 10}, "sample_documents: "),
    ],
)
def test_mistakes_in_the_options_are_named(options, message):
    with pytest.raises(SpecError, match=message):
        build(Distill, {"of": "score", "features": ["v"], **options})


def test_a_column_of_text_is_refused_where_the_run_starts(write_corpus, run_spec, tmp_path):
    from tamis.errors import ContractError

    corpus = write_corpus(tmp_path / "pool", planted(1, 40).rename_columns(["id", *planted(1, 40).schema.names[1:]]))
    stages = stages_for("ridge", features=["v", "source"])
    with pytest.raises(
        ContractError, match="cheap: features: expected numbers or lists of numbers, got neither in 'source'"
    ):
        run_spec({"corpus": str(corpus), "stages": stages}, tmp_path)


@pytest.mark.parametrize("trust", [[], ["learnt"]])
def test_an_arm_by_what_was_learnt_from_noise_is_refused_until_it_is_trusted(
    run_spec, documents, write_corpus, tmp_path, trust
):
    pool = write_corpus(tmp_path / "pool", documents, 2)
    by = {"top": {"score": "learnt"}}
    stages = [
        {"embed": {"hashed_ngrams": {"dimensions": 16}}},
        {"score": "uniform"},
        {"score": {"distill": {"of": "uniform", "features": ["vector"], "as": "learnt"}}},
        {"select": {"name": "arm", "by": by, "budget_documents": 20, "trust": trust}},
    ]
    specification = {"corpus": {"paths": str(pool), "max_bad_fraction": 0.1}, "stages": stages}
    if trust:
        assert len(run_spec(specification, tmp_path).kept("arm")) == 20
    else:
        expected = r"select arm: uses learnt, expected one that orders .*trust: \[learnt\]"
        with pytest.raises(RunFailedError, match=expected):
            run_spec(specification, tmp_path)
