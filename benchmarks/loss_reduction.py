"""How much data a selection saves: bits per byte on held-out biomedical abstracts against the tokens trained on.

loss_reduction, importance and random choose from one pool; a proxy is trained on each choice at each budget, with
several seeds. Prints the curves with intervals over seeds, how many tokens of random text reach the same, and how
much of each choice is biomedical by its source. The run's folder is kept between calls: what is done is not redone.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from pool import TARGETS, need_shared, shards, table
from ruamel.yaml import YAML

import tamis

BIOMEDICAL = ("medline-abstracts", "pubmed-abstracts")
RELATED = ("health-qa", "grants-nih")
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # Student's, for n seeds
METHODS = ("loss_reduction", "importance", "random")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("/tmp/tamis-loss-reduction"))
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--budgets", default="125000,250000,500000,1000000,2000000,4000000")
    parser.add_argument(
        "--random-only-from", type=int, default=4_000_000, help="budgets at which importance is left out"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", default="tiny", help="of the proxies that judge")
    parser.add_argument("--scoring-size", default="tiny", help="of the two models that score")
    parser.add_argument("--prior-tokens", type=int, default=3_000_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    need_shared()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    budgets = [int(each) for each in arguments.budgets.split(",")]
    found = {budget: _one(arguments, budget) for budget in budgets}
    _curves(found, arguments.seeds)
    _savings(found)


def _one(arguments: argparse.Namespace, budget: int) -> dict[str, Any]:
    """Bits per byte of every method and seed at one budget, and what its arms hold."""
    kept = arguments.folder / f"{arguments.size}-{arguments.seeds}-{budget}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    methods = METHODS if budget < arguments.random_only_from else ("loss_reduction", "random")
    where = "not exact_duplicate and not in_training_conditional and loss_reduction is not null"
    by = {"random": "sample", **{each: {"top": {"score": each}} for each in METHODS[:2]}}
    stages: list[dict[str, Any]] = [
        {"deduplicate": {"by": "exact"}},
        {"train": {"name": "prior", "on": {"random": {"tokens": arguments.prior_tokens}}, "size": arguments.scoring_size}},
        {"train": {"name": "conditional", "from": "prior", "on": str(TARGETS / "biomed_abstracts-train.parquet")}},
        {"score": [
            {"loss_reduction": {"prior": "prior", "conditional": "conditional"}},
            {"importance": {"target": str(TARGETS / "biomed_abstracts-train.parquet")}},
        ]},
        *({"select": {"name": f"by_{each}", "where": where, "by": by[each], "budget_tokens": int(budget * 1.3)}} for each in methods),
        {"compare": {
            "arms": [f"by_{each}" for each in methods], "control": "by_random", "size": arguments.size, "seeds": arguments.seeds, "tokens": budget,
            "evaluate": {"biomed": str(TARGETS / "biomed_abstracts-valid.parquet")},
        }},
    ]  # fmt: skip
    file = arguments.folder / f"{budget}.yaml"
    specification = {"corpus": {"paths": shards(arguments.shards)}, "out": "run", "seed": 7, "stages": stages}
    with file.open("w") as stream:
        YAML().dump(specification, stream)
    run = tamis.run(file, workers=arguments.workers)
    compared = json.loads((arguments.folder / "run" / "compare.json").read_text())
    result: dict[str, Any] = {"bits": {}, "biomedical": {}, "related": {}, "pool": {}}
    for method in methods:
        for name, key in (("biomed", "bits"), ("pool", "pool")):
            rows = [row for row in compared["runs"] if row["arm"] == f"by_{method}" and row["set"] == name]
            result[key][method] = [row["bits_per_byte"] for row in sorted(rows, key=lambda row: row["seed"])]
        kept_documents = run.table(["source", "n_tokens"], where=f"by_{method}_repeats > 0")
        sources, tokens = np.array(kept_documents["source"].to_pylist()), kept_documents["n_tokens"].to_numpy()
        result["biomedical"][method] = float(tokens[np.isin(sources, BIOMEDICAL)].sum() / tokens.sum())
        result["related"][method] = float(tokens[np.isin(sources, RELATED)].sum() / tokens.sum())
    kept.write_text(json.dumps(result))
    return result


def _interval(values: list[float]) -> str:
    half = (
        T_95.get(len(values), 1.96) * np.std(values, ddof=1) / math.sqrt(len(values))
        if len(values) > 1
        else float("nan")
    )
    return f"{np.mean(values):.3f} ± {half:.3f}"


def _curves(found: dict[int, dict[str, Any]], seeds: int) -> None:
    rows = []
    for budget, result in found.items():
        cells = [_interval(result["bits"][each]) if each in result["bits"] else "" for each in METHODS]
        pool = [f"{np.mean(result['pool'][each]):.2f}" if each in result["pool"] else "" for each in METHODS]
        shares = [
            f"{result['biomedical'][each]:.0%} (+{result['related'][each]:.0%})" if each in result["bits"] else ""
            for each in METHODS
        ]
        rows.append((f"{budget / 1e6:g} M", *cells, " / ".join(pool), *shares))
    table(
        f"Bits per byte on held-out biomedical abstracts, {seeds} seeds, 95 % intervals of the mean (Student)",
        (
            "tokens",
            *METHODS,
            "held-out pool, same order",
            *(f"biomedical share of {each} (+ related)" for each in METHODS),
        ),
        rows,
    )


def _savings(found: dict[int, dict[str, Any]]) -> None:
    """How many tokens of random text reach what a method reaches, along the line between measured budgets in log tokens."""
    budgets = sorted(found)
    random = [float(np.mean(found[budget]["bits"]["random"])) for budget in budgets]
    rows = []
    for budget in budgets:
        cells = []
        for method in METHODS[:2]:
            if method not in found[budget]["bits"]:
                cells.append("")
                continue
            wanted = float(np.mean(found[budget]["bits"][method]))
            if wanted < min(random):
                cells.append(f"more than {budgets[-1] / budget:.0f}×")
            else:  # bits fall with tokens
                tokens = math.exp(float(np.interp(-wanted, [-each for each in random], np.log(budgets))))
                cells.append(f"{tokens / budget:.1f}×")
        rows.append((f"{budget / 1e6:g} M", *cells))
    table("Tokens of random text for the same bits per byte", ("tokens of the choice", *METHODS[:2]), rows)


if __name__ == "__main__":
    main()
