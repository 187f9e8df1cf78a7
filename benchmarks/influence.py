"""Tokens per second of influence scores, as a share of a bare forward and backward pass of the same model.

The bare pass is what training costs without an optimiser: the Hugging Face model on full rows, cross-entropy of its
logits, gradients of all weights. Influence runs on full rows, and on documents of mixed lengths (log-normal, as web
text has them), which are padded. Each size is measured in a process of its own, and its memory in two more.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from pool import side_by_side, table

MEDIAN, SIGMA = 250, 1.0  # of a document's tokens
MIXED = {
    "cpu": 1 << 17,
    "cuda": 1 << 22,
}  # at least: batches of one length are filled up, which a shard's many documents hide
TOKENS = {"cpu": {"tiny": 1 << 17, "mini": 1 << 16, "small": 1 << 15}, "cuda": {}}
FEWEST = {"cpu": 1 << 14, "cuda": 1 << 19}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="", help="by default tiny to 15m; on a GPU to 150m")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=0, help="per measurement; by default what takes some seconds")
    parser.add_argument("--queries", default="1,8", help="how many sets of queries are scored at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", default="", help="for its own use: size and contender of one measurement")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measured(arguments, *arguments.only.split(":"))))
        return
    kind = device_of(arguments.device, 64).kind
    sizes = arguments.sizes or ("tiny,mini,small,15m,60m,150m" if kind == "cuda" else "tiny,mini,small,15m")
    found = {size: alone(size, "all") for size in sizes.split(",")}
    names = list(next(iter(found.values()))["tokens_per_second"])
    rows = []
    for size, result in found.items():
        speeds = result["tokens_per_second"]
        shares = [f"{speeds[name] / speeds['bare']:.0%}" for name in names[1:]]
        rows.append(
            (size, result["dtype"], speeds["bare"], *shares, *(alone(size, each)["megabytes"] for each in names[:2]))
        )
    header = (
        "size",
        "",
        "bare: tokens/s",
        *(f"{name}: share" for name in names[1:]),
        "bare: peak MB",
        f"{names[1]}: peak MB",
    )
    where = "a GPU" if kind == "cuda" else "CPU, one thread"
    table(
        f"Influence beside a bare forward and backward pass: {where}, vocabulary {arguments.vocabulary:,}", header, rows
    )


def alone(size: str, contender: str) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    command = [sys.executable, *sys.argv, "--only", f"{size}:{contender}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(told.stdout.splitlines()[-1]))


def measured(arguments: argparse.Namespace, name: str, contender: str) -> dict[str, Any]:
    """Tokens per second of all contenders, or the peak memory of one."""
    import torch

    from tamis.models import build, sizes

    size = sizes.size(name)
    device = device_of(arguments.device, size.width)
    tokens = arguments.tokens or TOKENS.get(device.kind, {}).get(name, FEWEST.get(device.kind, 1 << 14))
    many = tokens if arguments.tokens else max(tokens, MIXED.get(device.kind, 0))
    if contender != "all":
        tokens = min(tokens, 2 * device.batch_tokens)  # memory does not grow with it
    with device.alone():
        model = device.place(build.build(size, arguments.vocabulary, 0))
        contenders = contenders_of(
            model, size, device, (tokens, many), [int(each) for each in arguments.queries.split(",")]
        )
        for each, (work, _) in contenders.items():
            if contender in ("all", each):
                work()
        if contender != "all":
            peak = (
                torch.cuda.max_memory_allocated()
                if device.kind == "cuda"
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            )
            return {"megabytes": peak / 1e6}
        seconds = side_by_side(
            {each: synchronised(work, device) for each, (work, _) in contenders.items()}, arguments.rounds
        )
    speeds = {each: count / min(seconds[each]) for each, (_, count) in contenders.items()}
    return {"tokens_per_second": speeds, "dtype": device.dtype}


def contenders_of(
    model: Any, size: Any, device: Any, tokens: tuple[int, int], queries: list[int]
) -> dict[str, tuple[Callable[[], object], int]]:
    """(work, its tokens) by name. tokens : in full rows, and in mixed documents."""
    import torch

    from tamis.models.influence import Compass, random_compass
    from tamis.models.language import LanguageModel

    class Words:
        end = 0

    random, (tokens, many) = np.random.default_rng(0), tokens
    count = max(1, tokens // size.row_tokens)
    rows = random.integers(1, model.config.vocab_size, (count, size.row_tokens)).astype(np.uint16)
    lengths = np.maximum(random.lognormal(np.log(MEDIAN), SIGMA, 1 + many // MEDIAN).astype(np.int64), 1)
    lengths = np.minimum(lengths[: np.searchsorted(np.cumsum(lengths), many) + 1], 1024)
    mixed = random.integers(1, model.config.vocab_size, int(lengths.sum())).astype(np.uint16)
    lm = LanguageModel(model, Words(), "", device)  # type: ignore[arg-type]

    @cache
    def placed(some: int) -> Compass:
        made = random_compass(lm, tuple(f"q{i}" for i in range(some)))
        return Compass(made.names, {name: values.to(device.name) for name, values in made.directions.items()})

    batch = max(1, device.batch_tokens // size.row_tokens)

    def bare() -> None:
        model.requires_grad_(True)
        for start in range(0, count, batch):
            some = torch.from_numpy(rows[start : start + batch].astype(np.int64)).to(device.name)
            with device.autocast():
                logits = model(input_ids=some, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), some[:, 1:].flatten())
            loss.backward()
            model.zero_grad(set_to_none=True)

    def influence(some: int, ids: Any, offsets: Any) -> None:
        model.requires_grad_(False)
        placed(some).scores(lm, ids, offsets)

    whole = rows.flatten(), np.arange(0, rows.size + 1, size.row_tokens)
    found: dict[str, tuple[Callable[[], object], int]] = {"bare": (bare, rows.size)}
    for some in queries:
        found[f"full rows, {some} target{'s' * (some > 1)}"] = (partial(influence, some, *whole), rows.size)
    documents = mixed, np.concatenate([[0], np.cumsum(lengths)])
    found["mixed documents, 1 target"] = (partial(influence, 1, *documents), len(mixed))
    return found


def synchronised(work: Callable[[], object], device: Any) -> Callable[[], None]:
    """The work, until the GPU is done with it."""
    import torch

    def run() -> None:
        work()
        if device.kind == "cuda":
            torch.cuda.synchronize()

    return run


def device_of(name: str, width: int) -> Any:
    from tamis.models.device import choose

    return choose(width, None if name == "auto" else name)


if __name__ == "__main__":
    main()
