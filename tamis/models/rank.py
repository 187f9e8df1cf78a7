"""One of the processes of a training run, as torchrun starts it: `python -m tamis.models.rank arguments.json`."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tamis.models import parallel, train
from tamis.models.device import Device
from tamis.models.libraries import torch
from tamis.models.method import Method
from tamis.models.parallel import Ranks
from tamis.models.sizes import Size

_CHARACTERS = 2_000  # of a traceback: lines of several processes share a pipe


class _PeerLostError(Exception):
    """Another process is gone; why, it has said itself, or torchrun will see."""


def main(path: Path) -> None:
    """Trains with the others. What goes wrong is told to the process that launched them, how it goes by the first."""
    faulthandler.enable()
    try:
        _train(json.loads(path.read_text(encoding="utf-8")))
    except _PeerLostError as lost:
        sys.exit(f"{lost.__cause__}")
    except Exception as error:
        parallel.tell(error=type(error).__name__, message=_message(error))
        raise


def _train(said: dict[str, Any]) -> None:
    run, rank, count = _run(said), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if train.finished(run.folder, run.key):
        return  # an attempt before this one died on leaving
    device = Device(**said["device"])
    if device.kind == "cuda":
        device = replace(device, name=f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device.name)
    backend = "nccl" if device.kind == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=f"file://{said['meeting']}/processes{attempt}", rank=rank, world_size=count
    )
    if attempt and not rank:
        _report(0.0, "a process died; all go on from the last checkpoint")
    with device.alone():
        train.run_here(
            run, np.load(said["rows"], mmap_mode="r", allow_pickle=False), device, Ranks(rank, count, _add), _report
        )
        written = torch.zeros((), device=device.name)
        _add(written)
        written.item()  # waits: nobody leaves before the first has written the model
    torch.distributed.destroy_process_group()


def _add(tensor: torch.Tensor) -> None:
    try:
        torch.distributed.all_reduce(tensor)
    except RuntimeError as error:
        raise _PeerLostError from error


def _message(error: Exception) -> str:
    """What is told of it: all that there is to say, of errors that we raise."""
    if type(error).__name__ in parallel.ERRORS:
        return str(error)
    return "".join(traceback.format_exception(error))[-_CHARACTERS:]


def _run(said: dict[str, Any]) -> train.Run:
    folders = {name: Path(said["run"][name]) for name in ("folder", "tokenizer_folder")}
    start_from = said["run"]["start_from"]
    return train.Run(
        **{
            **said["run"],
            **folders,
            "size": Size(**said["run"]["size"]),
            "method": Method.from_json(said["run"]["method"]),
            "start_from": start_from and Path(start_from),
        }
    )


def _report(done: float, line: str) -> None:
    parallel.tell(done=done, line=line)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # All is written and said. Torch's threads abort the end of the interpreter now and then: 3 of 55 on a busy machine,
    # "terminate called without an active exception", with torch 2.13
    os._exit(0)
