"""An arm as tokens: a flat file of ids per shard, the documents in it beside, and the tokenizer they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.corpus import publish
from tamis.errors import ContractError
from tamis.kernels.arrow import Int64
from tamis.models.packing import stream_of
from tamis.models.tokenizer import FILES, Tokenizer, Tokens

TOKENS, BESIDE = ".bin", ".documents.parquet"


def tokenizer_folder(run: Path, catalog: Mapping[str, Any], named: str | None) -> Path:
    """The folder of a tokenizer: of a stage of the run (by default its own, `tokens`), or any with a tokenizer.json.

    Raises ContractError if there is none.
    """
    trained = {str(stage["name"]): run / str(stage["model"]) for stage in catalog["stages"] if stage.get("model")}
    with_one = {name: folder for name, folder in trained.items() if (folder / FILES[0]).is_file()}
    if (folder := with_one.get(named or "tokens")) is not None:
        return folder
    if named is not None and (Path(named) / FILES[0]).is_file():
        return Path(named)
    expected = f"a folder with {FILES[0]}, or one of the stages {', '.join(with_one) or '(none has a tokenizer)'}"
    got = "found none that the run made itself" if named is None else f"got {named!r}"
    raise ContractError(f"{run}: expected a tokenizer, {expected}; {got}; name one with --tokenizer")


def about(folder: Path) -> dict[str, Any]:
    """What a reader of token files must know of their tokenizer. Raises ValueError if it has no end token."""
    tokenizer = Tokenizer.load(folder)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    return {"dtype": dtype, "byte_order": "little", "end": tokenizer.end, "vocabulary": tokenizer.vocab_size}


def copy_tokenizer(source: Path, folder: Path) -> list[str]:
    """Puts the tokenizer's files beside the tokens; their names."""
    names = [name for name in FILES if (source / name).is_file()]
    for name in names:
        publish(folder / name, (source / name).read_bytes())
    return names


@dataclass(frozen=True)
class TokenShard:
    """What a shard comes to. stream : `end d₀ end d₁ …`, a document as often as it is used.

    documents : a row per use, in this order: where its first token stands in the stream (`start`, uint64), how many it
    has (`tokens`, uint32), and all its columns but the text.
    """

    stream: Tokens
    documents: pa.Table

    @classmethod
    def of(cls, parts: Iterable[tuple[pa.Table, Int64]], folder: Path) -> TokenShard:
        """From tables of documents and how often each is used, by the tokenizer in `folder`."""
        tokenizer = Tokenizer.load(folder)
        streams, tables, position = [], [], 0
        for table, times in parts:
            order = np.repeat(np.arange(len(times)), times)
            ids, offsets = tokenizer.encode(table["text"].to_pylist())
            lengths = np.diff(offsets)[order]
            start = position + np.cumsum(lengths + 1) - lengths
            streams.append(stream_of(ids, offsets, tokenizer.end, order))
            told = table.drop_columns(["text"]).take(pa.array(order))
            told = told.append_column("start", pa.array(start.astype(np.uint64)))
            tables.append(told.append_column("tokens", pa.array(lengths.astype(np.uint32))))
            position += len(streams[-1])
        return cls(np.concatenate(streams), pa.concat_tables(tables))

    @property
    def content(self) -> bytes:
        """The ids, little-endian."""
        return self.stream.astype(self.stream.dtype.newbyteorder("<"), copy=False).tobytes()
