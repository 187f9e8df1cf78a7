import random
import re
import unicodedata
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis import seeds
from tamis.dedup.paragraph import Paragraph
from tamis.inline import run_inline
from tamis.kernels.arrow import text_of
from tamis.steps import Batch

LINES = [
    "a b c d",
    "A, b: c d!",
    "b c d e",
    "a b c d e f g h",
    "a b c d x f g h",
    "",
    "  ",
    "a",
    "b b b b b\r",
    "é e\u0301 x y",
]
TEXTS = st.lists(st.lists(st.sampled_from(LINES), max_size=6).map("\n".join), max_size=8)
PHRASES = st.lists(st.lists(st.sampled_from("abc"), max_size=12).map(" ".join), max_size=5).map("\n".join)


def found(texts, ids=None, batch_rows=3, **options):
    ids = [f"d{i}" for i in range(len(texts))] if ids is None else ids
    documents = pa.table({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})
    table = run_inline(Paragraph(**options), documents, "p", batch_rows=batch_rows)
    return {name.removeprefix("p_"): table[name].to_pylist() for name in table.schema.names}


def passages(texts, values):
    """The spans of each document as strings."""
    return [
        [text.encode()[span["start"] : span["end"]].decode() for span in spans]
        for text, spans in zip(texts, values["spans"], strict=True)
    ]


# ---- the same by brute force ----


def ranks(ids):
    hashes = seeds.hash64(0, "paragraph: first", text_of(pa.array(ids, pa.string()))).tolist()
    return sorted(range(len(ids)), key=lambda i: (hashes[i], i))


def long_lines(text, min_words, n):
    """[(start, end, grams)] of the lines with enough words; without n, one gram of all words."""
    lines, at = [], 0
    for line in re.findall("[^\n]*\n|[^\n]+", text):
        words = re.findall(r"\w+", unicodedata.normalize("NFC", line).lower())
        end = at + len(line.encode())
        if len(words) >= min_words:
            grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)] if n else []
            lines.append((at, end, grams or [tuple(words)]))
        at = end
    return lines


def exceeds(part, whole, threshold):
    return Fraction(part) > Fraction(threshold) * whole


def brute(texts, ids, min_words, n=None, threshold="0.8", threshold_document="0.8", within=True, sequential=False):
    """Spans (joined where they touch), flags and owners, reading documents in the order of their hashes.

    sequential : only paragraphs that stay can take another's place; otherwise all that come earlier can.
    """
    expected = {name: [None] * len(texts) for name in ("spans", "duplicate", "kept_by")}
    seen = {}  # gram → the documents that had it, in order
    for d in ranks(ids):
        gone, contained, total = [], 0, 0
        for start, end, grams in long_lines(texts[d], min_words, n):
            firsts = [next((o for o in seen.get(gram, ()) if within or o != d), None) for gram in grams]
            if not within:  # the first document of all decides
                firsts = [None if seen.get(gram, [d])[0] == d else o for gram, o in zip(grams, firsts, strict=True)]
            weight = len(grams) if n else len(grams[0])
            share = len([o for o in firsts if o is not None])
            contained += share if n else share * weight
            total += weight
            if drops := exceeds(share, len(grams), threshold):
                by_owner = {o: firsts.count(o) for o in firsts if o is not None}
                gone.append((start, end, by_owner))
            if not (drops and sequential):
                for gram in grams:
                    seen.setdefault(gram, []).append(d)
        spans = []
        for start, end, _ in gone:
            if spans and spans[-1]["end"] == start:
                spans[-1]["end"] = end
            else:
                spans.append({"start": start, "end": end})
        expected["spans"][d] = spans
        expected["duplicate"][d] = exceeds(contained, total, threshold_document)
        if gone:
            place = {document: position for position, document in enumerate(ranks(ids))}
            *_, owners = max(gone, key=lambda part: (part[1] - part[0], -part[0]))
            expected["kept_by"][d] = ids[min(owners, key=lambda o: (-owners[o], place[o]))]
    return expected


def assert_as(values, expected):
    for name, column in expected.items():
        assert values[name] == column, name
    assert values["bytes"] == [sum(span["end"] - span["start"] for span in spans) for spans in expected["spans"]]


@given(TEXTS, st.integers(1, 5), st.booleans(), st.integers(1, 4))
def test_whole_paragraphs_are_those_of_brute_force(texts, min_words, within, batch_rows):
    ids = [f"d{i}" for i in range(len(texts))]
    values = found(texts, ids, batch_rows, min_words=min_words, within=within)
    assert_as(values, brute(texts, ids, min_words, within=within))


@given(st.one_of(TEXTS, st.lists(PHRASES, max_size=8)), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
def test_ngrams_are_those_of_brute_force(texts, min_words, n, within, data):
    ids = [f"d{i}" for i in range(len(texts))]
    limits = {name: data.draw(st.sampled_from(["0.0", "0.5", "0.8"])) for name in ("threshold", "threshold_document")}
    options = {name: float(limit) for name, limit in limits.items()}
    values = found(texts, ids, min_words=min_words, ngram_words=n, within=within, **options)
    assert_as(values, brute(texts, ids, min_words, n, within=within, **limits))


@given(st.lists(PHRASES, max_size=6), st.integers(1, 3))
def test_rounds_close_in_on_reading_documents_one_by_one(texts, n):
    ids = [f"d{i}" for i in range(len(texts))]
    one_by_one = brute(texts, ids, n, n, "0.5", sequential=True)
    for rounds in range(1, 9):
        values = found(texts, ids, min_words=n, ngram_words=n, threshold=0.5, rounds=rounds)
        more, less = (values, one_by_one) if rounds % 2 else (one_by_one, values)
        assert all(
            covered(mine) >= covered(theirs) for mine, theirs in zip(more["spans"], less["spans"], strict=True)
        ), rounds


def covered(spans):
    return {byte for span in spans for byte in range(span["start"], span["end"])}


def chain(words, share):
    """A text whose 1-grams stand in `words` for that share of it."""
    return " ".join([*words[:share], *(f"new{share}of{i}" for i in range(len(words) - share))])


def test_the_second_round_gives_back_what_only_a_dropped_paragraph_had():
    first, second, third = (f"id {i}" for i in ranks([f"id {i}" for i in range(3)]))
    words = {name: [f"{name}{i}" for i in range(10)] for name in "abc"}
    texts = {
        first: " ".join(words["a"]),
        second: " ".join(words["a"][:9] + words["b"][:1] * 1),
        third: " ".join(words["a"][:8] + words["b"][:1] + words["c"][:1]),
    }
    ids = [first, second, third]
    options = {"min_words": 5, "ngram_words": 1}
    assert [bool(spans) for spans in found(list(texts.values()), ids, **options)["spans"]] == [False, True, True]
    again = found(list(texts.values()), ids, rounds=2, **options)
    assert [bool(spans) for spans in again["spans"]] == [False, True, False]


# ---- edges ----


@pytest.mark.parametrize(
    ("contained", "total", "goes"), [(80, 100, False), (81, 100, True), (4, 5, False), (5, 5, True)]
)
def test_exactly_the_threshold_stays(contained, total, goes):
    words = [f"w{i}" for i in range(total)]
    texts = [" ".join(words), chain(words, contained)]
    ids = [f"id {i}" for i in ranks(["id 0", "id 1"])]
    values = found(texts, ids, min_words=1, ngram_words=1)
    assert values["spans"][0] == []
    assert bool(values["spans"][1]) == goes
    assert values["duplicate"] == [False, goes]
    finer = found(texts, ids, min_words=1, ngram_words=1, threshold=0.799999, threshold_document=0.799999)
    assert finer["duplicate"] == [False, True]


@pytest.mark.parametrize("words", [12, 13])
@pytest.mark.parametrize("ngram_words", [None, 13])
def test_a_paragraph_below_the_floor_is_never_a_duplicate(words, ngram_words):
    line = " ".join(f"word{i}" for i in range(words))
    values = found([line, line], ngram_words=ngram_words)
    assert sorted(map(bool, values["spans"])) == [False, words == 13]
    assert sorted(values["duplicate"]) == [False, words == 13]


def test_words_alone_count_and_lines_go_with_their_newline():
    ids = [f"id {i}" for i in ranks([f"id {i}" for i in range(4)])]
    texts = ["One two three\nunique one here", "x\r\none,  TWO; three.\r\nother words here", "ONE TWO THREE", "\n\n"]
    values = found(texts, ids, min_words=3)
    assert passages(texts, values) == [[], ["one,  TWO; three.\r\n"], ["ONE TWO THREE"], []]
    assert values["kept_by"] == [None, ids[0], ids[0], None]
    assert values["bytes"] == [0, 19, 13, 0]
    assert values["duplicate"] == [False, False, True, False]


def test_spans_are_bytes_of_the_text_as_it_is():
    """Not of its normal form, which is shorter."""
    ids = [f"id {i}" for i in ranks(["id 0", "id 1"])]
    decomposed = "cafe\u0301 cafe\u0301\nre\u0301sume\u0301 du cafe\u0301\nfin"
    texts = ["résumé du café", decomposed]
    assert passages(texts, found(texts, ids, min_words=3)) == [[], ["re\u0301sume\u0301 du cafe\u0301\n"]]


@pytest.mark.parametrize("options", [{}, {"ngram_words": 2}])
def test_one_document_loses_repeats_of_its_own_alone(options):
    text = "a b c\nother words here\na b c\nA B C"
    values = found([text], min_words=3, **options)
    assert passages([text], values) == [["a b c\nA B C"]]
    assert values["kept_by"] == ["d0"]
    whole = found([text], min_words=3, within=False, **options)
    assert whole == {"spans": [[]], "bytes": [0], "duplicate": [False], "kept_by": [None]}


@pytest.mark.parametrize("options", [{}, {"ngram_words": 2}, {"ngram_words": 2, "rounds": 3}])
def test_texts_without_words_lines_or_documents(options):
    assert found(["", "\n", "\n\n\n", "!!!", " \t\r\n"], min_words=1, **options)["spans"] == [[]] * 5
    assert found([], min_words=1, **options) == {"spans": [], "bytes": [], "duplicate": [], "kept_by": []}
    assert found(["word"], min_words=1, **options)["duplicate"] == [False]


def test_documents_that_share_an_id_keep_one_paragraph():
    values = found(["a b c", "a b c", "a b c"], ["x", "x", "x"], min_words=3)
    assert sorted(map(len, values["spans"])) == [0, 1, 1]
    assert sorted(values["kept_by"], key=str) == [None, "x", "x"]


def test_more_rounds_for_whole_paragraphs_are_refused():
    with pytest.raises(ValueError, match="rounds: expected 1 for whole paragraphs"):
        Paragraph(rounds=2)


@pytest.mark.parametrize("options", [{"min_words": 3}, {"min_words": 3, "ngram_words": 3, "rounds": 2}])
def test_order_and_batches_of_documents_change_nothing(options):
    draw = random.Random(5)
    texts = ["\n".join(draw.choice(LINES) for _ in range(draw.randint(0, 6))) for _ in range(60)]
    ids = [f"id {i}" for i in range(60)]
    whole = found(texts, ids, 100, **options)
    assert 20 < len([spans for spans in whole["spans"] if spans]) < 60
    for batch_rows in (1, 7):
        order = np.random.default_rng(batch_rows).permutation(60)
        moved = found([texts[i] for i in order], [ids[i] for i in order], batch_rows, **options)
        for name, column in whole.items():
            assert [column[i] for i in order] == moved[name]


@pytest.mark.parametrize("options", [{}, {"ngram_words": 3}, {"ngram_words": 3, "threshold": 0.5, "rounds": 3}])
def test_shards_and_ranges_of_keys_change_nothing(run_spec, write_corpus, tmp_path, monkeypatch, options):
    """A paragraph's n-grams are decided in many places; their shares add up."""
    draw = random.Random(9)
    texts = ["\n".join(draw.choice(LINES) for _ in range(draw.randint(0, 6))) for _ in range(90)]
    ids = [f"id {i}" for i in range(90)]
    monkeypatch.setattr("tamis.pipeline.exchange.PARTITION_BYTES", 900)
    pool = write_corpus(tmp_path / "pool", pa.table({"id": ids, "text": texts}), 3)
    stage = {"deduplicate": {"by": {"paragraph": {"min_words": 3, "as": "p", **options}}}}
    ran = run_spec({"corpus": {"paths": str(pool)}, "stages": [stage]}, tmp_path)
    assert len(list(ran.folder.glob("folds/p-*/decided-*/decided-*.arrow"))) > 8
    expected = found(texts, ids, 100, min_words=3, **options)
    for name, column in expected.items():
        values = ran.values(f"p_{name}")
        assert [values[doc_id] for doc_id in ids] == column, name


def test_substring_leaves_passages_to_the_same_documents():
    """Otherwise each of two stages could strike what the other left."""
    from tamis.dedup import paragraph, substring

    batch = Batch(pa.record_batch({"doc_id": [f"id {i}" for i in range(50)]}))
    assert (paragraph.ranks(batch) == substring.ranks(batch)).all()


# ---- real text ----


@pytest.fixture(scope="module")
def pages(shared):
    """Web pages with menus and footers, and as many recipes."""
    table = pq.read_table(shared / "pool" / "pool-00.parquet", columns=["id", "text", "source"])
    parts = [table.filter(pa.compute.equal(table["source"], name)).slice(0, 200) for name in ("web-html", "recipes")]
    return pa.concat_tables(parts).select(["id", "text"]).rename_columns(["doc_id", "text"])


@pytest.mark.parametrize("options", [{"min_words": 5}, {"min_words": 5, "ngram_words": 5}])
def test_repeated_lines_of_real_pages_go_and_the_second_pass_finds_nothing(pages, options):
    texts, ids = pages["text"].to_pylist(), pages["doc_id"].to_pylist()
    values = found(texts, ids, 64, **options)
    assert_as(values, brute(texts, ids, 5, options.get("ngram_words")))
    assert sum(values["bytes"]) > 10_000
    if "ngram_words" not in options:
        left = [without(text, spans) for text, spans in zip(texts, values["spans"], strict=True)]
        assert not any(found(left, ids, **options)["bytes"])


def without(text, spans):
    raw = text.encode()
    for span in reversed(spans):
        raw = raw[: span["start"]] + raw[span["end"] :]
    return raw.decode()
