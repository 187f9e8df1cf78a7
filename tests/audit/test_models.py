"""The report's sections about models and about how far their scores can be believed, on a run that has both."""

import json
import random
import re

import pyarrow as pa
import pytest

pytest.importorskip("torch")

from tamis.audit import charts
from tamis.audit.estimates import load_estimates
from tamis.audit.models import load_models
from tamis.audit.reader import open_run
from tamis.audit.report import render_page

pytestmark = [pytest.mark.train]


def spoken(count):
    """Documents of one or the other of two small vocabularies."""
    draw = random.Random(3)
    words = [[f"{a}{b}" for a in letters for b in ("ala", "elo", "imi", "opo")] for letters in ("bdfg", "lmnp")]
    texts = [" ".join(draw.choice(words[i % 2]) for _ in range(draw.randint(20, 60))) for i in range(count)]
    return pa.table({"id": [f"d{i}" for i in range(count)], "text": texts, "source": ["b", "l"] * (count // 2)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_spec, write_corpus):
    """Two models, a score of both, its verdict, its distillate, and a selection by clusters."""
    root = tmp_path_factory.mktemp("modelled")
    pool = str(write_corpus(root / "pool", spoken(300), 2))
    stages = [
        {"embed": {"hashed_ngrams": {"dimensions": 16}}},
        {"train": {"name": "prior", "on": {"random": {"tokens": 2_000}}, "size": "tiny"}},
        {"train": {"name": "conditional", "from": "prior", "on": pool, "tokens": 2_000}},
        {"score": {"loss_reduction": {"prior": "prior", "conditional": "conditional"}}},
        {"verify": {"score": "loss_reduction", "target": pool, "subsets": 10, "tokens": 1_000}},
        {"score": {"distill": {"of": "loss_reduction", "features": ["vector"], "held_out": 0.3}}},
        {"score": {"prototypes": {"clusters": 5}}},
        {
            "select": {
                "name": "pulled",
                "by": {
                    "cluster_bandit": {
                        "clusters": "prototypes_centroid", "score": "loss_reduction",
                        "alpha": 1.0, "threshold": -9.0, "portion": 1_000, "most_pulls": 9,
                    }
                },
                "trust": ["loss_reduction"],
                "budget_documents": 50,
            }
        },
    ]  # fmt: skip
    specification = {"corpus": {"paths": pool, "max_bad_fraction": 0.1}, "stages": stages}
    return run_spec(specification, root).folder


@pytest.fixture(scope="module")
def page(folder):
    return render_page(open_run(folder))


def rows_of(page, section):
    text = page[page.index(f'<section id="{section}">') :]
    rows = re.findall(r"<tr>(.*?)</tr>", text[: text.index("</section>")], re.DOTALL)
    return [[re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)] for row in rows]


def test_each_model_is_told_with_what_it_was_trained_on(folder, page):
    prior, conditional = load_models(open_run(folder)).trained
    assert (prior.on, conditional.on) == ("a random 2,000 tokens of the pool", "pool, from prior")
    rows = {row[0]: row for row in rows_of(page, "models") if row}
    assert rows["prior"][1:4] == ["a random 2,000 tokens of the pool", f"{prior.facts['parameters']:,}", "2,000"]
    assert rows["conditional"][3] == "2,000"
    assert [tokens for tokens, _ in prior.losses] == pytest.approx([1000, 2000])


def test_a_point_of_a_curve_is_the_mean_of_its_steps(folder):
    run = open_run(folder)
    stage = next(stage for stage in run.stages if stage.name == "prior")
    losses = json.loads((folder / stage.model / "_training.json").read_text())["losses"]
    (model, _) = load_models(run).trained
    assert [loss for _, loss in model.losses] == pytest.approx(losses)


def test_a_verdict_shows_every_subset(folder, page):
    (verdict,) = load_estimates(open_run(folder)).verdicts
    assert verdict.score == "loss_reduction"
    assert verdict.chart.count("<circle") == 10
    shown = next(row for row in rows_of(page, "estimates") if row and row[0] == "loss_reduction")
    assert shown[1].startswith(f"{verdict.facts['lds']:+.2f}".replace("-", "−"))
    assert shown[2] == ("predicts what training does" if verdict.facts["reliable"] else "not reliable")


def test_what_was_distilled_and_pulled_is_shown(folder, page):
    found = load_estimates(open_run(folder))
    rows = [row for row in rows_of(page, "estimates") if row]
    assert ["distill", "loss_reduction", "ridge", "vector"] in [row[:4] for row in rows]
    clusters = found.bandits["pulled"]["clusters"]
    assert len(found.pulled["pulled"]) == len(clusters["cluster"]) == 5
    assert [entry["pulls"] for entry in found.pulled["pulled"]] == sorted(clusters["pulls"], reverse=True)


def test_a_run_without_models_has_no_such_sections(run):
    page = render_page(run)
    assert load_models(run) is None
    assert load_estimates(run) is None
    assert 'id="models"' not in page
    assert 'id="estimates"' not in page


def test_a_point_stands_where_its_numbers_say():
    drawn = charts.scatter([(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)], "x", "y")
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (left, top), (right, bottom), middle = places
    assert left < right
    assert top < bottom
    assert middle == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.11)
    assert charts.scatter([], "x", "y") == ""


def test_a_narrow_range_has_ticks():
    drawn = charts.curves([charts.Curve("a", [(1000.0, 8.4), (50_000.0, 6.1)])], "x", "y")
    assert {"7", "8"} <= set(re.findall(r">([\d.]+)</text>", drawn))
