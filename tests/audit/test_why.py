import json

import pytest

from tamis.audit.evidence import evidence
from tamis.audit.reader import open_run
from tamis.audit.why import why
from tamis.errors import ColumnError


def test_a_duplicate_shows_the_document_that_stays_beside_it(run):
    (found,) = evidence(run, "copy-b")
    (duplicates,) = found.duplicates
    assert (duplicates.kept_by, duplicates.size) == ("copy-a", 3)
    page = why(run, "copy-b")
    assert "dropped by best: where: NOT exact_duplicate; dropped by drawn" in page
    assert "duplicate: copy-a stays instead, for cluster" in page
    assert "6 words in common" in page
    assert "    - An original text, repeated by others.\n    + an original text repeated by others\n" in page


def test_a_document_below_the_cut_is_told_by_how_much(run):
    candidates = run.table(["doc_id", "stars", "best_repeats", "best_reason"]).to_pylist()
    kept = [values for values in candidates if values["best_repeats"]]
    last = min(kept, key=lambda values: values["stars"])
    missed = max(
        (values for values in candidates if values["best_reason"] == "cut"), key=lambda values: values["stars"]
    )
    (found,) = evidence(run, missed["doc_id"])
    cut = next(fate for fate in found.fates if fate.arm == "best").cut
    assert (cut.last, cut.last_id, cut.kept, cut.rank) == (last["stars"], last["doc_id"], 20, 21)
    assert f"missed the cut by {last['stars'] - missed['stars']:.6g}" in why(run, missed["doc_id"])


def test_a_kept_document_is_told_its_rank(run):
    best = max(run.table(["doc_id", "stars"], where="best_repeats > 0").to_pylist(), key=lambda values: values["stars"])
    (found,) = evidence(run, best["doc_id"])
    fate = next(fate for fate in found.fates if fate.arm == "best")
    assert fate.kept
    assert fate.cut.rank == 1
    assert "rank 1 of " in why(run, best["doc_id"])


def test_a_condition_shows_the_value_it_was_about(run):
    assert "dropped: where: length > 40 (length is 36)" in why(run, "doc-000")


def test_standings_are_shares_of_the_pool_and_of_the_source(run):
    values = run.table(["doc_id", "source", "length"]).to_pylist()
    own = next(v for v in values if v["doc_id"] == "doc-033")
    known = [v for v in values if v["length"] is not None]
    within = [v for v in known if v["source"] == own["source"]]
    (found,) = evidence(run, "doc-033")
    standing = found.standings["length"]
    assert standing.below == pytest.approx(sum(v["length"] < own["length"] for v in known) / len(known))
    assert standing.equal == pytest.approx(sum(v["length"] == own["length"] for v in known) / len(known))
    assert standing.below_in_source == pytest.approx(sum(v["length"] < own["length"] for v in within) / len(within))


def test_documents_that_share_an_id_are_all_shown(run):
    found = evidence(run, "twice")
    assert [document.text for document in found] == [
        "one of two documents with one id",
        "the other of two documents with one id",
    ]
    assert why(run, "twice").startswith("2 documents share the id twice")


def test_where_a_document_lies_counts_from_the_start_of_its_file(run):
    (first,) = evidence(run, "doc-033")
    assert (first.file, first.record) == ("a.parquet", 34)
    (second,) = evidence(run, "doc-050")
    assert (second.file, second.record) == ("c.parquet", 1)


def test_an_unusable_document_shows_its_quarantine(run):
    page = why(run, "lost")
    assert "quarantine\n  text is missing or not UTF-8" in page
    assert "text    missing" in page


def test_what_a_terminal_would_obey_is_not_printed(run):
    page = why(run, "hostile")
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_an_unknown_id_is_answered_with_close_ones(run):
    with pytest.raises(ColumnError, match="no document 'copyb'; did you mean 'copy-"):
        why(run, "copyb")


def test_an_id_like_no_other_is_answered_with_what_ids_look_like(run):
    with pytest.raises(ColumnError, match="ids here look like '"):
        why(run, "37/ß?")


def test_a_run_that_goes_on_says_so(copied):
    catalog = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**catalog, "finished": False}))
    assert "the run has not finished" in why(open_run(copied), "doc-001")


def test_every_document_can_be_explained(run):
    for doc_id in run.table(["doc_id"])["doc_id"].to_pylist()[::9]:
        assert why(run, doc_id).startswith(doc_id)
