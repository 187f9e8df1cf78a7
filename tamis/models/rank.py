"""One of the processes of a training run, as torchrun starts it: `python -m tamis.models.rank arguments.json`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import ContractError
from tamis.models import parallel, train
from tamis.models.device import Device
from tamis.models.libraries import torch
from tamis.models.method import Method
from tamis.models.sizes import Size


def main(path: Path) -> None:
    """Trains with the others. The first process tells the one that launched them how it goes."""
    said = json.loads(path.read_text(encoding="utf-8"))
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = Device(**said["device"])
    if device.kind == "cuda":
        device = replace(device, name=f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device.name)
    backend = "nccl" if device.kind == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=f"file://{said['meeting']}/processes", rank=rank, world_size=count
    )
    ranks = parallel.Ranks(rank, count, torch.distributed.all_reduce)
    try:
        with device.alone():
            train.run_here(_run(said), np.load(said["rows"], mmap_mode="r", allow_pickle=False), device, ranks, _report)
    except (ValueError, ContractError) as error:
        if ranks.is_first and (name := type(error).__name__) in parallel.ERRORS:
            parallel.tell(error=name, message=str(error))
        raise
    torch.distributed.destroy_process_group()


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
