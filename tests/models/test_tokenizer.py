"""A tokenizer is a function of its texts, loses no byte, and treats a document's own words as text."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tamis.models.tokenizer import END, FILES, Tokenizer, train_tokenizer

pytest.importorskip("tokenizers")
pytestmark = pytest.mark.train

TEXTS = [
    f"The {word} of {i} years, {word}s and naïve café-goers 日本語 {i * 7919}.\n"
    for i in range(200)
    for word in ("sieve", "drum", "flour", "corpus")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 500, folder)
    return folder


def test_the_same_texts_give_the_same_files(folder, tmp_path):
    train_tokenizer(reversed(TEXTS), 500, tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_threads_change_nothing(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from tamis.models.tokenizer import train_tokenizer;"
        "train_tokenizer(sys.stdin.read().split('\\0'), 500, Path(sys.argv[1]))"
    )
    for threads in ("1", "3"):
        subprocess.run(
            [sys.executable, "-P", "-c", code, str(tmp_path / threads)],
            input="\0".join(TEXTS),
            text=True,
            encoding="utf-8",
            check=True,
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONUTF8": "1"},
        )
        assert (tmp_path / threads / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_foreign_tokenizer_may_skip_ids():
    import tokenizers

    foreign = tokenizers.Tokenizer(tokenizers.models.WordLevel({END: 0, "mill": 1, "sea": 70_000}, unk_token=END))
    foreign.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(foreign)
    ids, _ = tokenizer.encode(["sea mill"])
    assert (tokenizer.vocab_size, ids.dtype, ids.tolist()) == (70_001, np.uint32, [70_000, 1])


def test_encoding_is_lossless_and_says_where_documents_are(folder):
    tokenizer = Tokenizer.load(folder)
    texts = ["", "a  b\t\n", "\x00 \ufeff 🙂 é e\u0301", TEXTS[0], "", "x" * 5_000]
    ids, offsets = tokenizer.encode(texts)
    assert ids.dtype == np.uint16
    assert offsets.dtype == np.int64
    assert [tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(offsets)] == texts


def test_nothing_encodes_to_nothing(folder):
    ids, offsets = Tokenizer.load(folder).encode([])
    assert (len(ids), offsets.tolist()) == (0, [0])


def test_a_document_that_names_the_end_token_does_not_end_there(folder):
    tokenizer = Tokenizer.load(folder)
    ids, _ = tokenizer.encode([f"before {END} after"])
    assert tokenizer.end == 0
    assert 0 not in ids


def test_the_result_counts_what_it_made(folder, tmp_path):
    result = train_tokenizer(TEXTS, 500, tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    ids, _ = tokenizer.encode(TEXTS)
    assert result["vocab_size"] == tokenizer.vocab_size == 500
    assert result["bytes_per_token"] == sum(len(text.encode()) for text in TEXTS) / len(ids)


def test_a_short_text_gives_a_smaller_vocabulary(tmp_path):
    assert train_tokenizer(["abc"], 4_096, tmp_path)["vocab_size"] == 259  # bytes, end, ab, abc


def test_long_words_are_learnt_from_in_pieces_and_short_ones_as_they_are(folder, tmp_path):
    """The twin: the library's own training, on the pieces as words. A learner of whole words would need minutes."""
    library = pytest.importorskip("tokenizers")

    def learnt(texts):
        byte_level = library.pre_tokenizers.ByteLevel
        bpe = library.Tokenizer(library.models.BPE())
        bpe.pre_tokenizer = byte_level(add_prefix_space=False)
        trainer = library.trainers.BpeTrainer(
            vocab_size=500, special_tokens=[END], initial_alphabet=byte_level.alphabet(), show_progress=False
        )
        bpe.train_from_iterator(texts, trainer)
        return json.loads(bpe.to_str())["model"]

    def stored(folder):
        return json.loads((folder / "tokenizer.json").read_text())["model"]

    assert stored(folder) == learnt(TEXTS)
    letters = np.random.default_rng(0).choice(list("abcdefgh"), 1_000_000)
    train_tokenizer(["".join(letters)], 500, tmp_path)
    assert stored(tmp_path) == learnt("".join(letters[start : start + 256]) for start in range(0, len(letters), 256))
    text = "y" * 3_000
    ids, _ = Tokenizer.load(tmp_path).encode([text])
    assert Tokenizer.load(tmp_path).decode(ids.tolist()) == text


def test_transformers_loads_the_folder(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids, _ = Tokenizer.load(folder).encode([TEXTS[5]])
    assert theirs(TEXTS[5])["input_ids"] == ids.tolist()
    assert (theirs.eos_token_id, len(theirs)) == (0, 500)


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 257"):
        train_tokenizer(TEXTS, 200, tmp_path)


def test_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer(["", ""], 500, tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer here"):
        Tokenizer.load(tmp_path)
