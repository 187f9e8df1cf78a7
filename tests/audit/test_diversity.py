"""The report's section about diversity, on a run that has it."""

import json
import math
import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from tamis.audit import charts
from tamis.audit.charts import Curve
from tamis.audit.diversity import load_diversity
from tamis.audit.reader import open_run
from tamis.audit.report import render_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_spec, documents, write_corpus):
    """A run with vectors, an arm and a stage `diversity`."""
    root = tmp_path_factory.mktemp("varied")
    names = ["<i>web</i>" if name == "web" else name for name in documents["source"].to_pylist()]
    table = documents.set_column(documents.schema.names.index("source"), "source", pa.array(names))
    stages = [
        {"embed": {"hashed_ngrams": {"dimensions": 16}}},
        {"score": "vendi"},
        {"select": {"name": "varied", "by": {"top": {"score": "vendi"}}, "budget_documents": 90}},
        {"diversity": None},
    ]
    corpus = {"paths": str(write_corpus(root / "pool", table, 2)), "max_bad_fraction": 0.1}
    return run_spec({"corpus": corpus, "stages": stages}, root).folder


@pytest.fixture
def page(folder):
    return render_page(open_run(folder))


def cells(page):
    """Rows of cells of the section's tables, as text."""
    section = page[page.index('<section id="diversity">') :]
    section = section[: section.index("</section>")]
    rows = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    return [[re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)] for row in rows]


def test_every_group_has_its_numbers(folder, page):
    rows = {row[0]: row for row in cells(page) if row}
    raw = json.loads((folder / "diversity.json").read_text("utf-8"))
    assert list(rows) == ["pool", "varied", *[row[0] for row in list(rows.values())[2:]]]
    assert {"&lt;i&gt;web&lt;/i&gt;", "books", "code", "(no source)"} <= set(rows)
    for name, row in zip(("pool", "varied"), raw["rows"], strict=False):
        shown = rows[name]
        assert shown[1] == str(row["documents"])
        assert [float(value) for value in shown[2:6]] == pytest.approx(list(row["raw"].values()), rel=1e-3)
        assert float(shown[6]) == pytest.approx(row["centred"]["1"], rel=1e-3)
        assert float(shown[7]) * float(shown[8]) == pytest.approx(row["raw"]["1"], rel=2e-3)
        value, low, high = (float(part) for part in re.findall(r"[\d.]+", shown[10]))
        assert [value, low, high] == pytest.approx(row["equal"]["raw"]["1"], rel=6e-3)


def test_names_of_sources_are_text(page):
    assert "<i>web</i>" not in page
    assert "&lt;i&gt;web&lt;/i&gt;" in page


def test_the_section_is_well_formed_and_has_both_spectra(page):
    class Balanced(HTMLParser):
        open_tags: tuple = ()

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br", "link", "img", "input", "hr"):
                self.open_tags = (*self.open_tags, tag)

        def handle_endtag(self, tag):
            assert self.open_tags[-1] == tag
            self.open_tags = self.open_tags[:-1]

    parser = Balanced()
    parser.feed(page)
    assert parser.open_tags == ()
    assert page.count('<svg class="curves"') == 2
    assert page.count("<polyline") == 4
    assert '<a href="#diversity">' in page


def test_small_samples_are_called_small(page):
    assert "The samples are smaller than 50 documents per dimension (800)" in page


def test_without_a_diversity_there_is_no_section(run):
    assert load_diversity(run) is None
    assert 'id="diversity"' not in render_page(run)


def test_a_diversity_that_is_being_redone_is_not_shown(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    catalog = json.loads((copy / "run.json").read_text("utf-8"))
    for stage in catalog["stages"]:
        if stage["name"] == "diversity":
            stage["finished"] = False
    (copy / "run.json").write_text(json.dumps(catalog))
    assert load_diversity(open_run(copy)) is None


def test_a_diversity_of_no_documents_is_not_shown(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "diversity.json").write_text(json.dumps({"documents": 0, "rows": []}))
    assert load_diversity(open_run(copy)) is None


def test_a_curve_goes_through_its_points():
    drawn = charts.curves([Curve("a<b", [(1, 1), (10, 0.1), (100, 0.001)])], "across", "up")
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="(.*?)"', drawn)[1].split()]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert (points[2][1] - points[1][1]) / (points[1][1] - points[0][1]) == pytest.approx(2, abs=0.01)
    assert "a&lt;b" in drawn
    assert charts.curves([], "across", "up") == ""


def test_a_curve_of_one_point_has_axes():
    drawn = charts.curves([Curve("a", [(1, 1)])], "across", "up")
    assert not re.search("nan|inf", drawn)
    assert math.isfinite(float(re.search(r'points="([\d.]+),', drawn)[1]))
