"""Scoring losses end to end, Parquet to layer, beside a bare forward pass over full rows: tokens per second.

The bare pass is transformers' own: logits and cross-entropy of rows as long as the context, at the best of a few batch
sizes, over tokens that are there already; the second one has our last layer, which makes a chunk of logits at a time.
Weights are random; speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # as in a worker; before numpy and torch are loaded
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pool import need_shared, shards, spread, table  # noqa: E402

VOCABULARY = 4096
BARE_TOKENS = {"cpu": (1 << 10, 1 << 11, 1 << 12, 1 << 13), "cuda": (1 << 15, 1 << 16, 1 << 17)}  # of a batch
TINY_WEIGHTS = 4e5  # a model with more weights gets fewer documents in proportion
SECONDS = 4.0  # of a bare pass, at least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="tiny,mini,small,15m")
    parser.add_argument("--megabytes", type=float, default=4.0, help="of text, for tiny; larger models take less of it")
    parser.add_argument(
        "--least", type=int, default=400, help="documents for a large model; few leave batches unfilled"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    need_shared()
    import torch

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tokenizer, texts = _tokenizer(root / "tokenizer", int(arguments.megabytes * 1e6))
        for name in arguments.sizes.split(","):
            rows += _size(name, root, tokenizer, texts, arguments.rounds, arguments.least)
    header = (
        "model", "device", "tokens", "best batch", "bare forward, tokens/s", "with our last layer", "losses, tokens/s",
        "share of the bare one", "of ours",
        "of it tokenizing", "of it forward", "positions that are padding",
    )  # fmt: skip
    table("Losses of real documents, Parquet to layer, one core", header, rows)


def _tokenizer(folder: Path, size: int) -> tuple[Path, pa.Table]:
    """A tokenizer, and so many bytes of the pool in its order."""
    from tamis.models.tokenizer import train_tokenizer

    (path,) = shards(1)
    documents = pq.read_table(path, columns=["id", "text", "source"])
    sizes = np.cumsum([len(text.encode()) for text in documents["text"].to_pylist()])
    chosen = documents.slice(0, int(np.searchsorted(sizes, size)) + 1)
    train_tokenizer(chosen["text"].to_pylist()[:1500], VOCABULARY, folder)
    return folder, chosen


def _size(name: str, root: Path, tokenizer: Path, texts: pa.Table, rounds: int, least: int) -> list[tuple[Any, ...]]:
    """The rows of one model size."""
    from tamis.models import build, sizes
    from tamis.models.language import language_model
    from tamis.models.train import copy_tokenizer

    size = sizes.size(name)
    build.save(build.build(size, VOCABULARY, 0), root / name)
    copy_tokenizer(tokenizer, root / name)
    model = language_model(str(root / name))
    weights = size.parameters + VOCABULARY * size.width
    some = texts.slice(0, max(least, round(texts.num_rows * min(1.0, TINY_WEIGHTS / weights))))
    ids, _ = model.tokenizer.encode(some["text"].to_pylist())
    speeds = {tokens: _bare(_plain, model, ids, tokens) for tokens in BARE_TOKENS[model.device.kind]}
    best = max(speeds, key=lambda tokens: speeds[tokens])
    bare, lean, ours, parts = [], [], [], []
    for _ in range(rounds):  # in turn, so that a machine that drifts drifts for all
        bare.append(_bare(_plain, model, ids, best))
        lean.append(_bare(_chunked, model, ids, best))
        ours.append(_whole(root, root / name, some))
        parts.append(_parts(model, some))
    share = [len(ids) / mine / other for mine, other in zip(ours, bare, strict=True)]
    tokenizing, scoring, padding = (statistics.median(values) for values in zip(*parts, strict=True))
    whole = statistics.median(ours)
    return [(
        name, f"{model.device.name} {model.device.dtype}", len(ids), best, _speed(bare), _speed(lean), _speed([len(ids) / s for s in ours]),
        spread(share), statistics.median(share) * statistics.median(bare) / statistics.median(lean), f"{tokenizing / whole:.1%}", f"{scoring / whole:.1%}", f"{padding:.1%}",
    )]  # fmt: skip


def _clock(kind: str) -> float:
    """Seconds of this process on a CPU, which others on the machine do not lengthen; of the world on a GPU."""
    return time.process_time() if kind == "cpu" else time.perf_counter()


def _speed(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def _plain(model: Any, inputs: Any, targets: Any) -> float:
    """transformers' logits, and their cross-entropy."""
    import torch

    logits = model.model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
    return float(torch.nn.functional.cross_entropy(logits.float(), targets.flatten()))


def _chunked(model: Any, inputs: Any, targets: Any) -> float:
    """Our last layer, a chunk of logits at a time."""
    from tamis.models.head import token_losses

    return float(token_losses(model.model, inputs, targets).mean())


def _bare(forward: Callable[..., float], model: Any, ids: Any, batch_tokens: int) -> float:
    """Tokens per second of a forward pass with its loss, over full rows that are there already."""
    import torch

    kind, row_tokens = model.device.kind, model.context
    rows = batch_tokens // row_tokens
    stream = torch.from_numpy(np.resize(ids, (rows, row_tokens + 1)).astype(np.int64)).to(model.device.name)
    passes, began = 0, _clock(kind)
    with torch.inference_mode(), model.device.autocast():
        while (took := _clock(kind) - began) < SECONDS or passes < 2:
            forward(model, stream[:, :-1], stream[:, 1:])
            passes += 1
    return passes * rows * row_tokens / took


def _whole(root: Path, folder: Path, texts: pa.Table) -> float:
    """Seconds of a run that computes losses, after one that did everything else: the corpus is known already."""
    import torch

    from tamis.pipeline.progress import Progress
    from tamis.pipeline.run import Driver
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.workers import Serial

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(dir=root) as place:
        pq.write_table(texts, Path(place) / "pool.parquet")
        for stages in ([{"score": "length"}], [{"score": "length"}, {"score": {"losses": {"model": str(folder)}}}]):
            file = Path(place) / "stages.yaml"
            file.write_text(json.dumps({"corpus": f"{place}/pool.parquet", "stages": stages}))
            began = _clock(kind)
            Driver(load_spec(file), Path(place) / "run", Serial(), Progress(quiet=True)).drive()
            took = _clock(kind) - began
    return took


def _parts(model: Any, texts: pa.Table) -> tuple[float, float, float]:
    """Seconds of tokenizing, seconds of scoring what was tokenized, and the share of positions that are padding."""
    from tamis.models.loss import losses_in_place
    from tamis.models.windows import batches_of, windows_of

    began = _clock(model.device.kind)
    ids, offsets = model.tokenizer.encode(texts["text"].to_pylist())
    tokenized = _clock(model.device.kind)
    windows = windows_of(offsets, model.context)
    losses_in_place(model.model, ids, windows, end=model.end, device=model.device)
    scored = _clock(model.device.kind)
    positions = sum(batch.inputs.numel() for batch in batches_of(ids, windows, model.end, model.device))
    return tokenized - began, scored - tokenized, 1 - len(ids) / positions


if __name__ == "__main__":
    main()
