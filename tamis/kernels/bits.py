"""Eight bytes at a time: unaligned loads, trailing zeros and 64-bit mixing, the building blocks of the text kernels.

A 64-bit word holds eight characters, the first in the lowest byte; little-endian machines only (all that numba has
CPU wheels for).
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from tamis.kernels.arrow import Int64, UInt8, UInt64
from tamis.kernels.kernel import kernel

HIGH_BITS = np.uint64(0x8080808080808080)
LOW_BITS = ~HIGH_BITS
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd
MIX_A = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's two multipliers (Steele, Lea, Flood 2014)
MIX_B = np.uint64(0x94D049BB133111EB)


@intrinsic  # type: ignore[untyped-decorator]
def load8(_: Any, data: Any, index: Any) -> Any:  # noqa: ARG001
    """data[index:index + 8] of a uint8 array as one uint64; the caller answers for the bounds."""
    if data.layout != "C":  # a typing error, before anything is compiled
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        address = builder.gep(array.data, [values[1]])
        word = ir.IntType(64)
        return builder.load(builder.bitcast(address, word.as_pointer()), align=1)

    return types.uint64(data, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(_: Any, word: Any) -> Any:  # noqa: ARG001
    """The number of zero bits below the lowest one bit of a uint64; 64 for zero."""

    def generate(_: Any, builder: Any, __: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@kernel
def load_tail(data: UInt8, i: int, end: int) -> np.uint64:
    """data[i:end] (at most 8 bytes) as one uint64, zeros above."""
    word = np.uint64(0)
    for j in range(min(end - i, 8)):
        word |= np.uint64(data[i + j]) << np.uint64(8 * j)
    return word


@kernel
def mix(h: np.uint64) -> np.uint64:
    """A one-to-one scrambling of 64 bits. Source: splitmix64's finaliser (Steele, Lea, Flood 2014)."""
    h = (h ^ (h >> np.uint64(30))) * MIX_A
    h = (h ^ (h >> np.uint64(27))) * MIX_B
    return h ^ (h >> np.uint64(31))


@kernel
def absorb(h: np.uint64, word: np.uint64) -> np.uint64:
    """State `h` after eight more bytes; one-to-one in each argument."""
    h = (h ^ word) * GOLDEN
    return h ^ (h >> np.uint64(29))


@kernel
def spread(x: UInt64) -> UInt64:
    """`mix` of every number, one-to-one: uint64, (n). What is close together ends up far apart."""
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = mix(x[i])
    return out


@kernel
def longest(offsets: Int64) -> int:
    """The length of the longest of the stretches offsets[i] to offsets[i + 1], 0 if there is none."""
    most = 0
    for i in range(len(offsets) - 1):
        most = max(most, offsets[i + 1] - offsets[i])
    return most
