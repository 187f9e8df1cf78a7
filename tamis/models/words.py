"""A tokenizer that remembers: a word that was seen before costs a look-up."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32, Int64, Text
from tamis.kernels.pieces import add_numbered_rows, empty_numbers, next_words, number_words, room_for

if TYPE_CHECKING:
    import tokenizers

SLOTS = 1 << 21  # of the table of words: half of them can be used, then all is forgotten; up to 100 MB
WORDS_TOGETHER = 1 << 16
TOKENIZED_TOGETHER = 1 << 12  # new words per call: bounds the encodings held at once
MOST_IDS = 1 << 23  # token ids that are remembered


def splits_like_bert(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a text's tokens are those of its words (see kernels/pieces.py) one by one.

    So it is with BERT's normaliser, which changes single characters, its splitting at white space and punctuation, and
    WordPiece; unless there are added tokens that are looked for in the text (special ones are not, here).
    """
    said = json.loads(tokenizer.to_str())
    kinds = [(said[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    known = kinds[0] in ("BertNormalizer", None) and kinds[1:] == ["BertPreTokenizer", "WordPiece"]
    return known and tokenizer.encode_special_tokens and all(token["special"] for token in said["added_tokens"])


class RememberedWords:
    """The token ids of words, kept for the life of the process, up to a bound. Safe among threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, slots: int = SLOTS) -> None:
        self._tokenizer, self._slots = tokenizer, slots
        self._lock = threading.Lock()
        self._words = room_for(min(WORDS_TOGETHER, slots // 2))
        self._fresh = np.empty(len(self._words.owner), np.int64)
        self._forget()

    def _forget(self) -> None:
        self._numbers = empty_numbers(self._slots)
        self._ids = np.empty(1 << 16, np.int32)
        self._ends = np.zeros(self._slots // 2, np.int64)
        self._used = 0

    def add(self, text: Text, table: Float32, sums: npt.NDArray[np.float64]) -> None:
        """Adds to row i of `sums` the rows of `table` that document i's tokens pick, in reading order."""
        document = at = 0
        with self._lock:
            while document < len(text):
                count, document, at = next_words(text, document, at, self._words)
                if self._used + count > self._slots // 2 or self._held > MOST_IDS:
                    self._forget()
                new = number_words(self._words, count, self._numbers, self._used, self._fresh)
                self._learn(text, self._fresh[:new])
                add_numbered_rows(table, self._ids, self._ends, self._words, count, sums)

    @property
    def _held(self) -> int:
        """How many token ids there are."""
        return int(self._ends[self._used - 1]) if self._used else 0

    def _learn(self, text: Text, places: Int64) -> None:
        """Tokenizes new words and keeps their ids, in the order of their numbers."""
        for begin in range(0, len(places), TOKENIZED_TOGETHER):
            some = places[begin : begin + TOKENIZED_TOGETHER]
            spans = zip(self._words.start[some].tolist(), self._words.end[some].tolist(), strict=True)
            strings = [text.data[start:end].tobytes().decode() for start, end in spans]
            encoding = self._tokenizer.encode(strings, is_pretokenized=True, add_special_tokens=False)
            ids = np.array(encoding.ids, np.int32)
            lengths = np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(strings))
            held = self._held
            self._grow(held + len(ids))
            self._ids[held : held + len(ids)] = ids
            self._ends[self._used : self._used + len(some)] = held + np.cumsum(lengths)
            self._used += len(some)

    def _grow(self, ids: int) -> None:
        if ids > len(self._ids):
            larger = np.empty(max(ids, 2 * len(self._ids)), np.int32)
            larger[: len(self._ids)] = self._ids
            self._ids = larger
