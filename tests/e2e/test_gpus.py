"""GPUs as a resource: one per worker, as far as they go; work for a GPU waits for one, all other work does not.

No GPU is needed: a worker that was given one, real or not, says so to the scheduler and sees that one alone.
"""

from __future__ import annotations

import os
import time
from itertools import combinations

import pytest

from tamis.errors import SpecError
from tamis.pipeline.gpus import gpus, take
from tamis.pipeline.workers import Dask, Task


@pytest.fixture
def environment(monkeypatch):
    """Whatever this machine has, a test says what there is."""
    for variable in ("TAMIS_GPUS", "TAMIS_DEVICE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"TAMIS_GPUS": "0"}, ()),
        ({"TAMIS_GPUS": "2"}, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": "3, 5"}, ("3", "5")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "2,-1,3"}, ("2",)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,GPU-46342f1a"}, ("GPU-8932f937", "GPU-46342f1a")),
        ({"CUDA_VISIBLE_DEVICES": "3,5", "TAMIS_GPUS": "1"}, ("3",)),
        ({"CUDA_VISIBLE_DEVICES": "3", "TAMIS_GPUS": "2"}, ("3",)),
        ({"TAMIS_GPUS": "4", "TAMIS_DEVICE": "cpu"}, ()),
        ({"TAMIS_GPUS": "4", "TAMIS_DEVICE": "mps"}, ()),
        ({"TAMIS_GPUS": "3", "TAMIS_DEVICE": "auto"}, ("0", "1", "2")),
        ({"TAMIS_GPUS": "3", "TAMIS_DEVICE": "cuda"}, ("0", "1", "2")),
        ({"TAMIS_GPUS": "3", "TAMIS_DEVICE": "cuda:1"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "6,7", "TAMIS_DEVICE": "cuda:1"}, ("7",)),
    ],
    ids=str,
)
def test_which_gpus_there_are(environment, said, found):
    for variable, value in said.items():
        environment.setenv(variable, value)
    assert gpus() == found


def test_without_a_word_it_is_the_devices_of_this_machine(environment, tmp_path):
    for name in ("nvidia0", "nvidia7", "nvidiactl", "nvidia-uvm", "nvme0"):
        (tmp_path / name).touch()
    environment.setattr("tamis.pipeline.gpus.Path", lambda path: tmp_path if path == "/dev" else path)
    assert gpus() == ("0", "1"), "as CUDA counts them, and not by the names of their files"


@pytest.mark.parametrize("wrong", ["two", "-1", "1.5", "0,1"])
def test_a_number_of_gpus_that_is_none_is_refused_before_any_worker_starts(environment, wrong):
    environment.setenv("TAMIS_GPUS", wrong)
    with pytest.raises(SpecError, match=rf"TAMIS_GPUS: expected a number of GPUs, got '{wrong}'; leave it out"):
        Dask(2).__enter__()


@pytest.mark.parametrize(
    ("number", "device", "has_one", "visible", "left"),
    [
        (0, None, True, "4", None),
        (1, "cuda", True, "6", "cuda"),
        (1, "cuda:1", True, "6", "cuda"),
        (2, None, False, "", "cpu"),
        (2, "cuda", False, "", "cpu"),
    ],
)
def test_a_worker_sees_its_own_gpu_and_no_other(environment, number, device, has_one, visible, left):
    environment.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    environment.setenv("TAMIS_DEVICE", device or "")
    assert take(("4", "6"), number) is has_one
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert (os.environ["TAMIS_DEVICE"] or None) == left


def tasks(number, *, gpu, seconds=0.05):
    """Tasks that tell who ran them, with which devices, and from when to when."""

    def told(seconds):
        import os
        import time

        began = time.monotonic()
        time.sleep(seconds)
        device = os.environ.get("CUDA_VISIBLE_DEVICES")
        return os.getpid(), device, os.environ.get("TAMIS_DEVICE"), began, time.monotonic()

    return [Task(told, (seconds,), f"task {i}", gpu=gpu) for i in range(number)]


def outcomes(workers, wanted):
    found = list(workers.run(wanted))
    assert not [outcome.error for outcome in found if outcome.error]
    assert len(found) == len(wanted)
    return [outcome.value for outcome in found]


@pytest.fixture(scope="module")
def cluster():
    """Three workers, two GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAMIS_GPUS", "2")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.delenv("TAMIS_DEVICE", raising=False)
        with Dask(3) as workers:
            yield workers


@pytest.mark.dask
def test_work_for_a_gpu_runs_where_one_is_and_never_twice_at_once_on_it(cluster):
    found = outcomes(cluster, tasks(16, gpu=True))
    assert {device for _, device, *_ in found} == {"0", "1"}
    assert len({(pid, device) for pid, device, *_ in found}) == 2, "a worker per GPU"
    for device in ("0", "1"):
        spans = sorted((began, ended) for _, mine, _, began, ended in found if mine == device)
        assert all(one[1] <= other[0] for one, other in combinations(spans, 2))
    overlapping = [(a, b) for a, b in combinations(found, 2) if a[1] != b[1] and a[3] < b[4] and b[3] < a[4]]
    assert overlapping, "both GPUs at a time"


@pytest.mark.dask
def test_other_work_runs_on_all_workers_also_beside_work_for_a_gpu(cluster):
    found = outcomes(cluster, tasks(24, gpu=False))
    assert {device for _, device, *_ in found} == {"0", "1", ""}
    assert {wanted for _, device, wanted, *_ in found if device == ""} == {"cpu"}
    both = outcomes(cluster, [*tasks(12, gpu=True), *tasks(12, gpu=False)])
    assert len(both) == 24


@pytest.mark.dask
def test_a_worker_that_dies_comes_back_with_its_gpu(cluster, tmp_path):
    def die_once(marker):
        import os
        import signal
        from pathlib import Path

        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    before = {(pid, device) for pid, device, *_ in outcomes(cluster, tasks(8, gpu=True))}
    outcomes(cluster, [Task(die_once, (str(tmp_path / "died"),), "dies", gpu=True)])
    assert (tmp_path / "died").exists()
    deadline = time.monotonic() + 60
    while True:
        after = {(pid, device) for pid, device, *_ in outcomes(cluster, tasks(8, gpu=True))}
        if len(after) == 2:
            break
        assert time.monotonic() < deadline, "the worker did not come back"
    assert {device for _, device in after} == {"0", "1"}
    assert len(after & before) == 1, "one was killed, the other was not"


@pytest.mark.dask
def test_without_a_gpu_such_work_runs_anywhere(environment):
    environment.setenv("TAMIS_GPUS", "0")
    with Dask(2) as workers:
        found = outcomes(workers, tasks(12, gpu=True))
    assert len({pid for pid, *_ in found}) == 2
    assert {device for _, device, *_ in found} == {None}, "and nothing is said about devices"
