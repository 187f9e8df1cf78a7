"""Linear datamodeling score of influence on a small language model, beside kronfluence on the same model and queries.

A model is trained on rows of real text, then again on random halves of the rows: same first weights, same order, the
other rows left out of their batches. Does the sum of a half's scores order the losses of held-out rows as the models
do? What was trained is kept in --folder: a second call goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import shutil
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # as in a worker: cores are used by processes; before numpy is loaded

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pool import need_shared, shards, table  # noqa: E402

WAYS = ("identity", "diagonal", "kfac", "ekfac")
DAMPINGS = (0.001, 0.01, 0.1, 1.0)
CHUNK = 10  # models that a worker trains before it tells of them


@dataclass(frozen=True)
class Settings:
    """What the trained models depend on."""

    documents: int
    rows_each: int
    row_tokens: int
    vocabulary: int
    layers: int
    width: int
    epochs: int
    batch_rows: int
    rate: float
    queries: int

    @property
    def rows(self) -> int:
        return self.documents * self.rows_each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/tamis-lds"))
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rows-each", type=int, default=4, help="training rows of a document; the next is a query")
    parser.add_argument("--row-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument(
        "--seeds", type=int, default=1, help="first weights and orders; the mean loss over them is what counts"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-kronfluence", action="store_true")
    arguments = parser.parse_args()
    need_shared()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})
    folder = prepared(settings, arguments.folder)
    losses = trained(settings, folder, arguments.subsets, arguments.seeds, arguments.workers)
    kept = np.array([half(settings, subset) for subset in range(arguments.subsets)])
    report(settings, folder, kept, losses, kronfluence=not arguments.no_kronfluence)


# ---- rows ----


def prepared(settings: Settings, base: Path) -> Path:
    """A folder with the tokenizer, the rows and the queries, named after the settings."""
    name = hashlib.blake2b(json.dumps(asdict(settings)).encode(), digest_size=6).hexdigest()
    folder = base / name
    if (folder / "rows.npz").exists():
        return folder
    from tamis.models.tokenizer import Tokenizer, train_tokenizer

    texts = pq.read_table(shards(1)[0], columns=["text"])["text"].to_pylist()
    texts = [text for text in texts if len(text) > 8 * settings.row_tokens * (settings.rows_each + 1)][
        : settings.documents
    ]
    train_tokenizer(texts, settings.vocabulary, folder)
    ids, offsets = Tokenizer.load(folder).encode(texts)
    assert len(texts) == settings.documents, "too few long documents in one shard: fewer documents or shorter rows"
    need = settings.row_tokens * (settings.rows_each + 1)
    cut = np.stack([ids[start : start + need] for start in offsets[:-1].tolist()]).astype(np.uint16)
    cut = cut.reshape(settings.documents, settings.rows_each + 1, settings.row_tokens)
    rows, queries = cut[:, :-1].reshape(-1, settings.row_tokens), cut[: settings.queries, -1]
    np.savez(folder / "rows.npz", rows=rows, queries=queries)
    return folder


def half(settings: Settings, subset: int) -> np.ndarray:
    """Which rows this model may see: bool, (rows), half of them true; all for subset -1."""
    if subset < 0:
        return np.ones(settings.rows, bool)
    order = np.random.default_rng([7, subset]).permutation(settings.rows)
    return order < settings.rows // 2


# ---- models ----


def trained(settings: Settings, folder: Path, subsets: int, seeds: int, workers: int) -> np.ndarray:
    """The queries' losses, nats, of the models trained on each half: (queries, subsets, seeds)."""
    wanted = [(-1, 0), *((subset, seed) for seed in range(seeds) for subset in range(subsets))]
    missing = [each for each in wanted if not kept_at(folder, *each).exists()]
    began = time.perf_counter()
    parts = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = 0
        for count in pool.map(train_some, [settings] * len(parts), [folder] * len(parts), parts):
            done += count
            print(f"{done} of {len(missing)} models, {time.perf_counter() - began:.0f} s", flush=True)
    return np.stack(
        [[np.load(kept_at(folder, subset, seed)) for seed in range(seeds)] for subset in range(subsets)]
    ).transpose(2, 0, 1)


def kept_at(folder: Path, subset: int, seed: int) -> Path:
    return folder / f"losses-{subset}-{seed}.npy"


def train_some(settings: Settings, folder: Path, some: list[tuple[int, int]]) -> int:
    from tamis.models import build, loss
    from tamis.models.device import one_thread

    held = np.load(folder / "rows.npz")
    offsets = np.arange(0, held["queries"].size + 1, settings.row_tokens)
    for subset, seed in some:
        with one_thread():
            model = train_one(settings, held["rows"], half(settings, subset), seed)
            found, _ = loss.document_losses(model, held["queries"].flatten(), offsets, end=0)
        if subset < 0:
            build.save(model, folder)
        np.save(kept_at(folder, subset, seed), found)
    return len(some)


def train_one(settings: Settings, rows: np.ndarray, kept: np.ndarray, seed: int) -> Any:
    """AdamW as the trainer has it, every row a document; a batch is divided by the rows it would have on average."""
    import torch

    from tamis.models import build, head
    from tamis.models.sizes import Size

    width = settings.width
    shape = Size("lds", settings.layers, width, 2, 3 * width, settings.row_tokens)
    model = build.build(shape, settings.vocabulary, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    targets = torch.from_numpy(rows.astype(np.int64))
    inputs = torch.cat([torch.zeros(len(rows), 1, dtype=torch.int64), targets[:, :-1]], 1)
    steps = settings.epochs * (len(rows) // settings.batch_rows)
    scale = 1 / (settings.batch_rows * settings.row_tokens * kept.mean())
    orders = [np.random.default_rng([seed, epoch]).permutation(len(rows)) for epoch in range(settings.epochs)]
    for step in range(steps):
        epoch, place = divmod(step, steps // settings.epochs)
        chosen = orders[epoch][place * settings.batch_rows : (place + 1) * settings.batch_rows]
        chosen = torch.from_numpy(chosen[kept[chosen]])
        if len(chosen):
            head.mean_loss(model, inputs[chosen], targets[chosen].flatten(), float(scale)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = (
            settings.rate * min(1.0, (step + 1) / (0.1 * steps)) * (1 - 0.9 * step / steps)
        )
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


# ---- scores ----


def report(settings: Settings, folder: Path, kept: np.ndarray, losses: np.ndarray, *, kronfluence: bool) -> None:
    from tamis.models.device import one_thread
    from tamis.models.language import language_model
    from tamis.models.lds import lds, lds_interval

    held = np.load(folder / "rows.npz")
    actual = -losses.mean(2)  # more is better, as for scores

    def line(name: str, scores: np.ndarray, seconds: tuple[float, float]) -> tuple[object, ...]:
        value, low, high = lds_interval(scores.T @ kept.T.astype(np.float64), actual)
        return name, f"{value:.3f}", f"{low:.3f} to {high:.3f}", *seconds, sum(seconds)

    with one_thread():
        model = language_model(str(folder))
        ours = {way: scored(settings, model, held, way) for way in WAYS}
        rows = [line(f"tamis {way}", *ours[way]) for way in WAYS]
        theirs = by_kronfluence(settings, model, held, folder) if kronfluence else {}
        rows += [line(f"kronfluence {way}", *found) for way, found in theirs.items()]
        swept = [
            line(f"ekfac, damping {damping:g}", *scored(settings, model, held, "ekfac", damping))
            for damping in DAMPINGS
        ]
    header = ("", "LDS", "95 % interval", "seconds: preparation", "scores", "together")
    title = f"{settings.rows} rows of {settings.row_tokens} tokens, {kept.shape[0]} random halves, {losses.shape[2]} seeds, {settings.queries} queries"
    table(f"Linear datamodeling score: {title}", header, rows)
    table("The same with other damping (of the mean eigenvalue)", header, swept)
    for way, (scores, _) in theirs.items():
        both = [np.corrcoef(ours[way][0][:, q], scores[:, q])[0, 1] for q in range(settings.queries)]
        print(f"{way}: correlation of scores with kronfluence's, median {np.median(both):.4f}, least {min(both):.4f}")
    full = np.load(kept_at(folder, -1, 0)) / settings.row_tokens
    spread = losses.mean(2).std(1) / settings.row_tokens
    print(
        f"queries' loss: {full.mean():.2f} nats per token with all rows, {losses.mean() / settings.row_tokens:.2f} with half, deviation over halves {spread.mean():.3f}"
    )
    if losses.shape[2] > 1:
        print(f"order of halves by one seed against another's: {lds(-losses[:, :, 0], -losses[:, :, 1]):.3f}")


def scored(
    settings: Settings, model: Any, held: Any, way: Any, damping: float = 0.1
) -> tuple[np.ndarray, tuple[float, float]]:
    """Scores, (rows, queries), and seconds: curvature with the queries' gradients, scores of all rows."""
    from tamis.models.influence import build_compass

    every = np.arange(0, held["rows"].size + 1, settings.row_tokens)
    queries = {f"q{i}": (row, np.array([0, len(row)])) for i, row in enumerate(held["queries"])}
    began = time.perf_counter()
    compass = build_compass(model, (held["rows"].flatten(), every), queries, way, damping)
    made = time.perf_counter()
    scores, _ = compass.scores(model, held["rows"].flatten(), every)
    return scores, (made - began, time.perf_counter() - made)


def by_kronfluence(
    settings: Settings, model: Any, held: Any, folder: Path
) -> dict[str, tuple[np.ndarray, tuple[float, float]]]:
    """The same with kronfluence: true Fisher (labels by its own random state), damping 0.1 of the mean eigenvalue.

    It works the queries' gradients out with the scores, where we have them in the preparation.
    """
    import torch

    from tamis.models.gradients import linear_layers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.task import Task

    class Modelling(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Any:
            logits = model(input_ids=batch[0]).logits.flatten(0, 1)
            labels = batch[1].flatten()
            if sample:
                labels = torch.multinomial(logits.detach().softmax(1), 1).flatten()
            return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Any:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return list(linear_layers(model.model))

    def dataset(rows: np.ndarray) -> Any:
        targets = torch.from_numpy(rows.astype(np.int64))
        return torch.utils.data.TensorDataset(
            torch.cat([torch.zeros(len(rows), 1, dtype=torch.int64), targets[:, :-1]], 1), targets
        )

    task, found = Modelling(), {}
    shutil.rmtree(folder / "kronfluence", ignore_errors=True)
    torch.manual_seed(0)
    analyzer = Analyzer(
        "lds",
        prepare_model(copy.deepcopy(model.model), task),
        task,
        cpu=True,
        disable_tqdm=True,
        output_dir=str(folder / "kronfluence"),
        log_level=50,
    )
    pool, queries = dataset(held["rows"]), dataset(held["queries"])
    batch = max(1, 2048 // settings.row_tokens)  # as ours
    warnings.simplefilter("ignore", FutureWarning)  # of torch, about what kronfluence calls
    for way in WAYS:
        began = time.perf_counter()
        analyzer.fit_all_factors(way, pool, per_device_batch_size=batch, factor_args=FactorArguments(strategy=way))
        made = time.perf_counter()
        analyzer.compute_pairwise_scores(
            way, way, queries, pool, settings.queries, batch, score_args=ScoreArguments(damping_factor=None)
        )
        seconds = (made - began, time.perf_counter() - made)
        found[way] = (analyzer.load_pairwise_scores(way)["all_modules"].numpy().T.astype(np.float64), seconds)
    return found


if __name__ == "__main__":
    main()
