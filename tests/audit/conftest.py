"""A small run with everything that an audit looks at: duplicates, shared ids, bad documents, cuts, two arms."""

import json
import math
import random
import re
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


# ---- duplicates, by design ----

BOILERPLATE = "All rights reserved; the drum, the sieve and the flour in it belong to the mill and to nobody else."


@pytest.fixture(scope="session", name="shingles")
def _shingles():
    """(text, n) → the slow twin of what MinHash compares."""
    return shingles_of


@pytest.fixture(scope="session", name="jaccard")
def _jaccard():
    """(one text, another) → the exact similarity of their sets of 5-word shingles."""
    return jaccard_of


def shingles_of(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def jaccard_of(one: str, other: str) -> float:
    a, b = shingles_of(one), shingles_of(other)
    return len(a & b) / len(a | b)


def _with_duplicates() -> list[dict]:
    draw = random.Random(7)
    vocabulary = [f"w{draw.randrange(10**6)}" for _ in range(3000)]

    def text(words: int) -> list[str]:
        return draw.choices(vocabulary, k=words)

    rows = [{"id": f"plain-{n:03d}", "text": " ".join(text(60)), "source": "plain"} for n in range(150)]
    link = text(120)
    for n in range(9):  # each like the one before it, the last little like the first
        rows.append({"id": f"chain-{n}", "text": " ".join(link), "source": "chain"})
        link = [*link]
        link[10 + 12 * n] = f"edit{n}"
    for n in range(12):  # a source of which most are edited copies
        original = text(90)
        for copy in range(10):
            edited = [word if i != 9 * copy else f"{word}x" for i, word in enumerate(original)]
            rows.append({"id": f"mirror-{n:02d}-{copy}", "text": " ".join(edited), "source": "mirror"})
    rows += [
        {"id": "pair-a", "text": HOSTILE + " one plain pair of documents" * 3, "source": "<i>odd</i>"},
        {"id": "pair-b", "text": HOSTILE.upper() + " ONE plain pair of documents" * 3, "source": "<i>odd</i>"},
    ]
    for n in range(40):
        own = [" ".join(text(30)), " ".join(text(20 + n))]
        rows.append({"id": f"page-{n:02d}", "text": "\n".join([own[0], BOILERPLATE, own[1]]), "source": "pages"})
    draw.shuffle(rows)
    return rows


@pytest.fixture(scope="session")
def duplicated_folder(tmp_path_factory, run_spec) -> Path:
    """A finished run of deduplicators over documents made for them; never to be changed."""
    folder = tmp_path_factory.mktemp("duplicated")
    table = pa.Table.from_pylist(_with_duplicates())
    (folder / "corpus").mkdir()
    pq.write_table(table.slice(0, 130), folder / "corpus" / "a.parquet")
    pq.write_table(table.slice(130), folder / "corpus" / "b.parquet")
    verified = {"verify": "exact", "threshold": 0.7, "bands": 30, "rows_per_band": 3, "canaries": 0.5}
    stages = [
        {"deduplicate": "exact"},
        {"deduplicate": {"by": {"minhash": {"bands": 12, "rows_per_band": 8, "canaries": 0.5}}, "as": "near"}},
        {"deduplicate": {"by": {"minhash": verified}, "as": "checked"}},
        {"deduplicate": {"by": {"paragraph": {"min_words": 10}}, "as": "lines"}},
    ]
    return run_spec({"corpus": {"paths": str(folder / "corpus")}, "stages": stages}, folder).folder


@pytest.fixture(scope="session")
def duplicated(duplicated_folder) -> Run:
    return open_run(duplicated_folder)


@pytest.fixture(scope="session")
def known(duplicated) -> dict[str, dict]:
    """All that the run knows of every document, by id."""
    return {values["doc_id"]: values for values in duplicated.table(list(duplicated.columns)).to_pylist()}
