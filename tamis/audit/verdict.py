"""What the comparison of proxy models says: sentences, a table and the rows of a chart, from compare.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.audit.charts import Interval
from tamis.audit.reader import Run

POOL = "pool"
BETTER, WORSE, LEVEL = "better", "worse", "level"


@dataclass(frozen=True)
class Difference:
    """Arm minus control, in bits per byte: lower is better. low, high: its interval, None with a single seed."""

    arm: str
    control: str
    size: str
    set: str
    difference: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Better or worse if the interval lies on one side of zero, level if it holds zero or is not known."""
        if self.low is None or self.high is None:
            return LEVEL
        return BETTER if self.high < 0 else WORSE if self.low > 0 else LEVEL


@dataclass(frozen=True)
class Line:
    """One arm on one set: bits per byte of each seed, their mean, and the difference to the control."""

    set: str
    arm: str
    size: str
    seeds: Sequence[float]
    mean: float
    difference: Difference | None
    is_best: bool


@dataclass(frozen=True)
class Comparison:
    """compare.json, as the report shows it."""

    raw: Mapping[str, Any]
    sentences: Sequence[str]
    lines: Sequence[Line]
    differences: Sequence[Difference]
    sets: Sequence[tuple[str, str, int, int]]  # name, kind, documents, bytes


def load_comparison(run: Run) -> Comparison | None:
    """The run's comparison, or None if it has none (or only one from before its stages changed)."""
    path = run.path / "compare.json"
    is_stale = any(stage.component == "compare" and not stage.finished for stage in run.stages)
    if is_stale or not path.is_file():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    read = raw.get("documents", {})
    raw["training"] = [{"documents": read.get(entry["arm"]), **entry} for entry in raw.get("training", ())]
    differences = [
        Difference(c["arm"], c["control"], c.get("size", raw["size"]), c["set"], c["difference"], c["low"], c["high"])
        for c in raw["comparisons"]
    ]
    order = _set_order(raw["sets"])
    differences.sort(key=lambda d: (d.size, order.index(d.set), d.arm))
    sets = [
        (name, _kind(raw["sets"][name]), raw["sets"][name]["documents"], raw["sets"][name]["bytes"]) for name in order
    ]
    return Comparison(raw, _sentences(raw, differences), _lines(raw, differences, order), differences, sets)


def _kind(values: Mapping[str, Any]) -> str:
    return {"evaluate": "evaluation", "pool": "held out of the pool", "source": "held out of a source"}[values["kind"]]


def _set_order(sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    kinds = ("evaluate", "pool", "source")
    return sorted(sets, key=lambda name: (kinds.index(sets[name]["kind"]), name))


def _sentences(raw: Mapping[str, Any], differences: Sequence[Difference]) -> list[str]:
    """One sentence for each arm and evaluation set; what it costs or gains on the pool is added."""
    seeds = f"{raw['seeds']} seed{'s' if raw['seeds'] != 1 else ''}"
    sizes = {difference.size for difference in differences}
    found = []
    for d in differences:
        if raw["sets"][d.set]["kind"] != "evaluate":
            continue
        size = f" at size {d.size}" if len(sizes) > 1 else ""
        pool = next((p for p in differences if (p.arm, p.size, p.set) == (d.arm, d.size, POOL)), None)
        found.append(f"{_claim(d, size, seeds)}{_price(pool)}.")
    return found


def _claim(d: Difference, size: str, seeds: str) -> str:
    if d.low is None or d.high is None:
        side = "below" if d.difference < 0 else "above"
        return (
            f"{d.arm} is {_bits(abs(d.difference))} bits per byte {side} {d.control} on {d.set}{size}, "
            "with one seed, which gives no interval and proves nothing"
        )
    if d.verdict == LEVEL:
        interval = f"[{_bits(d.low, d.difference)}, {_bits(d.high, d.difference)}]"
        return (
            f"{d.arm} and {d.control} cannot be told apart on {d.set}{size}: "
            f"{_bits(d.difference)} bits per byte {interval}, {seeds}"
        )
    verb = "beats" if d.verdict == BETTER else "loses to"
    bounds = sorted((abs(d.low), abs(d.high)))
    span = f"[{_bits(bounds[0], d.difference)}, {_bits(bounds[1], d.difference)}]"
    return f"{d.arm} {verb} {d.control} on {d.set}{size} by {_bits(abs(d.difference))} bits per byte {span}, {seeds}"


def _price(pool: Difference | None) -> str:
    if pool is None or pool.low is None:
        return ""
    if pool.verdict == LEVEL:
        return "; on the pool they cannot be told apart"
    verb = "costs" if pool.verdict == WORSE else "also gains"
    return f"; it {verb} {_bits(abs(pool.difference))} on the pool"


def _bits(value: float, beside: float | None = None) -> str:
    """Two decimals, three for differences below a tenth; `beside`: the difference that a bound belongs to."""
    decimals = 2 if abs(value if beside is None else beside) >= 0.1 else 3
    return f"{value:.{decimals}f}".replace("-", "−")


def _lines(raw: Mapping[str, Any], differences: Sequence[Difference], order: Sequence[str]) -> list[Line]:
    measured: dict[tuple[str, str, str], dict[int, float]] = {}
    for run in raw["runs"]:
        measured.setdefault((run.get("size", raw["size"]), run["set"], run["arm"]), {})[run["seed"]] = run[
            "bits_per_byte"
        ]
    means = {key: sum(by_seed.values()) / len(by_seed) for key, by_seed in measured.items()}
    against = {(d.size, d.set, d.arm): d for d in differences}
    lines = []
    for key in sorted(measured, key=lambda k: (k[0], order.index(k[1]), raw["arms"].index(k[2]))):
        size, name, arm = key
        best = min(mean for (s, n, _), mean in means.items() if (s, n) == (size, name))
        seeds = [value for _, value in sorted(measured[key].items())]
        lines.append(Line(name, arm, size, seeds, means[key], against.get(key), means[key] == best))
    return lines


def chart_rows(differences: Sequence[Difference]) -> list[Interval]:
    several_sizes = len({d.size for d in differences}) > 1
    return [
        Interval(f"{d.set} ({d.size})" if several_sizes else d.set, d.difference, d.low, d.high, d.verdict)
        for d in differences
    ]
