import json
import re
import sys
from html.parser import HTMLParser

import pytest

from tamis.audit import charts
from tamis.audit.charts import Scale
from tamis.audit.figures import funnel, largest_sources
from tamis.audit.reader import open_run
from tamis.audit.report import render_page, write_report
from tamis.audit.verdict import load_comparison
from tamis.errors import MissingExtraError

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Which elements are open, what the attributes are, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_is_written_below_the_run(copied):
    path = write_report(open_run(copied))
    assert path == copied / "report" / "index.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert path.stat().st_size < 1_000_000


def test_the_page_loads_nothing_and_runs_nothing(compared):
    text = render_page(compared(3))
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert all(
        value is None or value.startswith("#") for name, value in page.attributes if name in ("src", "href", "action")
    )
    assert not any(name.startswith("on") for name, _ in page.attributes)
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_text_of_documents_is_text(run):
    text = render_page(run)
    assert "<b>web</b>" not in text
    assert "&lt;b&gt;web&lt;/b&gt;" in text


def test_the_headline_says_who_wins_by_how_much_and_what_it_costs(compared):
    comparison = load_comparison(compared(3))
    assert comparison.sentences == [
        "best beats drawn on target by 0.41 bits per byte [0.36, 0.47], 3 seeds; it costs 0.22 on the pool."
    ]
    assert comparison.sentences[0] in Page(render_page(compared(3))).text


def test_one_seed_proves_nothing(compared):
    (sentence,) = load_comparison(compared(1)).sentences
    assert "one seed, which gives no interval" in sentence
    assert "one seed" in Page(render_page(compared(1))).text


def test_an_interval_around_zero_decides_nothing(compared):
    comparison = load_comparison(compared(3))
    assert {d.set: d.verdict for d in comparison.differences} == {
        "target": "better",
        "pool": "worse",
        "pool/news": "level",
    }


def test_without_a_comparison_nothing_is_claimed(run):
    assert "nothing here says whether it helps" in Page(render_page(run)).text


def test_a_comparison_that_is_being_redone_is_not_shown(compared):
    folder = compared(3).path
    catalog = json.loads((folder / "run.json").read_text())
    stage = {**catalog["stages"][-1], "verb": "pipeline", "component": "compare", "name": "compare", "finished": False}
    catalog["stages"].append(stage)
    (folder / "run.json").write_text(json.dumps(catalog))
    assert load_comparison(open_run(folder)) is None


def test_the_funnel_adds_up(run):
    with run.connect() as connection:
        found = funnel(run, connection, run.arm("best"), largest_sources(connection))
    assert found.pool.documents == 97
    assert [step.label for step in found.steps] == [
        "where: NOT exact_duplicate",
        "where: length > 40",
        "quarantined",
        "no score",
        "cut",
    ]
    assert found.pool.documents == found.kept.documents + sum(step.mass.documents for step in found.steps)
    assert found.steps[-1].left == found.kept
    assert {step.label: step.mass.documents for step in found.steps} == dict(run.arm("best").dropped)
    assert sum(found.source_kept(source).documents for source in found.by_source) == 20


def test_the_books_are_shown_and_balance(run):
    text = Page(render_page(run)).text
    assert "does not balance" not in text
    assert "✓ balances" in text


def test_books_that_do_not_balance_are_marked(copied):
    (segment,) = (copied / "ledger").glob("*.jsonl")
    lines = [json.loads(line) for line in segment.read_text().splitlines()]
    last = next(line for line in reversed(lines) if line.get("label") == "score length" and line["rows"])
    segment.write_text("\n".join(json.dumps({**line, "out": 0} if line is last else line) for line in lines) + "\n")
    assert "✗ does not balance" in render_page(open_run(copied))


def test_an_unfinished_run_has_a_page(copied):
    catalog = json.loads((copied / "run.json").read_text())
    catalog["finished"] = False
    catalog["columns"] = {
        name: values for name, values in catalog["columns"].items() if "_repeats" not in name and "_reason" not in name
    }
    (copied / "run.json").write_text(json.dumps(catalog))
    text = Page(render_page(open_run(copied))).text
    assert "has not finished" in text
    assert "copy-a" in text


def test_a_missing_library_names_its_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"tamis\[audit\]"):
        render_page(run)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.7, 0.25, [-0.6, -0.4, -0.2, 0, 0.2]), (5, 5, [5])],
)
def test_axes_have_round_numbers(low, high, ticks):
    assert charts.round_numbers(low, high) == pytest.approx(ticks)


def test_a_logarithmic_axis_puts_its_ends_at_its_ends():
    scale = Scale(0, 10_000, is_log=True, bins=10)
    assert (scale.place(0), scale.place(10_000)) == (0, 1)
    assert scale.ticks == [1, 10, 100, 1000, 10_000]


def test_a_histogram_draws_every_bin():
    drawn = charts.histogram(Scale(0, 1, is_log=False, bins=4), [1, 2, 3, 4], [0, 0, 0, 0], "x <kept>")
    assert len(re.findall("V", drawn)) == 5
    assert 'class="dropped"' not in drawn
    assert "&lt;kept&gt;" in drawn
