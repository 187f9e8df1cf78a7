"""Where a model runs and in which precision: CUDA, then MPS, then the CPU, unless told otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tamis.models.libraries import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VARIABLE = "TAMIS_DEVICE"  # auto (as if unset), cpu, cuda, cuda:1, mps

# On a CPU with AVX512-BF16 and AMX, training steps per second in bfloat16 against float32, 1 and 2 threads:
# width 64 0.9 and 0.9, width 128 0.9 and 0.9, width 256 2.0 and 1.9, width 384 1.5 and 1.9. Casts cost narrow models
# more than their small products gain.
_CPU_BF16_WIDTH = 256


@dataclass(frozen=True)
class Device:
    """A torch device and the precision of matrix products on it; weights, sums and losses stay float32."""

    name: str
    dtype: Literal["bfloat16", "float32"]

    @property
    def kind(self) -> str:
        """cuda, mps or cpu."""
        return self.name.split(":")[0]

    @property
    def micro_tokens(self) -> int:
        """Tokens per forward and backward pass: what bounds activation memory. A larger batch accumulates gradients.

        On a GPU one for each MiB of its memory, which 400m's activations need, as a power of two, 65,536 at most.
        """
        if self.kind != "cuda":
            return 1 << 13
        memory: int = torch.cuda.get_device_properties(self.name).total_memory >> 20
        return min(1 << 16, 1 << memory.bit_length() - 1)

    @property
    def batch_tokens(self) -> int:
        """Inputs of a batch that is scored. On a CPU more than this gains nothing: the products stay in the cache."""
        return {"cuda": 1 << 14}.get(self.kind, 1 << 11)

    def alone(self) -> AbstractContextManager[None]:
        """On a CPU, torch on one thread: sums are then in one order everywhere, and shards run in parallel."""
        return one_thread() if self.kind == "cpu" else nullcontext()

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """On a GPU, kernels that add in one order where torch has them: attention's backward pass else does not."""
        if self.kind != "cuda":
            yield
            return
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        filled = torch.utils.deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it would write every new tensor twice
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = filled

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a forward pass runs."""
        if self.dtype == "float32":
            return nullcontext()
        context: AbstractContextManager[object] = torch.autocast(self.kind, torch.bfloat16)
        return context

    def place(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, on this device."""
        return model.to(self.name)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one CPU thread: runs side by side do not contend, and results do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose(width: int, wanted: str | None = None, dtype: str | None = None) -> Device:
    """The device for a model of this width: `wanted`, else the environment variable TAMIS_DEVICE, else the best here.

    Precision, unless `dtype` says float32 or bfloat16: bfloat16 on CUDA devices that have it, and on CPUs with
    AVX512-BF16 from width 256; float32 otherwise (always on MPS). Raises ValueError if the device is not there.
    """
    name = wanted or os.environ.get(VARIABLE) or "auto"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    if kind not in {"cuda", "mps", "cpu"}:
        raise ValueError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    if kind == "cuda":
        _prepare_cuda(name)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device: {name!r} was asked for, and torch finds no Apple GPU; use cpu or auto")
    if dtype not in {None, "float32", "bfloat16"}:
        raise ValueError(f"device: dtype must be float32 or bfloat16, got {dtype!r}")
    fast = _fast_bf16(name, width) if dtype is None else dtype == "bfloat16"
    return Device(name, "bfloat16" if fast else "float32")


def _prepare_cuda(name: str) -> None:
    """Raises ValueError if there is no such GPU. cuBLAS has to know before its first product how to be repeatable."""
    if not torch.cuda.is_available():
        raise ValueError(f"device: {name!r} was asked for, and torch finds no CUDA device; use cpu or auto")
    there = ("cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count())))
    if name not in there:
        raise ValueError(f"device: expected one of {', '.join(there)}, got {name!r}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch warns of every product


def _fast_bf16(name: str, width: int) -> bool:
    kind = name.partition(":")[0]
    if kind == "cuda":
        return bool(torch.cuda.get_device_capability(name)[0] >= 8)  # Ampere and later; earlier ones emulate it
    if kind == "cpu":
        has = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # private in torch: without it, float32
        return width >= _CPU_BF16_WIDTH and bool(has())
    return False
