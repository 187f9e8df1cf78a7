"""Tasks that bring shards together: merging summaries, deciding about a range of keys."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tamis.pipeline.exchange import bundle, decide_partition
from tamis.pipeline.folds import GROUP_SHARDS, merge_files
from tamis.pipeline.layout import decided_file
from tamis.pipeline.work import Receipt, load_pass, worker_name
from tamis.steps import Exchange, Fold


def merge_summaries(run: str, pass_path: str, listing: str, start: int, target: str) -> tuple[int, str]:
    """One task of the merge tree: a group of the listed files, from `start`; size and digest of the merged summary."""
    root = Path(run)
    files = json.loads((root / listing).read_text(encoding="utf-8"))[start : start + GROUP_SHARDS]
    (work,) = load_pass(str(root / pass_path)).works
    step = work.step(root)
    assert isinstance(step, Fold)
    return merge_files(step, [root / file for file in files], root / target)


def bundle_files(run: str, listing: str, start: int, target: str, by: str) -> tuple[int, str]:
    """One task: a group of the listed files of an exchange as one file, sorted by a column; its size and digest."""
    root = Path(run)
    files = json.loads((root / listing).read_text(encoding="utf-8"))[start : start + GROUP_SHARDS]
    return bundle([root / file for file in files], root / target, by)


def decide_files(run: str, pass_path: str, listing: str, partition: int, partitions: int, inputs: str) -> Receipt:
    """One task of an exchange: decides about all rows whose keys fall in one range."""
    began = time.perf_counter()
    root = Path(run)
    (work,) = load_pass(str(root / pass_path)).works
    step = work.step(root)
    assert isinstance(step, Exchange)
    files = [root / file for file in json.loads((root / listing).read_text(encoding="utf-8"))]
    target = root / decided_file(str(Path(listing).parent), partition)
    rows, size, digest = decide_partition(step, files, partition, partitions, target, work.label)
    seconds = round(time.perf_counter() - began, 4)
    return Receipt(
        work.key,
        f"decided-{partition}/{partitions}",
        inputs,
        rows,
        rows,
        0,
        size,
        digest,
        seconds,
        worker_name(),
        work.label,
    )
