"""The books of a run: every document is accounted for, per shard and stage and per arm, or the run fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tamis.corpus import Shard, layer_file, read_layer
from tamis.errors import LedgerError, RunFailedError
from tamis.pipeline.ledger import Ledger
from tamis.pipeline.spec import CorpusSpec
from tamis.pipeline.work import Work


def balance(ledger: Ledger, work: Work, shards: Sequence[Shard]) -> tuple[int, int]:
    """(quarantined, unusable) documents of a work, after checking its books.

    Per shard: documents in = out + quarantined + unusable + left out by `where:`.

    Raises LedgerError for a shard whose books do not balance.
    """
    quarantined = unusable = 0
    for shard in shards:
        receipt = ledger.get(work.key, str(shard.number))
        if receipt is None:
            raise LedgerError(f"{work.label}, shard {shard.number}: expected a receipt, found none; run again")
        accounted = receipt.out + receipt.quarantined + receipt.facts["unusable"] + receipt.facts["left_out"]
        if receipt.rows != shard.rows or accounted != shard.rows:
            raise LedgerError(
                f"{work.label}, shard {shard.number} ({shard.label}): the books do not balance: {shard.rows} documents "
                f"in, {receipt.out} out, {receipt.quarantined} quarantined, {dict(receipt.facts)}; report this"
            )
        quarantined += receipt.quarantined
        unusable += receipt.facts["unusable"]
    return quarantined, unusable


def check_budget(policy: CorpusSpec, label: str, bad: int, seen: int, run: Path) -> None:
    """Raises RunFailedError when more documents are bad than the corpus may have."""
    allowed = 0.0 if policy.on_bad_record == "fail" else policy.max_bad_fraction
    if bad > allowed * seen:
        raise RunFailedError(
            f"{label}: {bad:,} of {seen:,} documents are bad ({bad / max(1, seen):.2%}), more than the {allowed:.2%} "
            f"allowed; see {run / 'quarantine'}, then repair them or raise corpus.max_bad_fraction"
        )


def arm_books(run: Path, folder: str, name: str, shards: Sequence[Shard]) -> dict[str, Any]:
    """Pool = kept + dropped by first reason, counted from the arm's own columns.

    Raises LedgerError if a document is neither kept nor dropped, or both.
    """
    kept = uses = rows = contradictions = 0
    dropped: Counter[str] = Counter()
    for shard in shards:
        table = read_layer(run / folder / layer_file(shard.number), [f"{name}_repeats", f"{name}_reason"])
        repeats, reasons = table.columns
        used = pc.fill_null(pc.greater(repeats, 0), False)
        rows += table.num_rows
        kept += pc.sum(used).as_py() or 0
        uses += pc.sum(repeats).as_py() or 0
        contradictions += pc.sum(pc.and_(pc.equal(used, reasons.is_valid()), repeats.is_valid())).as_py() or 0
        if repeats.null_count:
            dropped["quarantined"] += repeats.null_count  # the selector itself failed on them
        for entry in reasons.drop_null().value_counts().to_pylist():
            dropped[entry["values"]] += entry["counts"]
    pool = sum(shard.rows for shard in shards)
    if rows != pool or contradictions or kept + dropped.total() != pool:
        raise LedgerError(
            f"arm {name}: the books do not balance: {pool} documents in the pool, {kept} kept, "
            f"{dict(dropped)} dropped, {contradictions} with a contradiction; report this"
        )
    return {"pool": pool, "kept": kept, "uses": uses, "dropped": dict(sorted(dropped.items()))}
