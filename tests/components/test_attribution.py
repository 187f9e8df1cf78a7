"""Stored gradients and the `attribution` scorer: cosines of gradients, in the space that the embedding made."""

import json

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.errors import ContractError, SpecError
from tamis.families import build, find
from tamis.inline import run_inline
from tamis.pipeline.rehearsal import rehearse
from tamis.pipeline.spec import load_spec
from tamis.scorers.attribution import exact_cosines
from tamis.steps import Ask, Pool

pytestmark = pytest.mark.train

TEXTS = [
    "",
    "grain and drum",
    "the drum of the mill " * 40,
    "A sieve, a sieve, a sieve.",
    "7 mirrors",
    "a quiet garden",
]
OPTIONS = {"dimensions": 512, "most_tokens": 48, "sample": 50}


@pytest.fixture(scope="module")
def stage(language_models):
    """Options → the embedding of gradients as a stage that stands before another."""
    model = str(language_models["conditional"])
    return lambda **options: Ask("embed", "gradients", "gradients", {"model": model, **OPTIONS, **options})


@pytest.fixture(scope="module")
def attributed(stage):
    """(target, texts=TEXTS, options of the embedding) → the scores."""

    def of(target, texts=TEXTS, **options):
        component = build(find("score", "attribution"), {"target": target}, texts=True)
        table = pa.table({"text": pa.array(texts, pa.string())})
        return run_inline(component, table, "x", after=[stage(**options)]).combine_chunks()

    return of


def column(table, name="x"):
    return np.array(table[name].to_numpy(zero_copy_only=False), np.float64)


@pytest.mark.parametrize("kind", ["two_sided", "one_sided"])
def test_a_target_is_most_like_itself(attributed, kind):
    """The cosine of a document's own gradient is 1 up to the rounding of half floats, all others are less."""
    for place in (1, 2, 3):
        texts = [*TEXTS[:2], "the drum of the mill", *TEXTS[3:]]  # short: of a target, all of a document counts
        found = column(attributed([texts[place]], texts, projection=kind))
        assert np.isnan(found).tolist() == [True, *[False] * 5]
        assert found[place] == pytest.approx(1, abs=1e-5)
        assert np.nanmax(np.delete(found, place)) < 0.99


def test_scores_are_cosines_with_the_targets_whole_gradient(attributed, stage, language_models, tmp_path):
    """Against matrices written out: gradients of autograd, signs, H^(−1/2) by numpy."""
    from tamis.models.gradients import linear_layers
    from tamis.models.language import language_model
    from tamis.models.projection import Projection

    read = language_model(str(language_models["conditional"]))
    target = [TEXTS[3], "7 gardens of copper"]
    layers = linear_layers(read.model)

    def gradient(texts):
        """name → (d_out, d_in), of the summed loss of the first 48 tokens of texts, in windows of 32."""
        import torch

        names = [f"{name}.weight" for name in layers]
        read.model.requires_grad_(True)
        read.model.zero_grad()
        for text in texts:
            ids = read.tokenizer.encode([text])[0].astype(np.int64)[:48]
            for start in range(0, len(ids), 32):
                before = [read.end if start == 0 else ids[start - 1], *ids[start : start + 31]]
                inputs = torch.tensor([before[: len(ids[start : start + 32])]])
                logits = read.model(input_ids=inputs).logits[0]
                wanted = torch.tensor(ids[start : start + 32])
                torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").backward()
        weights = dict(read.model.named_parameters())
        found = [weights[n].grad.double().numpy() if texts[0] else np.zeros(weights[n].shape) for n in names]
        read.model.requires_grad_(False)
        return found

    made = Projection.drawn(layers, 512, "two_sided", 5)
    maps = [tuple(side.double().numpy() for side in pair) for pair in made.maps.values()]

    def projected(texts):
        return [u.T @ g @ v for g, (u, v) in zip(gradient(texts), maps, strict=True)]

    z = [np.array([p.ravel() for p in each]) for each in zip(*(projected([text]) for text in TEXTS), strict=True)]
    query = [p.ravel() for p in projected(target)]
    turned, aimed = [], []
    for rows, q in zip(z, query, strict=True):
        values, vectors = np.linalg.eigh(rows.T @ rows / len(TEXTS))
        values = np.maximum(values, 0)
        root = (vectors / np.sqrt(values + 0.1 * values.mean())) @ vectors.T
        turned.append(rows @ root)
        aimed.append(q @ root)
    rows, q = np.hstack(turned), np.concatenate(aimed)
    with np.errstate(invalid="ignore"):
        slow = rows @ q / np.linalg.norm(rows, axis=1) / np.linalg.norm(q)
    component = build(find("score", "attribution"), {"target": target}, texts=True)
    table = pa.table({"text": pa.array(TEXTS, pa.string())})
    found = column(run_inline(component, table, "x", seed=5, after=[stage()]))
    np.testing.assert_allclose(found, slow, atol=1e-4)
    assert np.nanstd(slow) > 0.05


def test_several_targets_have_a_column_each(attributed):
    targets = {"one": {"texts": [TEXTS[1]]}, "two": {"texts": [TEXTS[3], TEXTS[5]]}}
    both = attributed(targets)
    assert both.schema.names == ["x_one", "x_two"]
    for name, target in targets.items():
        np.testing.assert_array_equal(column(both, f"x_{name}"), column(attributed(target)))


def test_the_order_and_the_ids_of_targets_do_not_matter(attributed):
    texts = ["copper", "a garden", "seven drums and a bridge"]
    np.testing.assert_array_equal(column(attributed(texts)), column(attributed(texts[::-1])))


def test_cosines_are_exact_whatever_order_they_are_added_up_in():
    random = np.random.default_rng(0)
    vectors = random.standard_normal((50, 300)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    vectors[3] = 0
    vectors[4] = np.nan
    found = exact_cosines(vectors, vectors[[0, 3, 7]])
    slow = vectors.astype(np.float64) @ vectors[[0, 7]].astype(np.float64).T
    np.testing.assert_allclose(np.delete(found[:, [0, 2]], [3, 4], axis=0), np.delete(slow, [3, 4], axis=0), atol=1e-6)
    assert np.isnan(found[[3, 4]]).all()
    assert np.isnan(found[:, 1]).all()
    order = random.permutation(300)
    assert exact_cosines(vectors[:, order], vectors[:, order][[0, 7]])[0].tolist() == found[0, [0, 2]].tolist()
    assert exact_cosines(vectors[:1], vectors[[0, 7]])[0].tolist() == found[0, [0, 2]].tolist()


def test_no_text_of_the_pool_is_read(language_models, stage):
    """The column may come without its text."""
    component = build(find("score", "attribution"), {"target": ["a garden"]}, texts=True)
    assert component.reads == ("gradients",)
    program = component.steps(Pool("x", 0))
    assert [fold.over for fold in next(program)] == [component.target]
    assert program.send([{"bytes": 8}]).name == "gradients"


def test_a_targets_without_text_is_refused(attributed):
    with pytest.raises(ContractError, match="expected a target with text in it, got none"):
        attributed([""])


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ({"a b": {"texts": ["x"]}}, "letters, digits and _.*'a b'"),
        ({}, "got none"),
        ({"texts": 3}, "expected text or a list of texts"),
    ],
)
def test_targets_that_make_no_columns_are_refused(target, complaint):
    with pytest.raises(SpecError, match=complaint):
        build(find("score", "attribution"), {"target": target}, texts=True)


# ---- in a run ----


@pytest.fixture(scope="module")
def stages(target):
    return [
        {"train": {"name": "proxy", "on": {"random": {"tokens": 4000}}, "size": "tiny", "where": "source = 'web'"}},
        {"embed": {"by": {"gradients": {"model": "proxy", **OPTIONS, "as": "slopes"}}}},
        {"score": [{"attribution": {"of": "slopes", "target": str(target)}}]},
    ]


def test_shards_and_workers_move_no_byte(run_spec, documents, write_corpus, stages, tmp_path):
    runs = []
    for shards in (1, 3):
        pool = write_corpus(tmp_path / f"pool-{shards}", documents.slice(0, 120), shards, backwards=shards == 3)
        spec = {"corpus": {"paths": str(pool), "max_bad_fraction": 0.1}, "seed": 3, "stages": stages}
        runs.append(run_spec(spec, tmp_path / f"run-{shards}"))
    one, three = (run.table(["slopes", "attribution"]) for run in runs)
    assert one.equals(three)
    assert one["attribution"].null_count < 20
    assert runs[0].catalog["columns"]["slopes"]["layer"]


def test_a_check_plays_it_without_measuring_anything(corpus, stages, tmp_path):
    spec = {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "stages": stages}
    (tmp_path / "stages.yaml").write_text(json.dumps(spec), encoding="utf-8")
    told = rehearse(load_spec(tmp_path / "stages.yaml"))
    assert "slopes" in told
    assert "attribution" in told


@pytest.mark.parametrize("of", ["slope", "length", "proxy"])
def test_another_stage_than_stored_gradients_is_refused_at_its_line(corpus, stages, target, tmp_path, of):
    scorers = ["length", {"attribution": {"of": of, "target": str(target)}}]
    expected = f"expected the name of an `embed: gradients` stage before this one, got '{of}'"
    for before, do in (
        (stages[:2], "there are slopes"),
        (stages[:1], f"add `- embed: .*gradients: .*as: {of}, model: "),
    ):
        text = json.dumps({"corpus": str(corpus), "stages": [*before, {"score": scorers}]}, indent=1)
        (tmp_path / "stages.yaml").write_text(text, encoding="utf-8")
        line = 1 + text[: text.index('"of"')].count("\n")
        with pytest.raises(SpecError, match=f"stages.yaml:{line}: score attribution: of: {expected}; {do}"):
            load_spec(tmp_path / "stages.yaml")


def test_dimensions_are_enough_for_the_layers_of_the_model(corpus, language_models, stages, tmp_path):
    from tamis.models.build import build as build_model
    from tamis.models.gradients import linear_layers
    from tamis.models.language import language_model
    from tamis.models.sizes import size

    folder = str(language_models["conditional"])
    own_layers = len(linear_layers(language_model(folder).model))
    later = {"train": {"name": "later", "from": "proxy", "on": {"random": {"tokens": 4000}}}}
    tiny = len(linear_layers(build_model(size("tiny"), 300, 0)))
    for model, layers in (("proxy", tiny), ("later", tiny), (folder, own_layers)):
        for dimensions in (layers - 1, layers):
            own = {"embed": {"by": {"gradients": {"model": model, "dimensions": dimensions}}}}
            text = json.dumps({"corpus": str(corpus), "stages": [stages[0], later, own]}, indent=1)
            (tmp_path / "stages.yaml").write_text(text, encoding="utf-8")
            if dimensions == layers:
                load_spec(tmp_path / "stages.yaml")
                continue
            line = 1 + text[: text.index('"dimensions"')].count("\n")
            expected = (
                f":{line}: embed vector: dimensions: expected {layers} or more, .* of {model}, got {layers - 1}; raise"
            )
            with pytest.raises(SpecError, match=expected):
                load_spec(tmp_path / "stages.yaml")


def test_in_memory_too_few_dimensions_are_refused_when_the_model_is_known(attributed):
    with pytest.raises(ContractError, match=r"gradients: dimensions: expected 7 or more, .* got 3; raise it"):
        attributed(["a garden"], dimensions=3)


def test_in_memory_another_stage_is_refused_when_its_training_is_known():
    program = build(find("score", "attribution"), {"target": ["a garden"]}, texts=True).steps(Pool("x", 0))
    next(program)
    program.send([{"bytes": 8}])
    with pytest.raises(SpecError, match="x: of: expected the name of an `embed: gradients` stage, got 'gradients'"):
        program.send({"folder": "model"})
