"""Exact substrings: whole runs on one core, what they send, and a suffix array on the same text.

The suffix array is libdivsufsort's (`pydivsufsort`, in an environment of its own, see README.md), on documents in
ASCII, where characters are bytes: both must cover the same bytes.

    python benchmarks/substring.py --shards 12 --peers ../peers
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pool import SHARED, need_shared, shards, spread, table, text_bytes
from whole import PEERS, SCRIPTS, Whole, cores, tamis_run, watched

REVISIONS = SHARED / "dups" / "docs_revisions.parquet"
PUBLISHED = 350e9 / (12 * 3600 * 96) / 1e6  # MB/s: C4 in under 12 hours on 96 cores (Lee et al. 2022)
ROUNDS = {"key, row": "fingerprints", "at, checks, key, rank, row": "runs"}  # what an exchange sends → what it is about
LEAST_BYTES = 200  # of a passage, against the suffix array
CHARACTERS = f"{{min_tokens: {LEAST_BYTES}, tokens: characters, strike: all}}"


@dataclass(frozen=True)
class Sent:
    """Bytes that exchanges wrote: to the rows with the same key, and back."""

    out: int = 0
    back: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=12, help="of the pool, 25 MB each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of the peers' environments")
    arguments = parser.parse_args()
    need_shared()
    with tempfile.TemporaryDirectory() as folder:
        _whole_runs(Path(folder), arguments.shards, arguments.rounds)
        _against_a_suffix_array(Path(folder), arguments.peers, arguments.rounds)


# ---- whole runs ----


def _whole_runs(root: Path, count: int, rounds: int) -> None:
    rows = []
    for name, paths in {f"pool, {count} shards": shards(count), "revisions of pages": [str(REVISIONS)]}.items():
        size = text_bytes(paths)
        seconds, _ = _timed(root, paths, "{}", rounds)
        sent = {about: _sent(root / "run", about) for about in ROUNDS.values()}
        found = json.loads((root / "run" / "findings" / "substring.json").read_text("utf-8"))
        shares = [f"{bytes_ / size:.2f}" for each in sent.values() for bytes_ in (each.out, each.back)]
        struck = f"{100 * found['struck_bytes'] / size:.2f} %"
        rows.append((f"{name}, {size / 1e6:.0f} MB", spread(seconds), size / min(seconds) / 1e6, *shares, struck))
    rows.append(("published: suffix array of C4, 350 GB, per core", "", PUBLISHED, "", "", "", "", ""))
    sent_of = [f"{about} {way}" for about in ROUNDS.values() for way in ("sent", "back")]
    table(
        "substring, 50 tokens: whole runs (survey to layers) on one core; bytes sent per byte of text",
        ("", "seconds", "MB/s", *sent_of, "struck"),
        rows,
    )


def _timed(root: Path, paths: Sequence[str], options: str, rounds: int) -> tuple[list[float], list[Whole]]:
    """Seconds of whole runs, after one that compiles; the last run directory is root/run."""
    spec = root / "stages.yaml"
    listed = json.dumps([str(path) for path in paths])
    spec.write_text(f"corpus: {{paths: {listed}}}\nout: run\nstages:\n  - deduplicate: {{substring: {options}}}\n")
    runs = []
    for _ in range(rounds + 1):
        shutil.rmtree(root / "run", ignore_errors=True)
        runs.append(watched(tamis_run(spec, "--serial"), cores(1)))
    return [run.seconds for run in runs[1:]], runs[1:]


def _sent(run: Path, about: str) -> Sent:
    """What the exchange about fingerprints, or about runs, wrote."""
    for folder in (run / "folds").glob("substring-*"):
        files = sorted(folder.glob("*.arrow"))
        if files and ROUNDS.get(", ".join(sorted(pa.ipc.open_file(files[0]).schema.names))) == about:
            back = folder.glob("*/decided-*.arrow")
            return Sent(sum(file.stat().st_size for file in files), sum(file.stat().st_size for file in back))
    sys.exit(f"substring: expected an exchange about {about} in {run / 'folds'}, found none; is ROUNDS up to date?")


# ---- a suffix array ----


def _against_a_suffix_array(root: Path, peers: Path, rounds: int) -> None:
    texts = pa.concat_tables(pq.read_table(path, columns=["text"]) for path in (shards(1)[0], REVISIONS))
    texts = texts.filter(pc.string_is_ascii(texts["text"]))
    path = root / "ascii.parquet"
    pq.write_table(texts, path)
    size = text_bytes([str(path)])
    seconds, runs = _timed(root, [str(path)], CHARACTERS, rounds)
    covered = json.loads((root / "run" / "findings" / "substring.json").read_text("utf-8"))["struck_bytes"]
    rows = [
        ("tamis, a whole run", spread(seconds), size / min(seconds) / 1e6, max(run.megabytes for run in runs), covered)
    ]
    python = peers / "pydivsufsort" / "bin" / "python"
    if python.is_file():
        script = [str(python), str(SCRIPTS / "pydivsufsort_substrings.py"), str(path), str(LEAST_BYTES)]
        done = [json.loads(subprocess.check_output(script, text=True)) for _ in range(rounds)]
        theirs = [figures["seconds"] for figures in done]
        megabytes = max(figures["megabytes"] for figures in done)
        name = "pydivsufsort: suffix array, common prefixes, union; texts in memory"
        rows.append((name, spread(theirs), size / min(theirs) / 1e6, megabytes, done[0]["covered"]))
    else:
        print(f"no {python}: left out (see benchmarks/README.md)", file=sys.stderr)
    table(
        f"passages of {LEAST_BYTES} characters in {size / 1e6:.0f} MB of ASCII, every copy, one core",
        ("", "seconds", "MB/s", "peak MB", "bytes covered"),
        rows,
    )


if __name__ == "__main__":
    main()
