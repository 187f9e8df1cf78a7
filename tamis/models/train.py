"""Rows of tokens → a Hugging Face folder; killed at any moment, it goes on to the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.models import build, checkpoint, parallel, tokenizer
from tamis.models.device import Device, choose
from tamis.models.loop import CHECKPOINTS, Loop
from tamis.models.method import Method
from tamis.models.parallel import Ranks
from tamis.models.sizes import Recipe, Size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32
Report = Callable[[float, str], None]

TIMES = ("tokens_per_second", "mfu")  # what differs from run to run in what `train` returns
CHECKPOINT = "checkpoint.safetensors"  # weights, optimiser and losses; gone when training is done
RESULT = "_training.json"  # written last: its presence says that the folder is complete

_DIGEST_ROWS = 1 << 16
_WORTH_COMPILING = 3e18  # operations of a run: some minutes on one large GPU, where compiling takes one


@dataclass(frozen=True)
class Run:
    """What one training run is: see `train`. key : a digest of all that the final weights depend on."""

    size: Size
    method: Method
    seed: int
    tokens: int
    folder: Path
    tokenizer_folder: Path
    start_from: Path | None
    keep: int
    compile: bool | None
    checkpoint_every: int
    key: str = ""

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return self.method.plan(self.size, self.tokens, continues=self.start_from is not None)


def train(
    rows: Tokens,
    size: Size,
    *,
    seed: int,
    tokens: int,
    folder: Path,
    tokenizer_folder: Path,
    start_from: Path | None = None,
    method: Method | None = None,
    keep: int = 0,
    compile: bool | None = None,  # noqa: A002 - the option's name everywhere
    processes: int | None = 1,
    checkpoint_every: int = 1_000,
    device: Device | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Trains a model on exactly `tokens` tokens of `rows` and saves it, with its tokenizer, in `folder`.

    rows : uint16 or uint32, (R, size.row_tokens + 1), as `packing.pack` makes them; may be a memory map.
    seed : 0 … 2⁶³ − 1; sets the first weights and the order of rows, a new permutation every epoch.
    start_from : a model folder to continue from, with a fresh optimiser; its tokenizer must be the same.
    method : the recipe and what rows count; by default the size's own recipe, and all rows alike.
    keep : how many models to keep along the way in `folder`/checkpoints/<step>, evenly spread, the last one last.
    compile : with torch.compile; None does where it pays: a long run on a GPU. It falls back where it does not work.
    processes : by torchrun, one per GPU, or several on a CPU; None takes as many as there are GPUs to use.
    checkpoint_every : steps between checkpoints; five minutes at most. A folder that holds one goes on from there,
    and one that is finished is left alone. On one device, with one number of threads and processes, the final weights
    are the same bytes.
    report : called with the share done and a line of text; what it raises stops the training.

    Returns tokens (gone through), steps, final_loss (nats per token, mean of the last tenth of the steps),
    tokens_per_second and mfu (of this call; mfu None but on GPUs of a known peak), flops_per_token, device, dtype,
    processes, compiled, parameters (all), learning_rate, batch_tokens, warmup_tokens, basis (where these come from),
    epochs, checkpoints ({folder, step, learning_rate} of those kept); with reweighting effective_rows (mean), with
    pruning pruned_rows and pruned_share.
    Raises ContractError if the loss is no longer finite, or if the folder belongs to another run; ValueError for
    rows, options or a device that do not fit.
    """
    run = Run(
        *(size, method or Method(), seed, tokens, folder, tokenizer_folder, start_from, keep, compile),
        checkpoint_every,
    )
    vocabulary = tokenizer.Tokenizer.load(tokenizer_folder).vocab_size
    _check(rows, run, vocabulary)
    run = Run(**{**vars(run), "key": _key(rows, run, vocabulary)})
    if (result := finished(folder, run.key)) is not None:
        return result
    folder.mkdir(parents=True, exist_ok=True)
    device, report = device or choose(size.width), report or (lambda _done, _line: None)
    count = parallel.processes_for(device, run.recipe.batch_tokens, processes)
    if count == 1:
        return run_here(run, rows, device, Ranks(), report)
    arguments = {"run": {**asdict(run), **_as_text(run)}, "device": asdict(device)}
    parallel.launch(count, rows, arguments, folder, report)
    done = finished(folder, run.key)
    assert done is not None, "the first process writes the result before it ends"
    return done


def run_here(run: Run, rows: Tokens, device: Device, ranks: Ranks, report: Report) -> dict[str, Any]:
    """What `train` does in each of its processes."""
    vocabulary = tokenizer.Tokenizer.load(run.tokenizer_folder).vocab_size
    model = device.place(_first_model(run, vocabulary))
    loop = Loop(model, run.recipe, run.method, rows, run.seed, device, run.folder, run.key, run.keep, ranks)
    path = run.folder / CHECKPOINT
    if path.exists():
        loop.restore(path)
    elif ranks.is_first:
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)  # of a run that left no checkpoint
    with device.repeatable():
        if run.compile or (run.compile is None and _is_long(loop)):
            loop.compile(report)
        seconds, seen = loop.run(path, run.checkpoint_every, report if ranks.is_first else lambda _done, _line: None)
    result = _result(run, loop, seen / max(seconds, 1e-9))
    if ranks.is_first:
        build.save(model.to("cpu"), run.folder)
        copy_tokenizer(run.tokenizer_folder, run.folder)
        known = {"key": run.key, "result": result, "losses": loop.losses, "effective_rows": loop.effective}
        checkpoint.publish_text(run.folder / RESULT, json.dumps(known))
        path.unlink(missing_ok=True)
    return result


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Puts a tokenizer's files beside a model."""
    for name in tokenizer.FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _result(run: Run, loop: Loop, speed: float) -> dict[str, Any]:
    recipe, losses, device = loop.recipe, loop.losses, loop.device
    result = {
        "tokens": recipe.tokens,
        "steps": len(losses),
        "final_loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
        "tokens_per_second": speed,
        "mfu": loop.mfu(speed),
        "flops_per_token": loop.flops_per_token,
        "device": device.name,
        "dtype": device.dtype,
        "processes": loop.ranks.count,
        "compiled": loop.body is not None,
        "parameters": sum(p.numel() for _, p in loop.named),
        "learning_rate": recipe.learning_rate,
        "batch_tokens": recipe.batch_tokens,
        "warmup_tokens": recipe.warmup_tokens,
        "basis": recipe.basis,
        "epochs": recipe.tokens / (len(loop.rows) * recipe.row_tokens),
        "checkpoints": [
            {"folder": f"{CHECKPOINTS}/{step}", "step": step, "learning_rate": rate} for step, rate in loop.kept
        ],
    }
    if run.method.reweight:
        result["effective_rows"] = float(np.mean(loop.effective)) if loop.effective else None
    if run.method.prune:
        left_out = loop.order.places - loop.order.trained
        result |= {"pruned_rows": left_out, "pruned_share": left_out / loop.order.places}
    return result


def _is_long(loop: Loop) -> bool:
    """Whether the run is worth a minute of compiling."""
    return loop.device.kind == "cuda" and loop.flops_per_token * loop.recipe.tokens > _WORTH_COMPILING


def _first_model(run: Run, vocabulary: int) -> PreTrainedModel:
    if run.start_from is None:
        return build.build(run.size, vocabulary, run.seed)
    model = build.load(run.start_from)
    if model.config.vocab_size < vocabulary:
        raise ValueError(
            f"train: the model in {run.start_from} has {model.config.vocab_size} token embeddings, "
            f"the tokenizer {vocabulary} tokens; use the tokenizer that the model was trained with"
        )
    return model


def _check(rows: Tokens, run: Run, vocabulary: int) -> None:
    width = run.size.row_tokens
    if rows.ndim != 2 or rows.shape[1] != width + 1:
        raise ValueError(f"train: rows must be (R, {width + 1}) for this size, got {rows.shape}")
    if not len(rows):
        raise ValueError(f"train: there is not one row of {width} tokens to train on; give it more text")
    if (largest := max(int(block.max()) for block in _row_blocks(rows))) >= vocabulary:
        raise ValueError(f"train: rows hold token {largest}, the tokenizer has {vocabulary} tokens; encode again")
    if run.method.prune:
        run.method.prune.check(run.recipe, len(rows))


def _row_blocks(rows: Tokens) -> Iterator[Tokens]:
    return (rows[start : start + _DIGEST_ROWS] for start in range(0, len(rows), _DIGEST_ROWS))


def _key(rows: Tokens, run: Run, vocabulary: int) -> str:
    """A digest of everything that the final weights depend on; the device, threads and library versions aside."""
    settings = [asdict(run.size), asdict(run.recipe), run.method.to_json(), run.seed, vocabulary, run.keep]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([rows.shape, rows.dtype.str, *settings], sort_keys=True).encode())
    for block in _row_blocks(rows):
        digest.update(np.ascontiguousarray(block).data)
    for path in sorted(run.start_from.glob("*.safetensors")) if run.start_from else ():
        with path.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "blake2b").digest())
    return digest.hexdigest()


def _as_text(run: Run) -> dict[str, Any]:
    """The parts of a run that JSON does not hold as they are."""
    paths = {"folder": run.folder, "tokenizer_folder": run.tokenizer_folder, "start_from": run.start_from}
    return {"method": run.method.to_json(), **{name: path and str(path) for name, path in paths.items()}}


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """What `train` returned of this run if it is done, else None. Raises ContractError if another run is there."""
    if not (folder / RESULT).exists():
        return None
    stored = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if stored["key"] != key:
        raise checkpoint.other_run(folder / RESULT)
    return dict(stored["result"])
