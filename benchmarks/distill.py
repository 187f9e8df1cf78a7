"""Scores measured on a sample, distilled onto hashed n-grams: how well held-out documents are ordered, and how fast.

`python benchmarks/distill.py --models` also trains two small models and distils loss reduction and influence, measured
on the sample only; importance is known everywhere, so that what the held-out part says can be held against the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is loaded

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from pool import TARGETS, need_shared, shards, table, write_spec  # noqa: E402

METHODS = ("ridge", "boosting")
NUMBERS = ("length", "length_lines", "repetition")
TARGET = "biomed_abstracts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=12, help="of the pool")
    parser.add_argument("--share", type=float, default=0.2, help="of the documents that are scored by models")
    parser.add_argument("--dimensions", type=int, default=256, help="of the vectors")
    parser.add_argument("--models", action="store_true", help="train models, and measure what they say")
    parser.add_argument("--size", default="tiny", help="of the models")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="that the prior is trained on")
    parser.add_argument("--out", type=Path, default=None, help="keep the run here, and go on with it")
    arguments = parser.parse_args()
    need_shared()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / "run"
        names = _run(Path(folder), out, arguments)
        _tell(out, names, arguments)


def _run(root: Path, out: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The run, and the distilled columns: name → score, method, features."""
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.start import start
    from tamis.pipeline.workers import Serial

    pool = root / "pool"
    pool.mkdir()
    for path in shards(arguments.shards):
        (pool / Path(path).name).symlink_to(path)
    target = TARGETS / f"{TARGET}-train.parquet"
    sampled = f"uniform < {arguments.share}"
    stages = [
        {"embed": {"hashed_ngrams": {"dimensions": arguments.dimensions}}},
        {"score": ["uniform", "length", "repetition", {"importance": {"target": str(target)}}]},
    ]
    scores = {"importance": f"case when {sampled} then importance end"}
    if arguments.models:
        stages += [
            {"train": {"name": "prior", "on": {"random": {"tokens": arguments.tokens}}, "size": arguments.size}},
            {"train": {"name": "conditional", "from": "prior", "on": str(target)}},
        ]
        asked = [
            {"loss_reduction": {"prior": "prior", "conditional": "conditional"}},
            {"influence": {"model": "prior", "target": str(target)}},
        ]
        stages += [{"score": {"by": asked, "where": sampled}}]
        scores |= {"loss_reduction": "loss_reduction", "influence": "influence"}
    names = {}
    for score, of in scores.items():
        for by in METHODS:
            for features in (("vector",), ("vector", *NUMBERS)):
                name = f"{score}_{by}_{len(features)}"
                names[name] = {"score": score, "by": by, "features": features}
                options = {"of": of, "features": list(features), "by": by, "as": name}
                stages.append({"score": {"distill": options}})
    lines = "".join(f"  - {json.dumps(stage)}\n" for stage in stages)
    spec = load_spec(write_spec(root / "stages.yaml", f"{pool}/*.parquet", lines, out))
    start(spec, out, Serial(), Progress())
    return names


def _tell(out: Path, names: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    import tamis
    from tamis.models.lds import spearman

    run = tamis.open_run(out)
    values, columns = run.table(["uniform", "importance", *names]), run.table(["vector", *NUMBERS])
    drawn, truth = (values[name].to_numpy() for name in ("uniform", "importance"))
    seconds = _seconds(out)
    rows = []
    for name, what in names.items():
        found = json.loads((out / "findings" / f"{name}.json").read_text())
        rank, elsewhere = found["spearman"], ""
        if what["score"] == "importance":
            predicted = values[name].to_numpy(zero_copy_only=False)
            rest = (drawn >= arguments.share) & np.isfinite(truth) & np.isfinite(predicted)
            elsewhere = f"{float(spearman(predicted[rest], truth[rest])):.3f}"
        rows.append(
            (
                what["score"],
                what["by"],
                " + ".join(("vectors", *what["features"][1:])),
                f"{found['documents']:,}",
                f"{rank['value']:.3f} [{rank['low']:.3f}, {rank['high']:.3f}]",
                elsewhere,
                f"{found['r2']:.2f}",
                f"{found['top_tenth_found']:.0%}",
                f"{found['baseline']['spearman']:.3f} ({found['baseline']['column']})",
                found.get("penalty", found.get("trees")),
                f"{seconds[f'score {name}: fit']:.1f}",
                f"{_speed(out, name, what, columns):,.0f}",
            )
        )
    header = (
        "score",
        "by",
        "features",
        "learnt from",
        "held-out Spearman",
        "of all outside the sample",
        "R²",
        "best tenth found",
        "best number alone",
        "penalty, trees",
        "fit, s",
        "documents/s",
    )
    own = {f"score {name}" for name in names}
    title = (
        f"distilled from a sample of {arguments.share:.0%}: {len(drawn):,} documents, {arguments.dimensions} dimensions"
    )
    table(title, header, rows)
    others = [(label, total) for label, total in seconds.items() if total >= 0.05 and label.split(": ")[0] not in own]
    table("what the other stages took, one core", ("stage", "seconds"), others)


def _speed(out: Path, name: str, what: dict[str, Any], columns: pa.Table) -> float:
    """Documents per second of one core, from columns in memory to predictions; the fastest of three."""
    from tamis.models.features import layout, widths_in
    from tamis.models.regression import Boosting, Ridge

    stages = json.loads((out / "run.json").read_text())["stages"]
    folder = next(out / stage["model"] for stage in stages if stage["name"] == name)
    model: Any = (Ridge if what["by"] == "ridge" else Boosting).load(folder)
    batch = columns.slice(0, 8192).combine_chunks().to_batches()[0]
    plan = layout(name, what["features"], widths_in(what["features"], batch))
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        model.predict(plan.matrix(plan.arrays(batch))[0])
        best = min(best, time.perf_counter() - began)
    return len(batch) / best


def _seconds(out: Path) -> dict[str, float]:
    """Stage, or stage and step where it is a training → seconds of all its tasks."""
    total: dict[str, float] = {}
    for path in sorted((out / "ledger").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            receipt = json.loads(line)
            if "unit" in receipt:
                total[receipt["label"]] = total.get(receipt["label"], 0.0) + receipt["seconds"]
    return total


if __name__ == "__main__":
    main()
