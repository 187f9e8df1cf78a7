"""What the report says of duplicates, against counting by hand."""

import json
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.audit import duplicate_sample, span_figures
from tamis.audit.duplicate_charts import WIDTH, epsilon_curve, s_curve, similarity_histogram
from tamis.audit.duplicate_figures import BINS, Banding, EpsilonCurve, Planted, Share, Similarities, cluster_figures
from tamis.audit.reader import open_run
from tamis.audit.report import render_page
from tamis.audit.span_figures import repeated_passages
from tamis.kernels.lsh import half_point


@pytest.fixture(scope="module")
def figures(duplicated):
    with duplicated.connect() as connection:
        return {found.name: found for found in cluster_figures(duplicated, connection)}


@pytest.fixture(scope="module")
def passages(duplicated):
    with duplicated.connect() as connection:
        (found,) = span_figures.span_figures(duplicated, connection)
    return found


@pytest.fixture(scope="module")
def page(duplicated):
    return render_page(duplicated)


class Text(HTMLParser):
    """The text of a page, and the addresses in it."""

    def __init__(self, page):
        super().__init__()
        self.words, self.addresses = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]

    def handle_data(self, text):
        self.words.append(text)


def text_of(page):
    return " ".join(" ".join(Text(page).words).split())


@pytest.mark.parametrize("stage", ["exact", "near", "checked"])
def test_clusters_are_counted_by_size_and_source(figures, known, stage):
    found = figures[stage]
    gone = [values for values in known.values() if values[f"{stage}_duplicate"]]
    assert (found.documents, found.bytes) == (len(gone), sum(values["n_bytes"] for values in gone))
    sizes = Counter(Counter(v[f"{stage}_cluster"] for v in known.values() if v[f"{stage}_size"] > 1).values())
    assert found.clusters == sum(sizes.values())
    assert sum(members for *_, members in found.sizes) == sum(size * count for size, count in sizes.items())
    removed = Counter(values["source"] for values in gone)
    pool = Counter(values["source"] for values in known.values())
    assert {(loss.source, loss.documents, loss.removed) for loss in found.sources} == {
        (source, pool[source], count) for source, count in removed.items()
    }


def test_a_source_that_loses_too_much_is_marked(figures, page):
    """`mirror` loses nine of ten of 120 documents; `chain` all but one, but of nine only."""
    assert [loss.source for loss in figures["checked"].sources if loss.is_warned] == ["mirror"]
    assert figures["checked"].sources[0].source == "mirror"
    assert not any(loss.is_warned for loss in figures["exact"].sources)
    assert "more than 50 % of the source: the run warned of it" in text_of(page)


def test_similarities_with_those_that_stay_are_the_texts_own(figures, known, jaccard):
    found = figures["near"]
    gone = [values for values in known.values() if values["near_duplicate"]]
    assert len(gone) <= duplicate_sample.SAMPLED
    exact = [jaccard(values["text"], known[values["near_kept_by"]]["text"]) for values in gone]
    counts = Counter(min(BINS - 1, int(value * BINS)) for value in exact)
    assert list(found.similarities.counts) == [counts[i] for i in range(BINS)]
    least = half_point(12, 8)
    unlike = [values for values, value in zip(gone, exact, strict=True) if value < least]
    assert (found.unlike.count, found.unlike.total) == (len(unlike), len(gone))
    assert found.chained.count == sum(values["near_size"] > 2 for values in unlike) > 0


def test_similarities_that_the_run_confirmed_are_counted_all(figures, known):
    stored = [np.float64(v["checked_similarity"]) for v in known.values() if v["checked_duplicate"]]
    counts = Counter(min(BINS - 1, int(value * BINS)) for value in stored)
    assert list(figures["checked"].similarities.counts) == [counts[i] for i in range(BINS)]
    assert "that the run confirmed" in figures["checked"].similarities.of


def test_of_many_duplicates_a_few_are_drawn_by_a_hash_of_the_id(duplicated, monkeypatch):
    monkeypatch.setattr(duplicate_sample, "SAMPLED", 7)
    with duplicated.connect() as connection:
        one = next(found for found in cluster_figures(duplicated, connection) if found.name == "near")
    assert one.unlike.total == sum(one.similarities.counts) == 7
    assert f"7 drawn of the {one.documents} duplicates" in one.similarities.of


def test_the_largest_clusters_show_who_stays_and_how_like_it_the_others_are(figures, known, jaccard):
    cluster = figures["checked"].largest[0]
    assert cluster.size == max(values["checked_size"] for values in known.values())
    stays, *go = cluster.members
    assert not known[stays.doc_id]["checked_duplicate"]
    for member in go:
        expected = jaccard(known[stays.doc_id]["text"], known[member.doc_id]["text"])
        assert member.similarity == pytest.approx(expected)


def test_planted_copies_are_those_of_the_findings(figures, duplicated):
    for name, (bands, rows) in {"near": (12, 8), "checked": (30, 3)}.items():
        canaries = json.loads((duplicated.path / "findings" / f"{name}.json").read_text())["canaries"]
        banding = figures[name].banding
        assert (banding.bands, banding.rows, banding.half_point) == (
            bands,
            rows,
            pytest.approx(half_point(bands, rows)),
        )
        told = [(p.low, p.found.total, p.found.count, p.confirmed) for p in banding.planted]
        assert told == [(c["low"], c["planted"], c["found"], c["confirmed"]) for c in canaries]
        assert sum(point.found.total for point in banding.planted) > 20


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_intervals_of_shares_are_wilsons(count, total, low, high):
    assert Share(count, total).interval == pytest.approx((low, high), abs=1e-4)


# ---- charts ----


def test_the_curve_passes_through_one_half_at_the_half_point():
    banding = Banding(
        14, 8, half_point(14, 8), "none", [Planted(0.8, Share(9, 10), 9, 0.95), Planted(1.0, Share(2, 2), 2, 1)]
    )
    drawn = s_curve(banding)
    path = drawn.split('class="curve" d="M')[1].split('"')[0]
    points = np.array([[float(x) for x in point.split()] for point in path.split("L")])
    mark = float(drawn.split('class="mark" x1="')[1].split('"')[0])
    top, bottom = points[-1, 1], points[:, 1].max()
    assert np.interp(mark, points[:, 0], points[:, 1]) == pytest.approx((top + bottom) / 2, abs=1)
    assert "s½ = 0.685" in drawn
    assert "9 of 10 copies of similarity 0.80 and more were found: 0.90 [0.60, 0.98]" in drawn
    assert drawn.count("<circle") == 2


def test_bars_are_as_high_as_their_counts():
    counts = [0] * (BINS - 2) + [5, 10]
    drawn = similarity_histogram(Similarities(counts, 0.0, 0.7, "x"), "<name>")
    heights = [float(part.split('"')[0]) for part in drawn.split('height="')[1:]]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert "&lt;name&gt;" in drawn


def test_epsilon_is_marked_on_what_it_keeps():
    drawn = epsilon_curve(EpsilonCurve([0.0001, 0.01, 1.0], [1.0, 0.8, 0.1], 0.01))
    assert "ε = 0.01, 80.0% stay" in drawn
    assert float(drawn.split('class="mark" x1="')[1].split('"')[0]) == pytest.approx((40 + WIDTH - 10) / 2, abs=1)


# ---- passages ----


def test_passages_are_counted_by_source_and_length(passages, known):
    gone = [values for values in known.values() if values["lines_bytes"]]
    lengths = [span["end"] - span["start"] for values in gone for span in values["lines_spans"]]
    assert (passages.documents, passages.passages, passages.bytes) == (len(gone), len(lengths), sum(lengths))
    assert passages.flagged == sum(values["lines_duplicate"] for values in gone)
    classes = Counter(int(np.log2(length)) for length in lengths)
    assert [count for _, count, _ in passages.lengths] == [classes[power] for power in sorted(classes)]
    by_source = Counter(values["source"] for values in gone)
    pool = [values for values in known.values() if values["source"] in by_source]
    for source in passages.sources:
        of = [values for values in pool if values["source"] == source.source]
        assert (source.documents, source.bytes) == (len(of), sum(values["n_bytes"] for values in of))
        assert (source.touched, source.struck) == (
            by_source[source.source],
            sum(values["lines_bytes"] for values in of),
        )


def test_what_is_left_of_documents_is_counted(passages, known):
    left = [1 - values["lines_bytes"] / values["n_bytes"] for values in known.values() if values["lines_bytes"]]
    edges = [(0.5, 0.9), (0.9, 2)]
    for (_, count), (low, high) in zip(passages.left[-2:], edges, strict=True):
        assert count == sum(low <= share < high for share in left)
    assert sum(count for _, count in passages.left) == len(left)


def test_what_is_struck_most_is_found(passages, known):
    struck = Counter(
        values["text"].encode()[span["start"] : span["end"]].strip().decode()
        for values in known.values()
        for span in values["lines_spans"] or ()
    )
    expected = sorted(struck.items(), key=lambda item: -item[1] * len(item[0]))
    assert (passages.repeated[0].text, passages.repeated[0].count) == expected[0]
    assert passages.is_whole


def test_a_bounded_scan_says_so_and_forgets_what_it_saw_once(duplicated, monkeypatch):
    monkeypatch.setattr(span_figures, "SCANNED", 1)
    monkeypatch.setattr(span_figures, "REMEMBERED", 0)
    repeated, scanned, is_whole = repeated_passages(duplicated, "lines")
    assert not is_whole
    assert 0 < scanned < sum(values.nbytes for values in duplicated.table(["text"])["text"].chunks)
    assert all(passage.count > 1 for passage in repeated)


# ---- the page ----


def test_the_numbers_are_on_the_page(page, figures, passages):
    text = text_of(page)
    for found in figures.values():
        assert f"{found.documents:,} duplicates (" in text
        assert f"in {found.clusters:,} clusters" in text
    chained = figures["near"].chained.count
    assert f"{chained:,} of them are in clusters of three or more, where they may be only through others" in text
    assert f"{passages.passages:,} passages of {passages.documents:,} documents" in text
    assert f"{passages.repeated[0].count:,} × {passages.repeated[0].bytes:,} bytes" in text


def test_what_documents_say_is_text_on_the_page(page):
    assert "<script" not in page
    assert "<i>odd</i>" not in page
    assert "&lt;i&gt;odd&lt;/i&gt;" in page
    assert "&lt;script src=" in page
    assert "\x1b" not in page


def test_the_page_is_small_and_loads_nothing(page):
    assert len(page.encode()) < 300_000
    assert all(address.startswith("#") for address in Text(page).addresses)


def test_the_page_of_semantic_duplicates_has_the_curve_and_pairs_about_epsilon(tmp_path, duplicated_folder, run_spec):
    pytest.importorskip("faiss")
    semantic = {"semantic": {"epsilon": 0.1, "clusters": 3, "of": "vector"}}
    stages = [{"embed": {"hashed_ngrams": {"dimensions": 32, "as": "vector"}}}, {"deduplicate": semantic}]
    corpus = {"paths": str(duplicated_folder.parent / "corpus")}
    run = open_run(run_spec({"corpus": corpus, "stages": stages}, tmp_path).folder)
    with run.connect() as connection:
        (found,) = cluster_figures(run, connection)
    similarity = {
        v["doc_id"]: v["semantic_similarity"] for v in run.table(["doc_id", "semantic_similarity"]).to_pylist()
    }
    similarities = sorted(value for value in similarity.values() if value is not None)
    enough = [pair for pair in found.near if pair.is_enough]
    assert [pair.similarity for pair in enough] == [value for value in similarities if value > 0.9][:3]
    short = [pair for pair in found.near if not pair.is_enough]
    assert [pair.similarity for pair in short] == [value for value in similarities if value <= 0.9][:-4:-1]
    assert sum(found.similarities.counts) == sum(value >= 0.6 for value in similarities)
    text = text_of(render_page(run))
    assert "What each epsilon keeps" in text
    assert "ε = 0.1" in text
    assert "just alike enough" in text


def test_a_corpus_without_duplicates_has_a_page(tmp_path, run_spec):
    pq.write_table(pa.table({"text": [f"text number {n}" for n in range(5)]}), tmp_path / "corpus.parquet")
    stages = [{"deduplicate": "exact"}, {"deduplicate": "minhash"}, {"deduplicate": "paragraph"}]
    run = open_run(run_spec({"corpus": {"paths": str(tmp_path / "corpus.parquet")}, "stages": stages}, tmp_path).folder)
    text = text_of(render_page(run))
    assert text.count("0 duplicates (0.00 % of the pool, 0.0 MB) in 0 clusters") == 2
    assert "0 passages of 0 documents" in text
