"""The training loop: rows of tokens → a Hugging Face folder; killed at any moment, it goes on to the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError
from tamis.models import build, checkpoint, head, tokenizer
from tamis.models.device import Device, choose
from tamis.models.libraries import torch
from tamis.models.sizes import Recipe, Size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32
Report = Callable[[float, str], None]

CHECKPOINT = "checkpoint.safetensors"  # weights, optimiser and losses; gone when training is done
RESULT = "_training.json"  # written last: its presence says that the folder is complete

_BETAS, _EPSILON, _DECAY, _CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0  # OLMo ladder, DataDecide
_DIGEST_ROWS = 1 << 16


def train(
    rows: Tokens,
    size: Size,
    *,
    seed: int,
    tokens: int,
    folder: Path,
    tokenizer_folder: Path,
    start_from: Path | None = None,
    checkpoint_every: int = 1_000,
    device: Device | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Trains a model on exactly `tokens` tokens of `rows` and saves it, with its tokenizer, in `folder`.

    rows : uint16 or uint32, (R, size.row_tokens + 1), as `packing.pack` makes them; may be a memory map.
    seed : 0 … 2⁶⁴ − 1; sets the first weights and the order of rows, a new permutation every epoch.
    start_from : a model folder to continue from, with a fresh optimiser; its tokenizer must be the same.
    checkpoint_every : steps between checkpoints. A folder that holds one goes on from there, and one that is
    finished is left alone. On one device, with one number of threads, the final weights are the same bytes.
    report : called with the share done and a line of text.

    Returns tokens, steps, final_loss (nats per token, mean of the last tenth of the steps), tokens_per_second (of
    this call), device, dtype, parameters (all), learning_rate, batch_tokens, basis, epochs.
    Raises ContractError if the loss is no longer finite, or if the folder belongs to another run.
    """
    recipe = size.recipe(tokens)
    vocabulary = tokenizer.Tokenizer.load(tokenizer_folder).vocab_size
    _check(rows, recipe, vocabulary)
    device = device or choose(size.width)
    key = _key(rows, start_from, asdict(size), asdict(recipe), seed, vocabulary)
    if (result := _finished(folder, key)) is not None:
        return result
    folder.mkdir(parents=True, exist_ok=True)
    model = _first_model(size, vocabulary, seed, start_from)
    training = _Training(device.place(model), recipe, rows, seed, device, key)
    if (folder / CHECKPOINT).exists():
        training.losses = checkpoint.read(folder / CHECKPOINT, key, training.named, training.optimizer)
    with _repeatable(device):
        seconds, steps = training.run(folder / CHECKPOINT, checkpoint_every, report or (lambda _done, _line: None))
    build.save(model.to("cpu"), folder)
    copy_tokenizer(tokenizer_folder, folder)
    result = training.result(seconds, steps)
    checkpoint.publish_text(folder / RESULT, json.dumps({"key": key, "result": result, "losses": training.losses}))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Puts a tokenizer's files beside a model."""
    for name in tokenizer.FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


@dataclass
class _Training:
    """A model, its optimiser, and how far they are: as many steps as there are losses."""

    model: PreTrainedModel
    recipe: Recipe
    rows: Tokens
    seed: int
    device: Device
    key: str
    losses: list[float] = field(default_factory=list)  # mean nats per token of each step so far
    _pending: list[Any] = field(default_factory=list)  # losses still on the device: reading one waits for it

    def __post_init__(self) -> None:
        self.named = sorted(self.model.named_parameters())
        groups = [
            {"params": [p for _, p in self.named if p.dim() > 1], "weight_decay": _DECAY},
            {"params": [p for _, p in self.named if p.dim() <= 1], "weight_decay": 0.0},
        ]
        fused = self.device.kind != "mps"
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=_BETAS, eps=_EPSILON, fused=fused)

    def run(self, path: Path, every: int, report: Report) -> tuple[float, int]:
        """Trains to the end, with a checkpoint in `path` now and then; returns seconds and the steps they took."""
        first, steps, started = len(self.losses), self.recipe.steps, time.perf_counter()
        told = max(1, steps // 50)
        for step in range(first, steps):
            self._step(step)
            if (step + 1) % told == 0 or step + 1 == steps:
                self._collect()
                report((step + 1) / steps, f"step {step + 1} of {steps}, loss {self.losses[-1]:.3f}")
            if (step + 1) % every == 0 and step + 1 < steps:
                self._collect()
                checkpoint.write(path, self.key, self.losses, self.named, self.optimizer)
        return time.perf_counter() - started, steps - first

    def _step(self, step: int) -> None:
        inputs, targets = self._batch(step)
        loss = torch.zeros((), device=self.device.name)
        width = inputs.shape[1]
        micro = max(1, self.device.micro_tokens // width)
        for start in range(0, len(inputs), micro):
            part = targets[start * width : (start + micro) * width]
            with self.device.autocast():
                some = head.mean_loss(self.model, inputs[start : start + micro], part, 1 / len(targets))
            some.backward()
            loss += some.detach()
        self._pending.append(loss)
        torch.nn.utils.clip_grad_norm_([p for _, p in self.named], _CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs, (B, T), and as many targets, flat, as this step may still see of the token budget."""
        recipe, count = self.recipe, len(self.rows)
        left = recipe.tokens - step * recipe.batch_tokens
        rows = min(recipe.batch_rows, -(-left // recipe.row_tokens))
        places = np.arange(step * recipe.batch_rows, step * recipe.batch_rows + rows)
        chosen = np.array([row_order(self.seed, p // count, count)[p % count] for p in places.tolist()])
        batch = torch.from_numpy(self.rows[chosen].astype(np.int64)).to(self.device.name)
        return batch[:, :-1], batch[:, 1:].flatten()[:left]

    def _collect(self) -> None:
        if self._pending:
            fresh = torch.stack(self._pending).cpu().tolist()
            self._pending.clear()
            self.losses += fresh
            if not np.isfinite(fresh).all():
                raise ContractError(
                    f"training, step {len(self.losses)}: the loss is no longer finite; "
                    f"lower the learning rate (now {self.recipe.learning_rate:.2g})"
                )

    def result(self, seconds: float, steps: int) -> dict[str, Any]:
        recipe, last = self.recipe, max(1, len(self.losses) // 10)
        seen = min(steps * recipe.batch_tokens, recipe.tokens)
        return {
            "tokens": recipe.tokens,
            "steps": recipe.steps,
            "final_loss": float(np.mean(self.losses[-last:])),
            "tokens_per_second": seen / max(seconds, 1e-9),
            "device": self.device.name,
            "dtype": self.device.dtype,
            "parameters": sum(p.numel() for _, p in self.named),
            "learning_rate": recipe.learning_rate,
            "batch_tokens": recipe.batch_tokens,
            "basis": recipe.basis,
            "epochs": recipe.tokens / (len(self.rows) * recipe.row_tokens),
        }


@lru_cache(maxsize=2)
def row_order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """The permutation of rows of one epoch: int64, (rows); from Philox's raw output, whose stream numpy keeps."""
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(rows)
    return np.argsort(keys, kind="stable")


def _first_model(size: Size, vocabulary: int, seed: int, start_from: Path | None) -> PreTrainedModel:
    if start_from is None:
        return build.build(size, vocabulary, seed)
    model = build.load(start_from)
    if model.config.vocab_size < vocabulary:
        raise ValueError(
            f"train: the model in {start_from} has {model.config.vocab_size} token embeddings, "
            f"the tokenizer {vocabulary} tokens; use the tokenizer that the model was trained with"
        )
    return model


def _check(rows: Tokens, recipe: Recipe, vocabulary: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != recipe.row_tokens + 1:
        raise ValueError(f"train: rows must be (R, {recipe.row_tokens + 1}) for this size, got {rows.shape}")
    if not len(rows):
        raise ValueError(f"train: there is not one row of {recipe.row_tokens} tokens to train on; give it more text")
    if (largest := max(int(block.max()) for block in _row_blocks(rows))) >= vocabulary:
        raise ValueError(f"train: rows hold token {largest}, the tokenizer has {vocabulary} tokens; encode again")


def _row_blocks(rows: Tokens) -> Iterator[Tokens]:
    return (rows[start : start + _DIGEST_ROWS] for start in range(0, len(rows), _DIGEST_ROWS))


def _key(rows: Tokens, start_from: Path | None, *settings: object) -> str:
    """A digest of everything that the final weights depend on; the device, threads and library versions aside."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([rows.shape, rows.dtype.str, *settings], sort_keys=True).encode())
    for block in _row_blocks(rows):
        digest.update(np.ascontiguousarray(block).data)
    for path in sorted(start_from.glob("*.safetensors")) if start_from else ():
        with path.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "blake2b").digest())
    return digest.hexdigest()


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    if not (folder / RESULT).exists():
        return None
    stored = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if stored["key"] != key:
        raise checkpoint.other_run(folder / RESULT)
    return dict(stored["result"])


@contextmanager
def _repeatable(device: Device) -> Iterator[None]:
    """On CUDA, kernels that give the same sums every time where torch has them; the caller's setting comes back."""
    if device.kind != "cuda":
        yield
        return
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
