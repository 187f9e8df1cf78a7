"""Which learning rate: one training at one rate, judged on held-out text, and what many of them say together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from tamis.errors import ContractError
from tamis.models.sizes import size

# What `measure` finds in its folder: three to read, one to report into.
ROWS, HELD_OUT, TOKENIZER, PROGRESS = "rows.npy", "held_out.npz", "tokenizer", "progress"
STEPS = (0.5, 1.0, 2.0, 4.0)  # times the size's own rate: what is tried by default


@dataclass(frozen=True)
class Tried:
    """A rate, and bits per byte on held-out text of one training per seed: infinite where a training failed."""

    rate: float
    bits_per_byte: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.bits_per_byte)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds: 0 for a single one, infinite where one failed."""
        if math.isinf(self.mean):
            return math.inf
        return stdev(self.bits_per_byte) if len(self.bits_per_byte) > 1 else 0.0


def rates_for(name: str, tokens: int) -> tuple[float, ...]:
    """Rates to try: half, one, two and four times the size's own, to two digits."""
    own = size(name).recipe(tokens).learning_rate
    return tuple(float(f"{own * step:.2g}") for step in STEPS)


def measure(folder: str, name: str, tokens: int, rate: float, seed: int) -> float:
    """Bits per byte on the held-out text of `folder` after one training; infinite if its loss was not finite."""
    from tamis.models.build import load
    from tamis.models.device import choose
    from tamis.models.loss import bits_per_byte, document_losses
    from tamis.models.method import Method
    from tamis.models.tokenizer import Tokenizer
    from tamis.models.train import train

    root, shape = Path(folder), size(name)
    device, where = choose(shape.width), root / f"model-{rate:g}-{seed}"
    progress = root / PROGRESS / f"{rate:g}-{seed}.json"

    def report(done: float, line: str) -> None:
        beside = progress.with_suffix(".partial")
        beside.write_text(json.dumps({"done": done, "line": f"rate {rate:g}, {line}"}), encoding="utf-8")
        beside.replace(progress)

    with device.alone(), np.load(root / HELD_OUT, allow_pickle=False) as held:
        try:
            train(
                np.load(root / ROWS, mmap_mode="r", allow_pickle=False),
                shape,
                seed=seed,
                tokens=tokens,
                folder=where,
                tokenizer_folder=root / TOKENIZER,
                method=Method(learning_rate=rate),
                device=device,
                report=report,
            )
        except ContractError:
            return math.inf
        finally:
            progress.unlink(missing_ok=True)
        end = Tokenizer.load(where).end
        nats, _ = document_losses(load(where), held["ids"], held["offsets"], end=end, device=device)
        return float(bits_per_byte(nats.sum(), held["bytes"].sum()))


def told(name: str, own: float, tried: Sequence[Tried]) -> str:
    """A table, the best rate and how sure that is, and the option to write."""
    width = max(len(f"{each.rate:g}") for each in tried)
    lines = [f"{'rate':>{width + 2}}  {'bits per byte':>13}  {'±':>6}  seeds"]
    for each in sorted(tried, key=lambda each: each.rate):
        values = " ".join("failed" if math.isinf(value) else f"{value:.3f}" for value in each.bits_per_byte)
        spread = f"{each.spread:.3f}" if len(each.bits_per_byte) > 1 and not math.isinf(each.mean) else "–"
        known = "failed" if math.isinf(each.mean) else f"{each.mean:.3f}"
        mark = "  the size's own" if each.rate == own else ""
        lines.append(f"{each.rate:>{width + 2}g}  {known:>13}  {spread:>6}  {values}{mark}")
    return "\n".join([*lines, "", *_verdict(name, own, tried)])


def _verdict(name: str, own: float, tried: Sequence[Tried]) -> list[str]:
    best = min(tried, key=lambda each: each.mean)
    if math.isinf(best.mean):
        return ["every rate failed: try lower ones with --rates"]
    others = [each for each in tried if each is not best and each.mean - best.mean <= best.spread + each.spread]
    rates = sorted(each.rate for each in tried)
    said = [f"best: {best.rate:g}"]
    if others:
        said[0] += f"; within the spread of it: {', '.join(f'{each.rate:g}' for each in others)}"
    if len(best.bits_per_byte) == 1:
        said[0] += "; one seed tells no spread, see --seeds"
    if len(rates) > 1 and best.rate in (rates[0], rates[-1]):
        beyond = best.rate / 2 if best.rate == rates[0] else best.rate * 2
        said.append(f"it is the {'lowest' if best.rate == rates[0] else 'highest'} tried: try {beyond:g} as well")
    if best.rate == own:
        return [*said, f"it is what `size: {name}` takes by itself: nothing to write"]
    return [*said, f"in stages.yaml: train: {{…, size: {name}, learning_rate: {written(best.rate)}}}"]


def written(rate: float) -> str:
    """A number as YAML of any version reads it: 4e-3 would be text to some."""
    return f"{rate:.10f}".rstrip("0")


def summed_up(results: Mapping[tuple[float, int], float]) -> list[Tried]:
    """The results of trainings by rate and seed, rate by rate."""
    rates = sorted({rate for rate, _ in results})
    return [Tried(rate, tuple(results[key] for key in sorted(results) if key[0] == rate)) for rate in rates]
