"""Summaries on disk: one file per shard, merged as a tree of fixed groups by tasks, never in the driver."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from tamis.corpus import publish
from tamis.errors import ContractError
from tamis.steps import Fold, Summary, add

GROUP_SHARDS = 64  # summaries merged by one task
SMALL_BYTES = 4 << 20  # counts are compressed; what is larger is mostly row numbers, which do not get smaller


def save_summary(path: Path, summary: Summary) -> tuple[int, str]:
    """Writes a summary as .npz (arrays only, nothing executable, the same bytes for the same values)."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {key: summary[key] for key in sorted(summary)}
    how = ZIP_DEFLATED if sum(array.nbytes for array in arrays.values()) <= SMALL_BYTES else ZIP_STORED
    with ZipFile(buffer, "w") as file:  # what numpy's savez writes, at a quicker level
        for key, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
            file.writestr(ZipInfo(f"{key}.npy"), entry.getbuffer(), how, compresslevel=1)
    return publish(path, buffer.getbuffer())


def load_summary(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def checked_summary(summary: Summary, fold: Fold, label: str) -> Summary:
    """The summary, if its merge is exact: floats may not be added up. Raises ContractError otherwise."""
    for key, array in summary.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise ContractError(
                f"{label}: summarize() promised plain arrays, returned {type(array).__name__} for {key!r}"
            )
        if fold.merge is add and array.dtype.kind not in "iub":
            raise ContractError(
                f"{label}: summarize() promised integers (sums of floats depend on their order), returned "
                f"{array.dtype} for {key!r}; count in integers or fixed point, or give the fold an exact `merge`"
            )
    return summary


def merge_files(fold: Fold, files: list[Path], target: Path) -> tuple[int, str]:
    """Merges stored summaries, in the order given, into one file."""
    merged = load_summary(files[0])
    for file in files[1:]:
        merged = dict(fold.merge(merged, load_summary(file)))
    return save_summary(target, merged)
