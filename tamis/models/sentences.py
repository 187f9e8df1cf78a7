"""Sentence models at work: texts in, token windows, one vector per text out.

On a CPU every window is run alone and on one thread: its vector then depends on no other document, to the bit, and
no padding is computed, which pays for what larger products would gain. On a GPU windows of like length run together.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.errors import ContractError, missing_extra
from tamis.kernels.arrow import Float32
from tamis.models.device import Device, choose
from tamis.models.folder import content_digest, hidden_width, vector_width
from tamis.models.libraries import quiet, torch

Ids = Sequence[int]

LONGEST_BY_DEFAULT = 512  # tokens of a window, for models that do not say how many they take
TOKENIZED_TOGETHER = 256  # documents: bounds the encodings held at once


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a text, and the prompt that opens every window: token ids."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    prompt: tuple[int, ...] = ()

    def around(self, body: Ids) -> list[int]:
        return [*self.before, *self.prompt, *body, *self.after]

    def room(self, tokens: int) -> int:
        """How many tokens of a document fit in a window. Raises ContractError if there are none."""
        room = tokens - len(self.before) - len(self.prompt) - len(self.after)
        if room < 1:
            raise ContractError(
                f"expected windows with room for a document, got {tokens} tokens with {tokens - room} of prompt "
                "and special tokens; raise `tokens` or shorten `prompt`"
            )
        return room


@dataclass(frozen=True)
class SentenceModel:
    """A loaded model with its tokenizer, on its device. model: a SentenceTransformer."""

    model: Any
    device: Device

    @property
    def longest(self) -> int:
        """Tokens of the longest window that the model was made for, special tokens included."""
        said = self.model.max_seq_length
        return int(said) if said and said < 1 << 20 else LONGEST_BY_DEFAULT

    @property
    def own_prompt(self) -> str:
        """What the model puts before a text unless it is told otherwise."""
        name = self.model.default_prompt_name
        return str(self.model.prompts.get(name, "")) if name else ""

    def tokens(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The token ids of each text, without special tokens and however many they are."""
        for start in range(0, len(texts), TOKENIZED_TOGETHER):
            some = list(texts[start : start + TOKENIZED_TOGETHER])
            yield from self.model.tokenizer(
                some,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]

    def frame(self, prompt: str) -> Frame:
        """What stands around the tokens of a document in every window."""
        (plain,) = self.tokens(["a"])
        framed = list(self.model.tokenizer("a")["input_ids"])
        start = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
        opening = next(self.tokens([prompt.rstrip()])) if prompt.strip() else []
        return Frame(tuple(framed[:start]), tuple(framed[start + len(plain) :]), tuple(opening))

    def vectors(self, windows: Sequence[Ids], frame: Frame) -> Float32:
        """The model's vector of each window of document tokens: float32, (windows, d), as the model scales it."""
        framed = [frame.around(window) for window in windows]
        out: Float32 = np.zeros((len(framed), self.model.get_embedding_dimension()), np.float32)
        with self.device.alone(), torch.no_grad(), self.device.autocast():
            for chosen in self._together([len(ids) for ids in framed]):
                features = self._features([framed[i] for i in chosen])
                if frame.prompt:  # pooling may be told to leave the prompt out
                    features["prompt_length"] = len(frame.before) + len(frame.prompt)
                out[chosen] = self.model(features)["sentence_embedding"].float().cpu().numpy()
        return out

    def token_means(self, windows: Sequence[Ids]) -> Float32:
        """The mean of the transformer's last hidden states over windows of one length: float32, (windows, h)."""
        with self.device.alone(), torch.no_grad(), self.device.autocast():
            hidden = self.model[0](self._features(windows))["token_embeddings"]
            means: Float32 = hidden.float().mean(dim=1).cpu().numpy()
        return means

    def _together(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places of the windows that are run together: one by one on a CPU, by length and token budget elsewhere."""
        if self.device.kind == "cpu":
            yield from ([place] for place in range(len(lengths)))
            return
        chosen: list[int] = []
        for place in np.argsort(-np.asarray(lengths), kind="stable").tolist():
            if chosen and (len(chosen) + 1) * lengths[chosen[0]] > self.device.micro_tokens:
                yield chosen
                chosen = []
            chosen.append(place)
        if chosen:
            yield chosen

    def _features(self, windows: Sequence[Ids]) -> dict[str, Any]:
        """Padded ids and masks: int64, (B, T)."""
        longest = max(map(len, windows))
        mask = torch.zeros(len(windows), longest, dtype=torch.long)
        ids = torch.full_like(mask, self.model.tokenizer.pad_token_id or 0)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
        features = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.model.tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(ids)
        return {name: values.to(self.device.name) for name, values in features.items()}


@lru_cache(maxsize=2)
def load_sentence_model(folder: Path, digest: str, precision: str, device: str | None = None) -> SentenceModel:
    """The model in a folder, once per process. precision : auto, float32 or bfloat16. device : the best, if None.

    Reads safetensors only, runs no code from the folder, and never asks the network. Raises ContractError if the
    folder's content has not this digest.
    """
    found = content_digest(folder)
    if found != digest:
        raise ContractError(
            f"{folder}: expected a model with the digest {digest}, got {found}; its files have changed or differ "
            "between machines: put the same files everywhere and start the run again, or correct `digest:`"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise missing_extra("sentence_transformers", "embed", "tamis.models.sentences") from error
    place = choose(hidden_width(folder), device, None if precision == "auto" else precision)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # module paths of older models, remarked on at every load
        model = SentenceTransformer(
            str(folder),
            device=place.name,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    if model.get_embedding_dimension() != vector_width(folder):
        raise ContractError(
            f"{folder}: expected vectors of {vector_width(folder)} numbers, as its files say, "
            f"got {model.get_embedding_dimension()} from the model; use a model without truncation"
        )
    return SentenceModel(model.eval(), place)


def unit(vectors: npt.NDArray[np.floating[Any]]) -> Float32:
    """Vectors at length one, zero where they are zero: float32, (n, d), divided in float32."""
    narrow: Float32 = vectors.astype(np.float32)
    norms = np.sqrt((narrow * narrow).sum(axis=1, keepdims=True))
    narrow /= np.where(norms > 0, norms, np.float32(1))
    return narrow
