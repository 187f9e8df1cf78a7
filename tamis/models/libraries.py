"""torch, or an error that says which extra brings it; only modules that need a model import this one."""

from collections.abc import Iterator
from contextlib import contextmanager

from tamis.errors import missing_extra

try:
    import safetensors.torch
    import torch
    import transformers
except ImportError as error:
    raise missing_extra(error.name or "torch", "train", "tamis.models") from error

__all__ = ["quiet", "safetensors", "torch", "transformers"]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of a library on somebody else's terminal."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
