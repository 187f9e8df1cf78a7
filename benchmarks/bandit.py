"""What cluster_bandit finds and what it looks at, by alpha and threshold, beside `top` and a random draw.

Clusters are prototypes over hashed n-grams; the value is importance toward biomedical abstracts, which every document
has, so that the choice can be judged by it, too; with --influence, the influence on them of a model trained in the run,
computed for the documents looked at only. The run's folder is kept between calls: what is done is not redone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from pool import TARGETS, need_shared, shards, table
from ruamel.yaml import YAML

import tamis

BIOMEDICAL = ("medline-abstracts", "pubmed-abstracts")
RELATED = ("health-qa", "grants-nih")
TARGET = str(TARGETS / "biomed_abstracts-train.parquet")
WHERE = "not exact_duplicate"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("/tmp/tamis-bandit"))
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--budget", type=int, default=1_500_000)
    parser.add_argument("--portion", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--most-pulls", type=int, default=600)
    parser.add_argument("--alphas", default="0,0.3,1,3")
    parser.add_argument("--thresholds", default="-0.5,0,0.5,1,1.5,2")
    parser.add_argument("--influence", action="store_true", help="instead of importance: train a model and ask it")
    parser.add_argument("--size", default="tiny", help="of that model")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    need_shared()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    grid = [(1.0, float(each)) for each in arguments.thresholds.split(",")]
    grid += [(float(each), 1.0) for each in arguments.alphas.split(",") if float(each) != 1]
    file = arguments.folder / "stages.yaml"
    with file.open("w") as stream:
        YAML().dump(_specification(arguments, grid), stream)
    run = tamis.run(file, workers=arguments.workers)
    _print(arguments, run, grid)


def _specification(arguments: argparse.Namespace, grid: list[tuple[float, float]]) -> dict[str, Any]:
    values: dict[str, Any] = {"score": "importance"}
    models: list[dict[str, Any]] = []
    if arguments.influence:
        values = {"influence": "helpful"}
        models = [
            {"train": {"name": "model", "on": {"random": {"tokens": 2_000_000}}, "size": arguments.size}},
            {"score": {"influence": {"model": "model", "target": TARGET, "as": "helpful", "where": "spot < 0.02"}}},
        ]
    common = {"portion": arguments.portion, "draws": arguments.draws, "most_pulls": arguments.most_pulls}
    by: dict[str, Any] = {
        _name(alpha, threshold): {"cluster_bandit": {**values, **common, "alpha": alpha, "threshold": threshold}}
        for alpha, threshold in grid
    }
    by |= {"best": {"top": {"score": "importance"}}, "random": "sample"}
    arms = [{"name": name, "where": WHERE, "by": each, "budget_tokens": arguments.budget} for name, each in by.items()]
    stages = [
        {"embed": {"by": "hashed_ngrams"}},
        {"deduplicate": {"by": "exact"}},
        {"score": [
            {"prototypes": {"clusters": arguments.clusters, "where": WHERE}},
            {"importance": {"target": TARGET}},
            *([{"uniform": {"as": "spot"}}] if arguments.influence else []),
        ]},
        *models,
        *({"select": arm} for arm in arms),
    ]  # fmt: skip
    return {"corpus": {"paths": shards(arguments.shards)}, "out": "run", "seed": 7, "stages": stages}


def _name(alpha: float, threshold: float) -> str:
    return f"bandit_{alpha:g}_{threshold:g}".replace(".", "p").replace("-", "m")


def _print(arguments: argparse.Namespace, run: Any, grid: list[tuple[float, float]]) -> None:
    pool = run.table(["importance", "n_tokens"], where=WHERE)
    rows = []
    for alpha, threshold in grid:
        name = _name(alpha, threshold)
        told = json.loads((arguments.folder / "run" / "findings" / f"{name}.json").read_text())
        some = sum(taken > 0 for taken in told["clusters"]["taken"])
        looked = told["documents_looked_at"]
        share = f"{looked:,} ({looked / pool.num_rows:.1%})"
        rows.append((f"{alpha:g}", f"{threshold:g}", told["pulls"], share, some, *_chosen(run, name), told["stopped"]))
    for name in ("best", "random"):
        rows.append(("", name, "", f"{pool.num_rows:,}" if name == "best" else "0", "", *_chosen(run, name), ""))
    value = "influence" if arguments.influence else "importance"
    table(
        f"cluster_bandit by {value}: {arguments.clusters} clusters, portions of {arguments.portion}, "
        f"{arguments.draws} draws, {arguments.budget:,} tokens at most",
        (
            "alpha", "threshold", "pulls", "documents looked at", "clusters taken from", "tokens taken",
            "biomedical share of tokens (+ related)", "mean importance", "ended by",
        ),
        rows,
    )  # fmt: skip


def _chosen(run: Any, name: str) -> tuple[str, str, str]:
    """Tokens of an arm, how much of them is biomedical by its source, and its mean importance."""
    kept = run.table(["source", "n_tokens", "importance"], where=f"{name}_repeats > 0")
    sources, tokens = np.array(kept["source"].to_pylist()), kept["n_tokens"].to_numpy().astype(float)
    if not len(tokens):
        return "0", "", ""
    near, related = (tokens[np.isin(sources, names)].sum() / tokens.sum() for names in (BIOMEDICAL, RELATED))
    return f"{int(tokens.sum()):,}", f"{near:.0%} (+{related:.0%})", f"{np.nanmean(kept['importance'].to_numpy()):.2f}"


if __name__ == "__main__":
    main()
