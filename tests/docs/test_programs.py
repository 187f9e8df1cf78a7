"""The page of code in decision 1 does what it says: k-means in many rounds, DSIR, duplicates and a training."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.inline import run_inline
from tamis.steps import Documents, Pool, Train

PAGE = Path(__file__).parents[2] / "docs" / "decisions" / "0001-components-are-generators.md"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The page's code as a module."""
    import importlib

    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("programs")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "page_of_programs.py").write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("page_of_programs")
    sys.path.remove(str(folder))
    del sys.modules["page_of_programs"]


@pytest.fixture(scope="module")
def points():
    """Three hundred documents with vectors around three places."""
    draw = np.random.default_rng(3)
    place = draw.integers(0, 3, 300)
    centres = np.array([[0, 0, 4], [0, 4, 0], [4, 0, 0]])
    values = (centres[place] + draw.normal(0, 0.3, (300, 3))).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3)
    ids = [f"d{i:03d}" for i in range(300)]
    return pa.table({"doc_id": ids, "vector": vectors, "text": [f"document {i}" for i in ids]})


def test_kmeans_gives_what_the_plain_algorithm_gives(programs, points):
    """Lloyd's algorithm in floating point, from the same first centroids."""
    from tamis import seeds
    from tamis.kernels.arrow import text_of

    table = points
    values = np.array(table["vector"].to_pylist())
    centroids = values[np.argsort(seeds.hash64(0, "centroids", text_of(table["doc_id"])))[:5]]
    for _ in range(4):
        cells = ((values[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
        centroids = np.array([values[cells == cell].mean(axis=0) for cell in range(5)])
    cells = ((values[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    found = run_inline(programs.Kmeans(5, rounds=4), table, "near")["near_cell"].to_numpy()
    assert (found == cells).mean() > 0.99  # the program's centroids are rounded to 1/4096


@pytest.mark.parametrize("batch_rows", [7, 64])
def test_batches_of_any_size_give_the_same_cells(programs, points, batch_rows):
    whole = run_inline(programs.Kmeans(4), points, "near")["near_cell"]
    assert (
        run_inline(programs.Kmeans(4), points, "near", batch_rows=batch_rows)["near_cell"].to_pylist()
        == whole.to_pylist()
    )


def test_kmeans_gives_the_same_cells_in_any_order(programs, points):
    table = points
    first = run_inline(programs.Kmeans(3, rounds=3), table, "near")["near_cell"].to_numpy()
    order = np.random.default_rng(1).permutation(300)
    found = run_inline(programs.Kmeans(3, rounds=3), table.take(pa.array(order)), "near", batch_rows=50)[
        "near_cell"
    ].to_numpy()
    assert (found == first[order]).all()


def test_likeness_prefers_what_is_like_the_target(programs):
    target = Documents(texts=("flour and sieve", "sieve the flour"))
    found = run_inline(
        programs.Likeness(target), pa.table({"text": ["sieve flour", "engine proof", "river and market"]}), "like"
    )
    scores = found["like"].to_pylist()
    assert scores[0] > max(scores[1:])


def test_duplicates_keep_the_smallest_id(programs):
    table = pa.table({"doc_id": ["c", "a", "b", "d"], "text": ["Same words.", "same words", "other", "same, words"]})
    assert run_inline(programs.Duplicates(), table, "twin", batch_rows=2)["twin_kept_by"].to_pylist() == [
        "a",
        "a",
        "b",
        "a",
    ]


def test_a_training_is_one_step(programs):
    step = next(programs.Counted().steps(Pool("count", 0)))
    assert isinstance(step, Train)


def test_kmeans_as_a_run_gives_the_same_cells(programs, points, tmp_path):
    """The same class as a user's component: every round is a pass, merged over shards."""
    import tamis

    own = tmp_path / "mine"
    own.mkdir()
    code = Path(programs.__file__).read_text(encoding="utf-8")
    kmeans = code[: code.index("@dataclass(frozen=True)\nclass Likeness")]
    kmeans = kmeans.replace("class Kmeans(Component):", "class Kmeans(Scorer):").replace(
        "from tamis.steps", "from tamis.scorers.base import Scorer\nfrom tamis.steps"
    )
    (own / "kmeans.py").write_text(kmeans, encoding="utf-8")
    table = points
    for shard in range(3):
        part = table.slice(shard * 100, 100).rename_columns(["id", "vector", "text"])
        pq.write_table(part, tmp_path / f"part-{shard}.parquet")
    (tmp_path / "stages.yaml").write_text(
        "corpus: part-*.parquet\nout: run\ncomponents: mine\nstages:\n  - score: {kmeans: {k: 3, rounds: 4}}\n"
    )
    ran = tamis.run(tmp_path / "stages.yaml", serial=True, quiet=True).table(["doc_id", "kmeans_cell"])
    inline = run_inline(programs.Kmeans(3, rounds=4), table, "near")["near_cell"].to_pylist()
    assert ran["kmeans_cell"].to_pylist() == inline
