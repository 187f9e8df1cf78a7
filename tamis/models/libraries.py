"""torch, or an error that says which extra brings it; only modules that need a model import this one."""

from tamis.errors import missing_extra

try:
    import safetensors.torch
    import torch
    import transformers
except ImportError as error:
    raise missing_extra(error.name or "torch", "train", "tamis.models") from error

__all__ = ["safetensors", "torch", "transformers"]
