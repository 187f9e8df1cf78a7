"""The word 5-grams that peers without a tokeniser of their own are given: those of tamis. Standard library only."""

from __future__ import annotations

import re
import unicodedata

WORD = re.compile(r"\w+")
NGRAM = 5


def words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


def shingles(text: str, ngram: int = NGRAM) -> list[str]:
    """Runs of `ngram` words, repeats included; a shorter text is one shingle, a text without words has none."""
    found = words(text)
    if len(found) < ngram:
        return [" ".join(found)] if found else []
    return list(map(" ".join, zip(*(found[i:] for i in range(ngram)), strict=False)))


def jaccard(a: str, b: str) -> float:
    """Share of the shingles of two texts that both have; 0 for two texts without words."""
    first, second = set(shingles(a)), set(shingles(b))
    return len(first & second) / max(1, len(first | second))
