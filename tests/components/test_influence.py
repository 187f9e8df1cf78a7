"""The `influence` scorer: columns by target, the sample and the queries behind them, checkpoints, refusals."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis import seeds
from tamis.errors import ContractError, SpecError
from tamis.families import build, find, options_of
from tamis.inline import Inline, score
from tamis.kernels.arrow import text_of
from tamis.models.influence import build_compass
from tamis.models.language import language_model
from tamis.models.queries import encoded, expected_tokens, first
from tamis.models.reference import checkpoints_of
from tamis.pipeline.rehearsal import rehearse
from tamis.pipeline.spec import load_spec
from tamis.scorers.influence import _of_pool
from tamis.steps import Batch, Pool, Train

pytestmark = pytest.mark.train

TEXTS = ["", "grain", "the drum of the mill " * 40, "A sieve, a sieve, a sieve.", "7 mills and 12 drums", "wheat " * 9]
MILLS, SIEVES = ["a mill with a drum", "drum after drum"], ["sieve the flour", "the finest sieve"]


def column(table, name):
    return np.array(table[name].to_numpy(zero_copy_only=False), np.float64)


@pytest.fixture(scope="module")
def folder(language_models):
    return str(language_models["conditional"])


@pytest.fixture(scope="module")
def options(folder):
    return {"model": folder, "most_tokens": 24, "sample_tokens": 5000}


@pytest.fixture(scope="module")
def both(options):
    return score(TEXTS, "influence", target={"mills": MILLS, "sieves": SIEVES}, **options)


def by_hand(folder, target, checkpoint=None, how="ekfac", texts=TEXTS):
    """What the columns should hold: sample and queries in the order of hashes, scored by the functions of models/."""
    from dataclasses import replace

    from tamis.models.dynamics import snapshot

    model = language_model(folder)
    if checkpoint is not None:
        model = replace(model, model=snapshot(checkpoint))
    ordered = [
        [some[i] for i in np.argsort(hashes)]
        for some, hashes in (
            (texts, seeds.hash64(0, "curvature", text_of(pa.array([str(i) for i in range(len(texts))])))),
            (target, seeds.hash64(0, "target", text_of(pa.array(target)))),
        )
    ]
    sample, queries = (model.tokenizer.encode(some) for some in ordered)
    with model.device.alone():
        compass = build_compass(model, sample, {"": queries}, how)
        sums, tokens = compass.scores(model, *model.tokenizer.encode(texts), 24)
    return sums[:, 0], tokens


def test_each_target_has_its_columns(both, folder):
    assert both.schema.names == [
        "influence_mills",
        "influence_mills_sum",
        "influence_sieves",
        "influence_sieves_sum",
        "influence_truncated",
    ]
    assert both["influence_truncated"].to_pylist() == [False, False, True, False, False, True]
    for name, target in (("mills", MILLS), ("sieves", SIEVES)):
        sums, tokens = by_hand(folder, target)
        total, mean = column(both, f"influence_{name}_sum"), column(both, f"influence_{name}")
        assert np.isnan(total).tolist() == np.isnan(mean).tolist() == [True, *[False] * 5]
        np.testing.assert_allclose(total[1:], sums[1:], rtol=1e-5)
        assert mean[1:].tolist() == (total[1:] / tokens[1:]).astype(np.float32).tolist()


def test_one_target_has_the_scorers_name(both, options):
    alone = score(TEXTS, "influence", target=MILLS, **options)
    assert alone.schema.names == ["influence", "influence_sum", "influence_truncated"]
    np.testing.assert_allclose(column(alone, "influence_sum")[1:], column(both, "influence_mills_sum")[1:], rtol=1e-5)


@pytest.mark.parametrize("how", ["identity", "diagonal", "kfac"])
def test_the_curvature_is_an_option(options, folder, how):
    found = score(TEXTS, "influence", target=MILLS, curvature=how, **options)
    np.testing.assert_allclose(column(found, "influence_sum")[1:], by_hand(folder, MILLS, how=how)[0][1:], rtol=1e-6)


def test_a_document_equal_to_the_target_has_a_positive_score(options):
    for how in ("identity", "ekfac"):
        found = score(TEXTS, "influence", target=[TEXTS[3]], curvature=how, **options)
        assert column(found, "influence")[3] > 0


def test_checkpoints_count_by_their_learning_rates(options, folder, tmp_path):
    model = tmp_path / "m"
    shutil.copytree(folder, model)
    told = json.loads((model / "result.json").read_text("utf-8"))["checkpoints"]
    told[0]["learning_rate"], told[1]["learning_rate"] = 0.03, 0.01
    (model / "result.json").write_text(json.dumps({"checkpoints": told}), encoding="utf-8")
    found = score(TEXTS, "influence", target=MILLS, checkpoints=2, **{**options, "model": str(model)})
    first, last = (by_hand(str(model), MILLS, str(model / "checkpoints" / step))[0] for step in ("1", "2"))
    np.testing.assert_allclose(column(found, "influence_sum")[1:], (0.75 * first + 0.25 * last)[1:], rtol=1e-5)
    assert not np.allclose(first[1:], last[1:], rtol=1e-3)
    kept = checkpoints_of({"folder": str(model)})
    assert [mark["folder"] for mark in kept] == [str(model / "checkpoints" / step) for step in ("1", "2")]
    with pytest.raises(SpecError, match=r"expected a model that kept 3 or more, got 2 of .*write `keep: 3`"):
        score(TEXTS, "influence", target=MILLS, checkpoints=3, **{**options, "model": str(model)})


@pytest.mark.parametrize(("keep", "model", "got"), [({"keep": 2}, "m", 2), ({}, "m", 0), ({}, "folder", 2)])
def test_too_few_checkpoints_are_refused_when_the_file_is_read(folder, tmp_path, keep, model, got):
    model = folder if model == "folder" else model
    train = {"name": "m", "on": {"random": {"tokens": 3000}}, **keep}
    stages = tmp_path / "stages.yaml"
    for asked in (got, 3):
        scorer = {"model": model, "target": "x", "checkpoints": max(1, asked)}
        text = json.dumps({"corpus": "x", "stages": [{"train": train}, {"score": {"influence": scorer}}]}, indent=1)
        stages.write_text(text, encoding="utf-8")
        if asked == got:
            load_spec(stages)
    line = 1 + text[: text.index('"checkpoints"')].count("\n")
    expected = (
        f":{line}: score influence: checkpoints: expected a model that kept 3 or more, got {got} of {model}; write"
    )
    with pytest.raises(SpecError, match=expected):
        load_spec(stages)


def test_a_model_that_kept_none_has_none(language_models):
    assert checkpoints_of({"folder": str(language_models["prior"])}) == ()


# ---- samples and queries ----


def batch(texts):
    ids = [f"d{i}" for i in range(len(texts))]
    return Batch(pa.record_batch({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}))


def test_a_sample_is_the_first_by_hash_and_is_cut_where_it_is_full(folder):
    from functools import partial

    model, texts = language_model(folder), [f"mill {i} and sieve {i * i}" for i in range(50)]
    ids, offsets = first([batch(texts)], partial(_of_pool, 0, 1.0), model.tokenizer, 10_000)
    hashes = seeds.hash64(0, "curvature", batch(texts).doc_ids)
    assert len(offsets) == 51
    assert model.tokenizer.bpe.decode(ids[: offsets[1]].tolist()) == texts[int(np.argmin(hashes))]
    few, cut = first([batch(texts)], partial(_of_pool, 0, 1.0), model.tokenizer, 100)
    assert len(few) == cut[-1]
    assert 100 - len(cut) < len(few) <= 100, "an end token is counted for each document"
    assert few.tolist() == ids[: len(few)].tolist()
    assert cut[:-1].tolist() == offsets[: len(cut) - 1].tolist()
    part, _ = first([batch(texts)], partial(_of_pool, 0, 0.3), model.tokenizer, 10_000)
    assert part.tolist() == ids[: len(part)].tolist(), "a share is the lowest hashes"
    assert 0 < len(part) < len(ids)


def test_queries_are_the_same_in_any_order_and_batches(folder):

    model, texts = language_model(folder), [f"mill {i} and sieve {i * i}" for i in range(50)]
    whole, _ = encoded([batch(texts)], model.tokenizer, 0, 300)
    parts, _ = encoded([batch(texts[30:]), batch(texts[:30])], model.tokenizer, 0, 300)
    assert whole.tolist() == parts.tolist()


@pytest.mark.parametrize("how", ["identity", "diagonal", "kfac", "ekfac"])
def test_in_a_pool_without_text_nothing_is_scored_and_that_is_said(options, how):
    findings, table = found_out(["", ""], **options, curvature=how)
    assert table["influence"].to_pylist() == [None, None]
    expected = f"no document has text: nothing is scored, and no curvature ({how}) measured; see `where:`"
    assert list(findings.lines) == ([] if how == "identity" else [expected])


def found_out(texts, **options):
    """The findings, and the columns."""
    component = build(find("score", "influence"), {"target": MILLS, **options}, texts=True)
    with Inline(pa.table({"text": pa.array(texts, pa.string())}), {}, 4) as inline:
        table = inline.run(component, Pool("influence", 0))
        return inline.findings, table


def test_the_sample_is_full_however_long_documents_are(options, folder):
    texts = [f"{word} and " * 400 for word in ("mill", "sieve", "drum", "grain")]
    hashes = seeds.hash64(0, "curvature", text_of(pa.array([str(i) for i in range(4)])))
    assert not seeds.within(hashes, 8 * 100 / len("".join(texts))).any(), "so many bytes would hold no document"
    findings, table = found_out(texts, **{**options, "sample_tokens": 100})
    assert 98 <= findings.content["sample_tokens"] <= 100
    first = [texts[int(np.argmin(hashes))]]
    model = language_model(folder)
    ids = model.tokenizer.encode(first)[0][: findings.content["sample_tokens"]]
    queries = encoded([batch(MILLS)], model.tokenizer, 0, 1000)
    with model.device.alone():
        compass = build_compass(model, (ids, np.array([0, len(ids)])), {"": queries})
        sums, _ = compass.scores(model, *model.tokenizer.encode(texts), 24)
    np.testing.assert_allclose(column(table, "influence_sum"), sums[:, 0], rtol=1e-5)


def test_findings_say_what_the_curvature_was_measured_on(options, folder):
    findings, _ = found_out(TEXTS, **options)
    tokens = len(language_model(folder).tokenizer.encode(TEXTS)[0])
    assert tokens < options["sample_tokens"]
    assert findings.file == "findings/influence.json"
    assert findings.lines == (f"the curvature (ekfac) was measured on {tokens:,} tokens of the pool",)
    assert findings.content["sample_tokens"] == tokens
    assert findings.content["curvature"] == "ekfac"
    assert list(findings.content["query_tokens"]) == [""]
    plain, _ = found_out(TEXTS, curvature="identity", **options)
    assert (plain.content["sample_tokens"], plain.lines) == (0, ())


# ---- what check takes for it, and what is refused ----


def test_a_pretence_has_the_shape_of_what_it_stands_for(options, tmp_path):
    """`tamis check` plays the program with it: the map must run."""
    component = build(find("score", "influence"), {**options, "target": {"a": MILLS, "b": SIEVES}}, texts=True)
    program = component.steps(Pool("x", 0))
    assert [fold.over for fold in program.send(None)] == list(component.target.values())
    program.send([{"bytes": np.array(1000)}, {"bytes": np.array(40)}])
    step = program.send({"bytes": np.array(1000)})  # of the pool
    assert isinstance(step, Train)
    assert len(step.over) == 2

    class Workshop:
        folder = tmp_path
        share = 0.25

    told = step.pretend(Workshop())
    assert told["_seconds"] > 0
    assert told["sample_tokens"] == 1000, "the 4,000 bytes of the pool hold no more"
    with pytest.raises(StopIteration) as stop:
        program.send({**told, "folder": str(tmp_path)})
    written = stop.value.value.apply(batch(TEXTS))
    assert list(written) == list(component.columns("x"))
    assert np.isfinite(written["x_a_sum"][1:].to_numpy()).all()


def test_a_target_without_text_is_refused(options):
    for blank in ([""], ["", " \n\t"], []):
        with pytest.raises(ContractError, match="influence: expected a target with text in it, got none"):
            score(TEXTS, "influence", target=blank, **options)


@pytest.mark.parametrize("stage", ["influence", "attribution"])
def test_a_check_and_a_run_refuse_a_target_without_text_before_they_train(stage, corpus, target, run_spec, tmp_path):
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"text": " "}\n{"text": ""}\n', encoding="utf-8")
    targets = {"good": str(target), "bad": str(blank)}
    own = {"model": "m"} if stage == "influence" else {"of": "slopes"}
    stages = [
        {"train": {"name": "m", "on": {"random": {"tokens": 3000}}}},
        {"embed": {"by": {"gradients": {"model": "m", "dimensions": 64, "as": "slopes"}}}},
        {"score": {stage: {"target": targets, **own}}},
    ]
    spec = {"corpus": {"paths": str(corpus), "max_bad_fraction": 1}, "stages": stages}
    (tmp_path / "stages.yaml").write_text(json.dumps(spec), encoding="utf-8")
    expected = f"{stage}_bad: expected a target with text in it, got none; check its paths"
    with pytest.raises(ContractError, match=expected):
        rehearse(load_spec(tmp_path / "stages.yaml"))
    with pytest.raises(ContractError, match=expected):
        run_spec(spec, tmp_path)
    assert not list(tmp_path.glob("**/models/m-*"))


def test_estimates_go_no_further_than_there_is_text():
    assert expected_tokens({"": 4001}, 5000) == 1001
    assert expected_tokens({"_a": 40, "_b": 4_000_000}, 5000) == 5010


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ({}, "expected documents, or sets of documents by name, got none"),
        ({"a b": "x"}, "expected names of letters, digits and _, but paths, text, id, texts, got 'a b'"),
        ({"paths": "x", "txet": "body"}, "but paths, text, id, texts, got 'paths'"),
        ({"law": "x", "law_sum": "y"}, "expected names that make different columns, got law, law_sum"),
        ({"truncated": "x"}, "expected names that make different columns, got truncated"),
        (7, "target: influence expects"),
    ],
)
def test_targets_that_cannot_be_told_apart_are_refused(options, target, complaint):
    with pytest.raises(SpecError, match=complaint):
        build(find("score", "influence"), {**options, "target": target})


def test_named_targets_are_options_like_any_other(options):
    component = build(find("score", "influence"), {**options, "target": {"law": "x", "art": {"paths": ["y"]}}}, "/base")
    assert {name: documents.paths for name, documents in component.target.items()} == {
        "law": ("/base/x",),
        "art": ("/base/y",),
    }
    again = build(find("score", "influence"), options_of(component))
    assert again == component
    assert hash(again) == hash(component)
    assert component.notes() == ("measures the curvature (ekfac) on 5,000 tokens of the pool at most",)
    plain = build(find("score", "influence"), {**options, "target": "x", "curvature": "identity"})
    assert plain.notes() == ()
