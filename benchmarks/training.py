"""Our training step beside a plain PyTorch loop on the same model and batches, and learning rates by size.

The plain loop is what one writes by hand: transformers' own forward pass with all logits, cross-entropy, clipping and
fused AdamW, in the same precision, micro-batches and order of rows. On a GPU both have their share of the peak (MFU).
`--rates` trains every size at half, one, two and four times its own rate, on the shared corpus.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # as in a worker; before numpy and torch are loaded

import numpy as np  # noqa: E402
from pool import POOL, need_shared, side_by_side, spread, table  # noqa: E402

VOCABULARY = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="tiny,mini,small")
    parser.add_argument("--steps", type=int, default=30, help="per round; their batches are those of --tokens")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="of the run whose recipe is taken")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile as well")
    parser.add_argument("--rates", action="store_true", help="the table of learning rates instead")
    parser.add_argument("--seeds", type=int, default=3, help="for --rates")
    arguments = parser.parse_args()
    names = arguments.sizes.split(",")
    if arguments.rates:
        rates(names, arguments.tokens, arguments.seeds)
    else:
        throughput(names, arguments)


def throughput(names: list[str], arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    rows = [row for name in names for row in _size(name, arguments)]
    header = ("model", "device", "batch, tokens", "", "seconds", "tokens/s", "of the plain loop", "MFU")
    table(f"{arguments.steps} training steps", header, rows)


def _size(name: str, arguments: argparse.Namespace) -> list[tuple[object, ...]]:
    from tamis.models import build, flops
    from tamis.models.device import choose
    from tamis.models.method import Method
    from tamis.models.reweighting import Reweight
    from tamis.models.sizes import size

    shape = size(name)
    recipe = shape.recipe(arguments.tokens)
    device = choose(shape.width)
    draw = np.random.default_rng(0)
    rows = draw.integers(0, VOCABULARY, (recipe.batch_rows * 4, shape.row_tokens + 1), dtype=np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        loop = _ours(shape, recipe, rows, device, Path(folder))
        contenders: dict[str, Callable[[], object]] = {
            "plain loop": _plain(build.build(shape, VOCABULARY, 0), recipe, rows, device, arguments.steps),
            "ours": loop(Method(), arguments.steps),
            "ours, reweighted": loop(Method(reweight=Reweight(burn_in=0)), arguments.steps),
        }
        if arguments.compile:
            contenders["ours, compiled"] = loop(Method(), arguments.steps, compiled=True)
        for work in contenders.values():
            work()  # warms up
        seconds = side_by_side(contenders, arguments.rounds)
    tokens = arguments.steps * recipe.batch_tokens
    per_token = flops.flops_per_token(build.build(shape, VOCABULARY, 0), shape.row_tokens)
    peak = flops.peak_flops(device)
    bare = float(np.median(seconds["plain loop"]))
    found = []
    for label, times in seconds.items():
        speed = tokens / float(np.median(times))
        used = "–" if device.kind != "cuda" else f"{speed * per_token / peak:.1%}" if peak else "unknown"
        share = bare / float(np.median(times))
        found.append(
            (name, f"{device.name}, {device.dtype}", recipe.batch_tokens, label, spread(times), speed, share, used)
        )
    return found


def _ours(shape: Any, recipe: Any, rows: Any, device: Any, folder: Path) -> Any:
    """(method, steps) → what does so many steps of our loop, on a model of its own."""
    from tamis.models import build
    from tamis.models.loop import Loop

    def made(method: Any, steps: int, *, compiled: bool = False) -> Callable[[], None]:
        model = device.place(build.build(shape, VOCABULARY, 0))
        loop = Loop(model, recipe, method, rows, 0, device, folder, "")
        if compiled:
            loop.compile(lambda _done, line: print(line))

        def work() -> None:
            loop.order.place = 0
            for _ in range(steps):
                loop._train_on(loop.order.next())  # noqa: SLF001 - a step without what is around it
            loop._collect()  # noqa: SLF001

        return work

    return made


def _plain(model: Any, recipe: Any, rows: Any, device: Any, steps: int) -> Callable[[], None]:
    import torch

    from tamis.models.order import Order

    model = device.place(model)
    fused = device.kind != "mps"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=recipe.betas, weight_decay=0.1, fused=fused)
    micro = max(1, device.micro_tokens // recipe.row_tokens)

    def work() -> None:
        order = Order(recipe, len(rows), 0)
        losses = []
        for _ in range(steps):
            batch = torch.from_numpy(rows[order.next().rows].astype(np.int64)).to(device.name)
            for start in range(0, len(batch), micro):
                part = batch[start : start + micro]
                with device.autocast():
                    logits = model(input_ids=part[:, :-1], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
                (loss * len(part) / len(batch)).backward()
            losses.append(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        torch.stack(losses).cpu()

    return work


def rates(names: list[str], tokens: int, seeds: int) -> None:
    """Bits per byte on held-out documents of the shared pool, mean and deviation over seeds."""
    need_shared()
    from tamis.models import sweep
    from tamis.models.sizes import size
    from tamis.pipeline.progress import Progress
    from tamis.pipeline.start import workers_for
    from tamis.pipeline.sweep import Trial, tried_rates

    found = []
    for name in names:
        trial = Trial((str(POOL),), name, tokens, seeds=seeds)
        tried = tried_rates(trial, workers_for(), Progress())
        own = sweep.rates_for(name, tokens)[1]
        cells = [f"{each.rate:g}: {each.mean:.3f} ± {each.spread:.3f}" for each in tried]
        best = min(tried, key=lambda each: each.mean).rate
        found.append((name, f"{size(name).parameters:,}", f"{own:g}", *cells, f"{best:g}"))
    header = ("size", "parameters", "own rate", "half", "own", "twice", "four times", "best")
    table(f"Learning rates, {tokens:,} tokens, {seeds} seeds: bits per byte", header, found)


if __name__ == "__main__":
    main()
