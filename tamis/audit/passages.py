"""Two texts word by word: what they have in common, and what only one of them has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

COMPARED = 6000  # words of each text between where they begin and cease to differ; difflib's work grows with the square
LEAST_RUN = 3  # words in common between two differences that are worth a line of their own
# One character each where words have no spaces: Thai to Khmer, kana, Han; else what stands between white space.
WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
PIECE = re.compile(f"[{WITHOUT_SPACES}]|[^\\s{WITHOUT_SPACES}]+")


@dataclass(frozen=True)
class Part:
    """A run of words: "=" in both, "-" only in the one, "+" only in the other; as written there."""

    sign: str
    words: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """parts: the two texts, in order. common: words in both, as written or but for case and punctuation.

    uncompared : words of each that lie beyond what is compared.
    """

    parts: Sequence[Part]
    common: int
    only_one: int
    only_other: int
    uncompared: tuple[int, int]

    @property
    def share(self) -> float:
        """Words in common, of those of the longer text."""
        return self.common / max(1, self.common + max(self.only_one, self.only_other))

    @property
    def longest(self) -> list[Part]:
        """What they have in common, the longest passages first."""
        return sorted((part for part in self.parts if part.sign == "="), key=lambda part: -len(part.words))


def compared(one: str, other: str) -> Comparison:
    """The two texts aligned by their words; case and punctuation do not keep words apart, but are shown."""
    a, b = PIECE.findall(one), PIECE.findall(other)
    keys_a, keys_b = [_key(word) for word in a], [_key(word) for word in b]
    head, tail = _ends(keys_a, keys_b)
    stop_a, stop_b = min(len(a) - tail, head + COMPARED), min(len(b) - tail, head + COMPARED)
    matcher = difflib.SequenceMatcher(None, keys_a[head:stop_a], keys_b[head:stop_b])
    opcodes = matcher.get_opcodes()
    steps = [
        (0, head, 0, head, True),
        *((head + i1, head + i2, head + j1, head + j2, tag == "equal") for tag, i1, i2, j1, j2 in opcodes),
        (stop_a, len(a) - tail, stop_b, len(b) - tail, False),
        (len(a) - tail, len(a), len(b) - tail, len(b), True),
    ]
    common = sum(i2 - i1 for i1, i2, _, _, is_equal in steps if is_equal)
    parts = [part for step in _whole_runs(steps, a, b) for part in step]
    return Comparison(
        list(_joined(parts)), common, len(a) - common, len(b) - common,
        (len(a) - tail - stop_a, len(b) - tail - stop_b),
    )  # fmt: skip


def _key(word: str) -> str:
    return "".join(character for character in word.lower() if character.isalnum()) or word


def _ends(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """How many words the two have in common at the beginning, and at the end of what is left."""
    most = min(len(a), len(b))
    head = next((i for i in range(most) if a[i] != b[i]), most)
    most -= head
    tail = next((i for i in range(most) if a[-1 - i] != b[-1 - i]), most)
    return head, tail


Step = tuple[int, int, int, int, bool]


def _whole_runs(steps: Sequence[Step], a: Sequence[str], b: Sequence[str]) -> Iterator[list[Part]]:
    """Parts of every step, with what is written differently in a common run as a difference."""
    for i1, i2, j1, j2, is_equal in steps:
        if not is_equal:
            yield [Part("-", a[i1:i2]), Part("+", b[j1:j2])]
            continue
        at = 0
        for is_same, run in groupby(range(i2 - i1), lambda k: a[i1 + k] == b[j1 + k]):  # noqa: B023 - used at once
            n = len(list(run))
            one, other = a[i1 + at : i1 + at + n], b[j1 + at : j1 + at + n]
            yield [Part("=", one)] if is_same else [Part("-", one), Part("+", other)]
            at += n


def _joined(found: Sequence[Part]) -> Iterator[Part]:
    """The parts with neighbours of one kind in one, and short common runs between differences in these."""
    parts = list(_coalesced(found))
    only_one: list[str] = []
    only_other: list[str] = []
    for i, part in enumerate(parts):
        if part.sign == "-":
            only_one += part.words
        elif part.sign == "+":
            only_other += part.words
        elif len(part.words) < LEAST_RUN and 0 < i < len(parts) - 1:
            only_one += part.words
            only_other += part.words
        else:
            yield from _emptied("-", only_one)
            yield from _emptied("+", only_other)
            yield part
    yield from _emptied("-", only_one)
    yield from _emptied("+", only_other)


def _coalesced(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts with common runs that follow each other in one."""
    for sign, run in groupby((part for part in parts if part.words), lambda part: part.sign):
        if sign == "=":
            yield Part("=", [word for part in run for word in part.words])
        else:
            yield from run


def _emptied(sign: str, words: list[str]) -> Iterator[Part]:
    if words:
        yield Part(sign, list(words))
        words.clear()
