"""What a model may be trained on: a slice of the pool, an arm, documents beside it; and who has their words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Discriminator, Field, Tag

from tamis.kernels.exact import exact_keys
from tamis.steps import Batch, Columns, Documents, Summary

ONLY_THESE = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Slice:
    """Documents drawn from the pool by a hash of their ids, as many as hold `tokens` tokens; slices nest."""

    tokens: Annotated[int, Field(gt=0)]

    __pydantic_config__: ClassVar[ConfigDict] = ONLY_THESE


@dataclass(frozen=True)
class OnSlice:
    """`{random: {tokens: …}}`."""

    random: Slice

    __pydantic_config__: ClassVar[ConfigDict] = ONLY_THESE


@dataclass(frozen=True)
class OnArm:
    """`{arm: …}`: the documents of a select stage, as often as it uses them."""

    arm: str

    __pydantic_config__: ClassVar[ConfigDict] = ONLY_THESE


def _kind(value: Any) -> str | None:
    """Which of the three `on` means, so that a mistake in it is told as a mistake in that one."""
    for kind in ("random", "arm"):
        if hasattr(value, kind) or (isinstance(value, Mapping) and kind in value):
            return kind
    return "documents" if not isinstance(value, Mapping) or {"paths", "texts"} & set(value) else None


On = Annotated[
    Annotated[OnSlice, Tag("random")] | Annotated[OnArm, Tag("arm")] | Annotated[Documents, Tag("documents")],
    Discriminator(
        _kind,
        custom_error_type="on",
        custom_error_message="{random: {tokens: N}}, {arm: NAME}, or documents: a path, or {paths: …}",
    ),
]


def union(one: Summary, other: Summary) -> Summary:
    """The keys of both."""
    return {"keys": np.unique(np.concatenate([one["keys"], other["keys"]]), axis=0)}


def has_key(name: str, keys: npt.NDArray[np.uint64], batch: Batch) -> Columns:
    """The mark of documents whose words have one of these keys: uint64, (n, 2), sorted."""
    high, low, has_words = exact_keys(batch.words)
    place = np.minimum(np.searchsorted(keys[:, 0], high), max(len(keys) - 1, 0))
    found = has_words & (keys[place, 0] == high) & (keys[place, 1] == low) if len(keys) else np.zeros(len(batch), bool)
    return {f"in_training_{name}": found}
