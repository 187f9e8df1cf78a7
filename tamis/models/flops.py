"""What training costs: floating-point operations per token, the share of a GPU's peak, seconds on this machine."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from tamis.models import build, head
from tamis.models.device import Device
from tamis.models.libraries import torch
from tamis.models.sizes import Recipe, Size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Dense bfloat16 operations per second as NVIDIA's data sheets have them, without sparsity. The first name that occurs
# in the device's counts.
_PEAKS = (
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("H200 NVL", 8.35e14),
    ("GH200", 9.89e14),
    ("H200", 9.89e14),
    ("H100 NVL", 8.35e14),
    ("H100 PCIe", 7.56e14),
    ("H100", 9.89e14),
    ("H800 PCIe", 7.56e14),
    ("H800", 9.89e14),
    ("A100", 3.12e14),
    ("A800", 3.12e14),
    ("A40", 1.497e14),
    ("A30", 1.65e14),
    ("A10", 1.25e14),
    ("L40S", 3.62e14),
    ("L40", 1.81e14),
    ("L4", 1.21e14),
    ("RTX A6000", 1.548e14),
    ("RTX 4090", 1.652e14),
    ("RTX 3090", 7.1e13),
)

_OTHERS = re.compile(r"\b(MIG|Laptop|Ti|D)\b")  # a slice of the GPU, or another one that is called after it

# Of one timed pass: a tenth of a second or so on one core; on a GPU enough that it is not launching kernels alone.
_TRIAL_FLOPS = {"cpu": 1e10, "mps": 1e12, "cuda": 1e13}
_TRIALS = 3  # the fastest counts: the first pays for what is only done once


def flops_per_token(model: PreTrainedModel, row_tokens: int) -> float:
    """Operations of one training token: 6 per weight in a matrix product, and attention over rows of `row_tokens`.

    An input embedding of its own is looked up, not multiplied, and counts nothing. Recomputation would not count.
    Source: Chowdhery et al. 2022 (PaLM), appendix B: 6N + 12 · layers · width · row_tokens.
    """
    config = model.config
    weights = sum(weight.numel() for weight in model.parameters())
    if not config.tie_word_embeddings:
        weights -= model.get_input_embeddings().weight.numel()
    return float(6 * weights + 12 * config.num_hidden_layers * config.hidden_size * row_tokens)


def peak_flops(device: Device) -> float | None:
    """The bfloat16 operations per second of a GPU at best; None for other devices and precisions, and unknown names."""
    if device.kind != "cuda" or device.dtype != "bfloat16":
        return None
    return peak_of(torch.cuda.get_device_name(device.name))


def peak_of(name: str) -> float | None:
    """The peak of a GPU of that name; None if it is not in the table, or only a part of it is there."""
    if _OTHERS.search(name):
        return None
    return next((peak for known, peak in _PEAKS if re.search(rf"\b{known}\b", name)), None)


def seconds_to_train(size: Size, vocabulary: int, recipe: Recipe, device: Device) -> float:
    """What this run would take here, from a couple of passes over rows of random tokens: real steps, but small ones."""
    model = device.place(build.build(size, vocabulary, 0).train())
    whole = flops_per_token(model, size.row_tokens)
    tokens = int(min(max(_TRIAL_FLOPS[device.kind] / whole, 16), recipe.batch_tokens, device.micro_tokens))
    width = min(tokens, size.row_tokens)
    batch = torch.randint(vocabulary, (tokens // width, width + 1), generator=torch.Generator().manual_seed(0))
    batch = batch.to(device.name)
    passes = min(_timed(model, batch, device) for _ in range(_TRIALS))
    per_token = passes / batch[:, 1:].numel() * whole / flops_per_token(model, width)
    return float(per_token * recipe.tokens + _step_seconds(model) * recipe.steps)


def _timed(model: PreTrainedModel, batch: torch.Tensor, device: Device) -> float:
    targets = batch[:, 1:].flatten()
    began = time.perf_counter()
    with device.autocast():
        loss = head.mean_loss(model, batch[:, :-1], targets, 1 / len(targets))
    loss.backward()
    loss.item()  # waits for the device
    return time.perf_counter() - began


def _step_seconds(model: PreTrainedModel) -> float:
    """Seconds of clipping and updating, which do not depend on the batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    seconds = []
    for _ in range(2):  # the first one makes the moments
        began = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        next(model.parameters()).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return min(seconds)
