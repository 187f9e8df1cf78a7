"""A small run with everything that an audit looks at: duplicates, shared ids, bad documents, cuts, two arms."""

import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.audit.reader import Run, open_run

HOSTILE = '<script src="https://example.org/x.js">alert(1)</script> \x1b[31mred\x1b[0m \u202eturned round'


def _documents() -> list[dict]:
    rows = [
        {
            "id": f"doc-{n:03d}",
            "text": f"document {n} " + "word " * (n % 40 + 5),
            "source": ("news", "web")[n % 2],
            "stars": n / 10,
        }
        for n in range(90)
    ]
    rows += [
        {"id": "copy-a", "text": "An original text, repeated by others.", "source": "news", "stars": 1.0},
        {"id": "copy-b", "text": "an original text repeated by others", "source": "web", "stars": 2.0},
        {"id": "copy-c", "text": "AN ORIGINAL TEXT, REPEATED BY OTHERS!", "source": "web", "stars": 3.0},
        {"id": "twice", "text": "one of two documents with one id", "source": None, "stars": math.nan},
        {"id": "hostile", "text": HOSTILE + " plain words" * 9, "source": "<b>web</b>", "stars": None},
        {"id": "lost", "text": None, "source": "web", "stars": 9.0},
        {"id": "twice", "text": "the other of two documents with one id", "source": "web", "stars": 0.5},
    ]
    return rows


def _stages(corpus: Path) -> dict:
    where = "not exact_duplicate and length > 40"
    return {
        "corpus": {"paths": str(corpus), "max_bad_fraction": 0.2},
        "seed": 5,
        "stages": [
            {"deduplicate": "exact"},
            {"score": "length"},
            {"select": {"name": "best", "where": where, "by": {"top": {"score": "stars"}}, "budget_documents": 20}},
            {"select": {"name": "drawn", "where": where, "by": "sample", "budget_documents": 30}},
        ],
    }


@pytest.fixture(scope="session")
def audited_folder(tmp_path_factory, run_spec) -> Path:
    """A finished run over three files, one of them empty; never to be changed."""
    folder = tmp_path_factory.mktemp("audited")
    table = pa.Table.from_pylist(_documents())
    (folder / "corpus").mkdir()
    pq.write_table(table.slice(0, 50), folder / "corpus" / "a.parquet", row_group_size=20)
    pq.write_table(table.slice(0, 0), folder / "corpus" / "b.parquet")
    pq.write_table(table.slice(50), folder / "corpus" / "c.parquet")
    return run_spec(_stages(folder / "corpus"), folder).folder


@pytest.fixture(scope="session")
def run(audited_folder) -> Run:
    return open_run(audited_folder)


@pytest.fixture
def copied(audited_folder, tmp_path) -> Path:
    """The same run in a folder of the test's own."""
    return shutil.copytree(audited_folder, tmp_path / "copied")


def _comparison(seeds: int) -> dict:
    sets = {
        "target": {"documents": 200, "bytes": 123456, "kind": "evaluate"},
        "pool": {"documents": 50, "bytes": 23456, "kind": "pool"},
        "pool/news": {"documents": 20, "bytes": 3456, "kind": "source"},
    }
    means = {"target": (2.19, 2.60), "pool": (2.81, 2.59), "pool/news": (2.5, 2.5)}
    arms = ("best", "drawn")
    runs = [
        {
            "arm": arm,
            "size": "tiny",
            "seed": seed,
            "set": name,
            "nats": 1.0,
            "bytes": 1,
            "bits_per_byte": mean + seed / 100,
        }
        for name in sets
        for arm, mean in zip(arms, means[name], strict=True)
        for seed in range(seeds)
    ]
    comparisons = []
    for name, (one, other) in means.items():
        low, high = (one - other - 0.06, one - other + 0.05) if seeds > 1 else (None, None)
        comparisons.append(
            {
                "arm": "best",
                "control": "drawn",
                "size": "tiny",
                "set": name,
                "difference": one - other,
                "low": low,
                "high": high,
                "better": False,
            }
        )
    training = [
        {"arm": arm, "seed": s, "tokens": 300000, "steps": 293, "documents": 30, "epochs": 1.0}
        for arm in arms
        for s in range(seeds)
    ]
    return {
        "arms": list(arms),
        "control": "drawn",
        "size": "tiny",
        "seeds": seeds,
        "tokens": 300000,
        "level": 0.95,
        "sets": sets,
        "runs": runs,
        "comparisons": comparisons,
        "overlap_left_out": {"best": 3, "drawn": 1},
        "held_out_left_out": {"best": 2, "drawn": 2},
        "training": training,
    }


@pytest.fixture
def compared(copied):
    """(seeds) → the run with a comparison of its two arms."""

    def write(seeds: int) -> Run:
        (copied / "compare.json").write_text(json.dumps(_comparison(seeds)))
        return open_run(copied)

    return write
