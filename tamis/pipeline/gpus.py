"""Which GPUs of this machine local workers may use, and which of them has which: one each, the first workers first."""

from __future__ import annotations

import os
import re
from itertools import takewhile
from pathlib import Path

from tamis.errors import SpecError


def gpus() -> tuple[str, ...]:
    """This machine's GPUs, each as CUDA_VISIBLE_DEVICES names it.

    Those that CUDA_VISIBLE_DEVICES lists, or else all NVIDIA devices; of them the first TAMIS_GPUS, if that is set. It
    is believed where there is no list. TAMIS_DEVICE may name one GPU (`cuda:1`), or what is no such GPU (`cpu`, `mps`).
    Raises SpecError if TAMIS_GPUS is not a number.
    """
    kind, _, index = (os.environ.get("TAMIS_DEVICE") or "auto").partition(":")
    if kind not in ("auto", "cuda"):
        return ()
    count = os.environ.get("TAMIS_GPUS") or None
    if count is not None and not count.isdecimal():
        raise SpecError(f"TAMIS_GPUS: expected a number of GPUs, got {count!r}; leave it out to use all of them")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        found = [str(number) for number in range(_nvidia_devices() if count is None else int(count))]
    else:  # CUDA, too, reads the list up to the first name that is none
        found = list(takewhile(lambda name: name not in ("", "-1"), visible.replace(" ", "").split(",")))
    chosen = found if count is None else found[: int(count)]
    return tuple(chosen[int(index) : int(index) + 1] if index.isdecimal() else chosen)


def _nvidia_devices() -> int:
    """Device files of NVIDIA GPUs: a container has those that it may use, and CUDA counts them from 0."""
    return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*"))


def take(devices: tuple[str, ...], number: int) -> bool:
    """Whether worker `number` has a GPU; from now on its process sees that one and no other, or none.

    It works until torch is imported, which looks at the environment once.
    """
    has_one = number < len(devices)
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[number] if has_one else ""
    if not has_one:
        os.environ["TAMIS_DEVICE"] = "cpu"
    elif os.environ.get("TAMIS_DEVICE"):
        os.environ["TAMIS_DEVICE"] = "cuda"  # whichever it was is the only one now
    return has_one
