"""How far scores from models can be believed, for the report: what subsets, held-out documents and pulls said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.audit.charts import scatter
from tamis.audit.deduplicators import findings_of
from tamis.audit.reader import Run

LARGEST = 12  # clusters of a bandit that are listed


@dataclass(frozen=True)
class Verdict:
    """One score of a verify stage. facts : lds, low, high, reliable, by_document. chart : predictions and losses."""

    stage: str
    score: str
    facts: Mapping[str, Any]
    chart: str


@dataclass(frozen=True)
class Estimates:
    """What a run's findings say of its scores: verdicts, fits of distilled scores, loss reductions, bandits by arm."""

    verdicts: Sequence[Verdict]
    measured: Mapping[str, Mapping[str, Any]]  # by verify stage: subsets, tokens, level, …
    distilled: Mapping[str, Mapping[str, Any]]
    reductions: Mapping[str, Mapping[str, Any]]
    bandits: Mapping[str, Mapping[str, Any]]
    pulled: Mapping[str, Sequence[Mapping[str, Any]]]  # the clusters of each bandit that were pulled most


def load_estimates(run: Run) -> Estimates | None:
    """What the finished stages of these kinds found out, or None if there are none."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {
        component: {
            stage.name: content
            for stage in run.stages
            if stage.component == component and stage.finished and (content := findings_of(run, stage.name))
        }
        for component in ("verify", "distill", "loss_reduction", "cluster_bandit")
    }
    if not any(found.values()):
        return None
    verdicts = [
        Verdict(stage, score, facts, _chart(facts["predicted"], content["nats_per_token"], score))
        for stage, content in found["verify"].items()
        for score, facts in content["scores"].items()
    ]
    bandits = found["cluster_bandit"]
    pulled = {name: _most_pulled(content["clusters"]) for name, content in bandits.items()}
    return Estimates(verdicts, found["verify"], found["distill"], found["loss_reduction"], bandits, pulled)


def _chart(predicted: Sequence[float], losses: Sequence[float], score: str) -> str:
    points = list(zip(predicted, losses, strict=True))
    return scatter(
        points, f"mean {score} of a subset's tokens", "the target's loss after training on it, nats per token"
    )


def _most_pulled(clusters: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Lists by name as one entry per cluster, those with the most pulls first."""
    entries = [dict(zip(clusters, values, strict=True)) for values in zip(*clusters.values(), strict=True)]
    return sorted(entries, key=lambda entry: (-entry["pulls"], entry["cluster"]))[:LARGEST]
