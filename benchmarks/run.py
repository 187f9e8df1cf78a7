"""All benchmarks, one after the other, each in a process of its own: `python benchmarks/run.py [NAME ...]`."""

import subprocess
import sys
from pathlib import Path

NAMES = (
    "importance",
    "one_pass",
    "scaling",
    "overhead",
    "memory",
    "semantic",
    "ingest",
    "embedding",
    "substring",
    "minhash",
    "dedup_quality",
    "paragraph",
    "losses",
    "influence",
    "training",
    "lds",
)

if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)
