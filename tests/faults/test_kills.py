"""Kill anything at any moment and run again: the same bytes as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tamis.pipeline.interrupts import Interrupts


def is_visible(path: str) -> bool:
    return not any(part.startswith(".") for part in path.split("/"))


def visible(files):
    return {path: digest for path, digest in files.items() if is_visible(path)}


def lines_of(ledger) -> int:
    return sum(path.read_bytes().count(b"\n") for path in ledger.glob("*.jsonl"))


def kill_after(process, ledger, lines: int, seconds: float = 60) -> bool:
    """SIGKILL to the driver once it has written so many more lines; False if it finished before."""
    before, deadline = lines_of(ledger), time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < deadline, "the run hangs"
        if lines_of(ledger) >= before + lines:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    assert process.returncode == 0, process.stderr.read()
    return False


@pytest.fixture(scope="module")
def specification(seven, stages):
    return {"corpus": {"paths": str(seven), "max_bad_fraction": 0.05}, "seed": 23, "stages": stages}


@pytest.fixture(scope="module")
def undisturbed(run_spec, specification, tmp_path_factory):
    return run_spec(specification, tmp_path_factory.mktemp("undisturbed"))


def start(command, environment, folder, *arguments):
    return subprocess.Popen(
        [*command, "run", "stages.yaml", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("arguments", "kills", "most_lines"),
    [(("--serial",), 6, 40), pytest.param(("--workers", "2"), 2, 80, marks=pytest.mark.dask)],
)
def test_a_driver_killed_again_and_again_ends_with_the_same_bytes(
    arguments, kills, most_lines, undisturbed, specification, opened, written, command, environment, tmp_path
):
    written(tmp_path, specification)
    draw = random.Random(8)
    groups, killed = [], 0
    try:
        for _ in range(kills):
            process = start(command, environment, tmp_path, *arguments)
            groups.append(process.pid)
            with process.stderr:
                killed += kill_after(process, tmp_path / "run" / "ledger", draw.randint(1, most_lines))
            for path in (tmp_path / "run" / "layers").rglob("*.parquet"):
                if is_visible(path.name):
                    pq.read_table(path, partitioning=None)  # whole, or not there under its name
        process = start(command, environment, tmp_path, *arguments)
        groups.append(process.pid)
        _, complaint = process.communicate(timeout=100)
        assert process.returncode == 0, complaint
    finally:
        for group in groups:
            kill_group(group)
    assert killed >= min(kills, 2), "most runs were killed before they were done"
    ran = opened(tmp_path / "run")
    assert visible(ran.files("layers")) == undisturbed.files("layers")
    assert visible(ran.files("models")) == undisturbed.files("models")
    assert ran.catalog["arms"] == undisturbed.catalog["arms"]
    assert ran.catalog["finished"]


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_kill_costs_only_the_work_in_hand(
    specification, opened, written, command, environment, tmp_path, undisturbed
):
    """What had a receipt before the kill gets no second one."""
    written(tmp_path, specification)
    process = start(command, environment, tmp_path, "--serial")
    with process.stderr:
        assert kill_after(process, tmp_path / "run" / "ledger", 100)
    receipts = opened(tmp_path / "run").receipts()
    before = [(receipt["key"], receipt["unit"]) for receipt in receipts]
    process = start(command, environment, tmp_path, "--serial")
    _, complaint = process.communicate(timeout=100)
    assert process.returncode == 0, complaint
    after = [(receipt["key"], receipt["unit"]) for receipt in opened(tmp_path / "run").receipts()[len(before) :]]
    assert len(before) >= 70
    assert set(after).isdisjoint(before)
    assert len(before) + len(after) == len(undisturbed.receipts())


def test_an_interrupted_run_stops_cleanly_and_resumes(
    specification, written, command, environment, tmp_path, opened, undisturbed
):
    written(tmp_path, specification)
    process = start(command, environment, tmp_path, "--serial")
    ledger = tmp_path / "run" / "ledger"
    deadline = time.monotonic() + 60
    while lines_of(ledger) < 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert complaint.splitlines()[-1] == "stopped; run the same command again to go on"
    assert "Traceback" not in complaint
    process = start(command, environment, tmp_path, "--serial")
    _, complaint = process.communicate(timeout=100)
    assert process.returncode == 0, complaint
    assert visible(opened(tmp_path / "run").files("layers")) == undisturbed.files("layers")


def test_an_interrupt_that_python_drops_is_raised_at_the_next_step():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupts.check()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.train
@pytest.mark.slow
def test_a_driver_killed_while_models_train_and_score_ends_with_the_same_bytes(
    run_spec, documents, write_corpus, target, opened, written, command, environment, tmp_path
):
    """Once in the middle of a training, and twice later."""
    pytest.importorskip("torch")
    short = documents.filter(pc.less(pc.binary_length(documents["text"]), 1200)).slice(0, 40)
    stages = [
        {"train": {"name": "prior", "on": {"random": {"tokens": 2048}}, "tokens": 40_000, "size": "tiny"}},
        {"train": {"name": "conditional", "from": "prior", "on": str(target), "tokens": 1024}},
        {"score": {"loss_reduction": {"prior": "prior", "conditional": "conditional"}}},
        {"score": {"influence": {"model": "conditional", "target": str(target), "sample_tokens": 1000}}},
    ]
    corpus = {"paths": str(write_corpus(tmp_path / "pool", short, 3)), "max_bad_fraction": 0.1}
    said = {"corpus": corpus, "tokenizer": {"vocabulary": 400}, "seed": 3, "stages": stages}
    quiet = run_spec(said, tmp_path / "quiet")
    written(tmp_path, said)
    run = tmp_path / "run"
    process = start(command, environment, tmp_path, "--serial")
    with process.stderr:
        deadline = time.monotonic() + 100
        while not list(run.glob("progress/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    for _ in range(2):
        process = start(command, environment, tmp_path, "--serial")
        with process.stderr:
            kill_after(process, run / "ledger", 6)
    process = start(command, environment, tmp_path, "--serial")
    _, complaint = process.communicate(timeout=200)
    assert process.returncode == 0, complaint
    ran = opened(run)
    assert visible(ran.files("layers")) == quiet.files("layers")
    weights = [
        sorted(digest for path, digest in visible(each.files("models")).items() if path.endswith(".safetensors"))
        for each in (ran, quiet)
    ]
    assert weights[0] == weights[1]


@pytest.mark.dask
def test_a_killed_worker_costs_a_retry(run_spec, poisoned, own_components, dask_workers, tmp_path):
    """The first worker that meets the poisoned document is killed in the middle of its task."""
    said = {
        "corpus": str(poisoned),
        "components": str(own_components),
        "stages": [{"score": ["length", {"trap": {"kind": "kill once", "repaired": str(tmp_path / "killed")}}]}],
    }
    ran = run_spec(said, tmp_path / "a", dask_workers)
    assert (tmp_path / "killed").exists(), "no worker was killed"
    quiet = run_spec(said, tmp_path / "b")
    assert ran.files("layers") == quiet.files("layers")
    assert ran.catalog["arms"] == quiet.catalog["arms"]


@pytest.mark.dask
def test_a_shard_that_kills_every_worker_fails_alone_and_is_named(
    run_spec, poisoned, own_components, dask_workers, tmp_path
):
    from tamis.errors import RunFailedError

    said = {
        "corpus": str(poisoned),
        "components": str(own_components),
        "stages": [{"score": {"by": [{"trap": {"kind": "exit", "repaired": str(tmp_path / "repaired")}}]}}],
    }
    with pytest.raises(RunFailedError, match=r"part-02|shard 2"):
        run_spec(said, tmp_path, dask_workers)
    layers = [path.name for path in (tmp_path / "run" / "layers").glob("trap-*/*.parquet")]
    assert sorted(layers) == ["000000.parquet", "000001.parquet", "000003.parquet"]
    assert "shard 2" in (tmp_path / "run" / "failures.txt").read_text()
    (tmp_path / "repaired").touch()
    ran = run_spec(said, tmp_path, dask_workers)
    assert ran.values("trap")["doc-bad"] == len("there is poison in it")
    assert (
        len(
            [receipt for receipt in ran.receipts() if receipt["label"].endswith("trap") and receipt["unit"] != "merged"]
        )
        == 4
    )
