"""Columns of numbers and of vectors as one matrix of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.errors import ContractError
from tamis.kernels.arrow import Float32, Int64, one_array

VECTOR, NUMBER, OTHER = 0, 1, 2  # what a column holds
NONE_YET = (1 << 31) - 1  # the least width of vectors of which none was seen

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Layout:
    """Which columns there are, and how many features each gives: 1 for a number, the length for vectors."""

    columns: tuple[str, ...]
    widths: tuple[int, ...]
    kinds: tuple[int, ...]

    def arrays(self, batch: Any) -> dict[str, Float32 | Halves]:
        """The features of each column, (n, width), NaN for what is missing or not finite.

        batch : column → Arrow array.
        """
        return {
            name: _numbers(batch[name]) if kind == NUMBER else _vectors(batch[name], width)
            for name, width, kind in zip(self.columns, self.widths, self.kinds, strict=True)
        }

    def matrix(self, arrays: Mapping[str, Float32 | Halves]) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """(features, known): float32, (n, d), and bool, (n), whether a document has any feature at all.

        The last features say of each column whether a document has none of it: 1, else 0.
        """
        missing = np.stack([np.isnan(arrays[name]).all(axis=1) for name in self.columns], axis=1)
        parts = [arrays[name].astype(np.float32, copy=False) for name in self.columns]
        known: npt.NDArray[np.bool_] = ~np.all(missing, axis=1)
        return np.concatenate([*parts, missing.astype(np.float32)], axis=1), known

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that hold one number."""
        return tuple(name for name, kind in zip(self.columns, self.kinds, strict=True) if kind == NUMBER)


def widths_in(columns: Sequence[str], batch: Any) -> dict[str, Int64]:
    """What the columns hold, as far as a batch shows it: `kinds`, `widest`, `narrowest`, int64, (columns) each."""
    found = np.array([_width(batch[name]) for name in columns], np.int64).reshape(len(columns), 3)
    return dict(zip(("kinds", "widest", "narrowest"), found.T.copy(), strict=True))


def widths_together(one: Mapping[str, Int64], other: Mapping[str, Int64]) -> dict[str, Int64]:
    """What two batches show together."""
    merge = {"kinds": np.maximum, "widest": np.maximum, "narrowest": np.minimum}
    return {key: np.asarray(function(one[key], other[key]), np.int64) for key, function in merge.items()}


def layout(where: str, columns: Sequence[str], found: Mapping[str, Int64]) -> Layout:
    """Raises ContractError for a column of neither numbers nor vectors, or of vectors of several lengths."""
    kinds, most, least = found["kinds"], found["widest"], found["narrowest"]
    for name, kind, widest, narrowest in zip(columns, kinds, most, least, strict=True):
        if kind == OTHER:
            raise ContractError(
                f"{where}: features: expected numbers or lists of numbers, got neither in {name!r}; leave it out"
            )
        if widest > narrowest:
            raise ContractError(
                f"{where}: features: expected vectors of one length in {name!r}, got {narrowest} to {widest} numbers"
            )
    return Layout(tuple(columns), tuple(map(int, most)), tuple(map(int, kinds)))


def _width(column: pa.Array) -> tuple[int, int, int]:
    kind = column.type
    if _is_number(kind):
        return NUMBER, 1, 1
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not _is_number(kind.value_type):
        return OTHER, 0, 0
    if pa.types.is_fixed_size_list(kind):
        return VECTOR, kind.list_size, kind.list_size
    lengths = one_array(column).value_lengths().drop_null().to_numpy(zero_copy_only=False)
    return VECTOR, int(lengths.max(initial=0)), int(lengths.min(initial=NONE_YET))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _numbers(column: pa.Array) -> Float32:
    values = one_array(column).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        found: Float32 = values.astype(np.float32)[:, None]
    found[~np.isfinite(found)] = np.nan
    return found


def _vectors(column: pa.Array, width: int) -> Float32 | Halves:
    """Half floats stay as they are: a sample of them is kept. Raises ContractError for vectors of another width."""
    array = one_array(column)
    shape = (len(array), width)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    out: Float32 | Halves = np.full(shape, np.nan, np.float32)
    if pa.types.is_float16(array.type.value_type):
        out = np.full(shape, np.nan, np.float16)
    known = array.drop_null()
    if len(known):
        lengths = known.value_lengths().to_numpy(zero_copy_only=False)
        if (wrong := lengths[lengths != width]).size:
            raise ContractError(f"features: expected vectors of {width} numbers, got {wrong[0]}; fit anew")
        with np.errstate(over="ignore"):
            out[valid] = known.flatten().to_numpy(zero_copy_only=False).reshape(len(known), width)
    out[~np.isfinite(out)] = np.nan
    return out
