"""How every kernel is compiled, and where the compiled code is kept."""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from numba import config, njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """The compiled function: cached on disk, without the interpreter lock, single-threaded, IEEE arithmetic."""
    before = config.CACHE_DIR
    config.CACHE_DIR = before or _cache_folder()  # read when the function is decorated
    try:
        compiled: Function = njit(cache=True, nogil=True)(function)
    finally:
        config.CACHE_DIR = before
    return compiled


@lru_cache(maxsize=1)
def _cache_folder() -> str:
    """A folder for exactly these kernels: numba does not notice that a function called in another file changed."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in (".py", ".bin"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(home) / "tamis" / f"kernels-{digest.hexdigest()}")
