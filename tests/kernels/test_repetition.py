from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tamis.kernels.lines import count_lengths, repeated_lines
from tamis.kernels.repetition import repeated_ngrams
from tamis.kernels.words import tokenize

BLANK = " \t\n\v\f\r"
LINES = ["a", "é b", " a ", "", "\t", "long line of words", "a\r"]
POEMS = st.lists(st.lists(st.sampled_from(LINES), max_size=12).map("\n".join), max_size=4)
PHRASES = st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "é"]), max_size=60).map(" ".join), max_size=4)


def line_twin(string):
    """(all, repeated) of lines, their characters, paragraphs, their characters."""
    lines = [line.strip(BLANK) for line in string.split("\n")]
    paragraphs, current = [], []
    for line in [*lines, ""]:
        if line:
            current.append(line)
        elif current:
            paragraphs.append(tuple(current))
            current = []
    lines = [line for line in lines if line]
    total, repeated = [], []
    for items, size in ((lines, len), (paragraphs, lambda paragraph: sum(map(len, paragraph)))):
        copies = [item for i, item in enumerate(items) if item in items[:i]]
        total += [len(items), sum(map(size, items))]
        repeated += [len(copies), sum(map(size, copies))]
    return total, repeated


def phrase_twin(words):
    """(all characters, covered ones for n from 2 to 10)."""
    covered = []
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        inside = set()
        if n <= 4:
            best = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))), default=((), 0))
            ties = [gram for gram in counts if (counts[gram], sum(map(len, gram))) == (best[1], sum(map(len, best[0])))]
            starts = [i for i, gram in enumerate(grams) if ties and gram == ties[0] and counts[gram] > 1]
        else:
            starts = [i for i, gram in enumerate(grams) if gram in grams[:i]]
        for i in starts:
            inside.update(range(i, i + n))
        covered.append(sum(len(words[i]) for i in inside))
    return sum(map(len, words)), covered


@given(st.data())
def test_lines_and_paragraphs_are_those_of_the_twin(texts, sliced, data):
    strings = data.draw(st.one_of(POEMS, texts))
    total, repeated = repeated_lines(sliced(strings))
    for d, string in enumerate(strings):
        assert (total[d].tolist(), repeated[d].tolist()) == line_twin(string)


@given(st.data())
def test_lengths_are_those_of_python(texts, sliced, data):
    strings = data.draw(st.one_of(POEMS, texts))
    characters, lines = count_lengths(sliced(strings))
    assert characters.tolist() == [len(string) for string in strings]
    assert lines.tolist() == [len(string.split("\n")) - (string == "" or string[-1] == "\n") for string in strings]


@given(st.data())
def test_phrases_are_those_of_the_twin(texts, sliced, data):
    tokens = tokenize(sliced(data.draw(st.one_of(PHRASES, texts))))
    total, covered = repeated_ngrams(tokens)
    for d in range(len(tokens)):
        words = []
        for i in range(tokens.document[d], tokens.document[d + 1]):
            if tokens.is_word[i]:
                start = tokens.start[i]
                spelled = bytes(tokens.text.data[start : start + tokens.bytes[i]]).decode()
                words.append(Word(spelled, int(tokens.hash[i])))
        assert (total[d], covered[d].tolist()) == phrase_twin(words)


class Word(str):
    """A spelling that equals another one with the same lower-case form."""

    __slots__ = ("key",)

    def __new__(cls, spelling, key):
        word = super().__new__(cls, spelling)
        word.key = key
        return word

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)
