"""How every kernel is compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """The compiled function: cached on disk, without the interpreter lock, single-threaded, IEEE arithmetic."""
    compiled: Function = njit(cache=True, nogil=True)(function)
    return compiled
