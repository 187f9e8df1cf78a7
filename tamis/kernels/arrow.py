"""The only door between Arrow and the kernels: slices, 32 and 64-bit offsets, chunks and nulls, dealt with once."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

NO_BYTES: UInt8 = np.frombuffer(b"", np.uint8)  # read-only like all text: one compiled kernel serves all


class Text(NamedTuple):
    """n strings as raw UTF-8: string i is `data[offsets[i]:offsets[i + 1]]`.

    offsets : int64, (n + 1), not falling; offsets[0] need not be 0.
    data : uint8, at least offsets[n] bytes, read-only.
    """

    offsets: Int64
    data: UInt8

    def __len__(self) -> int:
        return len(self.offsets) - 1


def one_array(values: pa.Array | pa.ChunkedArray | npt.NDArray[Any]) -> pa.Array:
    """A column in one piece, whatever a component returned it as."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values)


def text_of(array: pa.Array | pa.ChunkedArray) -> Text:
    """The bytes of an Arrow string or binary column, without a copy of the text; a null is an empty string.

    Raises TypeError for any other Arrow type.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    if isinstance(array, pa.ChunkedArray):  # combine_chunks keeps chunks apart past 2 GiB
        array = pa.concat_arrays(array.cast(pa.large_string()).chunks)
    if isinstance(array.type, pa.DictionaryType):
        array = array.dictionary_decode()
    width = _offset_type(array.type)
    if array.null_count:  # the bytes under a null may be anything
        array = array.fill_null(b"" if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type) else "")
    _, offsets, data = array.buffers()
    if offsets is None or len(array) == 0:
        return Text(np.zeros(len(array) + 1, np.int64), NO_BYTES)
    ends = np.frombuffer(offsets, dtype=width)[array.offset : array.offset + len(array) + 1]
    content = NO_BYTES if data is None else np.frombuffer(data, dtype=np.uint8)
    content.flags.writeable = False  # what was read from Parquet could be written to, and every kernel compiled twice
    return Text(ends.astype(np.int64), content)


def _offset_type(kind: pa.DataType) -> type[np.signedinteger]:
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return np.int32
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return np.int64
    raise TypeError(f"text_of: expected a string or binary Arrow array, got {kind}; cast it first")


def strings_of(offsets: Int64, data: UInt8) -> pa.LargeStringArray:
    """An Arrow column of the strings `data[offsets[i]:offsets[i + 1]]`, without a copy (64-bit offsets)."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


def vectors_of(array: pa.Array | pa.ChunkedArray) -> Float32:
    """The vectors of a fixed size list column of floats: float32, (n, d); a null vector is a row of NaN.

    A vector is null where its document was left out or set aside. Half floats are widened, float32 is not copied.
    Raises TypeError for any other Arrow type.
    """
    array = one_array(array)
    if not (pa.types.is_fixed_size_list(array.type) and pa.types.is_floating(array.type.value_type)):
        raise TypeError(f"vectors_of: expected a fixed size list of floats, got {array.type}; cast it first")
    width = array.type.list_size
    flat = array.values.slice(array.offset * width, len(array) * width).to_numpy(zero_copy_only=False)
    vectors: Float32 = flat.astype(np.float32, copy=False).reshape(len(array), width)
    if not array.null_count:
        return vectors
    return np.where(array.is_null().to_numpy(zero_copy_only=False)[:, None], np.float32(np.nan), vectors)


def half_vectors(vectors: Float32) -> pa.FixedSizeListArray:
    """Vectors as they lie in a layer: a fixed size list of d half floats each. vectors : float32, (n, d)."""
    rounded = np.ascontiguousarray(vectors, np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(rounded.ravel()), rounded.shape[1])


def widened(kind: pa.DataType) -> pa.DataType:
    """The type with float32 in the place of half floats, in lists too: DuckDB knows no half floats."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) or widened(kind.value_type) == kind.value_type:
        return kind
    return pa.list_(widened(kind.value_type), kind.list_size if pa.types.is_fixed_size_list(kind) else -1)


def flattened(array: pa.ListArray) -> tuple[Int64, pa.Array]:
    """(lengths, values) of a list column: int64, (n), 0 for a null, and all values in a row."""
    lengths = array.value_lengths().fill_null(0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64), array.flatten()
