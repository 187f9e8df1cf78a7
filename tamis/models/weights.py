"""What a model folder weighs, from the headers of its weight files: no weight is read."""

from __future__ import annotations

import json
import math
from pathlib import Path

TOKEN_TABLES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
POSITION_TABLES = ("wpe.weight", "embed_positions.weight", "position_embeddings.weight")
HEADS = ("lm_head.weight", "embed_out.weight")


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a folder's safetensors files, by name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found.update({name: tuple(told["shape"]) for name, told in header.items() if name != "__metadata__"})
    return found


def forward_flops(folder: Path) -> int:
    """Operations per token of a forward pass: two per weight of every matrix that multiplies each token.

    A table of embeddings counts where it is the last layer as well; attention's own products are left out.
    """
    shapes = shapes_in(folder)
    has_head = any(name.endswith(HEADS) for name in shapes)
    looked_up = (*POSITION_TABLES, *(TOKEN_TABLES if has_head else ()))
    return 2 * sum(
        math.prod(shape) for name, shape in shapes.items() if len(shape) > 1 and not name.endswith(looked_up)
    )
