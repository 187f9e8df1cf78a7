"""Stored gradients: do a target's like them, how exact are the projections, and what do they cost?

A small model is trained on a slice of the pool; gradients of documents of one shard are stored in several ways and
compared with a biomedical target's. How well do the cosines find documents of biomedical sources, by the area under the
curve and among the top twentieth, beside influence (Mode A) with the same model? How far are squared lengths of
projected gradients from those of the gradients, by length of document? And how many tokens a second?
"""

from __future__ import annotations

import argparse
import math
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # as in a worker: cores are used by processes; before numpy is loaded

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pool import TARGETS, need_shared, shards, table  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402

import tamis  # noqa: E402

BIOMEDICAL = ("medline-abstracts", "pubmed-abstracts")
RELATED = ("health-qa", "grants-nih")
TARGET = str(TARGETS / "biomed_abstracts-train.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/tamis-attribution"))
    parser.add_argument("--documents", type=int, default=4_000)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--tokens", type=int, default=300_000, help="that the model is trained on")
    parser.add_argument("--most-tokens", type=int, default=512, help="of a document that count")
    parser.add_argument("--dimensions", default="1024,4096,16384")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    need_shared()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    dimensions = [int(each) for each in arguments.dimensions.split(",")]
    run = _run(arguments, dimensions)
    _found(run, arguments)
    model = next((arguments.folder / "run").glob("fits/proxy-model-*"), None)
    if model is None:
        model = next(path.parent for path in (arguments.folder / "run").rglob("model.safetensors"))
    _exactness(model, arguments, dimensions)
    _speed(model, arguments, dimensions)


def _run(arguments: argparse.Namespace, dimensions: list[int]) -> Any:
    pool = arguments.folder / f"pool-{arguments.documents}.parquet"
    pq.write_table(pq.read_table(shards(1)[0]).slice(0, arguments.documents), pool)
    shared = {"model": "proxy", "most_tokens": arguments.most_tokens, "sample": min(2_000, arguments.documents)}
    ways: dict[str, dict[str, Any]] = {f"two_sided_{each}": {"dimensions": each} for each in dimensions}
    middle = dimensions[len(dimensions) // 2]
    ways[f"one_sided_{middle}"] = {"dimensions": middle, "projection": "one_sided"}
    ways[f"two_sided_{middle}_not_whitened"] = {"dimensions": middle, "damping": 1000.0}
    influence = {"model": "proxy", "target": TARGET, "most_tokens": arguments.most_tokens}
    stages: list[dict[str, Any]] = [
        {"train": {"name": "proxy", "on": {"random": {"tokens": arguments.tokens}}, "size": arguments.size}},
        *({"embed": {"gradients": {**shared, **way, "as": f"g_{name}"}}} for name, way in ways.items()),
        {"score": [{"attribution": {"of": f"g_{name}", "target": TARGET, "as": f"cosine_{name}"}} for name in ways]},
        {"score": [
            {"influence": {**influence, "curvature": "identity", "as": "influence_identity"}},
            {"influence": {**influence, "as": "influence_ekfac"}},
        ]},
    ]  # fmt: skip
    file = arguments.folder / "stages.yaml"
    with file.open("w") as stream:
        YAML().dump({"corpus": {"paths": str(pool)}, "out": "run", "seed": 7, "stages": stages}, stream)
    return tamis.run(file, workers=arguments.workers)


def _found(run: Any, arguments: argparse.Namespace) -> None:
    columns = [name for name in run.columns if name.startswith(("cosine_", "influence_")) and "truncated" not in name]
    told = run.table(["source", "in_training_proxy", *columns])
    sources = np.array(told["source"].to_pylist())
    fresh = ~np.array(told["in_training_proxy"].to_pylist(), bool)
    own, wider = np.isin(sources, BIOMEDICAL), np.isin(sources, BIOMEDICAL + RELATED)
    rows = []
    for name in columns:
        scores = np.array(told[name].to_numpy(), float)
        use = fresh & ~np.isnan(scores)
        top = np.argsort(-scores[use], kind="stable")[: max(1, int(use.sum() * 0.05))]
        areas = [area(scores[use], truth[use]) for truth in (own, wider)]
        rows.append((name, *areas, f"{own[use][top].mean():.1%}", f"{wider[use][top].mean():.1%}"))
    rows.append(("chance", 0.5, 0.5, f"{own[fresh].mean():.1%}", f"{wider[fresh].mean():.1%}"))
    told_of = f"{arguments.documents:,} documents, {arguments.size} after {arguments.tokens:,} tokens"
    header = (
        "score",
        "AUC abstracts",
        "AUC with health and grants",
        "abstracts in the top 5 %",
        "with health and grants",
    )
    table(f"Biomedical documents found by their gradients: {told_of}", header, rows)


def area(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share of pairs of a true and a false one that are in the right order."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    positive = int(truth.sum())
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * (len(truth) - positive)))


def _documents(model: Path, count: int) -> tuple[Any, np.ndarray, np.ndarray]:
    from tamis.models.language import language_model

    read = language_model(str(model))
    texts = pq.read_table(shards(2)[1], columns=["text"]).slice(0, count)["text"].to_pylist()
    ids, offsets = read.tokenizer.encode(texts)
    return read, ids, offsets


def _exactness(model: Path, arguments: argparse.Namespace, dimensions: list[int]) -> None:
    """Relative error of squared lengths, over documents, by their tokens."""
    from tamis.models.dynamics import squared_norms
    from tamis.models.gradients import linear_layers
    from tamis.models.projection import Projection

    read, ids, offsets = _documents(model, 600)
    layers = linear_layers(read.model)
    truth = squared_norms(read, ids, offsets, arguments.most_tokens)
    lengths = np.minimum(np.diff(offsets), arguments.most_tokens)
    edges = [1, 32, 128, 1 << 30]
    rows = []
    for kind in ("two_sided", "one_sided"):
        for each in dimensions:
            made = Projection.drawn(layers, each, kind, 0)
            with read.device.alone():
                z = made.documents(read, ids, offsets, arguments.most_tokens)
            error = (z**2).sum((1, 2)) / np.maximum(truth, 1e-300) - 1
            spread = [_spread(error[(lengths >= a) & (lengths < b)]) for a, b in pairwise(edges)]
            alone = math.sqrt((1 + 2 / math.isqrt(made.numbers)) ** 2 - 1)
            expected = alone if kind == "two_sided" else math.sqrt(8 / made.numbers)
            rows.append((f"{kind}, {each:,}", made.numbers, *spread, expected / math.sqrt(len(layers))))
    header = (
        "projection",
        "numbers per layer",
        "below 32 tokens",
        "32 to 127",
        "128 and more",
        "rank one, layers alike",
    )
    table("Relative error of squared lengths of projected gradients (root mean square)", header, rows)


def _spread(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean())) if len(error) else float("nan")


def _speed(model: Path, arguments: argparse.Namespace, dimensions: list[int]) -> None:
    """Tokens a second on one thread: a forward and backward pass for nothing, then with what is stored."""
    from tamis.models.gradients import backward, linear_layers
    from tamis.models.projection import GradientSpace
    from tamis.models.windows import batches_of, windows_of

    read, ids, offsets = _documents(model, 300)
    layers = linear_layers(read.model)
    windows = windows_of(offsets, read.context, arguments.most_tokens)
    tokens = int(windows.tokens.sum())

    def bare() -> None:
        with read.device.alone():
            for batch in batches_of(ids, windows, read.end, read.device):
                backward(read, batch, lambda *_: None)

    ways = {"forward and backward alone": bare}
    for kind in ("two_sided", "one_sided"):
        for each in dimensions:
            space = GradientSpace.plain(layers, each, kind, 0, arguments.most_tokens).on(read.device.name)
            ways[f"{kind}, {each:,}"] = lambda space=space: space.vectors(read, ids, offsets)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    best = {name: min(each) for name, each in seconds.items()}
    whole = best["forward and backward alone"]
    rows = [(name, tokens / each, f"{whole / each:.0%}") for name, each in best.items()]
    table(
        f"Projecting gradients of {tokens:,} tokens, {arguments.size}, best of 3", ("", "tokens/s", "of the pass"), rows
    )


if __name__ == "__main__":
    main()
