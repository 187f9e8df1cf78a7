"""Vendi scores of a million vectors on two cores, and of 4,000 against the reference package `vendi-score`."""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # as in a worker: cores are used by processes; before numpy is loaded

import numpy as np  # noqa: E402
from pool import peak_megabytes, side_by_side, spread, table  # noqa: E402

DIMENSIONS = 384
BATCH = 8192  # rows that a fold sees at a time
WORKERS = 2
ORDERS = (0.0, 0.5, 1.0, 2.0, float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000, help="vectors for ours alone")
    parser.add_argument("--few", type=int, default=4_000, help="vectors for ours and the reference")
    arguments = parser.parse_args()
    many(arguments.documents)
    against_reference(arguments.few)


def many(documents: int) -> None:
    """All orders, raw and centred, of `documents` vectors that are made batch by batch and never held together."""
    batches = [(seed, min(BATCH, documents - start)) for seed, start in enumerate(range(0, documents, BATCH))]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as workers:
        list(workers.map(_fold, [[(0, 64)]] * WORKERS))  # compiles
        _scores([_fold([(0, 500)])])
        began = time.perf_counter()
        parts = list(workers.map(_fold, [batches[worker::WORKERS] for worker in range(WORKERS)]))
        whole = time.perf_counter() - began
    folding = max(part["seconds"] for part in parts)
    made = max(part["making"] for part in parts)
    began = time.perf_counter()
    scores = _scores(parts)
    solving = time.perf_counter() - began
    rows = [
        ("vectors to whole numbers, Σxxᵀ and Σx", folding, documents / folding),
        ("eigenvalues and all orders, raw and centred", solving, ""),
        ("both", folding + solving, documents / (folding + solving)),
        ("making the vectors (not counted)", made, ""),
        ("wall clock, vectors made as well", whole + solving, ""),
        ("peak MB of a worker", max(part["megabytes"] for part in parts), ""),
    ]
    title = f"Vendi scores of {documents:,} × {DIMENSIONS} float32 vectors, {WORKERS} processes of one thread"
    table(title, ("", "seconds", "vectors/s"), rows)
    table("the scores", ("order", *map(str, ORDERS)), [(view, *values) for view, values in scores.items()])


def _vectors(seed: int, rows: int) -> np.ndarray:
    """Vectors with a common direction and a spectrum that falls, as embeddings have: float32, (rows, DIMENSIONS)."""
    noise = np.random.default_rng(seed).standard_normal((rows, DIMENSIONS), np.float32)
    noise *= np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.5
    noise[:, 0] += 1.0
    return noise


def _fold(batches: list[tuple[int, int]]) -> dict[str, Any]:
    """One worker's sums, and how long they took."""
    from tamis.kernels.gram import fixed_point, gram, sum_of

    first, second = np.zeros(DIMENSIONS, np.int64), np.zeros(DIMENSIONS * (DIMENSIONS + 1) // 2, np.int64)
    seconds = making = 0.0
    for seed, rows in batches:
        began = time.perf_counter()
        vectors = _vectors(seed, rows)
        made = time.perf_counter()
        whole, known = fixed_point(vectors)
        repeats = known.astype(np.int64)
        first += sum_of(whole, repeats)
        second += gram(whole, repeats)
        making += made - began
        seconds += time.perf_counter() - made
    documents = sum(rows for _, rows in batches)
    return {
        "documents": documents,
        "first": first,
        "second": second,
        "seconds": seconds,
        "making": making,
        "megabytes": peak_megabytes(),
    }


def _scores(parts: list[dict[str, Any]]) -> dict[str, list[float]]:
    from tamis.kernels.spectrum import QUANTUM_FLOOR, Moments, spectrum, vendi

    documents, first, second = (sum(part[name] for part in parts) for name in ("documents", "first", "second"))
    found = Moments(documents, documents, first, second)
    shares = {
        "raw": spectrum(found.covariance(), QUANTUM_FLOOR),
        "centred": spectrum(found.covariance(found.mean), QUANTUM_FLOOR),
    }
    return {view: [vendi(values, order) for order in ORDERS] for view, values in shares.items()}


def against_reference(documents: int) -> None:
    """The same vectors to one score of order 1, and ours also as vectors of the n × n similarities."""
    from vendi_score import vendi as reference

    vectors = np.concatenate(
        [_vectors(seed, min(1000, documents - start)) for seed, start in enumerate(range(0, documents, 1000))]
    )
    results: dict[str, float] = {}

    def timed(name: str, score: Any) -> None:
        results[name] = score()

    contenders = {
        "vendi-score, score_X (n × n)": lambda: reference.score_X(vectors),
        "vendi-score, score_dual (d × d)": lambda: reference.score_dual(vectors),
        "tamis, all orders, raw and centred": lambda: _ours(vectors),
    }
    for name, score in contenders.items():
        timed(name, score)  # compiles
    times = side_by_side({name: partial(timed, name, score) for name, score in contenders.items()}, rounds=3)
    rows = [(name, spread(seconds), f"{results[name]:.5f}") for name, seconds in times.items()]
    table(f"{documents:,} vectors of {DIMENSIONS}, one thread", ("", "seconds", "Vendi score"), rows)


def _ours(vectors: np.ndarray) -> float:
    from tamis.kernels.gram import fixed_point, gram, sum_of

    whole, known = fixed_point(vectors)
    repeats = known.astype(np.int64)
    part = {"documents": len(vectors), "first": sum_of(whole, repeats), "second": gram(whole, repeats)}
    return _scores([part])["raw"][ORDERS.index(1.0)]


if __name__ == "__main__":
    main()
