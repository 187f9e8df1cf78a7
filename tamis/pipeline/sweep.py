"""`tamis sweep`: trains one size at several learning rates on some documents, and tells which is best on others."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tamis import seeds
from tamis.corpus import Fields, read_batches
from tamis.errors import ContractError, SpecError
from tamis.models import sweep
from tamis.models.rows import Chosen, draw
from tamis.models.sizes import size
from tamis.models.tokenizer import Tokenizer, train_tokenizer
from tamis.pipeline.documents import Desk, Prepared, prepare
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.progress import Progress
from tamis.pipeline.workers import Serial, Task, Workers
from tamis.steps import Batch

VOCABULARY, TOKENIZER_BYTES = 4096, 4_000_000  # as in a run
BYTES_PER_TOKEN = 8  # more than any tokenizer of that vocabulary has: so much text is drawn
VALID_BYTES = 400_000  # of held-out text
HELD_OUT = 0.1  # of the documents, where no others are given
SHARD_BYTES = 1 << 27


@dataclass(frozen=True)
class Trial:
    """What is swept. documents, valid : paths; without `valid`, a tenth of the documents is held out."""

    documents: tuple[str, ...]
    size: str
    tokens: int
    rates: tuple[float, ...] = ()
    valid: tuple[str, ...] = ()
    seeds: int = 2
    text: str = "text"


def run_sweep(trial: Trial, workers: Workers, progress: Progress) -> str:
    """The table of rates. Raises SpecError or ContractError for documents that are not there or too few."""
    tried = tried_rates(trial, workers, progress)
    return sweep.told(trial.size, sweep.rates_for(trial.size, trial.tokens)[1], tried)


def tried_rates(trial: Trial, workers: Workers, progress: Progress) -> list[sweep.Tried]:
    """What became of each rate, in rising order."""
    rates = trial.rates or sweep.rates_for(trial.size, trial.tokens)
    with tempfile.TemporaryDirectory(prefix="tamis-sweep-") as folder:
        root = Path(folder)
        progress.line(_gather(trial, root))
        with workers:
            results = _measured(trial, rates, root, workers, progress)
    return sweep.summed_up(results)


def _measured(
    trial: Trial, rates: Sequence[float], root: Path, workers: Workers, progress: Progress
) -> dict[tuple[float, int], float]:
    pairs = [(rate, seed) for seed in range(trial.seeds) for rate in rates]
    tasks = [
        Task(sweep.measure, (str(root), trial.size, trial.tokens, *pair), f"rate {pair[0]:g}", gpu=True)
        for pair in pairs
    ]
    places = {task.arguments: pair for task, pair in zip(tasks, pairs, strict=True)}
    results = {}
    (root / sweep.PROGRESS).mkdir()
    with progress.training(root / sweep.PROGRESS, len(tasks)) as meter:
        for outcome in workers.run(tasks):
            if outcome.error is not None:
                raise ContractError(f"sweep: {outcome.task.label}: {outcome.error}")
            rate, seed = pair = places[outcome.task.arguments]
            results[pair] = outcome.value
            meter.advance(1)
            progress.line(f"rate {rate:g}, seed {seed}: {outcome.value:.3f} bits per byte · {meter.seconds:.1f} s")
    return results


def _gather(trial: Trial, root: Path) -> str:
    """Tokenizer, training rows and held-out text in `root`, and what there is to say of them."""
    began, shape = time.perf_counter(), size(trial.size)
    wanted = max(trial.tokens * BYTES_PER_TOKEN, TOKENIZER_BYTES)
    pool = _prepared("documents", trial.documents, trial.text, root)
    found = _texts(pool, wanted + (0 if trial.valid else VALID_BYTES) / HELD_OUT)
    if trial.valid:
        held, kept = _texts(_prepared("valid", trial.valid, trial.text, root), VALID_BYTES), found
    else:
        count = max(1, round(len(found) * HELD_OUT))
        held, kept = found[:count], found[count:]
    if not kept:
        raise ContractError(f"sweep: expected documents to train on, got {len(found)} of them; give it more text")
    sized = np.cumsum([len(text.encode()) for text in kept])
    learnt = kept[: int(np.searchsorted(sized, TOKENIZER_BYTES)) + 1]
    train_tokenizer(learnt, VOCABULARY, root / sweep.TOKENIZER)
    tokenizer = Tokenizer.load(root / sweep.TOKENIZER)
    drawn = draw([kept], _in_order, tokenizer).first(trial.tokens + shape.row_tokens)
    rows = drawn.rows(shape.row_tokens, tokenizer.end)
    if not len(rows):
        raise ContractError(f"sweep: expected a row of {shape.row_tokens} tokens or more, got none; give it more text")
    np.save(root / sweep.ROWS, rows)
    taken = held[: int(np.searchsorted(np.cumsum([len(text.encode()) for text in held]), VALID_BYTES)) + 1]
    ids, offsets = tokenizer.encode(taken)
    sizes = np.array([len(text.encode()) for text in taken], np.int64)
    np.savez(root / sweep.HELD_OUT, ids=ids, offsets=offsets, bytes=sizes)
    epochs = trial.tokens / (len(rows) * shape.row_tokens)
    again = f", {epochs:.1f} times over" if epochs > 1.05 else ""
    return (
        f"{len(drawn):,} documents to train on, {trial.tokens:,} tokens{again}; "
        f"{len(taken):,} held out, {sizes.sum():,} bytes · {time.perf_counter() - began:.1f} s"
    )


def _prepared(name: str, paths: Sequence[str], text: str, root: Path) -> Prepared:
    with Ledger(root / name, write=True) as ledger:
        return prepare(name, paths, Fields(text=text), Desk(root / name, Serial(), ledger, SHARD_BYTES, digest=False))


def _texts(pool: Prepared, most_bytes: float) -> list[str]:
    """About so much text, by a hash of the documents' ids, in its order."""
    share = most_bytes / max(1, sum(shard.bytes for shard in pool.shards))
    found: list[tuple[int, str]] = []
    for shard in pool.shards:
        for table, usable in read_batches(shard, pool.ref.fields, ("doc_id", "text")):
            batch = Batch(table.filter(usable))
            hashes = seeds.hash64(0, "sweep", batch.doc_ids)
            chosen = np.flatnonzero(seeds.within(hashes, share))
            texts = batch["text"].take(pa.array(chosen)).to_pylist()
            found += zip(hashes[chosen].tolist(), texts, strict=True)
    return [text for _, text in sorted(found) if text]


def _in_order(texts: list[str]) -> Chosen:
    count = len(texts)
    return texts, np.arange(count, dtype=np.uint64), np.ones(count, np.int64)


def rates_in(text: str) -> tuple[float, ...]:
    """`1e-3,2e-3` as numbers. Raises SpecError for anything else."""
    try:
        rates = tuple(float(each) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise SpecError(f"--rates: expected numbers like 1e-3,2e-3, got {text!r}") from error
    if not rates or any(not 0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
        raise SpecError(f"--rates: expected different rates above 0, got {text!r}")
    return rates
