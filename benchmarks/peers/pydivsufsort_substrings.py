"""Repeated passages by a suffix array: `python pydivsufsort_substrings.py TEXTS.parquet BYTES`, figures as JSON.

As in Lee et al. 2022: a suffix array of all texts in a row, the longest common prefix of neighbours, and the union of
all places where it is BYTES or more, before a document ends.
"""

import json
import resource
import sys
import time

import numpy as np
import pyarrow.parquet as pq
from pydivsufsort import divsufsort, kasai

SEPARATOR = b"\xff"  # in no UTF-8 text


def covered_bytes(texts: list[str], least: int) -> int:
    """How many bytes are in passages of `least` bytes or more that occur twice."""
    joined = SEPARATOR.join(text.encode() for text in texts) + SEPARATOR
    suffixes = divsufsort(joined)
    prefixes = kasai(joined, suffixes)
    ends = np.flatnonzero(np.frombuffer(joined, np.uint8) == 0xFF)
    room = ends[np.searchsorted(ends, suffixes)] - suffixes
    later = np.minimum(np.minimum(prefixes[:-1], room[:-1]), room[1:]) >= least
    inside = np.zeros(len(joined) + 1, np.int64)
    for places in (np.append(later, False), np.append(False, later)):
        starts = suffixes[places]
        np.maximum.at(inside, starts, 1)
    starts = np.flatnonzero(inside)
    change = np.zeros(len(joined) + least + 1, np.int64)
    change[starts] += 1
    change[starts + least] -= 1
    return int((np.cumsum(change) > 0).sum())


def main() -> None:
    texts = pq.read_table(sys.argv[1], columns=["text"])["text"].to_pylist()
    began = time.perf_counter()
    covered = covered_bytes(texts, int(sys.argv[2]))
    seconds = time.perf_counter() - began
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "covered": covered}))


if __name__ == "__main__":
    main()
