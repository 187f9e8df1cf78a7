"""The `losses` scorer and what reads it alone, `perplexity` and `min_k`: against a slow loop and known models."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.errors import ContractError, SpecError
from tamis.families import build
from tamis.inline import Inline, run_inline
from tamis.models import build as models
from tamis.models import sizes
from tamis.models.language import language_model
from tamis.models.tokenizer import Tokenizer
from tamis.pipeline.rehearsal import rehearse
from tamis.pipeline.spec import load_spec
from tamis.scorers.losses import Losses
from tamis.scorers.min_k import MinK
from tamis.scorers.perplexity import Perplexity, Ranks, counted, merge_counts
from tamis.steps import Batch, Pool

pytestmark = pytest.mark.train

LONG = "the sieve of the island has " + "quiet water, copper drums and seven mirrors. " * 12
TEXTS = ["flour and grain", "", LONG, "7", "the captain's orbit\nof winter", LONG[:90], "é天 🙂"]


def scored(component, texts=TEXTS, batch_rows=4096, name="x", **columns):
    return run_inline(component, pa.table({"text": pa.array(texts), **columns}), name, batch_rows=batch_rows)


def slow(folder, texts, chunk_tokens=None):
    """Losses of each document's tokens, one window at a time: transformers' own logits, float64 log-softmax."""
    tokenizer, model = Tokenizer.load(folder), models.load(folder)
    window = chunk_tokens or model.config.max_position_embeddings
    found = []
    for text in texts:
        ids = tokenizer.encode([text])[0].astype(np.int64).tolist()
        losses = []
        for start in range(0, len(ids) - (len(ids) % chunk_tokens if chunk_tokens else 0), window):
            targets = ids[start : start + window]
            inputs = [tokenizer.end if chunk_tokens or start == 0 else ids[start - 1], *targets[:-1]]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([inputs])).logits[0].double()
            losses += (-torch.log_softmax(logits, 1)[range(len(targets)), targets]).tolist()
        found.append(np.array(losses))
    return found


def test_losses_match_a_slow_loop(language_models):
    folder = language_models["prior"]
    table = scored(Losses(str(folder)))
    expected = slow(folder, TEXTS)
    assert len(expected[2]) > 2 * 32, "one document is longer than two windows"
    for nats, tokens, lowest, losses in zip(*(column.to_pylist() for column in table.columns), expected, strict=True):
        if not len(losses):
            assert (nats, tokens, lowest) == (None, None, None), "never 0"
            continue
        assert nats == pytest.approx(losses.sum(), rel=1e-5)
        assert tokens == len(losses)
        ranked = np.sort(-losses)
        means = [ranked[: max(1, math.ceil(tenth * len(ranked) / 10 - 1e-9))].mean() for tenth in range(1, 11)]
        assert lowest == pytest.approx(means, rel=1e-5)


def test_chunks_match_a_slow_loop_and_a_document_without_one_has_no_losses(language_models):
    folder = language_models["prior"]
    table = scored(Losses(str(folder), chunk_tokens=9))
    counts = []
    for nats, tokens, chunks, losses in zip(
        *(column.to_pylist() for column in table.columns), slow(folder, TEXTS, 9), strict=True
    ):
        counts.append(len(losses) // 9)
        if not len(losses):
            assert (nats, tokens, chunks) == (None, None, None)
            continue
        assert nats == pytest.approx(losses.sum(), rel=1e-5)
        assert tokens == len(losses)
        assert chunks == pytest.approx(losses.reshape(-1, 9).sum(axis=1), rel=1e-5)
    assert max(counts) > 5
    assert min(counts) == 0


@pytest.mark.parametrize("chunk_tokens", [None, 9])
def test_the_batch_that_a_document_is_in_moves_no_bit(language_models, chunk_tokens):
    component = Losses(str(language_models["conditional"]), chunk_tokens)
    texts = [LONG[i : i + 7 * i + 1] for i in range(40)]
    together = scored(component, texts).to_pylist()
    assert scored(component, texts, batch_rows=1).to_pylist() == together
    assert scored(component, texts[::-1], batch_rows=7).to_pylist() == together[::-1]


def test_models_with_one_tokenizer_encode_a_batch_once(language_models):
    batch = Batch(pa.record_batch({"text": TEXTS}))
    one, other = (language_model(str(folder)) for folder in language_models.values())
    assert one.model is not other.model
    assert one.encode(batch) is other.encode(batch)


# ---- perplexity ----


@pytest.fixture(scope="module")
def uniform(tmp_path_factory, language_models):
    """A folder with a model that finds every token equally likely."""
    folder = shutil.copytree(language_models["prior"], tmp_path_factory.mktemp("uniform") / "uniform")
    model = models.load(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    models.save(model, folder)
    return folder


def test_a_uniform_model_has_the_log_of_its_vocabulary(uniform):
    table = scored(Perplexity(str(uniform)))
    vocabulary = models.load(uniform).config.vocab_size
    known = [x for x in table["x"].to_pylist() if x is not None]
    assert known == pytest.approx([math.log(vocabulary)] * 6, rel=1e-6)
    assert table["x_percentile"].to_pylist() == [0.5, None, *[0.5] * 5], "all are ties"
    assert table["x_band"].to_pylist() == [1, None, *[1] * 5]


def ranked(nats, tokens, **options):
    """What perplexity makes of given losses, in batches of 7."""
    component = Perplexity("m", **options)
    columns = {"m_losses_nats": pa.array(nats, pa.float64()), "m_losses_tokens": pa.array(tokens, pa.uint32())}
    sources = [None if i % 7 == 3 else "ab"[i % 2] for i in range(len(nats))]
    table = pa.table({**columns, "source": pa.array(sources, pa.string())})
    return Inline(table, {}, 7).run(component, Pool("x", 0)), sources


@pytest.mark.parametrize("per", [None, "source"])
def test_percentiles_are_shares_below_and_half_of_those_alike(per):
    random = np.random.default_rng(3)
    tokens = random.integers(1, 50, 200)
    surprise = np.round(random.normal(4, 1, 200), 1)  # with many ties
    nats = [None if i % 11 == 0 else float(s * t) for i, (s, t) in enumerate(zip(surprise, tokens, strict=True))]
    table, sources = ranked(nats, tokens.tolist(), per=per, bands=(0.25, 0.5, 0.9))
    for i, (name, share, band) in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
        if nats[i] is None:
            assert (name, share, band) == (None, None, None)
            continue
        among = [surprise[j] for j in range(200) if nats[j] is not None and (per is None or sources[j] == sources[i])]
        below, alike = sum(s < surprise[i] for s in among), sum(s == surprise[i] for s in among)
        assert name == pytest.approx(surprise[i])
        assert share == np.float32((below + alike / 2) / len(among))
        assert band == sum((below + alike / 2) / len(among) >= cut for cut in (0.25, 0.5, 0.9))


def test_bands_hold_exactly_their_shares():
    table, _ = ranked([float(i) for i in np.random.default_rng(0).permutation(100)], [10] * 100)
    assert np.bincount(table["x_band"].to_numpy()).tolist() == [30, 30, 40]


def test_counts_merge_in_any_order():
    random = np.random.default_rng(1)
    parts = [
        (random.integers(0, 3, n).astype(np.uint64), random.integers(-4, 4, n), np.ones(n, np.int64))
        for n in (50, 0, 7)
    ]
    whole = counted(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    a, b, c = (counted(*part) for part in parts)
    for merged in (merge_counts(merge_counts(a, b), c), merge_counts(c, merge_counts(b, a))):
        assert {key: value.tolist() for key, value in merged.items()} == {k: v.tolist() for k, v in whole.items()}
    pairs = list(zip(*(np.concatenate(columns).tolist() for columns in zip(*parts, strict=True)), strict=True))
    expected = sorted({(group, place): pairs.count((group, place, 1)) for group, place, _ in pairs}.items())
    assert [((g, p), n) for g, p, n in zip(*(whole[k].tolist() for k in whole), strict=True)] == expected


def test_a_frozen_fit_places_what_it_has_not_seen():
    group, place = np.array([7, 7, 7, 9], np.uint64), np.array([10, 10, 30, 5])
    ranks = Ranks.of(counted(group, place, np.ones(4, np.int64)))
    asked = {(7, 9): 0, (7, 10): 1 / 3, (7, 20): 2 / 3, (7, 30): 5 / 6, (7, 31): 1, (9, 5): 0.5, (9, 4): 0, (9, 6): 1}
    found = ranks.percentile(
        *(np.array(column, kind) for column, kind in zip(zip(*asked, strict=True), (np.uint64, np.int64), strict=True))
    )
    assert found.tolist() == pytest.approx(list(asked.values()))
    assert np.isnan(ranks.percentile(np.array([8], np.uint64), np.array([5]))).all()


@pytest.mark.parametrize("bands", [[0.6, 0.3], [0.3, 0.3], [0], [1.0], ["low"]])
def test_bands_that_are_no_rising_shares_are_refused(bands):
    with pytest.raises(SpecError, match="bands"):
        build(Perplexity, {"model": "m", "bands": bands})


# ---- min_k ----


def test_min_k_of_all_tokens_is_the_mean_log_probability(language_models):
    folder = language_models["prior"]
    found = scored(MinK(str(folder), percent=100))["x"].to_pylist()
    expected = scored(Perplexity(str(folder)))["x"].to_pylist()
    assert [None if x is None else -x for x in found] == [None if x is None else pytest.approx(x) for x in expected]


@pytest.mark.parametrize("percent", [10, 30, 70])
def test_min_k_is_the_mean_of_the_lowest(language_models, percent):
    folder = language_models["prior"]
    found = scored(MinK(str(folder), percent=percent))["x"].to_pylist()
    for value, losses in zip(found, slow(folder, TEXTS), strict=True):
        lowest = np.sort(-losses)[: max(1, math.ceil(percent * len(losses) / 100 - 1e-9))]
        assert value == (pytest.approx(lowest.mean(), rel=1e-5) if len(losses) else None)


def test_min_k_says_that_it_is_no_filter():
    assert any("do not select" in note for note in MinK("m").notes())


# ---- in a run ----


@pytest.fixture(scope="module")
def third(tmp_path_factory, language_models):
    """A further model with the tokenizer of the others."""
    folder = shutil.copytree(language_models["prior"], tmp_path_factory.mktemp("third") / "third")
    shape = sizes.Size("narrow", layers=1, width=16, heads=2, ffn=32, row_tokens=32)
    models.save(models.build(shape, Tokenizer.load(folder).vocab_size, 77), folder)
    return folder


def stages(models_, *conditionals):
    prior = str(models_["prior"])
    reductions = [
        {"loss_reduction": {"prior": prior, "conditional": str(models_[name]), "as": f"toward_{name}"}}
        for name in conditionals
    ]
    return [{"score": [*reductions, {"perplexity": {"model": prior}}, {"min_k": {"model": prior}}]}]


def specified(pool, *stages_):
    return {"corpus": {"paths": str(pool), "max_bad_fraction": 0.05}, "seed": 1, "stages": list(stages_)}


def maps(ran, name):
    """Receipts of a layer, by shard."""
    return [r for r in ran.receipts() if r["label"] == f"score {name}" and r["unit"].isdigit()]


def test_losses_are_computed_once_for_all_that_ask(run_spec, corpus, language_models, third, tmp_path):
    folders = {**language_models, "third": third}
    ran = run_spec(specified(corpus, *stages(folders, "conditional")), tmp_path)
    assert [len(maps(ran, f"{name}_losses")) for name in ("prior", "conditional")] == [4, 4], "four shards"
    together = [line for line in ran.lines if "prior_losses" in line and line.startswith("pass")]
    assert len(together) == 1
    assert "conditional_losses" in together[0], "one pass, so that a batch is encoded once"
    before = ran.files()
    again = run_spec(specified(corpus, *stages(folders, "conditional", "third")), tmp_path)
    assert [len(maps(again, f"{name}_losses")) for name in ("prior", "conditional", "third")] == [4, 4, 4]
    passes = [line for line in again.lines if line.startswith("pass") and "_losses" in line]
    assert len(passes) == 1, "only the new model's losses are computed"
    assert "third_losses" in passes[0]
    after = again.files()
    assert {path: after[path] for path in before} == before
    assert again.values("toward_third") != again.values("toward_conditional")


def test_shards_and_batches_move_no_bit_of_a_run(run_spec, documents, write_corpus, language_models, tmp_path):
    """In other shards, the same values; the fold over them, the same ranks."""
    found = []
    for shards in (1, 5):
        pool = write_corpus(tmp_path / f"pool{shards}", documents, shards, backwards=shards > 1)
        ran = run_spec(specified(pool, *stages(language_models, "conditional")), tmp_path / f"run{shards}")
        told = json.loads((ran.folder / "findings" / "toward_conditional.json").read_text("utf-8"))
        found.append((ran.table().to_pylist(), told))
    assert str(found[0]) == str(found[1])


def test_a_check_plays_it_through_and_tells_the_cost(corpus, language_models, tmp_path):
    trained = [
        {"train": {"name": "small", "on": {"random": {"tokens": 3000}}, "size": "tiny"}},
        {"train": {"name": "toward", "from": "small", "on": {"random": {"tokens": 1000}}}},
        {
            "score": [
                {"loss_reduction": {"prior": "small", "conditional": "toward"}},
                {"min_k": {"model": "small", "as": "rare"}},
            ]
        },
    ]
    specification = specified(corpus, *stages(language_models, "conditional"), *trained)
    (tmp_path / "stages.yaml").write_text(json.dumps(specification), encoding="utf-8")
    told = rehearse(load_spec(tmp_path / "stages.yaml"))
    assert "small_losses, toward_losses" in told
    assert "core-seconds" in next(line for line in told.splitlines() if "prior_losses, " in line and "text" in line)
    assert "do not select by them" in told
    assert "toward_losses_lowest" in told


# ---- mistakes ----


def mistake(tmp_path, stage, before=()):
    text = json.dumps({"corpus": "x", "stages": [*before, stage]}, indent=1)
    (tmp_path / "stages.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "stages.yaml")
    return str(caught.value), text.splitlines()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("losses", {"model": "nobody"}),
        ("perplexity", {"model": "nobody"}),
        ("min_k", {"model": "nobody"}),
        ("loss_reduction", {"prior": "first", "conditional": "nobody"}),
    ],
)
def test_a_model_that_no_stage_trains_is_refused_at_its_line(tmp_path, name, options):
    first = {"train": {"name": "first", "on": {"random": {"tokens": 10}}}}
    message, lines = mistake(tmp_path, {"score": {name: options}}, [first])
    line = next(number for number, text in enumerate(lines, 1) if name in text)
    assert f"stages.yaml:{line}: " in message
    assert "'nobody'" in message
    assert "first" in message


def test_a_folder_without_a_model_or_a_tokenizer_is_refused_at_its_line(tmp_path, language_models):
    message, lines = mistake(tmp_path, {"score": {"min_k": {"model": "./nothing"}}})
    assert f":{next(i for i, text in enumerate(lines, 1) if 'nothing' in text)}: model: " in message
    folder = shutil.copytree(language_models["prior"], tmp_path / "bare")
    (folder / "tokenizer.json").unlink()
    message, _ = mistake(tmp_path, {"score": {"losses": {"model": str(folder)}}})
    assert "no tokenizer.json in" in message


def test_a_tokenizer_with_more_tokens_than_its_model_is_refused(tmp_path, language_models):
    folder = shutil.copytree(language_models["prior"], tmp_path / "narrow")
    shape = sizes.Size("narrow", layers=1, width=16, heads=2, ffn=32, row_tokens=32)
    models.save(models.build(shape, 100, 0), folder)
    with pytest.raises(ContractError, match=r"512 tokens, got one for 100; put the tokenizer beside it"):
        scored(Losses(str(folder)))


PRIOR = {"train": {"name": "prior", "on": {"random": {"tokens": 10}}, "size": "small"}}
CONDITIONAL = {"train": {"name": "conditional", "on": "x", "from": "prior"}}


@pytest.mark.parametrize(
    ("name", "options", "place"),
    [
        ("losses", {"model": "prior", "chunk_tokens": 257}, "chunk_tokens"),
        ("losses", {"model": "conditional", "chunk_tokens": 257}, "chunk_tokens"),
        ("loss_reduction", {"prior": "prior", "conditional": "conditional", "mode": "chunk"}, "loss_reduction"),
    ],
)
def test_chunks_longer_than_the_context_are_refused_at_the_line_of_who_asks(tmp_path, name, options, place):
    message, lines = mistake(tmp_path, {"score": {name: options}}, [PRIOR, CONDITIONAL])
    line = next(number for number, text in enumerate(lines, 1) if place in text)
    assert f"stages.yaml:{line}: score {name}: chunk_tokens: expected at most 256, what " in message
    assert f"got {options.get('chunk_tokens', 512)}; say chunk_tokens: 256" in message


def test_chunks_as_long_as_the_context_are_not_refused(tmp_path):
    chunks = {"prior": "prior", "conditional": "conditional", "mode": "chunk", "chunk_tokens": 256}
    text = json.dumps({"corpus": "x", "stages": [PRIOR, CONDITIONAL, {"score": {"loss_reduction": chunks}}]})
    (tmp_path / "stages.yaml").write_text(text, encoding="utf-8")
    assert load_spec(tmp_path / "stages.yaml").programs[-1].name == "loss_reduction"


def test_chunks_longer_than_the_context_of_a_folder_are_refused(tmp_path, language_models):
    folder = str(language_models["prior"])
    message, _ = mistake(tmp_path, {"score": {"losses": {"model": folder, "chunk_tokens": 33}}})
    complaint = f"chunk_tokens: expected at most 32, what {folder} sees at a time, got 33; say chunk_tokens: 32"
    assert complaint in message
    with pytest.raises(ContractError, match=complaint):
        scored(Losses(folder, chunk_tokens=33))
