"""A sentence model boiled down to one vector per token of its vocabulary, and texts as sums of them.

Every token is read alone by the model; the vectors are turned to their principal directions, and frequent tokens are
weighed down. The files are those of the library model2vec, which can load them.
Source: the method of model2vec (Tulkens and van Dongen 2024); weights: Arora et al. 2017, A simple but tough-to-beat
baseline for sentence embeddings, with a token's frequency guessed from its rank by Zipf's law.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError, SpecError, missing_extra
from tamis.kernels.arrow import Float32, Text, strings_of
from tamis.kernels.pooling import add_rows
from tamis.models.words import RememberedWords, splits_like_bert

if TYPE_CHECKING:
    import tokenizers

    from tamis.models.sentences import SentenceModel

UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>")  # places that BERT and Gemma vocabularies keep free
TOKENS_TOGETHER = 256  # of the vocabulary, read in one product
PIECE_CHARACTERS = 1 << 14  # longer texts are tokenized in pieces, cut at blanks: encodings take 100 bytes per token
PIECES_TOGETHER = 256
WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"


def distil(
    model: SentenceModel,
    dimensions: int | None,
    smoothing: float | None,
    folder: Path,
    report: Callable[[float, str], None],
) -> dict[str, int]:
    """Writes a table with one row per token id of the model's tokenizer, and the tokenizer; what they hold.

    dimensions : principal directions to keep; None keeps the vectors as the model made them.
    smoothing : a of the weight a / (a + p) of a token with frequency p; None weighs all alike.
    Special and unused tokens are rows of zeros. Raises ContractError if there are too few tokens for the dimensions.
    """
    backend = _backend(model)
    kept = _kept_tokens(model)
    vectors = _token_vectors(model, kept, report)
    if dimensions is not None:
        if len(kept) <= dimensions:
            raise ContractError(
                f"static: expected more tokens than dimensions, got {len(kept)} tokens in the model's vocabulary "
                f"for `dimensions: {dimensions}`; ask for fewer"
            )
        vectors = _principal(vectors, dimensions)
    if smoothing is not None:
        vectors = vectors * _zipf_weights(len(kept), smoothing)[:, None]
    table = np.zeros((_rows(backend), vectors.shape[1]), np.float32)
    table[kept] = vectors
    _write(folder, table, backend, {"apply_pca": dimensions, "sif_coefficient": smoothing})
    return {"tokens": len(kept), "dimensions": int(table.shape[1])}


def _backend(model: SentenceModel) -> tokenizers.Tokenizer:
    """The model's tokenizer in its fast form, for texts of any length."""
    tokenizer = model.model.tokenizer
    if not tokenizer.is_fast:
        raise ContractError(
            "static: expected a model whose tokenizer has a tokenizer.json, got one in Python only; use another model"
        )
    return _unbounded(_library().Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))


def _kept_tokens(model: SentenceModel) -> npt.NDArray[np.int64]:
    """The ids of tokens that stand for text, in order: int64, (t)."""
    tokenizer = model.model.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = [i for token, i in tokenizer.get_vocab().items() if i not in special and not UNUSED.fullmatch(token)]
    return np.array(sorted(ids), np.int64)


def _token_vectors(
    model: SentenceModel, ids: npt.NDArray[np.int64], report: Callable[[float, str], None]
) -> npt.NDArray[np.float64]:
    """The mean of the model's last hidden states over each token and the special ones around it: float64, (t, h)."""
    frame = model.frame("")
    parts = []
    for start in range(0, len(ids), TOKENS_TOGETHER):
        rows = [frame.around([token]) for token in ids[start : start + TOKENS_TOGETHER].tolist()]
        parts.append(model.token_means(rows))
        report((start + len(rows)) / len(ids), f"{start + len(rows):,} of {len(ids):,} tokens")
    if not parts:
        raise ContractError("static: expected a tokenizer with tokens that stand for text, got none; use another model")
    return np.concatenate(parts).astype(np.float64)


def _principal(vectors: npt.NDArray[np.float64], dimensions: int) -> npt.NDArray[np.float64]:
    """The centred vectors along their first principal directions, the largest first: float64, (t, dimensions).

    Of each direction's two signs, that in which its largest component is positive.
    """
    from tamis.models.device import one_thread
    from tamis.models.libraries import torch

    with one_thread():
        centred = torch.from_numpy(vectors - vectors.mean(axis=0))
        _, directions = torch.linalg.eigh(centred.T @ centred)  # eigenvalues rise
        directions = directions.flip(1)[:, :dimensions]
        largest = directions.abs().argmax(dim=0)
        directions = directions * torch.sign(directions[largest, torch.arange(directions.shape[1])])
        scores: npt.NDArray[np.float64] = (centred @ directions).numpy()
    return scores


def _zipf_weights(tokens: int, smoothing: float) -> npt.NDArray[np.float64]:
    """Weights a / (a + p), a the smoothing, of tokens in the order of their frequency p, which is as 1 / (rank + 1)."""
    frequency = 1 / np.arange(2, tokens + 2, dtype=np.float64)
    weights: npt.NDArray[np.float64] = smoothing / (smoothing + frequency / frequency.sum())
    return weights


def _write(folder: Path, table: Float32, backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
    from safetensors.numpy import save

    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": int(table.shape[1]),
        "normalize": True,
        "max_length": None,
        **settings,
    }
    for name, content in {
        TOKENIZER: backend.to_str(pretty=False).encode(),
        CONFIG: (json.dumps(config, indent=1, sort_keys=True) + "\n").encode(),
        WEIGHTS: save({"embeddings": table}),
    }.items():
        beside = folder / f"_{name}.partial"
        beside.write_bytes(content)
        beside.replace(folder / name)


@dataclass(frozen=True)
class StaticModel:
    """A tokenizer, and a vector for each of its ids: float32, (ids, d). words : its memory, if it may have one."""

    tokenizer: tokenizers.Tokenizer
    table: Float32
    words: RememberedWords | None

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer, table: Float32) -> StaticModel:
        return cls(tokenizer, table, RememberedWords(tokenizer) if splits_like_bert(tokenizer) else None)

    def sums(self, text: Text) -> npt.NDArray[np.float64]:
        """The sum of the vectors of each text's tokens: float64, (n, d)."""
        sums = np.zeros((len(text), self.table.shape[1]), np.float64)
        if self.words is not None:
            self.words.add(text, self.table, sums)
            return sums
        strings = strings_of(text.offsets, text.data).to_pylist()
        pieces = list(_pieces(strings))
        for start in range(0, len(pieces), PIECES_TOGETHER):
            some = pieces[start : start + PIECES_TOGETHER]
            found = self.tokenizer.encode_batch_fast([piece for _, piece in some], add_special_tokens=False)
            ids = [encoding.ids for encoding in found]
            flat = np.fromiter((token for each in ids for token in each), np.int32, sum(map(len, ids)))
            ends = np.cumsum([len(each) for each in ids], dtype=np.int64)
            add_rows(self.table, flat, ends, np.array([owner for owner, _ in some], np.int64), sums)
        return sums


def _pieces(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(text number, piece) in order; a piece begins at a blank or after PIECE_CHARACTERS without one."""
    for owner, text in enumerate(texts):
        start = 0
        while len(text) - start > PIECE_CHARACTERS:
            blank = text.rfind(" ", start + 1, start + PIECE_CHARACTERS)
            end = blank if blank > 0 else start + PIECE_CHARACTERS
            yield owner, text[start:end]
            start = end
        yield owner, text[start:]


@lru_cache(maxsize=2)
def load_static_model(folder: Path) -> StaticModel:
    """What `distil` wrote into a folder, once per process."""
    from safetensors.numpy import load_file

    table = np.array(load_file(folder / WEIGHTS)["embeddings"])  # a copy: kernels are compiled for writable arrays
    return StaticModel.of(_tokenizer_in(folder), table)


@lru_cache(maxsize=2)
def pretended_static_model(folder: Path, dimensions: int) -> StaticModel:
    """The tokenizer of a sentence model with a random vector for each id: the pace of the real thing, undistilled."""
    tokenizer = _tokenizer_in(folder)
    draw = np.random.default_rng(0)
    return StaticModel.of(tokenizer, draw.standard_normal((_rows(tokenizer), dimensions), np.float32))


def _rows(tokenizer: tokenizers.Tokenizer) -> int:
    """Of a table with one for each id: some tokenizers skip ids."""
    return 1 + max(tokenizer.get_vocab().values())


def _tokenizer_in(folder: Path) -> tokenizers.Tokenizer:
    if not (folder / TOKENIZER).is_file():
        raise SpecError(f"{folder}: expected a model with a {TOKENIZER}, got none; use another model")
    return _unbounded(_library().Tokenizer.from_file(str(folder / TOKENIZER)))


def _unbounded(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer for texts of any length, in which "[SEP]" is text like any other."""
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise missing_extra("tokenizers", "embed", "tamis.models.static") from error
    return tokenizers
