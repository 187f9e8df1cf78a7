"""What is said of a document that was deduplicated, against the texts themselves."""

import numpy as np
import pyarrow as pa
import pytest

from tamis.audit import losses
from tamis.audit.duplicates import MEMBERS
from tamis.audit.evidence import evidence
from tamis.audit.likeness import Cosine, Shingled
from tamis.audit.sql import render, sql
from tamis.audit.view import connected
from tamis.audit.why import why


def said(run, doc_id, stage):
    (found,) = evidence(run, doc_id)
    return next(entry for entry in found.duplicates if entry.stage == stage)


def duplicates_of(known, stage):
    return [values for values in known.values() if values[f"{stage}_duplicate"]]


def test_the_similarity_with_the_one_that_stays_is_exact(duplicated, known, jaccard):
    for values in duplicates_of(known, "checked")[::12]:
        entry = said(duplicated, values["doc_id"], "checked")
        (survivor,) = entry.relatives
        assert survivor.doc_id == values["checked_kept_by"]
        assert survivor.similarity == pytest.approx(jaccard(values["text"], known[survivor.doc_id]["text"]))
        assert entry.stored == values["checked_similarity"]
        assert f"of the two: {survivor.similarity:.4f}" in why(duplicated, values["doc_id"])


def test_what_differs_is_shown_word_by_word(duplicated):
    page = why(duplicated, "chain-2", width=100)
    assert "duplicate: chain-0 stays instead, for cluster" in page
    assert "118 words in common, 2 only in the one that stays (-), 2 only in this one (+)" in page
    lines = page.splitlines()
    assert sum(line.startswith("    + edit") for line in lines) == 2
    assert any(" words equal …]" in line for line in lines)
    assert max(len(line) for line in lines if line.startswith(("    = ", "    - ", "    + "))) <= 100


def test_two_texts_are_compared_once(duplicated):
    assert why(duplicated, "chain-2").count("word by word") == 1
    assert "the two texts are compared above, at near" in why(duplicated, "chain-2")


def test_the_end_of_a_chain_is_there_through_others(duplicated, known, jaccard):
    first, last = known["chain-0"]["text"], known["chain-8"]["text"]
    assert jaccard(first, last) < 0.7 < jaccard(first, known["chain-2"]["text"])
    assert said(duplicated, "chain-8", "checked").relatives[0].is_chained
    assert not said(duplicated, "chain-2", "checked").relatives[0].is_chained
    text = f"joined through others: {jaccard(first, last):.4f} is less than the 0.7 that a pair needs"
    assert text in why(duplicated, "chain-8")


def test_without_verification_a_chain_is_only_probable(duplicated, known, jaccard):
    similarity = jaccard(known["chain-0"]["text"], known["chain-8"]["text"])
    chance = 1 - (1 - similarity**8) ** 12
    assert (
        f"probably joined through others: a pair of {similarity:.4f} shares a bucket with probability {chance:.2g}"
        in (why(duplicated, "chain-8"))
    )


def test_two_alone_met_by_themselves(duplicated, known):
    """Whatever their similarity: there are no others."""
    for stage in ("near", "checked"):
        for values in duplicates_of(known, stage):
            if values[f"{stage}_size"] == 2:
                assert not said(duplicated, values["doc_id"], stage).relatives[0].is_chained
    assert any(values["near_size"] == 2 for values in duplicates_of(known, "near"))


def test_a_survivor_lists_those_it_stands_for(duplicated, known, jaccard):
    mine = sorted(v["doc_id"] for v in known.values() if v["checked_kept_by"] == "mirror-03-0")
    entry = said(duplicated, "mirror-03-0", "checked")
    assert [other.doc_id for other in entry.relatives] == mine[:MEMBERS]
    for other in entry.relatives:
        expected = jaccard(known["mirror-03-0"]["text"], known[other.doc_id]["text"])
        assert other.similarity == pytest.approx(expected)
    page = why(duplicated, "mirror-03-0")
    assert f"it stays, for cluster {known['mirror-03-0']['checked_cluster']} of {len(mine) + 1} documents" in page
    assert f"and {len(mine) - MEMBERS} more" in page


def test_identical_words_differ_in_case_only(duplicated):
    page = why(duplicated, "pair-b")
    assert "duplicate: pair-a stays instead" in page
    assert "0 only in the one that stays (-), 0 only in this one (+)" in page
    assert "\x1b" not in page


def test_exact_duplicates_have_no_similarity(duplicated):
    page = why(duplicated, "pair-a").split("deduplicate exact")[1].split("deduplicate near")[0]
    assert "the same words as in:\n    pair-b\n    “" in page
    assert "Jaccard" not in page


def test_a_document_without_duplicates_has_none(duplicated):
    assert why(duplicated, "plain-000").count("no duplicates") == 3


@pytest.mark.parametrize(("unit", "ngram"), [("word", 5), ("word", 2), ("character", 3)])
def test_shingles_are_compared_as_the_stage_does(unit, ngram, shingles):
    texts = ["One two three, four five six!", "one two three four five seven", "one", "", "?!"]

    def expected(i, j):
        joined = ["".join(c for c in text if c.isalnum()) if unit == "character" else text for text in texts]
        units = [" ".join(text) if unit == "character" else text for text in joined]
        a, b = shingles(units[i], ngram), shingles(units[j], ngram)
        return len(a & b) / len(a | b) if a | b else None

    pairs = [(i, j) for i in range(5) for j in range(5)]
    found = Shingled(0.5, unit, ngram).between([{"text": text} for text in texts], pairs)
    assert found == [pytest.approx(expected(*pair)) for pair in pairs]


def test_a_cosine_must_exceed_what_is_asked():
    vectors = [{"v": [1.0, 0.0]}, {"v": [0.6, 0.8]}, {"v": None}, {"v": [0.0, 0.0]}]
    measure = Cosine(0.6, "v")
    found = measure.between(vectors, [(0, 1), (0, 2), (0, 3)])
    assert found == [pytest.approx(0.6), None, None]
    assert measure.is_short(0.6)
    assert not measure.is_short(np.nextafter(0.6, 1))


# ---- passages ----


def test_every_passage_is_quoted_with_where_it_stays(duplicated, known):
    gone = [values for values in known.values() if values["lines_bytes"]]
    assert len(gone) > 30
    for values in gone[:4]:
        (found,) = evidence(duplicated, values["doc_id"])
        (lost,) = found.losses
        content = values["text"].encode()
        assert [(s.start, s.end) for s in lost.struck] == [(s["start"], s["end"]) for s in values["lines_spans"]]
        for passage in lost.struck:
            assert passage.text == content[passage.start : passage.end].decode()
            keeper = known[passage.keeper]
            there = keeper["text"].encode()[passage.at :]
            assert there.startswith(passage.text.strip().encode())
            assert not keeper["lines_spans"]
            assert passage.keeper == values["lines_kept_by"]
        left = b"".join(piece.encode() for piece in lost.remains if isinstance(piece, str))
        assert len(left) == len(content) - values["lines_bytes"]


def test_what_remains_is_shown_around_what_was_struck(duplicated, known):
    values = next(values for values in known.values() if values["lines_bytes"])
    page = why(duplicated, values["doc_id"], width=120)
    assert f"1 passage is struck, {values['lines_bytes']} of {values['n_bytes']} bytes" in page
    assert f"kept by {values['lines_kept_by']} at byte" in page
    assert "    - All rights reserved; the drum, the sieve and the flour" in page
    assert f"[… {values['lines_bytes']} bytes struck …]" in page


def test_a_search_that_ends_early_says_so(duplicated, known, monkeypatch):
    monkeypatch.setattr(losses, "SCANNED", 1)
    monkeypatch.setattr(losses.Search, "_take", lambda *_: False)
    values = next(values for values in known.values() if values["lines_bytes"])
    assert "not found in 0 MB of text" in why(duplicated, values["doc_id"])


def test_the_beginning_of_a_passage_is_found_where_the_whole_is_not(duplicated, known):
    """As of a union of passages of several documents."""
    values = next(values for values in known.values() if values["lines_bytes"])
    keeper = known[values["lines_kept_by"]]["text"]
    stage = next(stage for stage in duplicated.stages if stage.name == "lines")
    begin = keeper.index("All rights")
    sought = losses.Struck(0, 900, keeper[begin:] + " and more" * 80)
    assert len(sought.text) > losses.PART
    (found,), _, is_searched = losses.Search(duplicated, stage, values["row"]).found([sought], values["lines_kept_by"])
    assert is_searched
    assert (found.keeper, found.at, found.is_whole) == (values["lines_kept_by"], len(keeper[:begin].encode()), False)


def test_a_document_that_loses_nothing_says_so(duplicated):
    assert "nothing of it stays elsewhere" in why(duplicated, "plain-000")


# ---- SQL ----


def test_clusters_are_a_view(duplicated, known):
    found = sql(duplicated, "select * from clusters where stage = 'checked' order by cluster").to_pylist()
    by_cluster: dict[int, list] = {}
    for values in known.values():
        if values["checked_cluster"] is not None:
            by_cluster.setdefault(values["checked_cluster"], []).append(values)
    assert [row["cluster"] for row in found] == sorted(by_cluster)
    for row in found:
        members = by_cluster[row["cluster"]]
        (survivor,) = (values["doc_id"] for values in members if not values["checked_duplicate"])
        others = sorted(values["doc_id"] for values in members if values["checked_duplicate"])
        assert (row["size"], row["survivor"], row["members"]) == (len(members), survivor, [survivor, *others])
        assert row["bytes"] == sum(values["n_bytes"] for values in members)


def test_only_what_a_query_over_clusters_needs_is_read(duplicated, monkeypatch):
    asked = []
    batches = type(duplicated).batches

    def watched(self, columns, where=None, shards=None):
        asked.append(set(columns))
        return batches(self, columns, where, shards)

    monkeypatch.setattr(type(duplicated), "batches", watched)
    sql(duplicated, "select size, count(*) from clusters where stage = 'near' group by 1")
    sql(duplicated, "select stage, json from findings")
    assert asked == [{"near_cluster"}]


class Held:
    """Documents in memory."""

    def __init__(self, table):
        self.table, self.schema = table, table.schema

    def batches(self, columns, where=None):
        yield from self.table.select(columns).to_batches()


def test_ids_of_clusters_are_whole_numbers_beyond_two_to_the_63():
    ids = pa.array([2**64 - 1, 2**63 + 1, 2**64 - 1, 5], pa.uint64())
    with connected(
        {"documents": Held(pa.table({"row": pa.array(range(4), pa.uint64()), "near_cluster": ids}))}
    ) as views:
        query = (
            f"select near_cluster, count(*) n from documents where near_cluster >= {2**63 + 1} group by 1 order by 2"
        )
        table = views.sql(query).to_arrow_table()
    assert table.to_pylist() == [{"near_cluster": 2**63 + 1, "n": 1}, {"near_cluster": 2**64 - 1, "n": 2}]
    assert [line.split() for line in render(table).splitlines()[2:]] == [[str(2**63 + 1), "1"], [str(2**64 - 1), "2"]]


def test_findings_are_a_view(duplicated):
    query = "select stage, json->>'$.bands' bands, json_array_length(json->'$.sources') n from findings order by 1"
    assert [row["stage"] for row in sql(duplicated, query).to_pylist()] == ["checked", "exact", "near"]
    assert {row["bands"] for row in sql(duplicated, query).to_pylist()} == {"30", None, "12"}


def test_a_run_without_deduplicators_has_no_clusters(tmp_path, run_spec):
    import pyarrow.parquet as pq

    from tamis.audit.reader import open_run

    pq.write_table(pa.table({"text": ["one text", "another"]}), tmp_path / "corpus.parquet")
    stages = {"corpus": {"paths": str(tmp_path / "corpus.parquet")}, "stages": [{"score": "length"}]}
    run = open_run(run_spec(stages, tmp_path).folder)
    assert sql(run, "select stage, cluster, size, survivor, members from clusters").num_rows == 0
    assert sql(run, "select * from findings").num_rows == 0
