"""Byte-level BPE: trained on your texts, saved as Hugging Face files, applied without special treatment of any text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.errors import missing_extra

if TYPE_CHECKING:
    import tokenizers

END = "<|endoftext|>"  # id 0 in tokenizers trained here: it opens every document, in training and in scoring
FILES = ("tokenizer.json", "tokenizer_config.json")

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32

_ENCODE_CHUNK = 512  # documents per call: bounds the encodings held at once, still feeds all threads
_LONGEST = 256  # bytes of a word that are learnt from together: learning takes the square of a word's length
_SMALLEST = 257  # every byte, and the end token


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> dict[str, int | float]:
    """Trains a tokenizer and saves it in `folder`; returns its real `vocab_size` and `bytes_per_token` on these texts.

    The same texts, in any order and with any number of threads, give the same file, byte for byte. A short text
    may not have `vocab_size` mergeable pairs: the vocabulary is then smaller. `texts` is read once and held. Longer
    words than 256 bytes are learnt from in pieces.
    Raises ValueError if `vocab_size` cannot hold all bytes and the end token, or if there is no text.
    """
    if vocab_size < _SMALLEST:
        raise ValueError(f"train_tokenizer: vocab_size must be at least {_SMALLEST}: bytes and {END}; got {vocab_size}")
    documents = list(texts)
    if not any(documents):
        raise ValueError("train_tokenizer: there is no text to learn from; give it at least one non-empty document")
    bpe = _learn(documents, vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "tokenizer.json", bpe.to_str(pretty=False))
    _write(folder / "tokenizer_config.json", json.dumps(_config(), indent=2, sort_keys=True) + "\n")
    ids, _ = Tokenizer(bpe).encode(documents)
    size = sum(len(text.encode()) for text in documents)
    return {"vocab_size": int(bpe.get_vocab_size()), "bytes_per_token": size / max(len(ids), 1)}


def tokenizer_digest(folder: Path) -> str:
    """BLAKE2b-128 of a folder's tokenizer.json: models with the same one see the same tokens."""
    return hashlib.blake2b((folder / "tokenizer.json").read_bytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer as arrays: texts in, flat token ids and offsets out."""

    bpe: tokenizers.Tokenizer

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a model folder. Raises FileNotFoundError if it has no tokenizer.json."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no tokenizer here; a model folder holds tokenizer.json")
        return cls(_library("Tokenizer.load").Tokenizer.from_file(str(path)))

    def __post_init__(self) -> None:
        self.bpe.encode_special_tokens = True  # a document that spells out "<|endoftext|>" does not end there
        self.bpe.no_truncation()
        self.bpe.no_padding()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: as many ids as there are, but in foreign tokenizers that skip some."""
        return 1 + max(self.bpe.get_vocab(with_added_tokens=True).values())

    @property
    def end(self) -> int:
        """The id that separates documents. Raises ValueError for a foreign tokenizer without one of the usual names."""
        for name in (END, "</s>", "<eos>", "<|end_of_text|>"):
            if (found := self.bpe.token_to_id(name)) is not None:
                return int(found)
        raise ValueError(f"tokenizer: has no end-of-document token (looked for {END}, </s>, <eos>, <|end_of_text|>)")

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Int64]:
        """(ids, offsets) of n texts: document i is ids[offsets[i]:offsets[i + 1]], without end tokens.

        ids : uint16 where the vocabulary allows it, else uint32, (tokens). offsets : int64, (n + 1), from 0.
        """
        width = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        offsets = np.zeros(len(texts) + 1, np.int64)
        parts = []
        for i, ids in enumerate(self._documents(texts)):
            parts.append(np.array(ids, dtype=width))
            offsets[i + 1] = offsets[i] + len(ids)
        return (np.concatenate(parts) if parts else np.zeros(0, width)), offsets

    def _documents(self, texts: Sequence[str]) -> Iterator[list[int]]:
        for start in range(0, len(texts), _ENCODE_CHUNK):
            chunk = list(texts[start : start + _ENCODE_CHUNK])
            for encoding in self.bpe.encode_batch_fast(chunk, add_special_tokens=False):
                yield encoding.ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text that these ids spell, the end token left out."""
        return str(self.bpe.decode(list(ids)))


def _learn(documents: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    library = _library("train_tokenizer")
    byte_level = library.pre_tokenizers.ByteLevel
    bpe: tokenizers.Tokenizer = library.Tokenizer(library.models.BPE())
    words = byte_level(add_prefix_space=False, use_regex=True)
    bpe.pre_tokenizer = library.pre_tokenizers.Sequence([words, library.pre_tokenizers.FixedLength(_LONGEST)])
    bpe.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(iter(documents), trainer)
    bpe.pre_tokenizer = words
    assert bpe.token_to_id(END) == 0
    return bpe


def _config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _library(needed_by: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise missing_extra("tokenizers", "train", needed_by) from error
    return tokenizers
