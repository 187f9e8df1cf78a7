"""Semantic deduplication: the same documents as a brute force, pairs per second, and k-means against faiss' own.

One core. The vectors are hashed n-grams of real documents, in half floats as a layer holds them.

    python benchmarks/semantic.py --documents 20000
"""

# ruff: noqa: E402 - numpy reads the number of threads when it is imported

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before numpy is there to read them
    os.environ[name] = "1"

import argparse
import gzip
import json
import tempfile
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pool import SHARED, need_shared, shards, side_by_side, spread, table, write_spec

from tamis.clustering import fitted, nearest_centroids
from tamis.dedup.semantic import Semantic
from tamis.embedders.hashed_ngrams import HashedNgrams
from tamis.inline import run_inline
from tamis.kernels.arrow import vectors_of
from tamis.kernels.directions import UNIT, directions
from tamis.kernels.pairs import linked
from tamis.scorers.prototypes import Prototypes

KMEANS_ROUNDS = 20
NEAR = 5e-5  # float32 and the rounding to directions may disagree this near the threshold
STAGES = "  - embed: {by: hashed_ngrams}\n  - deduplicate: {by: {semantic: {keep_fraction: 0.75}}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epsilon", action="store_true", help="only what each epsilon finds among labelled pairs")
    arguments = parser.parse_args()
    need_shared()
    if arguments.epsilon:
        compare_epsilons()
        return
    documents = read(arguments.documents)
    vectors = run_inline(HashedNgrams(dimensions=arguments.dimensions), documents, "vector")["vector"]
    documents = documents.append_column("vector", vectors)
    compare_kept(documents)
    time_pairs(vectors_of(vectors), arguments.rounds)
    time_kmeans(vectors_of(vectors), arguments.rounds)
    time_run(documents.num_rows, arguments.rounds)


def read(count: int) -> pa.Table:
    tables, rows = [], 0
    for path in shards(12):
        tables.append(pq.read_table(path, columns=["id", "text"]).rename_columns(["doc_id", "text"]))
        rows += tables[-1].num_rows
        if rows >= count:
            break
    return pa.concat_tables(tables).slice(0, count).combine_chunks()


def compare_kept(documents: pa.Table) -> None:
    """Whom each mode keeps, against all pairs of each cluster in numpy, in one cluster and in several."""
    rows = []
    order = np.argsort(np.array(documents["doc_id"].to_pylist()), kind="stable")
    for clusters in (None, 1):
        found = run_inline(Prototypes(clusters=clusters, rounds=10), documents, "p")
        known = found["p_centroid"].is_valid().to_numpy()
        centroid = found["p_centroid"].fill_null(0).to_numpy()
        unit = vectors_of(documents["vector"]).astype(np.float32)
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
        largest = brute_force(unit, centroid, order[known[order]])
        for epsilon in (0.05, 0.3):
            ours = run_inline(Semantic(clusters=clusters, epsilon=epsilon, order="keep"), documents, "s")
            gone = ours["s_duplicate"].to_numpy()
            differs = gone != (largest > 1 - epsilon)
            far = differs & (np.abs(largest - (1 - epsilon)) > NEAR)
            said = len(np.unique(centroid[known]))
            rows.append((said, epsilon, f"{1 - gone.mean():.2%}", int(differs.sum()), int(far.sum())))
    table(
        f"semantic: {documents.num_rows:,} documents against a brute force in float32",
        ("clusters", "epsilon", "kept", "other decisions", f"of them farther than {NEAR:g} from the threshold"),
        rows,
    )


def brute_force(unit: np.ndarray, centroid: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The largest cosine of each document with an earlier one of its cluster, -2 for the first, by whole matrices."""
    largest = np.full(len(unit), -2.0, np.float32)
    for each in np.unique(centroid[order]):
        members = order[centroid[order] == each]
        for start in range(0, len(members), 2000):
            part = members[start : start + 2000]
            cosine = unit[part] @ unit[members[: start + len(part)]].T
            cosine[:, start:][np.triu_indices(len(part))] = -2
            largest[part] = cosine.max(axis=1)
    return largest


def compare_epsilons() -> None:
    """What each epsilon finds among pairs that people, or a version history, have called the same; minutes per embedder."""
    from tamis.embedders.sentence import Sentence

    rows = []
    for embedder in (Sentence(precision="float32"), HashedNgrams()):
        for name, pairs in (("MRPC", paraphrases()), ("pages", versions())):
            label = np.array([same for _, _, same in pairs])
            sides = [run_inline(embedder, pa.table({"text": [pair[i] for pair in pairs]}), "v")["v"] for i in (0, 1)]
            one, other = (vectors_of(side) for side in sides)
            length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            cosine = np.einsum("ij,ij->i", one, other) / np.maximum(length, 1e-30)
            for epsilon in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
                found = cosine > 1 - epsilon
                right = int((found & label).sum())
                precision = f"{right / found.sum():.1%}" if found.any() else "none"
                rows.append((type(embedder).__name__, name, epsilon, f"{right / label.sum():.1%}", precision))
    table("semantic: epsilon on labelled pairs", ("vectors", "pairs", "epsilon", "of the same found", "right"), rows)


def paraphrases() -> list[tuple[str, str, bool]]:
    with gzip.open(SHARED / "dups" / "mrpc_pairs.jsonl.gz") as file:
        pairs = [json.loads(line) for line in file]
    return [(pair["a"], pair["b"], pair["label"] == 1) for pair in pairs if pair["split"] == "test"][:800]


def versions() -> list[tuple[str, str, bool]]:
    """Two hundred pairs of versions of one page, and two hundred of different pages."""
    pages = pq.read_table(SHARED / "dups" / "docs_revisions.parquet", columns=["doc_id", "text"]).to_pylist()
    text = {page["doc_id"]: page["text"] for page in pages}
    with gzip.open(SHARED / "dups" / "docs_revisions_pairs.jsonl.gz") as file:
        pairs = [json.loads(line) for line in file]
    draw, chosen = np.random.default_rng(0), []
    for label in (1, 0):
        some = [pair for pair in pairs if pair["label"] == label]
        chosen += [some[i] for i in draw.permutation(len(some))[:200]]
    return [(text[pair["a"]], text[pair["b"]], pair["label"] == 1) for pair in chosen]


def time_pairs(vectors: np.ndarray, rounds: int) -> None:
    fixed = directions(vectors)
    fixed = fixed[fixed.any(axis=1)]
    unit = vectors[np.flatnonzero(vectors.any(axis=1))]
    linked(fixed[:2000], "greedy", 0.95)  # compiles
    linked(fixed[:2000], "components", 0.95)
    n = len(fixed)
    contenders = {
        **{f"tamis, {mode}": partial(linked, fixed, mode, 0.95) for mode in ("reference", "greedy", "components")},
        "numpy, float32, largest only": lambda: brute_force(unit, np.zeros(n, np.int64), np.arange(n)),
    }
    times = side_by_side(contenders, rounds)
    rows = [(name, spread(each), n * (n - 1) / 2 / min(each) / 1e6) for name, each in times.items()]
    table(f"semantic: all pairs of {n:,} vectors of {vectors.shape[1]}", ("", "seconds", "million pairs/s"), rows)


def time_kmeans(vectors: np.ndarray, rounds: int) -> None:
    fixed = directions(vectors)
    fixed = fixed[fixed.any(axis=1)]
    unit = fixed.astype(np.float32) / UNIT
    clusters = int(len(fixed) ** 0.5)
    hashes = np.random.default_rng(0).permutation(len(fixed)).astype(np.uint64)
    made: dict[str, np.ndarray] = {}

    def ours() -> None:
        made["tamis, exact"] = fitted(hashes, fixed, clusters, KMEANS_ROUNDS).astype(np.float32)

    def theirs() -> None:
        kmeans = faiss.Kmeans(
            unit.shape[1], clusters, niter=KMEANS_ROUNDS, spherical=True, seed=1234, max_points_per_centroid=10**6
        )
        kmeans.train(unit)
        made["faiss.Kmeans, spherical"] = kmeans.centroids

    times = side_by_side({"tamis, exact": ours, "faiss.Kmeans, spherical": theirs}, rounds)
    rows = []
    for name, each in times.items():
        centroids = made[name] / np.linalg.norm(made[name], axis=1, keepdims=True)
        rows.append((name, spread(each), f"{(unit @ centroids.T).max(axis=1).mean():.4f}"))
    assert len(nearest_centroids(fixed[:10], directions(made["tamis, exact"]))[0]) == 10
    title = f"semantic: k-means, {len(fixed):,} vectors, {clusters} clusters, at most {KMEANS_ROUNDS} rounds"
    table(title, ("", "seconds", "mean cosine to the nearest centroid"), rows)


def time_run(documents: int, rounds: int) -> None:
    """A whole run with files and receipts: embed, choose epsilon, decide."""
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.start import start
    from tamis.pipeline.workers import Serial

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = 0
        for number, path in enumerate(shards(12)):
            part = pq.read_table(path).slice(0, max(0, documents - count))
            count += part.num_rows
            if part.num_rows:
                pq.write_table(part, root / f"pool-{number}.parquet", compression="zstd")
        outs = iter(range(100))

        def run() -> None:
            out = root / f"run{next(outs)}"
            spec = load_spec(write_spec(root / "stages.yaml", f"{root}/pool-*.parquet", STAGES, out))
            start(spec, out, Serial(), Progress(quiet=True))

        times = side_by_side({"embed, choose epsilon, decide": run}, rounds)
    rows = [(name, spread(each), count / min(each)) for name, each in times.items()]
    table(f"semantic: a whole run of {count:,} documents, one core", ("", "seconds", "documents/s"), rows)


if __name__ == "__main__":
    main()
