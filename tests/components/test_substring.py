import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis import seeds
from tamis.dedup.base import SPANS, ranks
from tamis.dedup.paragraph import Paragraph
from tamis.dedup.substring import Substring, decide_copies
from tamis.inline import run_inline
from tamis.kernels.arrow import text_of
from tamis.kernels.written import written
from tamis.steps import Batch, Pool

REVISIONS = Path(__file__).parents[2].parent / "shared" / "data" / "dups" / "docs_revisions.parquet"


def table_of(texts, ids=None):
    ids = [f"d{i:03}" for i in range(len(texts))] if ids is None else ids
    return pa.table({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})


def struck(texts, ids=None, batch_rows=4096, **options):
    """doc by doc: spans as pairs, bytes, duplicate, kept_by."""
    found = run_inline(Substring(**options), table_of(texts, ids), "x", batch_rows=batch_rows).to_pylist()
    return [
        ([(s["start"], s["end"]) for s in f["x_spans"]], f["x_bytes"], f["x_duplicate"], f["x_kept_by"]) for f in found
    ]


def left(texts, **options):
    """The texts without what is struck."""
    remaining = []
    for text, (spans, *_) in zip(texts, struck(texts, **options), strict=True):
        raw, at, parts = text.encode(), 0, []
        for start, end in spans:
            parts.append(raw[at:start])
            at = end
        remaining.append((b"".join(parts) + raw[at:]).decode())
    return remaining


def order_of(texts, ids=None):
    """Documents, the one whose copies are first before the others."""
    ids = [f"d{i:03}" for i in range(len(texts))] if ids is None else ids
    hashes = seeds.hash64(0, "paragraph: first", text_of(pa.array(ids))).tolist()
    return sorted(range(len(texts)), key=hashes.__getitem__), hashes


def copies_by_comparison(documents, n):
    """Pairs (position, its first copy) of all runs that occur twice, by comparing all pairs of positions.

    documents : strings, the one whose copies are first before the others. Positions count through them, with a
    separator after each that equals nothing. O(n²): common prefixes of all pairs of suffixes, row by row from the end.
    """
    numbers, symbols = {}, []
    for d, document in enumerate(documents):
        symbols += [*(numbers.setdefault(symbol, len(numbers)) for symbol in document), -1 - d]
    symbols = np.array(symbols, np.int32)
    below = np.zeros(len(symbols) + 1, np.int16)
    for i in range(len(symbols) - 1, -1, -1):
        here = np.zeros_like(below)
        here[:-1] = np.where(symbols == symbols[i], np.minimum(below[1:] + 1, n), 0)
        below = here
        same = np.flatnonzero(here[:-1] >= n)
        if len(same) > 1:
            yield i, int(same[0])


def by_comparison(texts, n, strike):
    """(characters struck, [(begin, owner)]) of each document, from the definition; and the hashes of the ids."""
    order, hashes = order_of(texts)
    documents = [texts[d] for d in order]
    begins = np.cumsum([0] + [len(document) + 1 for document in documents])
    covered = [set() for _ in texts]
    owners = [[] for _ in texts]
    for i, first in copies_by_comparison(documents, n):
        if i == first and strike == "later":
            continue
        place, origin = (int(np.searchsorted(begins, at, "right")) - 1 for at in (i, first))
        begin = i - int(begins[place])
        end = begin + n
        if strike == "later" and place == origin:
            begin = max(begin, first - int(begins[place]) + n)
        covered[order[place]].update(range(begin, end))
        owners[order[place]].append((begin, order[origin]))
    return covered, owners, hashes


ids_of = "d{:03}".format


@pytest.mark.parametrize("strike", ["later", "all"])
@pytest.mark.parametrize(("documents", "size", "n"), [(1, 10_000, 9), (7, 1_400, 8), (60, 160, 6), (300, 12, 4)])
def test_what_is_struck_is_what_comparing_all_pairs_finds(strike, documents, size, n):
    """Ten kilobytes over three letters."""
    draw = random.Random(documents)
    texts = [
        "".join(draw.choices("abc", k=draw.randint(0, 2 * size) if documents > 1 else size)) for _ in range(documents)
    ]
    found = struck(texts, min_tokens=n, tokens="characters", strike=strike, min_left_tokens=5)
    covered, owners, hashes = by_comparison(texts, n, strike)
    assert sum(map(len, covered)) > 100
    for d, (spans, size, duplicate, kept_by) in enumerate(found):
        inside = sorted(covered[d])
        edges = [i for i in inside if i - 1 not in covered[d]], [i + 1 for i in inside if i + 1 not in covered[d]]
        assert spans == list(zip(*edges, strict=True))
        assert size == len(inside)
        assert duplicate == (bool(inside) and len(texts[d]) - len(inside) < 5)
        if strike == "all" or not inside:
            assert kept_by is None
            continue
        start, end = max(spans, key=lambda span: (span[1] - span[0], -span[0]))
        counts = Counter(owner for at, owner in owners[d] if start <= at < end)
        assert kept_by == ids_of(min(counts, key=lambda owner: (-counts[owner], hashes[owner])))


PHRASES = ["a", "a b c d", "b c", "é", "e\u0301 日本語", "B", ",", "...", "c d a", "ab"]
PROSE = st.lists(
    st.lists(st.sampled_from([*PHRASES, " ", "  ", "\n"]), max_size=25).map(" ".join), min_size=1, max_size=6
)


def tokens_of(text):
    """[(the token with the space before it, the token)] as `written` parts them, for one text."""
    found = written(text_of(pa.array([text])), np.ones(1, bool), False)
    raw, ends = text.encode(), [0, *found.end.tolist()]
    return [(raw[a:e], raw[s:e]) for a, s, e in zip(ends, found.start.tolist(), found.end.tolist(), strict=False)]


@pytest.mark.parametrize("strike", ["later", "all"])
@given(texts=PROSE, n=st.integers(2, 7))
def test_words_are_compared_with_the_space_between_them_byte_by_byte(strike, texts, n):
    """A dictionary of all runs, spelled out."""
    order, _ = order_of(texts)
    places = {}
    for d in order:
        tokens = tokens_of(texts[d])
        for i in range(len(tokens) - n + 1):
            run = tokens[i][1] + b"".join(joined for joined, _ in tokens[i + 1 : i + n])
            places.setdefault(run, []).append((d, i))
    covered = [set() for _ in texts]
    for copies in places.values():
        first = copies[0]
        for d, i in copies if len(copies) > 1 else []:
            if strike == "all" or (d, i) != first:
                spared = first[1] + n if strike == "later" and first[0] == d else 0
                covered[d].update(range(max(i, spared), i + n))
    for d, (spans, *_) in enumerate(struck(texts, min_tokens=n, strike=strike)):
        raw, found = texts[d].encode(), written(text_of(pa.array([texts[d]])), np.ones(1, bool), False)
        inside = {i for i, at in enumerate(found.start.tolist()) if any(a <= at < b for a, b in spans)}
        assert inside == covered[d]
        assert all(raw[a:b].decode().strip() == raw[a:b].decode() for a, b in spans), "no space at the ends"
        assert spans == sorted(spans)
        assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_a_second_pass_can_find_more_as_in_the_paper():
    """The smallest case of it: what is left on both sides of a passage makes a new one."""
    texts = ["eabcdfgh", "efabcdgh"]
    once = left(texts, min_tokens=4, tokens="characters", strike="all")
    assert once == ["efgh", "efgh"]
    assert left(once, min_tokens=4, tokens="characters", strike="all") == ["", ""]


def test_striking_later_copies_is_not_idempotent_either():
    options = {"min_tokens": 4, "tokens": "characters"}
    last, first, second = (f"d{i:03}" for i in (*order_of("...")[0][2:], *order_of("...")[0][:2]))
    ids = [first, second, last]
    assert [spans for spans, *_ in struck(["efgh", "abcd", "eabcdfgh"], ids, **options)] == [[], [], [(1, 5)]]
    assert [spans for spans, *_ in struck(["efgh", "abcd", "efgh"], ids, **options)] == [[], [], [(0, 4)]]


def test_of_many_copies_one_stays_whole():
    passage = " ".join(f"word{i}" for i in range(60))
    texts = [f"beginning {i} here. {passage} and end {i}" for i in range(20)]
    found = struck(texts, min_left_tokens=10)
    stays = [d for d, (spans, *_) in enumerate(found) if not spans]
    assert stays == order_of(texts)[0][:1]
    for d, (spans, size, duplicate, kept_by) in enumerate(found):
        if d not in stays:
            raw = texts[d].encode()
            assert [raw[a:b].decode() for a, b in spans] == [f"here. {passage} and end"]
            assert (size, duplicate, kept_by) == (len(spans and raw[spans[0][0] : spans[0][1]]), True, ids_of(stays[0]))
    assert all(spans for spans, *_ in struck(texts, strike="all"))


def test_a_document_is_a_duplicate_when_too_little_is_left():
    passage = " ".join(f"w{i}" for i in range(50))
    texts = [passage, f"{passage} x y z"]
    assert order_of(texts, ["a", "b"])[0] == [0, 1]
    for least, expected in ((0, False), (3, False), (4, True)):
        assert struck(texts, ["a", "b"], min_left_tokens=least)[1] == ([(0, len(passage))], len(passage), expected, "a")
    assert struck(texts, ["a", "b"], min_left_tokens=1000)[0] == ([], 0, False, None), (
        "what lost nothing is no duplicate"
    )


def test_forty_nine_tokens_are_too_few():
    passage = " ".join(f"w{i}" for i in range(49))
    assert [spans for spans, *_ in struck([f"{passage} x", f"{passage} y"])] == [[], []]
    assert sorted(size for _, size, *_ in struck([f"{passage} x a", f"{passage} x b"])) == [0, len(passage) + 2]


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [("a" * 10, 4, "a" * 4), ("ab" * 6, 4, "abab"), ("abc" * 5, 4, "abca"), ("abcdabcd", 4, "abcd")],
)
def test_a_document_that_repeats_itself_keeps_the_first_copy_whole(text, n, expected):
    assert left([text], min_tokens=n, tokens="characters") == [expected]
    assert struck([text], min_tokens=n, tokens="characters")[0][3] == "d000"


def test_case_and_white_space_count():
    passage = " ".join(f"word{i}" for i in range(60))
    for other in (passage.upper(), passage.replace(" ", "  "), passage.replace(" ", "\n")):
        assert [spans for spans, *_ in struck([passage, other])] == [[], []]


def test_positions_are_those_of_the_text_as_it_is():
    """Normal form C would shorten the first text and move every position after the accents."""
    passage = " ".join(f"mot{i}" for i in range(60))
    texts = ["e\u0301" * 10 + f" \u212b {passage}", f"é 日本語 {passage} 🙂"]
    for (spans, *_), text in zip(struck(texts, strike="all"), texts, strict=True):
        assert [text.encode()[a:b].decode() for a, b in spans] == [passage]


def test_equal_letters_in_another_form_are_other_bytes():
    composed, apart = " ".join(["é", "ä"] * 30), " ".join(["e\u0301", "a\u0308"] * 30)
    assert [spans for spans, *_ in struck([composed + " x", apart + " y"], min_tokens=121)] == [[], []]


@given(
    st.lists(st.text(st.sampled_from("aé日🙂e\u0301 ,"), max_size=30), max_size=5),
    st.sampled_from(["words", "characters"]),
)
def test_spans_end_between_characters(texts, tokens):
    for (spans, size, *_), text in zip(struck(texts, min_tokens=3, tokens=tokens, strike="all"), texts, strict=True):
        for start, end in spans:
            text.encode()[:start].decode(), text.encode()[start:end].decode()
        assert size == sum(end - start for start, end in spans)


def test_han_characters_are_tokens_of_their_own():
    passage = "".join(chr(0x4E00 + 7 * i) for i in range(50))
    texts = [f"天地{passage}玄黄", f"{passage}宇宙"]
    for (spans, *_), text in zip(struck(texts, strike="all"), texts, strict=True):
        assert [text.encode()[a:b].decode() for a, b in spans] == [passage]


def test_no_passage_crosses_from_one_document_to_the_next():
    """The texts in a row would repeat; none of them does."""
    half, other = (" ".join(f"{name}{i}" for i in range(30)) for name in "ab")
    assert all(not spans for spans, *_ in struck([half, other, half, other]))
    assert any(spans for spans, *_ in struck([f"{half} {other}", f"{half} {other}"]))


@pytest.mark.parametrize("texts", [[], [""], ["", " ", "short", ""], ["one two three"]])
def test_empty_and_short_documents_have_no_passages(texts):
    assert struck(texts) == [([], 0, False, None)] * len(texts)


@given(st.permutations(range(8)), st.sampled_from(["later", "all"]))
def test_the_order_of_documents_and_batches_moves_nothing(order, strike):
    texts = ["".join(random.Random(i).choices("ab", k=40)) for i in range(8)]
    ids = [f"id {i}" for i in range(8)]
    options = {"min_tokens": 6, "tokens": "characters", "strike": strike}
    whole = struck(texts, ids, **options)
    moved = struck([texts[i] for i in order], [ids[i] for i in order], batch_rows=3, **options)
    assert [whole[i] for i in order] == moved


def test_a_decision_does_not_depend_on_other_keys_or_on_the_order_of_one():
    draw = np.random.default_rng(1)
    n = 400
    table = pa.table(
        {
            "key": np.sort(draw.integers(0, 50, n).astype(np.uint64)),
            "row": draw.integers(0, 9, n).astype(np.uint64),
            "rank": draw.integers(0, 4, n).astype(np.uint64),
            "at": np.arange(0, 5 * n, 5, dtype=np.uint32),
            "checks": pa.array([draw.integers(0, 4, draw.integers(1, 5)) for _ in range(n)], pa.list_(pa.uint64())),
        }
    )
    rows = {tuple(row.items()) for row in decide_copies(5, "later", table).to_pylist()}
    assert len(rows) > n
    low = pa.array(table["key"].to_numpy() < 20)
    mirrored = table.take(pa.array(np.lexsort((-np.arange(n), table["key"].to_numpy()))))
    parts = [table.filter(low), table.filter(pa.compute.invert(low)), mirrored]
    apart = [{tuple(row.items()) for row in decide_copies(5, "later", part).to_pylist()} for part in parts]
    assert apart[0] | apart[1] == rows == apart[2]


def test_the_engine_is_told_what_was_found():
    program = Substring().steps(Pool("x", 0))
    assert [next(program).many, program.send(None).many, program.send(None).many] == [True, True, False]
    fold = program.send(None)
    documents = pa.table(
        {
            "spans": pa.array([[{"start": 0, "end": 300}, {"start": 400, "end": 655}], None], SPANS),
            "bytes": pa.array([555, None], pa.uint32()),
            "duplicate": pa.array([True, None]),
            "kept_by": pa.array(["a", None]),
        }
    )
    summary = fold.summarize(Batch(documents.to_batches()[0]))
    with pytest.raises(StopIteration) as end:
        program.send(fold.merge(summary, summary))
    findings = end.value.value.findings
    assert findings.file == "findings/x.json"
    assert findings.content == {
        "kind": "spans",
        "documents": 4,
        "struck_documents": 2,
        "duplicates": 2,
        "struck_bytes": 1110,
        "spans": 4,
        "spans_by_least_bytes": {"128": 2, "256": 2},
    }


@pytest.mark.skipif(not REVISIONS.exists(), reason="the shared data are not beside the checkout")
def test_on_real_revisions_a_suffix_array_finds_the_same():
    """Which tokens of two megabytes are in a run of 50 that occurs twice, by prefix doubling: ranks, no hashes."""
    table = pq.read_table(REVISIONS, columns=["doc_id", "text"]).slice(0, 600).combine_chunks()
    tokens = written(text_of(table["text"]), np.ones(600, bool), False)
    raw, ends = text_of(table["text"]).data.tobytes(), np.append(0, tokens.end[:-1])
    ends[tokens.document[:-1][np.diff(tokens.document) > 0]] = -1
    spelled = [(raw[s:e], raw[a:s] if a >= 0 else None) for a, s, e in zip(ends, tokens.start, tokens.end, strict=True)]
    numbers = {}
    alone = np.array([numbers.setdefault(token, len(numbers)) for token, _ in spelled])
    joined = np.array([numbers.setdefault(token, len(numbers)) for token in spelled])
    whose = np.repeat(np.arange(600), np.diff(tokens.document))
    starts = np.flatnonzero((np.arange(len(whose)) + 49 < len(whose)) & (np.append(whose[49:], [-1] * 49) == whose))
    rank, size = joined, 1
    while size < 49:  # ranks of 49 tokens joined, those of twice as many from those of two halves that overlap
        step = min(size, 49 - size)
        later = np.append(rank[step:], -1 - np.arange(step))
        _, rank = np.unique(rank * (len(rank) + len(numbers) + 1) + later, return_inverse=True)
        size += step
    pair = alone[starts] * (len(rank) + 1) + np.append(rank[1:], -1)[starts]
    _, group, counts = np.unique(pair, return_inverse=True, return_counts=True)
    inside = np.zeros(len(whose) + 1, np.int64)
    np.add.at(inside, starts[counts[group] > 1], 1)
    np.add.at(inside, starts[counts[group] > 1] + 50, -1)
    expected = np.cumsum(inside)[:-1] > 0
    found = run_inline(Substring(strike="all"), table, "x")["x_spans"].to_pylist()
    offsets = text_of(table["text"]).offsets
    struck_tokens = np.zeros(len(whose), bool)
    for at, spans in zip(offsets, found, strict=False):
        for span in spans:
            first, last = np.searchsorted(tokens.start, [span["start"] + at, span["end"] + at])
            struck_tokens[first:last] = True
    assert 0.3 < expected.mean() < 1
    assert (struck_tokens == expected).all()


def test_a_passage_stays_somewhere_when_paragraphs_are_left_out_too():
    """Both deduplicators keep the same document's copy: with two orders, each could strike what the other kept."""
    line = " ".join(f"word{i}" for i in range(60))
    table = table_of([f"{line}\n"] * 9)
    both = (Substring(), Paragraph(min_words=5))
    kept = [run_inline(component, table, "x")["x_kept_by"].to_pylist() for component in both]
    assert kept[0] == kept[1]
    assert len(set(kept[0])) == 2
    assert None in kept[0]


def test_a_rank_belongs_to_the_id_alone():
    batch = Batch(pa.record_batch({"doc_id": ["a", "b"], "text": ["x", "y"]}))
    assert ranks(batch).tolist() == seeds.hash64(0, "paragraph: first", text_of(pa.array(["a", "b"]))).tolist()
