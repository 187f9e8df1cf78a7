"""Several processes train what one would: rows are split, gradients added up, losses of rows gathered."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import json
import os
import sys
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.numpy import load_file

from tamis.errors import ContractError
from tamis.models import parallel, rank, train
from tamis.models.device import Device
from tamis.models.method import Method
from tamis.models.order import Prune
from tamis.models.parallel import Ranks, processes_for
from tamis.models.reweighting import Reweight
from tamis.models.train import CHECKPOINT, RESULT, Run, run_here

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

CPU = Device("cpu", "float32")
METHODS = {
    "plain": Method(),
    "reweight": Method(reweight=Reweight(temperature=0.3, burn_in=3)),
    "prune": Method(prune=Prune()),
    "both": Method(reweight=Reweight("extremes", temperature=0.5, burn_in=0), prune=Prune(0.7)),
}


class Meeting:
    """Threads in place of processes: each leaves its tensor, and all take the sum, added up in one order."""

    def __init__(self, count):
        self._left, self._barrier = [None] * count, threading.Barrier(count)

    def add(self, rank, tensor):
        self._left[rank] = tensor.clone()
        self._barrier.wait(60)
        total = sum(self._left[1:], self._left[0])
        self._barrier.wait(60)
        tensor.copy_(total)


@pytest.fixture
def together(toy_rows, toy_size, toy_tokenizer, tmp_path):
    """(processes, method, tokens) → (folder, losses of each rank) of a run by so many ranks."""

    def together(count, method, tokens=1_000, rows=toy_rows[:14], batch_rows=4, report=lambda _done, _line: None):
        meeting, folder = Meeting(count), tmp_path / str(count)
        folder.mkdir(exist_ok=True)
        size = replace(toy_size, batch_rows=batch_rows)
        run = Run(size, method, 3, tokens, folder, toy_tokenizer, None, 2, compile=False, checkpoint_every=5, key="k")
        results, errors = {}, []

        def work(rank):
            try:
                results[rank] = run_here(run, rows, CPU, Ranks(rank, count, partial(meeting.add, rank)), report)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return folder, results

    return together


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_and_three_train_what_one_does(together, name):
    """To 2e-4 of weights that start at about 0.2: sums are in another order, and AdamW's first steps magnify that.

    With 4 rows a step three ranks have unequal shares; the last step has fewer tokens than rows would hold.
    """
    alone, told = together(1, METHODS[name])
    expected = load_file(alone / "model.safetensors")
    for count in (2, 3):
        folder, results = together(count, METHODS[name])
        found = load_file(folder / "model.safetensors")
        assert max(np.abs(found[key] - expected[key]).max() for key in expected) < 2e-4
        for result in results.values():
            for key in ("final_loss", "effective_rows", "pruned_rows", "steps"):
                assert result.get(key, 0) == pytest.approx(told[0].get(key, 0), rel=1e-4), key
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == sorted(
            path.name for path in (alone / "checkpoints").iterdir()
        )


def test_a_step_with_fewer_rows_than_ranks_is_a_step(together):
    """Five ranks, two rows a step: three of them have nothing to do but to add zeros."""
    for method in (METHODS["plain"], METHODS["both"]):
        one = load_file(together(1, method, 500, batch_rows=2)[0] / "model.safetensors")
        five = load_file(together(5, method, 500, batch_rows=2)[0] / "model.safetensors")
        assert max(np.abs(one[key] - five[key]).max() for key in one) < 2e-4


def test_shares_are_all_rows_once():
    for rows in range(12):
        for count in range(1, 6):
            shares = [Ranks(rank, count).share(rows) for rank in range(count)]
            assert [row for share in shares for row in range(rows)[share]] == list(range(rows))
            assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


def test_gradients_are_added_in_buckets(monkeypatch):
    monkeypatch.setattr(parallel, "_BUCKET", 5)
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (7,), (1,))]
    for weight in weights[:3]:
        weight.grad = torch.arange(weight.numel(), dtype=torch.float32).view_as(weight)
    sizes = []
    Ranks(0, 2, lambda flat: sizes.append(len(flat)) or flat.mul_(2)).add_gradients(weights)
    assert sizes == [7, 7, 1]
    for weight in weights[:3]:
        assert torch.equal(weight.grad.flatten(), 2 * torch.arange(weight.numel(), dtype=torch.float32))
    assert weights[3].grad.tolist() == [0.0]


def test_how_many_processes_train(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    gpus = Device("cuda", "bfloat16")
    assert processes_for(gpus, 1 << 18, None) == 8
    assert processes_for(gpus, 20_000, None) == 2  # 8,192 tokens of a batch each, at least
    assert processes_for(gpus, 1_024, None) == 1
    assert processes_for(gpus, 1_024, 4) == 4
    assert processes_for(Device("cuda:1", "bfloat16"), 1 << 18, None) == 1
    assert processes_for(CPU, 1 << 18, None) == 1
    assert processes_for(CPU, 1 << 18, 3) == 3
    with pytest.raises(ValueError, match="at most one per visible GPU"):
        processes_for(gpus, 1 << 18, 9)
    with pytest.raises(ValueError, match="expected 1 on an Apple GPU"):
        processes_for(Device("mps", "float32"), 1 << 18, 2)


def listening():
    """Addresses on which this machine listens, as /proc has them, but for loopback."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and not address.startswith(("0100007F", "0" * 24 + "01000000")):
                found.add(address)
    return found


class Killed(BaseException):
    pass


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """Makes the second process of an attempt abort, as a library would, at its sixth sum."""

    def dying(attempt):
        program = f"""
import os, sys
from pathlib import Path
from tamis.models import rank
add, sums = rank._add, []
def dies(tensor):
    sums.append(tensor)
    if len(sums) == 6 and (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "{attempt}"):
        os.abort()
    add(tensor)
rank._add = dies
rank.main(Path(sys.argv[1]))
"""
        (tmp_path / "dying_rank.py").write_text(program)
        monkeypatch.setattr(parallel, "MODULE", "dying_rank")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(parallel.__file__).parents[2])]))

    return dying


@pytest.mark.slow
def test_torchrun_trains_resumes_and_listens_to_nobody(run, tmp_path, toy_rows, dying):
    """Two processes twice, once killed in the middle and dying on the way on: the same bytes; one process, nearly."""
    options = {"rows": toy_rows[:14], "method": METHODS["both"], "keep": 2, "device": CPU}
    before, opened, lines = listening(), set(), []

    def watch(done, line):
        opened.update(listening() - before)
        lines.append((done, line))

    def kill(done, _line):
        if done > 0.6:
            raise Killed

    two = run(tmp_path / "two", processes=2, report=watch, **options)
    assert (two["processes"], opened) == (2, set())
    assert lines[-1][0] == 1.0 or lines[-1][1].startswith("step")
    with pytest.raises(Killed):
        run(tmp_path / "killed", processes=2, report=kill, checkpoint_every=2, **options)
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    dying(attempt=0)
    run(tmp_path / "killed", processes=2, report=watch, **options)
    assert (0.0, "a process died; all go on from the last checkpoint") in lines
    bytes_of = [(tmp_path / each / "model.safetensors").read_bytes() for each in ("two", "killed")]
    assert bytes_of[0] == bytes_of[1]
    one = run(tmp_path / "one", **options)
    assert one["final_loss"] == pytest.approx(two["final_loss"], rel=1e-3)
    weights = [load_file(tmp_path / each / "model.safetensors") for each in ("one", "two")]
    assert max(np.abs(weights[0][key] - weights[1][key]).max() for key in weights[0]) < 2e-4
    assert not [path.name for path in (tmp_path / "two").iterdir() if path.name in ("_rows.npy", CHECKPOINT)]


@pytest.mark.slow
def test_a_process_that_dies_too_often_leaves_its_last_words(run, tmp_path, dying, monkeypatch):
    monkeypatch.setattr(parallel, "RESTARTS", 0)
    dying(attempt=0)
    with pytest.raises(RuntimeError, match=r"2 processes failed:\n(.*\n)*Fatal Python error: Aborted(.*\n)*.* in dies"):
        run(tmp_path / "one", processes=2, device=CPU)


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (ValueError("rows: too few"), ValueError, "^rows: too few$"),
        (ContractError("lower it"), ContractError, "^lower it$"),
        (MemoryError("all of it"), RuntimeError, r"^Traceback (.*\n)*MemoryError: all of it"),
    ],
)
def test_a_process_tells_what_it_raised(error, raised, says, monkeypatch, tmp_path, capfd):
    """Once in a process, and once where it is heard."""

    def fails(_said):
        raise error

    monkeypatch.setattr(rank, "_train", fails)
    (tmp_path / "arguments.json").write_text("{}")
    with pytest.raises(type(error)):
        rank.main(tmp_path / "arguments.json")
    program = [sys.executable, "-c", f"print({capfd.readouterr().out.strip()!r})"]
    with pytest.raises(raised, match=says):
        parallel._follow(program, lambda _done, _line: None, None)


def test_who_lost_another_does_not_speak_for_it(monkeypatch, tmp_path, capfd):
    def closed(_tensor):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", closed)
    monkeypatch.setattr(rank, "_train", lambda _said: rank._add(torch.zeros(1)))
    (tmp_path / "arguments.json").write_text("{}")
    with pytest.raises(SystemExit, match="Connection closed by peer"):
        rank.main(tmp_path / "arguments.json")
    assert capfd.readouterr().out == ""


def test_what_is_finished_is_not_trained_again(monkeypatch, tmp_path, run, toy_size, toy_tokenizer):
    """An attempt after one that died on leaving: nobody is waited for."""
    run(tmp_path / "one")
    key = json.loads((tmp_path / "one" / RESULT).read_text())["key"]
    of_run = Run(toy_size, Method(), 3, 1_000, tmp_path / "one", toy_tokenizer, None, 0, None, 1_000, key)
    said = {"run": {**asdict(of_run), **train._as_text(of_run)}, "device": asdict(CPU)}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_given, **_named: pytest.fail("it met others"))
    (tmp_path / "arguments.json").write_text(json.dumps(said))
    rank.main(tmp_path / "arguments.json")


def test_processes_are_followed_and_ended(monkeypatch, tmp_path, toy_rows):
    """A program in place of torchrun: its reports, its status, its end when a report raises; what it said of itself."""
    told = []
    program = 'import sys; print("noise"); print(\'{"tamis": {"done": 0.5, "line": "half"}}\'); sys.exit(3)'
    command = [sys.executable, "-c", program]
    with (tmp_path / "stderr").open("w") as stderr:
        assert parallel._follow(command, lambda done, line: told.append((done, line)), stderr) == 3
    assert told == [(0.5, "half")]

    def kill(_done, _line):
        raise Killed

    waits = [sys.executable, "-uc", program.replace("sys.exit(3)", "import time; time.sleep(600)")]
    began = time.perf_counter()
    with (tmp_path / "stderr").open("w") as stderr, pytest.raises(Killed):
        parallel._follow(waits, kill, stderr)
    assert time.perf_counter() - began < 60

    def failed(_command, _report, stderr):
        stderr.write("...\nout of memory\n")
        return 1

    monkeypatch.setattr(parallel, "_follow", failed)
    with pytest.raises(RuntimeError, match=r"training in 2 processes failed:\n(.*\n)*out of memory"):
        parallel.launch(2, toy_rows, {}, tmp_path, kill)


def test_rows_that_are_mapped_whole_are_not_copied(tmp_path, toy_rows):
    np.save(tmp_path / "whole.npy", toy_rows)
    mapped = np.load(tmp_path / "whole.npy", mmap_mode="r")
    assert parallel._rows_file(mapped, tmp_path) == tmp_path / "whole.npy"
    for rows in (mapped[:5], toy_rows):
        path = parallel._rows_file(rows, tmp_path)
        assert path == tmp_path / "_rows.npy"
        assert (np.load(path) == rows).all()
