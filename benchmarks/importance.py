"""DSIR fit + score, end to end, against the reference package `data-selection` on the same text and one core each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pool import TARGETS, need_shared, shards, side_by_side, spread, table, text_bytes, write_spec
from scipy.stats import spearmanr

DOCUMENTS = 12_591  # of one shard, 25 MB: the reference takes minutes for more


def main() -> None:
    need_shared()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        documents = pq.read_table(shards(1)[0]).slice(0, DOCUMENTS)
        pq.write_table(documents, root / "pool.parquet", compression="zstd")
        target = pq.read_table(TARGETS / "health_qa-train.parquet").slice(0, 1691)
        pq.write_table(target, root / "target.parquet")
        _json_lines(documents, root / "pool.jsonl")
        _json_lines(target, root / "target.jsonl")
        size = text_bytes([str(root / "pool.parquet")])
        runs = [0]

        def ours() -> None:
            runs[0] += 1
            _ours(root, root / f"run{runs[0]}")

        ours()  # compiles
        alone = _passes(root / "run1")
        contenders = {
            "data-selection, fit + score": lambda: _reference(root),
            "tamis, a whole run (survey, sizes, shared ids, fit, score, receipts)": ours,
            "tamis, its fit and score passes alone (Parquet to layer)": lambda: [task() for task in alone],
        }
        for task in alone:
            task()
        times = side_by_side(contenders, rounds=3)
        seconds = dict(zip(("data-selection", "tamis", "alone"), times.values(), strict=True))
        ratio = [theirs / own for theirs, own in zip(seconds["data-selection"], seconds["tamis"], strict=True)]
        correlation = _agreement(root, root / f"run{runs[0]}")
    least = [theirs / own for theirs, own in zip(seconds["data-selection"], seconds["alone"], strict=True)]
    rows = [(name, spread(each), size / min(each) / 1e6) for name, each in times.items()]
    rows.append(("ratio, whole run", f"{np.median(ratio):.0f}× ({min(ratio):.0f}–{max(ratio):.0f})", ""))
    rows.append(("ratio, passes alone", f"{np.median(least):.0f}× ({min(least):.0f}–{max(least):.0f})", ""))
    rows.append(("Spearman of log-weights, no smoothing on either side", f"{correlation:.4f}", ""))
    table(
        f"importance: fit + score of {size / 1e6:.1f} MB, one core each, files to files", ("", "seconds", "MB/s"), rows
    )


def _json_lines(documents: object, path: Path) -> None:
    with path.open("w") as file:
        for row in documents.select(["id", "text"]).to_pylist():  # type: ignore[attr-defined]
            file.write(json.dumps(row) + "\n")


def _ours(root: Path, out: Path) -> None:
    """A run of its own: survey, census, fit on pool and target, score, layers and receipts on disk."""
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.start import start
    from tamis.pipeline.workers import Serial

    stages = f"  - score: [importance: {{target: {root}/target.parquet, norm: sum, pseudo_count: 0}}]\n"
    spec = load_spec(write_spec(root / "stages.yaml", f"{root}/pool.parquet", stages, out))
    start(spec, out, Serial(), Progress(quiet=True))


def _passes(run: Path) -> list[Callable[[], object]]:
    """The two readings of the pool that importance needs, without what else a run does in them."""
    from tamis.pipeline.passes import run_shards
    from tamis.pipeline.work import PassSpec, load_pass

    passes = []
    for path in sorted((run / "passes").glob("*.json")):
        spec = load_pass(str(path))
        works = [work for work in spec.works if work.program.name == "importance"]
        if works and spec.corpus.name == "pool" and "text" in works[0].inputs:
            saved = PassSpec(spec.corpus, tuple(works)).save(run)
            passes.append((works[0].kind, partial(run_shards, str(run), saved, (0,), (0,))))
    unique = dict(passes)
    assert set(unique) == {"fold", "map"}, passes
    return [unique["fold"], unique["map"]]


def _reference(root: Path) -> None:
    from data_selection import HashedNgramDSIR

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        dsir = HashedNgramDSIR(
            [str(root / "pool.jsonl")], [str(root / "target.jsonl")], str(root / "cache"), num_proc=1
        )
        dsir.fit_importance_estimator(num_tokens_to_fit="auto")
        dsir.compute_importance_weights()


def _agreement(root: Path, out: Path) -> float:
    import tamis

    theirs = np.concatenate(
        [np.load(path) for path in sorted((root / "cache" / "log_importance_weights").glob("*.npy"))]
    )
    own = tamis.open_run(out).table(["importance"]).column(0).to_numpy()
    known = ~np.isnan(own)
    return float(spearmanr(theirs[known], own[known]).statistic)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
