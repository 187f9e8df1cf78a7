"""The `loss_reduction` scorer: identities, DSIR with unigram models, and models that were really trained."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tamis
from tamis.errors import ContractError, SpecError
from tamis.families import build
from tamis.inline import Inline, run_inline
from tamis.models import build as models
from tamis.models.tokenizer import END, train_tokenizer
from tamis.models.weights import forward_flops
from tamis.scorers import loss_reduction
from tamis.scorers.importance import Importance
from tamis.scorers.loss_reduction import LossReduction
from tamis.scorers.losses import Losses
from tamis.steps import Documents, Pool

pytestmark = pytest.mark.train

LONG = "the sieve of the island has " + "quiet water, copper drums and seven mirrors. " * 12
TEXTS = ["flour and grain", "", LONG, "7", "the captain's orbit\nof winter", LONG[:90], "é天 🙂"]
CHUNKS = {"mode": "chunk", "chunk_tokens": 9}


def scored(prior, conditional, texts=TEXTS, batch_rows=4096, **options):
    component = LossReduction(str(prior), str(conditional), **options)
    return run_inline(component, pa.table({"text": pa.array(texts, pa.string())}), "x", batch_rows=batch_rows)


def floats(column):
    return np.array(column.to_numpy(zero_copy_only=False), np.float64)


@pytest.mark.parametrize("options", [{}, CHUNKS])
def test_the_same_model_twice_gives_exactly_zero(language_models, options):
    table = scored(language_models["prior"], language_models["prior"], **options)
    known = [x for x in table["x"].to_pylist() if x is not None]
    assert len(known) >= 2
    assert known == [0.0] * len(known)
    if options:
        assert {x for row in table["x_chunks"].to_pylist() if row for x in row} == {0.0}


def losses(folder, **options):
    return run_inline(Losses(str(folder), **options), pa.table({"text": TEXTS}), "l")


def test_a_score_is_the_difference_per_token_and_per_byte(language_models):
    table = scored(**language_models)
    prior, conditional = (losses(folder) for folder in language_models.values())
    gain = floats(prior["l_nats"]) - floats(conditional["l_nats"])
    tokens, size = floats(prior["l_tokens"]), np.array([len(text.encode()) for text in TEXTS])
    np.testing.assert_array_equal(floats(table["x"]), gain / tokens)
    np.testing.assert_array_equal(floats(table["x_per_byte"])[tokens > 0], (gain / np.maximum(size, 1))[tokens > 0])
    np.testing.assert_array_equal(floats(table["x_prior"]), floats(prior["l_nats"]) / tokens)
    assert [column.to_pylist()[1] for column in table.columns] == [None] * 3, "an empty document has no score"
    assert np.abs(floats(table["x"])[2]) > 0.01


def test_a_chunked_score_is_the_mean_over_whole_chunks(language_models):
    table = scored(**language_models, **CHUNKS)
    prior, conditional = (losses(folder, chunk_tokens=9)["l_chunks"].to_pylist() for folder in language_models.values())
    for mean, chunks, one, other in zip(
        table["x"].to_pylist(), table["x_chunks"].to_pylist(), prior, conditional, strict=True
    ):
        if one is None:
            assert (mean, chunks) == (None, None)
            continue
        expected = (np.array(one) - np.array(other)) / 9
        assert chunks == pytest.approx(expected, abs=1e-6)
        assert mean == pytest.approx(expected.mean(), abs=1e-6)
    assert [x is None for x in table["x"].to_pylist()] == [one is None for one in prior]
    assert None in prior
    assert max(len(one) for one in prior if one) > 5


def test_a_second_time_in_other_batches_is_the_same_to_the_bit(language_models):
    for options in ({}, CHUNKS):
        together = scored(**language_models, **options).to_pylist()
        assert scored(**language_models, batch_rows=2, **options).to_pylist() == together


# ---- unigram models ----

VOCABULARY = ["sieve", "drum", "flour", "grain", "shard", "river", "matrix", "proof", "market", "engine"]


def drawn(documents, weights, seed):
    random = np.random.default_rng(seed)
    weights = np.array(weights) / np.sum(weights)
    return [" ".join(random.choice(VOCABULARY, random.integers(5, 60), p=weights)) for _ in range(documents)]


def unigram_model(folder, texts):
    """A Llama whose every logit is the log of its word's share in `texts`, and a tokenizer of whole words."""
    import tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizers.models.WordLevel({END: 0, **{word: i for i, word in enumerate(VOCABULARY, 1)}}, unk_token=END)
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, rms_norm_eps=1e-12, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float().eval()
    counts = np.array([sum(text.split().count(word) for text in texts) for word in VOCABULARY], np.float64)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.zero_()
            if name.endswith("embed_tokens.weight"):
                weight.fill_(1.0)  # blocks that add nothing, and a norm: the last layer sees ones, whatever the text
        model.lm_head.weight[:, 0] = torch.tensor([-60.0, *np.log(counts / counts.sum())])
    models.save(model, folder)
    return folder


def test_unigram_models_are_importance_with_one_word_and_all_its_parts(tmp_path):
    """Per token times tokens, the log-likelihood ratio of DSIR with n = 1: two scorers that share no code path."""
    pool, target = drawn(80, range(1, 11), 0), drawn(50, range(10, 0, -1), 1)
    models_ = [unigram_model(tmp_path / name, texts) for name, texts in (("prior", pool), ("conditional", target))]
    table = scored(*models_, texts=pool)
    tokens = np.array([len(text.split()) for text in pool])
    importance = Importance(Documents(texts=tuple(target)), ngrams=1, buckets=100_003, pseudo_count=0, norm="sum")
    expected = floats(run_inline(importance, pa.table({"text": pool}), "y")["y"])
    np.testing.assert_allclose(floats(table["x"]) * tokens, expected, atol=1e-4)
    assert np.ptp(expected) > 20


# ---- what is found out ----


def findings(score, prior, tokens, sources, conditional_tokens=None):
    """What is published about losses that are given, in batches of 7; the models are folders without weights."""
    pairs = zip(score, prior, tokens, strict=True)
    columns = {
        "p_losses_nats": pa.array(prior, pa.float64()),
        "p_losses_tokens": pa.array(tokens, pa.uint32()),
        "c_losses_nats": pa.array([None if s is None else p - s * t for s, p, t in pairs], pa.float64()),
        "c_losses_tokens": pa.array(conditional_tokens or tokens, pa.uint32()),
        "source": pa.array(sources, pa.string()),
        "n_bytes": pa.array([5] * len(tokens), pa.uint64()),
    }  # fmt: skip
    interpreter = Inline(pa.table(columns), {}, 7)
    interpreter._trained = {name: {"folder": "/nowhere", "tokens": told} for name, told in (("p", 100), ("c", 7))}
    interpreter.run(LossReduction("p", "c"), Pool("x", 0))
    return interpreter.findings


def test_the_findings_are_those_of_numpy():
    random = np.random.default_rng(2)
    score, tokens = random.normal(0.2, 0.5, 300), random.integers(1, 500, 300)
    sources = random.choice(["web", "books", None], 300).tolist()
    given = [None if i == 5 else float(s) for i, s in enumerate(score)]
    found = findings(given, (random.normal(5, 1, 300) * tokens).tolist(), tokens.tolist(), sources)
    known = np.delete(np.arange(300), 5)
    told = found.content
    assert found.file == "findings/x.json"
    assert told["documents"] == 299
    assert told["mean"] == pytest.approx(score[known].mean(), abs=1e-6)
    assert told["deviation"] == pytest.approx(score[known].std(), abs=1e-6)
    assert told["share_positive"] == (score[known] > 0).mean()
    expected = np.corrcoef(score[known], np.log(tokens[known]))[0, 1]
    assert told["correlation_with_log_tokens"] == pytest.approx(expected, abs=1e-5)
    by_name = {each["source"]: each for each in told["sources"]}
    assert set(by_name) == {"web", "books", None}
    for name, each in by_name.items():
        mine = [i for i in known if sources[i] == name]
        assert (each["documents"], each["tokens"]) == (len(mine), tokens[mine].sum())
        assert each["mean"] == pytest.approx(score[mine].mean(), abs=1e-6)
        assert each["share_positive"] == (score[mine] > 0).mean()
    sizes = [each["documents"] for each in told["sources"]]
    assert sizes == sorted(sizes, reverse=True)
    assert told["costs"]["prior"]["trained_tokens"] == 100
    assert told["costs"]["conditional"]["scored_tokens"] == tokens[known].sum()
    assert f"mean {score[known].mean():.4f}" in found.lines[0]
    most = max(by_name.values(), key=lambda each: each["mean"])
    assert f"most for {most['source'] or 'no source'}" in found.lines[1]


def test_sources_without_a_difference_are_told_to_be_alike():
    found = findings([0.0] * 4, [1.0] * 4, [2] * 4, ["web", "books", "web", None])
    assert found.lines[1:] == ("alike for all 3 sources",)
    found = findings([0.0, 0.1], [1.0] * 2, [2] * 2, ["web", None])
    assert found.lines[1:] == ("most for no source (+0.1000), least for web (+0.0000)",)


def test_no_documents_have_no_findings():
    found = findings([None] * 3, [1.0] * 3, [2] * 3, ["a"] * 3)
    assert (found.content["documents"], found.content["mean"], found.content["sources"]) == (0, None, [])
    assert found.lines == ("no document has losses to compare",)


def test_many_sources_are_the_same_ones_in_any_parts(monkeypatch):
    monkeypatch.setattr(loss_reduction, "MOST_SOURCES", 5)
    sources = [f"site{i % 12}" for i in range(100)]
    one = findings([0.1] * 100, [9.0] * 100, [3] * 100, sources).content["sources"]
    other = findings([0.1] * 100, [9.0] * 100, [3] * 100, sources[::-1]).content["sources"]
    assert len(one) == 5
    assert one == other
    assert all(each["documents"] in (8, 9) for each in one)


def test_tokens_are_the_priors_where_tokenizers_differ():
    """Both losses are of the whole text, so their difference is, too."""
    found = findings([0.5], [30.0], [10], ["a"], conditional_tokens=[4]).content
    assert found["mean"] == pytest.approx(0.5, abs=1e-6)
    assert found["tokens"] == {"prior": 10, "conditional": 4}


def test_a_forward_pass_costs_two_operations_per_weight(language_models, tmp_path):
    model = models.load(language_models["prior"])
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)  # tied: the embedding is the last layer
    assert forward_flops(language_models["prior"]) == 2 * matrices
    untied = unigram_model(tmp_path / "untied", drawn(3, range(1, 11), 0))
    matrices = sum(p.numel() for n, p in models.load(untied).named_parameters() if p.dim() > 1 and "embed" not in n)
    assert forward_flops(untied) == 2 * matrices


# ---- mistakes ----


def test_chunks_need_one_tokenizer_and_documents_do_not(language_models, tmp_path):
    other = shutil.copytree(language_models["conditional"], tmp_path / "other")
    train_tokenizer(["a bird in the hand is worth two in the bush"], 300, other)
    with pytest.raises(ContractError, match=r"one tokenizer for chunks of the same text.*mode: document"):
        scored(language_models["prior"], other, **CHUNKS)
    assert scored(language_models["prior"], other)["x"].null_count == 1


def test_two_models_of_one_name_are_refused(language_models, tmp_path):
    other = shutil.copytree(language_models["conditional"], tmp_path / "prior")
    with pytest.raises(SpecError, match="both are called 'prior'; rename a folder"):
        build(LossReduction, {"prior": str(language_models["prior"]), "conditional": str(other)})


def test_it_works_on_a_list_of_texts(language_models):
    folders = {name: str(folder) for name, folder in language_models.items()}
    table = tamis.score([*TEXTS, None], "loss_reduction", **folders)
    assert table["loss_reduction"].to_pylist()[:-1] == scored(**language_models)["x"].to_pylist()
    assert table["loss_reduction"].to_pylist()[-1] is None


# ---- trained models ----


@pytest.mark.slow
@pytest.mark.shared
def test_held_out_target_documents_gain_and_others_do_not(run_spec, shared, tmp_path):
    """Prior on the pool, conditional on from it with biomedical abstracts: others of these gain, recipes lose."""
    targets = shared / "targets"
    held_out = pq.read_table(targets / "biomed_abstracts-valid.parquet", columns=["id", "text"]).slice(0, 60)
    pool = pq.read_table(shared / "pool" / "pool-00.parquet", columns=["id", "text", "source"]).slice(0, 200)
    together = pa.concat_tables([pool, held_out.append_column("source", pa.array(["target"] * len(held_out)))])
    pq.write_table(together, tmp_path / "pool.parquet")
    train = pq.read_table(targets / "biomed_abstracts-train.parquet", columns=["id", "text"]).slice(0, 200)
    pq.write_table(train, tmp_path / "target.parquet")
    stages = [
        {"train": {"name": "prior", "on": {"random": {"tokens": 20_000}}, "where": "source <> 'target'"}},
        {"train": {"name": "conditional", "from": "prior", "on": str(tmp_path / "target.parquet"), "tokens": 20_000}},
        {"score": {"loss_reduction": {"prior": "prior", "conditional": "conditional"}}},
    ]
    ran = run_spec({"corpus": str(tmp_path / "pool.parquet"), "seed": 3, "stages": stages}, tmp_path)
    told = json.loads((ran.folder / "findings" / "loss_reduction.json").read_text("utf-8"))
    means = {each["source"]: each["mean"] for each in told["sources"]}
    assert means["target"] > 0.1
    assert means["recipes"] < 0
    assert max(means, key=means.get) in {"target", "medline-abstracts", "pubmed-abstracts"}
    assert told["costs"]["conditional"]["trained_tokens"] == 20_000
