"""A training run between two steps as one safetensors file, and files that are either complete or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError
from tamis.models.libraries import safetensors, torch

Named = Sequence[tuple[str, Any]]  # (name, parameter): all of a model's, in a fixed order
State = Mapping[str, npt.NDArray[Any]]


def write(path: Path, key: str, state: State, named: Named, optimizer: torch.optim.AdamW) -> None:
    """Weights, AdamW's means and squares, and other arrays; written beside, then renamed.

    state : "losses", one per step so far, among them.
    """
    tensors = {f"state.{name}": torch.from_numpy(np.ascontiguousarray(values)) for name, values in state.items()}
    for name, weight in named:
        moments = optimizer.state[weight]
        tensors[f"weight.{name}"] = weight.detach()
        tensors[f"mean.{name}"], tensors[f"square.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    beside = _beside(path)
    safetensors.torch.save_file(stored, beside, {"key": key})
    _publish(beside, path)


def read(path: Path, key: str, named: Named, optimizer: torch.optim.AdamW) -> dict[str, npt.NDArray[Any]]:
    """Puts weights and optimiser back as they were written; returns the state that was written with them.

    Raises ContractError if the run that wrote it has another key.
    """
    with safetensors.safe_open(path, "pt") as stored:
        if stored.metadata().get("key") != key:
            raise other_run(path)
    tensors = safetensors.torch.load_file(path)
    state = {name.removeprefix("state."): tensors[name].numpy() for name in tensors if name.startswith("state.")}
    names = {id(weight): name for name, weight in named}
    moments = {}
    for i, weight in enumerate(weight for group in optimizer.param_groups for weight in group["params"]):
        name = names[id(weight)]
        weight.data.copy_(tensors[f"weight.{name}"])
        moments[i] = {
            "step": torch.tensor(float(len(state["losses"]))),
            "exp_avg": tensors[f"mean.{name}"],
            "exp_avg_sq": tensors[f"square.{name}"],
        }
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def publish_text(path: Path, text: str) -> None:
    """Writes a text file beside, then renames it."""
    beside = _beside(path)
    beside.write_text(text, encoding="utf-8")
    _publish(beside, path)


def other_run(path: Path) -> ContractError:
    """The error for a folder that belongs to another run."""
    return ContractError(f"{path}: belongs to a run with other text, size or seed; delete it, or train in a new folder")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _publish(beside: Path, path: Path) -> None:
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(path)
