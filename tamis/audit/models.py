"""The language models that a run trained, as the report shows them: what each was trained on, how, and its losses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tamis.audit.charts import Curve, curves
from tamis.audit.reader import Run, Stage

POINTS = 60  # of a drawn loss curve: each is the mean of as many steps
DRAWN = 7  # curves in one chart: there are as many colours
AXES = ("training tokens", "loss, nats per token")


@dataclass(frozen=True)
class Trained:
    """A model. on : what it was trained on. facts : what its training said of itself, by the names of result.json."""

    name: str
    on: str
    facts: Mapping[str, Any]
    losses: Sequence[tuple[float, float]]  # (tokens seen, mean loss in nats per token)


@dataclass(frozen=True)
class Models:
    """The models of a run in the order of its stages, and a chart of the losses of the first of them."""

    trained: Sequence[Trained]
    chart: str


def load_models(run: Run) -> Models | None:
    """What the run's `train` stages made, or None if none has finished."""
    found = [_trained(run, stage) for stage in run.stages if stage.component == "train" and stage.finished]
    known = [each for each in found if each is not None]
    if not known:
        return None
    lines = [Curve(each.name, each.losses) for each in known[:DRAWN] if len(each.losses) > 1]
    return Models(known, curves(lines, *AXES))


def _trained(run: Run, stage: Stage) -> Trained | None:
    facts = _json(run.path / (stage.model or "") / "result.json")
    if stage.model is None or facts is None:
        return None
    training = _json(run.path / stage.model / "_training.json") or {}
    return Trained(stage.name, _told(stage.options), facts, _points(training.get("losses", []), int(facts["tokens"])))


def _json(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _told(options: Mapping[str, Any]) -> str:
    on = options["on"]
    if "random" in on:
        what = f"a random {on['random']['tokens']:,} tokens of the pool"
    elif "arm" in on:
        what = f"the arm {on['arm']}"
    else:
        what = ", ".join(Path(path).name for path in on["paths"])
    return f"{what}, from {Path(options['start']).name}" if options.get("start") else what


def _points(losses: Sequence[float], tokens: int) -> list[tuple[float, float]]:
    """Means over equal parts of the training: what a loss does within a few steps is noise."""
    parts = min(POINTS, len(losses))
    edges = [len(losses) * part // parts for part in range(parts + 1)] if parts else []
    found = []
    for begin, end in pairwise(edges):
        part = losses[begin:end]
        found.append((tokens * end / len(losses), sum(part) / len(part)))
    return found
