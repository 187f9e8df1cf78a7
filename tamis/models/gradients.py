"""What a backward pass knows of each linear layer: its inputs and the slopes of its outputs, as soon as it knows.

For a layer s = W a the gradient of a document's summed loss is Σ_t δ_t a_tᵀ over its tokens: whoever has a and δ has
the gradient, in whatever form is wanted, and no gradient per document need ever exist. The layers are the linear ones
of the transformer blocks; vocabulary matrices, norms and biases are left out, as in the literature on influence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tamis.models import head
from tamis.models.language import LanguageModel
from tamis.models.libraries import torch, transformers
from tamis.models.windows import Filled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (name, a, δ): what a layer was given, (B, T, d_in), and the slope of the loss by what it made of it, (B, T, d_out).
Take = Callable[[str, torch.Tensor, torch.Tensor], None]

_TOGETHER = {"cuda": 1 << 28, "mps": 1 << 24}  # numbers of window gradients held at once


def linear_layers(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of every linear layer but the one that makes logits, by name, in the model's order.

    Raises ValueError if there is none.
    """
    found = {name: _shape(layer) for name, layer in _layers(model).items()}
    if not found:
        raise ValueError(f"gradients: expected a model with linear layers, got {type(model).__name__}; use another")
    return found


def backward(language_model: LanguageModel, batch: Filled, take: Take, targets: torch.Tensor | None = None) -> None:
    """One forward and one backward pass of the summed loss of a batch's real positions, in nats.

    take : is called once per layer, last layers first, with both tensors in the precision that the device computes in.
    δ is exactly 0 where a position is not real; a is not.
    targets : int64, (B, T), by default the batch's own. No gradient of a weight is worked out.
    Raises ValueError if the model's weights are not frozen.
    """
    model, device = language_model.model, language_model.device
    if any(weight.requires_grad for weight in model.parameters()):
        raise ValueError("gradients: expected a model with frozen weights; call requires_grad_(False) on it first")
    wanted = batch.targets if targets is None else targets
    with torch.enable_grad(), _tapped(model, batch.real, take), device.autocast():
        loss = head.mean_loss(model, batch.inputs, wanted.flatten(), 1.0)
    with device.repeatable():
        loss.backward()


def window_gradients(a: torch.Tensor, slope: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(the first of some windows, their gradients Σ_t δ_t a_tᵀ) of all windows in turn: (some, d_out, d_in).

    On a CPU one at a time, so that all products have one shape; on a GPU as many as fit.
    """
    together = max(1, _TOGETHER.get(a.device.type, 1) // (a.shape[2] * slope.shape[2]))
    for start in range(0, len(a), together):
        yield start, slope[start : start + together].transpose(1, 2) @ a[start : start + together]


def exact(values: torch.Tensor) -> torch.Tensor:
    """As float64, on the CPU where the device has none."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


@contextmanager
def _tapped(model: PreTrainedModel, real: torch.Tensor, take: Take) -> Iterator[None]:
    """While it lasts, whatever the layers make hands its slope over once that is known."""
    held: dict[str, torch.Tensor] = {}
    hooks = [layer.register_forward_hook(partial(_tap, name, held, take)) for name, layer in _layers(model).items()]
    hooks.append(model.base_model.register_forward_hook(partial(_silence, real)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tap(
    name: str, held: dict[str, torch.Tensor], take: Take, _layer: Any, given: tuple[torch.Tensor], made: torch.Tensor
) -> None:
    held[name] = given[0].detach()
    made.requires_grad_()  # the first layers' inputs have no gradient: the pass need not go further back than this
    made.register_hook(partial(_hand_over, name, held, take))


def _hand_over(name: str, held: dict[str, torch.Tensor], take: Take, slope: torch.Tensor) -> None:
    take(name, held.pop(name).to(slope.dtype), slope)


def _silence(real: torch.Tensor, _model: Any, _given: Any, made: Mapping[str, torch.Tensor]) -> None:
    """Positions that are filling pass nothing back."""
    filling = ~real[..., None]
    made["last_hidden_state"].register_hook(lambda slope: slope.masked_fill(filling, 0.0))


def _layers(model: PreTrainedModel) -> dict[str, Any]:
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)  # the second is what GPT-2 calls a linear layer
    last = model.get_output_embeddings()
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds) and layer is not last}


def _shape(layer: Any) -> tuple[int, int]:
    shape = tuple(layer.weight.shape)
    return (shape[0], shape[1]) if isinstance(layer, torch.nn.Linear) else (shape[1], shape[0])
