"""The `dynamics` scorer: what its columns are, what it needs of a model, and what it says of one that lacks it."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.errors import SpecError
from tamis.families import build, find
from tamis.inline import score

pytestmark = pytest.mark.train

TEXTS = ["", "grain", "the drum of the mill " * 40, "A sieve, a sieve, a sieve.", "7"]
ALL = ["el2n", "grand", "vog", "tracin"]


def column(table, name):
    return np.array(table[name].to_numpy(zero_copy_only=False), np.float64)


@pytest.fixture(scope="module")
def scored(language_models):
    return score(TEXTS, "dynamics", model=str(language_models["conditional"]), scores=ALL, most_tokens=24)


def test_columns_say_how_many_tokens_counted(scored):
    assert scored.schema.names == [f"dynamics_{score}" for score in (*ALL, "tokens", "truncated")]
    tokens = scored["dynamics_tokens"].to_pylist()
    assert tokens[0] == 0
    assert tokens[2] == 24
    assert scored["dynamics_truncated"].to_pylist() == [False, False, True, False, False]
    for name in ALL:
        values = column(scored, f"dynamics_{name}")
        assert np.isnan(values).tolist() == [True, False, False, False, False]
        assert (values[1:] > 0).all()


def test_values_are_those_of_the_mean_token_loss(scored, language_models):
    """Against the model's own functions: grand is a norm per token, tracin a square per token squared."""
    from tamis.models import dynamics
    from tamis.models.language import language_model

    folder = language_models["conditional"]
    model = language_model(str(folder))
    ids, offsets = model.tokenizer.encode(TEXTS)
    tokens = np.maximum(column(scored, "dynamics_tokens"), 1)
    grand = np.sqrt(dynamics.squared_norms(model, ids, offsets, 24)) / tokens
    assert column(scored, "dynamics_grand")[1:].tolist() == grand[1:].astype(np.float32).tolist()
    kept = [dynamics.Checkpoint(str(folder / "checkpoints" / step), 0.01) for step in ("1", "2")]
    tracin = sum(0.01 * dynamics.squared_norms(c.in_place_of(model), ids, offsets, 24) for c in kept) / tokens**2
    assert column(scored, "dynamics_tracin")[1:] == pytest.approx(tracin[1:], rel=1e-6)


def test_scores_come_one_by_one_too(scored, language_models):
    for name in ALL:
        alone = score(TEXTS, "dynamics", model=str(language_models["conditional"]), scores=[name], most_tokens=24)
        assert alone.schema.names == [f"dynamics_{name}", "dynamics_tokens", "dynamics_truncated"]
        np.testing.assert_array_equal(column(alone, f"dynamics_{name}"), column(scored, f"dynamics_{name}"))


def test_a_model_without_checkpoints_has_errors_and_gradients_but_no_course(language_models):
    folder = str(language_models["prior"])
    found = score(TEXTS, "dynamics", model=folder, most_tokens=24)
    assert found.schema.names[:2] == ["dynamics_el2n", "dynamics_grand"]
    for name, fewest in (("vog", 2), ("tracin", 1)):
        expected = f"{name} expected a model that kept {fewest} checkpoints or more, got 0 of .*`keep: 4`"
        with pytest.raises(SpecError, match=expected):
            score(TEXTS, "dynamics", model=folder, scores=[name])


def test_one_checkpoint_is_enough_for_tracin_alone(language_models, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(language_models["conditional"], folder)
    told = json.loads((folder / "result.json").read_text("utf-8"))["checkpoints"]
    (folder / "result.json").write_text(json.dumps({"checkpoints": told[:1]}))
    assert score(TEXTS, "dynamics", model=str(folder), scores=["tracin"], most_tokens=8).num_rows == len(TEXTS)
    with pytest.raises(SpecError, match="vog expected a model that kept 2 checkpoints or more, got 1 of"):
        score(TEXTS, "dynamics", model=str(folder), scores=["vog"])


def test_a_score_asked_for_twice_or_unknown_is_refused(language_models):
    options = {"model": str(language_models["prior"])}
    with pytest.raises(SpecError, match="expected each once, got el2n, el2n"):
        build(find("score", "dynamics"), {**options, "scores": ["el2n", "el2n"]})
    with pytest.raises(SpecError, match=r"^scores.*'forgetting'"):
        build(find("score", "dynamics"), {**options, "scores": ["forgetting"]})


# ---- in a run ----


def spec(corpus, keep):
    train = {"name": "proxy", "on": {"random": {"tokens": 3000}}, "size": "tiny", **keep}
    some = {"dynamics": {"model": "proxy", "scores": ALL, "most_tokens": 16, "where": "source = 'web'"}}
    return {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "stages": [{"train": train}, {"score": [some]}]}


def test_a_train_stage_hands_on_its_checkpoints(run_spec, corpus, tmp_path):
    ran = run_spec(spec(corpus, {"keep": 2}), tmp_path)
    values = [ran.values(f"dynamics_{name}") for name in ALL]
    known = [doc_id for doc_id, tokens in ran.values("dynamics_tokens").items() if tokens]
    assert len(known) > 40
    assert all(value[doc_id] > 0 for value in values for doc_id in known)


def test_missing_checkpoints_are_refused_at_their_line_before_anything_is_trained(corpus, language_models, tmp_path):
    from tamis.pipeline.rehearsal import rehearse
    from tamis.pipeline.spec import load_spec

    folder = str(language_models["prior"])
    cases = {
        "with": ({"keep": 2}, "proxy"),
        "without": ({}, "proxy"),
        "few": ({"keep": 1}, "proxy"),
        "on": ({}, folder),
    }
    for name, (keep, model) in cases.items():
        stages = spec(corpus, keep)
        stages["stages"][1]["score"][0]["dynamics"]["model"] = model
        (tmp_path / f"{name}.yaml").write_text(json.dumps(stages, indent=1), encoding="utf-8")
    assert "dynamics_vog" in rehearse(load_spec(tmp_path / "with.yaml"))
    for name, got in (("without", "0 of proxy"), ("few", "1 of proxy"), ("on", f"0 of {folder}")):
        text = (tmp_path / f"{name}.yaml").read_text("utf-8")
        line = 1 + text[: text.index('"scores"')].count("\n")
        expected = f"{name}.yaml:{line}: score dynamics: scores: vog expected a model that kept 2 checkpoints or more, "
        with pytest.raises(SpecError, match=f"{expected}got {got}; write `keep: 4`"):
            load_spec(tmp_path / f"{name}.yaml")
