"""The recipes of docs/distill.md run, on a small corpus with small models, and find what they say they look for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "distill.md"
TOKENS = 6_144  # of each training: enough for steps of every kind
SHARES = (0.4, 0.4, 0.95)  # of the documents; the last recipe leaves out what its models read, which is much of so few

pytestmark = [pytest.mark.train, pytest.mark.slow]


def recipes() -> list[str]:
    return re.findall(r"(?ms)^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"))


def small(number: int, workplace: Path) -> str:
    """The same stages on the small sample: more of it is scored, and less trained."""
    share = SHARES[number]
    recipe = re.sub(r"\b(uniform|again) < [\d.]+", rf"\1 < {share}", recipes()[number])
    recipe = re.sub(r"\{tokens: [\d_]+\}", f"{{tokens: {TOKENS}}}", recipe)
    recipe = re.sub(r"budget_tokens: [\d_]+", "budget_tokens: 8_000", recipe)
    # what was learnt from so few documents is refused, unless it is trusted
    arm = r"(?m)^( *)(.*by: \{(?:top|sample): \{score: (\w+).*?\}\})(,|$)"
    recipe = re.sub(
        arm, lambda m: f"{m[1]}{m[2]}" + (f", trust: [{m[3]}]," if m[4] else f"\n{m[1]}trust: [{m[3]}]"), recipe
    )
    return recipe.replace("sample/", f"{workplace}/sample/")


@pytest.fixture(scope="module")
def ran(workplace, run_spec, tmp_path_factory):
    """Number of the recipe → its run, made once."""
    for package in ("torch", "lightgbm"):
        pytest.importorskip(package)
    made = {}

    def of(number: int):
        if number not in made:
            made[number] = run_spec(small(number, workplace), tmp_path_factory.mktemp("recipe"))
        return made[number]

    return of


def finding(run, name: str) -> dict:
    return json.loads((run.folder / "findings" / f"{name}.json").read_text())


def column(run, name: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in run.values(name).values()], np.float64)


def test_the_page_has_three_recipes():
    assert len(recipes()) == 3


def test_influence_on_a_sample_becomes_a_score_of_every_document(ran):
    run = ran(0)
    measured, told = column(run, "influence"), column(run, "helps")
    duplicate, drawn = column(run, "exact_duplicate"), column(run, "uniform")
    assert np.array_equal(np.isfinite(measured), (drawn < SHARES[0]) & (duplicate == 0))
    assert np.isfinite(told).all()
    assert finding(run, "helps")["documents"] == np.isfinite(measured).sum()
    assert finding(run, "helps")["features"] == ["vector", "length"]
    kept = np.array([doc_id in run.kept("curated") for doc_id in run.values("helps")])
    assert told[kept].min() > np.median(told)


def test_a_second_stage_learns_from_the_model_that_the_first_made(ran):
    run = ran(1)
    assert not run.kept("stage_one") & run.kept("stage_two")
    assert len(run.kept("stage_two")) > 5
    first, second = column(run, "helps_first"), column(run, "helps_second")
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)
    taught = np.isfinite(column(run, "to_second"))
    assert not (taught & (column(run, "stage_one_repeats") > 0)).any()


def test_predictive_strength_is_a_share_of_pairs_of_models(ran):
    run = ran(2)
    weak, middle, strong = (column(run, f"{name}_losses_nats") for name in ("weak", "middle", "strong"))
    known = np.isfinite(weak)
    share = ((weak > middle).astype(float) + (weak > strong) + (middle > strong)) / 3
    assert finding(run, "predictive")["scored"] == known.sum()
    assert finding(run, "predictive")["by"] == "boosting"
    told = column(run, "predictive")
    assert np.isfinite(told).all()
    assert told[known].min() >= share[known].min() - 1e-6
    assert told[known].max() <= share[known].max() + 1e-6
