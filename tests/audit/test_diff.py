import json
import re

import pytest

from tamis.audit.diff import diff
from tamis.audit.reader import open_run
from tamis.errors import ColumnError


def _numbers(text: str, start: str) -> list[str]:
    return re.split(r"\s{2,}", next(line for line in text.splitlines() if line.startswith(start)))


def test_overlap_is_that_of_the_kept_documents(run):
    best, drawn = (
        set(run.table("doc_id", where=f"{arm}_repeats > 0")["doc_id"].to_pylist()) for arm in ("best", "drawn")
    )
    both, either = len(best & drawn), len(best | drawn)
    expected = [len(best), len(drawn), both, len(best) - both, len(drawn) - both]
    row = _numbers(diff(run, "best", run, "drawn"), "documents")
    assert row[1:6] == [str(number) for number in expected]
    assert row[6] == f"{both / either:.3f}"


def test_an_arm_is_itself(run):
    text = diff(run, "best", run, "best")
    assert _numbers(text, "documents")[6] == "1.000"
    assert "only in A (best): nothing" in text


def test_runs_over_the_same_documents_are_paired_by_row_and_others_by_id(run, copied):
    same = diff(run, "best", open_run(copied), "drawn")
    catalog = json.loads((copied / "run.json").read_text())
    catalog["corpus"]["digest"] = "another"
    (copied / "run.json").write_text(json.dumps(catalog))
    other = diff(run, "best", open_run(copied), "drawn")
    assert same == other
    assert same.splitlines()[2:] == diff(run, "best", run, "drawn").splitlines()[2:]


def test_examples_are_documents_that_only_one_arm_has_and_always_the_same(run):
    text = diff(run, "best", run, "drawn")
    assert text == diff(run, "best", run, "drawn")
    only = text.split("only in A (best)")[1].split("only in B")[0]
    shown = re.findall(r"^  (\S+)$", only, re.MULTILINE)
    arms = {values["doc_id"]: values for values in run.table(["doc_id", "best_repeats", "drawn_repeats"]).to_pylist()}
    assert len(shown) == 3
    assert all(arms[doc_id]["best_repeats"] and not arms[doc_id]["drawn_repeats"] for doc_id in shown)


def test_shares_of_the_sources_add_up(run):
    text = diff(run, "best", run, "drawn")
    shares = [re.split(r"\s{2,}", line) for line in text.splitlines() if re.match(r"^(news|web|·|<b>)", line)]
    assert sum(float(share[1].rstrip("%")) for share in shares) == pytest.approx(100, abs=0.2)


def test_several_arms_must_be_named(run):
    with pytest.raises(ColumnError, match="expected RUN:ARM; the arms are best, drawn"):
        diff(run, None, run, "best")
    with pytest.raises(ColumnError, match="no arm 'worst'"):
        diff(run, "worst", run, "best")
