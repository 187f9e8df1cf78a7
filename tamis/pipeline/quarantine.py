"""Documents that cannot be used, or made a component fail: entries in files, and a column for the stages after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.corpus import Shard, publish
from tamis.pipeline.layout import quarantine_file


def unusable_rows(usable: pa.BooleanArray, shard: Shard, position: int) -> list[dict[str, Any]]:
    """Entries for the documents of a batch, from `position` in the shard, that cannot be used."""
    if usable.true_count == len(usable):
        return []
    rows = np.flatnonzero(~np.asarray(usable))
    return [
        {
            "file": shard.label,
            "position": shard.first_record + position + int(i) + 1,
            "reason": "text is missing or not UTF-8",
            "sample": "",
            "row": position + int(i),
        }
        for i in rows
    ]


def write_quarantine(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes the entries of one shard; none leave no file."""
    if records:
        publish(path, b"".join(json.dumps(record).encode() + b"\n" for record in records))
    else:  # what an earlier run failed on may be fine now
        path.unlink(missing_ok=True)


def quarantined_rows(run: Path, shard: Shard, keys: Sequence[str]) -> pa.Array:
    """Which of a shard's documents are unusable, or made one of these works fail: bool, (rows)."""
    flags = np.zeros(shard.rows, bool)
    for path in [quarantine_file("pool", shard.number, key) for key in (None, *keys)]:
        if (run / path).exists():
            for line in (run / path).read_text(encoding="utf-8").splitlines():
                flags[json.loads(line)["row"]] = True
    return pa.array(flags)
