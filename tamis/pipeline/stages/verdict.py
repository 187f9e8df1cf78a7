"""What the scores of proxy models say: bits per byte per run, and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.models.intervals import paired_interval

Results = Mapping[tuple[str, int], Mapping[str, Any]]  # (arm, seed) → what its training returned


def verdict(
    arms: Sequence[str], control: str, size: str, sets: Mapping[str, Any], results: Results, level: float
) -> dict[str, Any]:
    """The runs, and each arm against the control on every set; pairs are runs with the same seed."""
    runs = [
        {"arm": arm, "size": size, "seed": seed, "set": name, **values}
        for (arm, seed), result in results.items()
        for name, values in result["scores"].items()
    ]
    pairs = [(arm, name) for arm in arms if arm != control for name in sets]
    return {
        "arms": list(arms),
        "control": control,
        "level": level,
        "sets": sets,
        "runs": runs,
        "comparisons": [
            {"arm": arm, "control": control, "size": size, "set": name, **_compared(runs, arm, control, name, level)}
            for arm, name in pairs
        ],
        "training": [{"arm": arm, "seed": seed, **result["training"]} for (arm, seed), result in results.items()],
    }


def told(found: Mapping[str, Any]) -> list[str]:
    """One line per arm and set that was named, and one for the pool: what the intervals allow to say."""
    return [_sentence(each) for each in found["comparisons"] if found["sets"][each["set"]]["kind"] != "source"]


def _sentence(each: Mapping[str, Any]) -> str:
    difference = f"{each['difference']:+.3f} bits per byte"
    if each["low"] is None:
        return f"{each['arm']} against {each['control']} on {each['set']}: {difference}; one seed shows no spread"
    said = "better than" if each["better"] else "worse than" if each["worse"] else "no different, as far as shown, from"
    interval = f"[{each['low']:+.3f}, {each['high']:+.3f}]"
    return f"{each['arm']} is {said} {each['control']} on {each['set']}: {difference} {interval}"


def _compared(runs: Sequence[Mapping[str, Any]], arm: str, control: str, name: str, level: float) -> dict[str, Any]:
    """Mean difference in bits per byte (negative: the arm is better), and whether its interval leaves out 0."""
    mean, low, high = paired_interval(_scores(runs, arm, name), _scores(runs, control, name), level)
    known = not np.isnan(low)
    return {
        "difference": mean,
        "low": low if known else None,
        "high": high if known else None,
        "better": bool(known and high < 0),
        "worse": bool(known and low > 0),
    }


def _scores(runs: Sequence[Mapping[str, Any]], arm: str, name: str) -> npt.NDArray[np.float64]:
    found = sorted((run["seed"], run["bits_per_byte"]) for run in runs if run["arm"] == arm and run["set"] == name)
    return np.array([score for _, score in found], np.float64)
