"""`tamis sweep`: rates tried on the same rows, judged on documents that nobody was trained on, told as a table."""

import contextlib
import io
import math
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.errors import ContractError, SpecError
from tamis.models import sweep
from tamis.models.sizes import size
from tamis.models.sweep import Tried
from tamis.pipeline.progress import Progress
from tamis.pipeline.sweep import Trial, rates_in, run_sweep
from tamis.pipeline.workers import Serial

pytestmark = pytest.mark.train

WORDS = ["the", "sieve", "of", "copper", "and", "quiet", "river", "mill", "orbit", "winter", "lesson", "bridge"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Documents, held-out documents of the same kind, and a file with one short document."""
    draw, folder = np.random.default_rng(3), tmp_path_factory.mktemp("sweep")
    for name, count in (("pool", 300), ("valid", 30), ("few", 1)):
        texts = [" ".join(draw.choice(WORDS, 40)) for _ in range(count)]
        table = pa.table({"id": [f"{name}{i}" for i in range(count)], "text": texts, "body": texts})
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def called(*arguments):
    """The command line in this process: (status, stdout, stderr)."""
    from tamis.__main__ import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tamis", "sweep", *map(str, arguments)]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        sys.argv = before
    return status, out.getvalue(), err.getvalue()


def test_a_line_tells_the_best_rate_and_what_to_write(folder):
    status, out, err = called(
        folder / "pool.parquet", "--tokens", 4_000, "--rates", "1e-6,8e-3,1e37", "--serial", "--text", "body"
    )
    assert status == 0, err
    rows = {line.split()[0]: line.split() for line in out.splitlines()[1:4]}
    assert float(rows["0.008"][1]) < float(rows["1e-06"][1])
    assert rows["1e+37"][1:3] == ["failed", "–"]
    values = [float(value) for value in rows["0.008"][3:5]]
    assert float(rows["0.008"][1]) == pytest.approx(np.mean(values), abs=1.1e-3)
    assert "in stages.yaml: train: {…, size: tiny, learning_rate: 0.008}" in out
    assert len(re.findall(r"rate \S+, seed [01]: (\d\.\d{3}|inf) bits per byte", err)) == 6
    assert re.search(r"\d+ documents to train on, 4,000 tokens; 30 held out", err)


def test_documents_to_judge_on_may_be_given(folder):
    paths, valid = (str(folder / "pool.parquet"),), (str(folder / "valid.parquet"),)
    told = io.StringIO()
    trial = Trial(paths, "tiny", 3_000, (2e-3,), valid, seeds=1)
    table = run_sweep(trial, Serial(), Progress(told))
    assert "; 30 held out" in told.getvalue()
    assert run_sweep(trial, Serial(), Progress(quiet=True)) == table
    assert "one seed tells no spread" in table


def test_by_default_half_one_two_and_four_times_the_size_s_own_are_tried():
    assert sweep.rates_for("tiny", 300_000) == (3e-3, 6e-3, 1.2e-2, 2.4e-2)
    own = size("small").recipe(10_000_000).learning_rate
    assert sweep.rates_for("small", 10_000_000)[1] == float(f"{own:.2g}")


def test_the_verdict_says_how_sure_it_is():
    near = [Tried(1e-3, (2.0, 2.2)), Tried(2e-3, (1.9, 2.1)), Tried(4e-3, (3.0, 3.1))]
    told = sweep.told("mini", 4e-3, near)
    assert "best: 0.002; within the spread of it: 0.001" in told
    assert "learning_rate: 0.002}" in told
    assert "4e-3" not in told
    assert "  the size's own" in told.splitlines()[3]
    edge = sweep.told("mini", 4e-3, [Tried(4e-3, (1.0, 1.0)), Tried(2e-3, (2.0, 2.0))])
    assert "it is the highest tried: try 0.008 as well" in edge
    assert "nothing to write" in edge
    assert "every rate failed" in sweep.told("mini", 4e-3, [Tried(1.0, (math.inf,))])
    assert sweep.told("mini", 1.0, [Tried(1.0, (math.inf, 2.0)), Tried(0.5, (3.0, 3.0))]).count("failed") == 2


@pytest.mark.parametrize("text", ["", "a", "1e-3,", "1e-3,1e-3", "0", "-1", "1e-3;2e-3"])
def test_rates_that_are_none_are_refused(text):
    if text == "1e-3,":
        assert rates_in(text) == (1e-3,)
    else:
        with pytest.raises(SpecError, match="--rates: expected"):
            rates_in(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.parquet"], "nowhere.parquet"),
        (["pool.parquet", "--size", "tiney"], "did you mean 'tiny'"),
        (["pool.parquet", "--rates", "fast"], "--rates: expected numbers like"),
        (["few.parquet"], "sweep: expected documents to train on"),
    ],
)
def test_what_cannot_be_swept_is_told_in_a_line(folder, arguments, message, monkeypatch):
    monkeypatch.chdir(folder)
    status, out, err = called(*arguments, "--serial", "--tokens", 2_000)
    assert (status in (1, 2), out) == (True, "")
    assert message in err
    assert "Traceback" not in err


def test_a_training_that_fails_for_another_reason_stops_the_sweep(folder, monkeypatch):
    def broken(*_arguments):
        raise MemoryError

    monkeypatch.setattr(sweep, "measure", broken)
    trial = Trial((str(folder / "pool.parquet"),), "tiny", 2_000, (1e-3,))
    with pytest.raises(ContractError, match=r"sweep: rate 0.001: MemoryError"):
        run_sweep(trial, Serial(), Progress(quiet=True))
