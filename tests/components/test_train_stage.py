"""A `train` stage: what it is trained on, what it marks, what it keeps; the same bytes however the pool is cut."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis import seeds
from tamis.errors import RunFailedError, SpecError
from tamis.kernels.arrow import text_of
from tamis.kernels.exact import exact_keys
from tamis.models import flops, loop
from tamis.models.tokenizer import Tokenizer, train_tokenizer
from tamis.pipeline.rehearsal import rehearse
from tamis.pipeline.spec import load_spec
from tamis.pipeline.stages.train import TrainModel
from tamis.pipeline.training import RunWorkshop
from tamis.steps import Batch

pytestmark = pytest.mark.train

SEED = 5
SLICE = {"random": {"tokens": 2_000}}


def specification(corpus, *stages):
    return {
        "corpus": {"paths": str(corpus), "max_bad_fraction": 0.1},
        "seed": SEED,
        "tokenizer": {"vocabulary": 400},
        "stages": [
            {"train": {"name": f"m{number}", **stage}} if "on" in stage else stage
            for number, stage in enumerate(stages)
        ],
    }


def folder_of(ran, name, kind):
    """The folder of one of a stage's trainings: "rows" or "model"."""
    wanted = "rows.npy" if kind == "rows" else "model.safetensors"
    (found,) = [path.parent for path in ran.folder.glob(f"models/{name}-*/{wanted}")]
    return found


def result_of(ran, name, kind="model"):
    return json.loads((folder_of(ran, name, kind) / "result.json").read_text("utf-8"))


def model_bytes(ran, name):
    return (folder_of(ran, name, "model") / "model.safetensors").read_bytes()


def marked(ran, name):
    return {doc_id for doc_id, mark in ran.values(f"in_training_{name}").items() if mark}


def tokenizer_of(ran):
    (path,) = ran.folder.glob("models/tokens-*/tokenizer.json")
    return Tokenizer.load(path.parent)


def slow(ran, texts, repeats, rows):
    """(rows, ids of documents with a token among their inputs or targets): documents by the hash of their ids."""
    tokenizer = tokenizer_of(ran)
    ids = list(texts)
    hashes = seeds.hash64(SEED, "slice", text_of(pa.array(ids, pa.string())))
    stream, owner = [], []
    for place in np.argsort(hashes):
        for _ in range(repeats.get(ids[place], 0)):
            tokens = tokenizer.encode([texts[ids[place]]])[0].tolist()
            stream += [tokenizer.end, *tokens]
            owner += [None, *[ids[place]] * len(tokens)]
    stream, owner = [*stream, tokenizer.end], [*owner, None]
    width = rows.shape[1] - 1
    expected = [stream[row * width : (row + 1) * width + 1] for row in range(len(rows))]
    return np.array(expected), {doc_id for doc_id in owner[: len(rows) * width + 1] if doc_id}


@pytest.fixture(scope="module")
def texts(documents):
    """id → text of the documents that can be used."""
    pairs = zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True)
    return {doc_id: text for doc_id, text in pairs if text is not None}


@pytest.fixture(scope="module")
def ran(run_spec, corpus, target, tmp_path_factory):
    """Slices of two lengths, an arm, a part of an arm, an arm in several epochs, documents, a part of them."""
    few = {"select": {"name": "few", "by": "sample", "where": "length > 60", "budget_documents": 12}}
    return run_spec(
        specification(
            corpus,
            {"on": SLICE},
            {"on": {"random": {"tokens": 6_000}}, "size": "small"},
            {"score": "length"},
            few,
            {"on": {"arm": "few"}},
            {"on": {"arm": "few"}, "tokens": 1_000},
            {"on": {"arm": "few"}, "tokens": 9_000, "prune": {"ratio": 0.9}, "keep": 2},
            {"on": str(target), "from": "m0", "epochs": 0.5},
            {"on": str(target), "from": "m0", "tokens": 1_500, "recipe": "color"},
            {"on": SLICE, "where": "n_bytes > 400", "reweight": {"strategy": "quadratic", "burn_in": 0}},
        ),
        tmp_path_factory.mktemp("train"),
    )


@pytest.mark.parametrize(("name", "tokens"), [("m0", 2_000), ("m1", 6_000)])
def test_a_slice_is_the_first_documents_by_hash_and_exactly_they_are_marked(ran, texts, name, tokens):
    rows = np.load(folder_of(ran, name, "rows") / "rows.npy")
    expected, used = slow(ran, texts, dict.fromkeys(texts, 1), rows)
    assert (rows == expected).all()
    assert marked(ran, name) == used
    assert len(rows) == tokens // (rows.shape[1] - 1)
    assert result_of(ran, name)["tokens"] == tokens


def test_slices_nest_for_other_sizes(ran):
    assert marked(ran, "m0") < marked(ran, "m1")
    assert (result_of(ran, "m0")["batch_tokens"], result_of(ran, "m1")["batch_tokens"]) == (1024, 256)


@pytest.mark.parametrize(("name", "tokens"), [("m4", None), ("m5", 1_000), ("m6", 9_000)])
def test_an_arm_is_its_documents_as_often_as_it_uses_them(ran, texts, name, tokens):
    rows = np.load(folder_of(ran, name, "rows") / "rows.npy")
    repeats = {doc_id: count or 0 for doc_id, count in ran.values("few_repeats").items()}
    expected, used = slow(ran, texts, repeats, rows)
    assert (rows == expected).all()
    assert marked(ran, name) == used
    assert 0 < len(used) <= 12
    assert result_of(ran, name)["tokens"] == (tokens or rows[:, 1:].size)
    if tokens == 1_000:
        assert used < ran.kept("few")


def test_more_tokens_than_there_are_take_several_epochs(ran):
    result = result_of(ran, "m6")
    assert result["epochs"] > 2
    assert result["pruned_rows"] > 0
    assert [kept["folder"] for kept in result["checkpoints"]] == [
        f"checkpoints/{kept['step']}" for kept in result["checkpoints"]
    ]
    assert all((folder_of(ran, "m6", "model") / kept["folder"]).is_dir() for kept in result["checkpoints"])


def test_documents_beside_the_pool_mark_those_of_the_pool_with_their_words(
    run_spec, documents, corpus, texts, tmp_path
):
    """Twenty documents of the pool in other letters; half of them are not trained on, in the second stage."""
    chosen = [doc_id for doc_id in sorted(texts) if 40 < len(texts[doc_id]) < 3_000][:20]
    pq.write_table(
        pa.table({"id": ["x"] * 20, "text": [texts[i].upper() + "!" for i in chosen]}), tmp_path / "t.parquet"
    )
    on = {"on": str(tmp_path / "t.parquet")}
    ran = run_spec(specification(corpus, on, {**on, "tokens": 400}), tmp_path / "run")

    def key(text):
        high, low, has_words = exact_keys(Batch(pa.record_batch({"text": [text]})).words)
        return (int(high[0]), int(low[0])) if has_words[0] else None

    rows = np.load(folder_of(ran, "m0", "rows") / "rows.npy")
    tokenizer = tokenizer_of(ran)
    upper = [texts[i].upper() + "!" for i in chosen]
    order = np.argsort(seeds.hash64(SEED, "slice", text_of(pa.array(upper))))
    stream, starts = [], []
    for at in order:
        starts.append(len(stream) + 1)
        stream += [tokenizer.end, *tokenizer.encode([upper[at]])[0].tolist()]
    assert rows[0].tolist() == stream[: rows.shape[1]]
    few = np.load(folder_of(ran, "m1", "rows") / "rows.npy")
    assert (few == rows[: len(few)]).all()
    for name, count in (("m0", len(stream) // 128), ("m1", 400 // 128)):
        seen = {key(upper[at]) for at, start in zip(order, starts, strict=True) if start <= count * 128} - {None}
        assert marked(ran, name) == {doc_id for doc_id in texts if key(texts[doc_id]) in seen}
    assert 0 < len(marked(ran, "m1")) < len(marked(ran, "m0"))


def test_a_condition_holds_for_text_and_marks(ran, texts):
    marks = ran.values("in_training_m9")
    inside = {doc_id for doc_id in texts if len(texts[doc_id].encode()) > 400}
    assert {doc_id for doc_id, mark in marks.items() if mark is not None} == inside
    rows = np.load(folder_of(ran, "m9", "rows") / "rows.npy")
    expected, used = slow(ran, {doc_id: texts[doc_id] for doc_id in inside}, dict.fromkeys(inside, 1), rows)
    assert (rows == expected).all()
    assert marked(ran, "m9") == used
    assert 1 <= result_of(ran, "m9")["effective_rows"] <= 8.001


def test_what_comes_of_a_method_is_told(ran):
    result = result_of(ran, "m8")
    assert result["basis"].startswith("CoLoR-Filter; batches of 8 rows instead of 256")
    assert result["learning_rate"] == 1e-3
    assert result_of(ran, "m7")["tokens"] == int(0.5 * result_of(ran, "m7", "rows")["tokens"])


@pytest.mark.parametrize("backwards", [False, True])
def test_other_shards_give_the_same_bytes(ran, run_spec, documents, write_corpus, tmp_path, backwards):
    folder = write_corpus(tmp_path / "pool", documents, 5 if backwards else 1, backwards=backwards)
    other = run_spec(specification(folder, {"on": SLICE}), tmp_path)
    assert model_bytes(other, "m0") == model_bytes(ran, "m0")
    assert other.values("in_training_m0") == ran.values("in_training_m0")


@pytest.mark.dask
def test_other_workers_give_the_same_bytes(ran, run_spec, corpus, dask_workers, tmp_path):
    other = run_spec(specification(corpus, {"on": SLICE}), tmp_path, dask_workers)
    assert model_bytes(other, "m0") == model_bytes(ran, "m0")
    assert other.values("in_training_m0") == ran.values("in_training_m0")


def test_a_killed_run_goes_on_to_the_same_bytes(run_spec, corpus, tmp_path, monkeypatch):
    """A checkpoint after every step; killed after three fifths; what is done again is what came after."""
    stage = {"on": SLICE, "tokens": 12_000, "prune": {}, "reweight": {"burn_in": 1}, "keep": 3}
    straight = run_spec(specification(corpus, stage), tmp_path / "straight")

    def kill(_self, done, _line):
        if done > 0.6:
            raise KeyboardInterrupt

    trained = []
    real = loop.Loop._train_on
    monkeypatch.setattr(loop.Loop, "_train_on", lambda self, step: trained.append(step.at) or real(self, step))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_UNSAVED_SECONDS", 0.0)
        patch.setattr(RunWorkshop, "report", kill)
        with pytest.raises(KeyboardInterrupt):
            run_spec(specification(corpus, stage), tmp_path / "killed")
    assert list((tmp_path / "killed/run").glob("models/m0-*/checkpoint.safetensors"))
    killed_at = len(trained)
    resumed = run_spec(specification(corpus, stage), tmp_path / "killed")
    assert trained[killed_at] == trained[killed_at - 1]  # the step that was not saved, no other
    assert model_bytes(resumed, "m0") == model_bytes(straight, "m0")
    assert resumed.values("in_training_m0") == straight.values("in_training_m0")
    kept = [result_of(each, "m0")["checkpoints"] for each in (resumed, straight)]
    assert kept[0] == kept[1]


def test_processes_and_compiling_are_no_part_of_what_a_result_is_known_by(run_spec, corpus, tmp_path):
    ran = run_spec(specification(corpus, {"on": SLICE}), tmp_path)
    before = len(ran.receipts())
    run_spec(specification(corpus, {"on": SLICE, "processes": 2, "compile": False}), tmp_path)
    assert len(ran.receipts()) == before
    run_spec(specification(corpus, {"on": SLICE, "learning_rate": 0.003}), tmp_path)
    assert len(ran.receipts()) > before


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"on": {"arm": "nobody"}}, r"train m0: on.arm: no select stage before this one is called 'nobody'; there are"),
        ({"on": {"slice": 3}}, "on: "),
        ({"on": {"random": {"tokens": 3_000, "token": 3}}}, "on.random.token: "),
        ({"on": SLICE, "size": "tiney"}, "did you mean 'tiny'"),
        ({"on": SLICE, "prune": {}}, "prune: expected epochs: 2 or more"),
        ({"on": SLICE, "prune": {"ratio": 1.5}}, "prune.ratio: "),
        ({"on": SLICE, "epochs": 2, "prune": {"ratios": 0.5}}, "prune.ratios: "),
        ({"on": SLICE, "reweight": {"strategy": "best"}}, "reweight.strategy: "),
        ({"on": SLICE, "batch_tokens": 100}, "batch_tokens: expected a row of 128"),
        ({"on": SLICE, "tokens": 500, "warmup_tokens": 600}, "warmup_tokens: expected less than the 500"),
        ({"on": SLICE, "recipe": "colour"}, "recipe: "),
        ({"on": SLICE, "keep": -1}, "keep: "),
        ({"on": SLICE, "from": "m0"}, "m0"),
    ],
)
def test_mistakes_are_refused_at_their_line(corpus, tmp_path, stage, message):
    (tmp_path / "stages.yaml").write_text(json.dumps(specification(corpus, stage), indent=1))
    with pytest.raises(SpecError, match=message) as error:
        load_spec(tmp_path / "stages.yaml")
    assert str(error.value).split(":")[1].isdigit()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"on": SLICE, "where": "n_bytes > 10000000"},
            "m0: expected a row of 128 tokens or more to train on, got 0; give it more text, or a wider `where:`",
        ),
        (
            {"on": SLICE, "tokens": 100},
            "m0: expected a row of 128 tokens or more to train on, got 100; raise its tokens",
        ),
        ({"on": SLICE, "prune": {}, "tokens": 3_000}, "prune: expected 2 epochs or more"),
    ],
)
def test_what_only_a_run_can_know_stops_it_with_a_reason(run_spec, corpus, tmp_path, stage, message):
    with pytest.raises(RunFailedError, match=message):
        run_spec(specification(corpus, stage), tmp_path)


def told_of_slices(ran):
    return [line for line in ran.lines if "expected a slice" in line]


def test_a_slice_that_is_short_is_told_with_the_epochs_that_makes(run_spec, write_corpus, tmp_path):
    table = pa.table({"id": [f"d{i}" for i in range(40)], "text": [f"word {i} and others" * 9 for i in range(40)]})
    slices = [{"on": {"random": {"tokens": 9_000}}, **more} for more in ({"tokens": 300}, {}, {"epochs": 1.5})]
    ran = run_spec(specification(write_corpus(tmp_path / "pool", table), *slices), tmp_path)
    held = int((np.diff(tokenizer_of(ran).encode(table["text"].to_pylist())[1]) + 1).sum())
    assert 300 < held < 9_000
    start = f"expected a slice of 9,000 tokens, all documents together have {held:,}; trains on"
    assert told_of_slices(ran) == [
        f"m1: {start} {held:,}, 1 epoch of these",
        f"m2: {start} {int(1.5 * held):,}, 1.5 epochs of these",
    ]
    found = json.loads((ran.folder / "findings" / "m2.json").read_text("utf-8"))
    assert found == {"wanted_tokens": 9_000, "tokens": held, "documents": 40, "epochs": int(1.5 * held) / held}
    assert json.loads((ran.folder / "findings" / "m0.json").read_text("utf-8"))["tokens"] == 300


def test_a_slice_that_has_its_tokens_is_not_told(ran):
    assert told_of_slices(ran) == []


def seconds_in(told, name):
    (line,) = [line for line in told.splitlines() if f"{name}: model" in line]
    return int(line.split("about ")[1].split(" ")[0].replace(",", ""))


def test_a_check_trains_nothing_and_tells_what_it_would_take(corpus, target, tmp_path, monkeypatch):
    def never(*_arguments):
        raise AssertionError

    monkeypatch.setattr(loop.Loop, "run", never)
    stages = ({"on": SLICE, "tokens": 50_000_000, "keep": 2}, {"on": str(target), "from": "m0"})
    (tmp_path / "stages.yaml").write_text(json.dumps(specification(corpus, *stages)))
    told = rehearse(load_spec(tmp_path / "stages.yaml"))
    assert 200 < seconds_in(told, "m0") < 200_000  # 50M tokens of `tiny`, at 2,500 to 250,000 tokens a second
    assert not list(Path(tmp_path).glob("run/**/model.safetensors"))


@pytest.mark.parametrize("kind", ["parquet", "json lines"])
def test_an_estimate_ends_with_the_pool_of_which_a_check_reads_a_part(write_corpus, tmp_path, monkeypatch, kind):
    """6,000 documents of ten tokens or more, of which it reads 1,000 (in six chunks of JSON lines, of one).

    As large a share of them is marked as will be of the pool: what passes over the others will take is told from it.
    """
    monkeypatch.setattr(flops, "seconds_to_train", lambda shape, vocabulary, recipe, device: recipe.tokens)
    marked, was_drawn = {}, TrainModel._was_drawn

    def noted(self, pool, last, batch):
        columns = was_drawn(self, pool, last, batch)
        marked[pool.name] = columns[f"in_training_{pool.name}"].mean()
        return columns

    monkeypatch.setattr(TrainModel, "_was_drawn", noted)
    texts = [f"{number} sieves and drums and rivers and garden gates" for number in range(6_000)]
    table = pa.table({"id": [f"d{i}" for i in range(6_000)], "text": texts})
    corpus = {"paths": str(tmp_path / "pool")}
    if kind == "parquet":
        write_corpus(tmp_path / "pool", table)
    else:
        (tmp_path / "pool").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
        (tmp_path / "pool" / "all.jsonl").write_text(lines, "utf-8")
        corpus["shard_bytes"] = -(-len(lines) // 6)
    arm = {"select": {"name": "half", "by": "sample", "budget_documents": 3_000}}
    slices = [{"on": {"random": {"tokens": tokens}}, "epochs": 2.0} for tokens in (10**9, 5_000)]
    written = specification("", *slices, arm, {"on": {"arm": "half"}})
    (tmp_path / "stages.yaml").write_text(json.dumps({**written, "corpus": corpus}))
    told = rehearse(load_spec(tmp_path / "stages.yaml"))
    train_tokenizer(texts[:1_000], 400, tmp_path / "tokenizer")
    held = int((np.diff(Tokenizer.load(tmp_path / "tokenizer").encode(texts)[1]) + 1).sum())
    assert seconds_in(told, "m0") == pytest.approx(2 * held, rel=0.1)
    assert seconds_in(told, "m1") == 10_000
    assert seconds_in(told, "m3") == pytest.approx(held / 2, rel=0.1)
    assert marked == {
        "m0": pytest.approx(1, rel=0.03),  # what does not fill a row is left out
        "m1": pytest.approx(5_000 / held, rel=0.1),
        "m3": pytest.approx(0.5, rel=0.1),
    }


def test_a_check_does_not_stop_at_a_sample_without_a_row(run_spec, write_corpus, tmp_path):
    """A thousand documents of a few letters hold less than a row of `400m`; the corpus may hold more."""
    table = pa.table({"id": [f"d{i}" for i in range(20)], "text": ["a word"] * 20})
    folder = write_corpus(tmp_path / "pool", table)
    (tmp_path / "stages.yaml").write_text(json.dumps(specification(folder, {"on": SLICE})))
    assert "m0: model: training" in rehearse(load_spec(tmp_path / "stages.yaml"))
    with pytest.raises(RunFailedError, match="expected a row of 128 tokens or more"):
        run_spec(specification(folder, {"on": SLICE}), tmp_path)
