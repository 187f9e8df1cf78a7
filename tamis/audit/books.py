"""The books of a run: where every document is at every stage, and what is in quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tamis.audit.reader import Run


@dataclass(frozen=True)
class Book:
    """One stage's books: documents in = out + quarantined + not usable + left out by `where:`."""

    stage: str
    rows: int
    out: int
    quarantined: int
    unusable: int
    left_out: int
    seconds: float

    @property
    def balances(self) -> bool:
        return self.rows == self.out + self.quarantined + self.unusable + self.left_out


def books(run: Run) -> list[Book]:
    """The books of the last work of every stage, added up over the shards of this run."""
    last = {stage.keys[-1]: stage.label for stage in run.stages if stage.keys}
    owner = {key: stage.label for stage in run.stages for key in stage.keys}
    numbers = {str(shard.number) for shard in run.shards}
    sums: dict[str, Counter[str]] = {label: Counter() for label in last.values()}
    seconds = dict.fromkeys(sums, 0.0)
    for receipt in run.receipts():
        if receipt.key in owner:
            seconds[owner[receipt.key]] += receipt.seconds
        if receipt.key in last and receipt.unit in numbers:
            facts = receipt.facts
            sums[last[receipt.key]].update(
                rows=receipt.rows, out=receipt.out, quarantined=receipt.quarantined,
                unusable=facts.get("unusable", 0), left_out=facts.get("left_out", 0),
            )  # fmt: skip
    return [
        Book(label, s["rows"], s["out"], s["quarantined"], s["unusable"], s["left_out"], seconds[label])
        for label, s in sums.items()
        if s["rows"]
    ]


@dataclass(frozen=True)
class Quarantine:
    """What is in quarantine: documents, the commonest reasons, and a few examples."""

    total: int
    reasons: Sequence[tuple[str, int]]
    examples: Sequence[dict[str, Any]]


REASONS = 1000  # kept apart while counting; what comes after them counts as "other reasons"


def quarantine(run: Run) -> Quarantine:
    reasons: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    total = 0
    for entry in run.quarantine():
        total += 1
        reason = str(entry["reason"])[:160]
        reasons[reason if reason in reasons or len(reasons) < REASONS else "other reasons"] += 1
        if reasons[reason] == 1 and len(examples) < 6:
            examples.append(entry)
    return Quarantine(total, reasons.most_common(12), examples)
