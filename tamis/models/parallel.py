"""One training run in several processes of one machine: who has which rows, and how what they found is added up.

Every process holds the whole model and takes an equal share of a step's rows; gradients are added up once per step,
after the last micro-batch, so a step is the same step for any number of processes but for the order of its sums.
The processes are started by torchrun and meet over files; they talk over the loopback device only. When one of them
dies, all are started again and go on from the last checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError
from tamis.models.device import Device
from tamis.models.libraries import torch

MODULE = "tamis.models.rank"
RESTARTS = 2  # of all processes, when one dies without having said why: an abort in a library, a GPU that is lost
_BUCKET = 1 << 24  # numbers that are added up in one go: 64 MB
_FEWEST_TOKENS = 1 << 13  # of a batch per process, by default: with less they wait for each other
_LOOPBACK = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # it would listen on all addresses; ours meet over a file
}
ERRORS = {"ContractError": ContractError, "ValueError": ValueError}  # others are RuntimeErrors
_LINES = 30  # of what each said before it died

Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32


def _nothing(_tensor: torch.Tensor) -> None:
    """The sum over one process."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run as one of them sees them. add : adds a tensor up over all of them, in place."""

    rank: int = 0
    count: int = 1
    add: Callable[[torch.Tensor], object] = _nothing

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and reports."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Which of so many rows are this process's: shares differ by a row at most."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def add_gradients(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Every weight's gradient becomes the sum over all processes; one without any counts as zero."""
        if self.count == 1:
            return
        bucket: list[torch.Tensor] = []
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            bucket.append(weight.grad)
            if sum(grad.numel() for grad in bucket) >= _BUCKET:
                self._add_all(bucket)
                bucket = []
        self._add_all(bucket)

    def _add_all(self, bucket: list[torch.Tensor]) -> None:
        if not bucket:
            return
        flat = torch.cat([grad.flatten() for grad in bucket])
        self.add(flat)
        for grad, part in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(part.view_as(grad))


def processes_for(device: Device, batch_tokens: int, wanted: int | None) -> int:
    """How many processes train: as wanted, else one per visible GPU as long as each has enough of a batch.

    Raises ValueError if more are wanted than there are GPUs.
    """
    visible = torch.cuda.device_count() if device.name == "cuda" else 1
    if wanted is None:
        return max(1, min(visible, batch_tokens // _FEWEST_TOKENS))
    if device.kind == "cuda" and wanted > visible:
        raise ValueError(
            f"processes: expected at most one per visible GPU ({visible}) on {device.name}, got {wanted}; "
            "a worker of a local cluster sees one GPU, `--serial` sees all"
        )
    if device.kind == "mps" and wanted > 1:
        raise ValueError(f"processes: expected 1 on an Apple GPU, got {wanted}")
    return wanted


def launch(
    processes: int, rows: Tokens, arguments: dict[str, Any], folder: Path, report: Callable[[float, str], None]
) -> None:
    """Trains in so many processes, and returns when they are done; what `report` raises stops them.

    arguments : for `rank.main`, as JSON would hold them; the rows' file is added.
    Raises what one of them raised: ContractError, ValueError, else RuntimeError with its traceback; RuntimeError also
    if one dies more than RESTARTS times, with the last lines of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="tamis-ranks-") as meeting:
        path = Path(meeting) / "arguments.json"
        path.write_text(json.dumps({**arguments, "rows": str(_rows_file(rows, folder)), "meeting": meeting}), "utf-8")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--nnodes=1"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}/agents", "--rdzv-conf=store_type=file"),
            *("--rdzv-id=tamis", "--local-addr=127.0.0.1", f"--max-restarts={RESTARTS}", "--redirects=2"),
            *(f"--log-dir={meeting}/said", "-m", MODULE, str(path)),
        ]
        with (Path(meeting) / "stderr.log").open("w", encoding="utf-8") as told:
            status = _follow(command, report, told)
        if status:
            raise RuntimeError(f"training in {processes} processes failed:\n{_last_words(Path(meeting))}")
    (folder / "_rows.npy").unlink(missing_ok=True)


def _last_words(meeting: Path) -> str:
    """The end of what was said in the last attempt: by torchrun, which knows who died first, and by each process."""
    attempts = sorted((meeting / "said").glob("*/attempt_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    paths = [meeting / "stderr.log", *(sorted(attempts[-1].glob("*/stderr.log")) if attempts else ())]
    said = [path.read_text(encoding="utf-8", errors="replace").splitlines() for path in paths]
    kept = [[line for line in lines if not line.startswith("Extension modules:")][-_LINES:] for lines in said]
    return "\n\n".join("\n".join(lines) for lines in kept if lines)


def _follow(command: list[str], report: Callable[[float, str], None], told: Any) -> int:
    """The exit status of a command whose lines of output are reports; it is ended when a report raises."""
    environment = {**os.environ, **_LOOPBACK, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, env=environment)  # noqa: S603 - our own module
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith('{"tamis"'):
                said = json.loads(line)["tamis"]
                if "error" in said:
                    raise ERRORS.get(said["error"], RuntimeError)(said["message"])
                report(said["done"], said["line"])
        return process.wait()
    finally:
        process.terminate()  # torchrun ends its processes when it is asked to end
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def tell(**said: object) -> None:
    """A line for the process that launched this one."""
    print(json.dumps({"tamis": said}), flush=True)  # noqa: T201 - the pipe between our processes


def _rows_file(rows: Tokens, folder: Path) -> Path:
    """A file of these rows: their own, if all of it is mapped, else a copy beside the model."""
    name = getattr(rows, "filename", None)
    if name and str(name).endswith(".npy"):
        whole = np.load(name, mmap_mode="r", allow_pickle=False)
        if (whole.shape, whole.dtype, whole.strides) == (rows.shape, rows.dtype, rows.strides):
            return Path(name)
    np.save(folder / "_rows.npy", rows)
    return folder / "_rows.npy"
