"""The last layer and its cross-entropy, a chunk of positions at a time: all logits never exist at once.

A row of logits is as long as the vocabulary, so for small models this layer is most of the work and of the memory.
In one piece it allocates three arrays of positions × vocabulary per step; in chunks that stay in the cache a step of
`tiny` takes 0.6 of the time on the CPU. The gradient is worked out in the forward pass, while the chunk is at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tamis.models.libraries import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK_LOGITS = {"cuda": 1 << 27}  # logits held at once: half a gigabyte on a GPU,
_CHUNK_LOGITS_CPU = 1 << 20  # and 4 MB elsewhere, which stays in the cache (flat from 2^18 to 2^21)


def mean_loss(model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor, scale: float) -> torch.Tensor:
    """`scale` times the summed loss in nats of the first `len(targets)` positions, to be differentiated.

    inputs : int64, (B, T). targets : int64, at most (B·T), in the order of the flattened inputs.
    """
    if _is_plain(model):
        hidden = _hidden(model, inputs)[: len(targets)]
        return _LinearCrossEntropy.apply(hidden, _weight(model), targets, scale)
    logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)[: len(targets)]
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum") * scale


def token_losses(model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Losses in nats of all positions, without gradients: float32, (B, T).

    inputs, targets : int64, (B, T). All are computed, wanted or not: shapes, and with them the order of sums, stay
    the same.
    """
    if not _is_plain(model):
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits.float(), targets.flatten(), reduction="none")
        return losses.view(inputs.shape)
    hidden, weight = _hidden(model, inputs), _weight(model)
    weight, targets = weight.to(hidden.dtype), targets.flatten()
    buffer, losses = _buffer(weight), torch.empty(len(hidden), device=hidden.device)
    for start in range(0, len(hidden), len(buffer)):
        part = slice(start, start + len(buffer))
        _, picked, total = _exponentials(hidden[part], weight, targets[part], buffer)
        losses[part] = (total.log() - picked)[:, 0]
    return losses.view(inputs.shape)


def drawn_tokens(model: PreTrainedModel, inputs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """What the model might say at each position: int64, (B, T), drawn from its distribution by inversion.

    inputs : int64, (B, T). uniform : float32, (B, T), in (0, 1): it decides which token, in the vocabulary's order.
    """
    if not _is_plain(model):
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1).float()
        return _by_inversion(logits.softmax(1), uniform.flatten()).view(inputs.shape)
    hidden, weight = _hidden(model, inputs), _weight(model)
    weight, uniform = weight.to(hidden.dtype), uniform.flatten()
    buffer, drawn = _buffer(weight), torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    nowhere = torch.zeros(len(buffer), dtype=torch.int64, device=hidden.device)
    for start in range(0, len(hidden), len(buffer)):
        part = slice(start, start + len(buffer))
        x = hidden[part]
        weights, _, _ = _exponentials(x, weight, nowhere[: len(x)], buffer)
        drawn[part] = _by_inversion(weights, uniform[part])
    return drawn.view(inputs.shape)


def _by_inversion(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first token at which the running sum of weights, (n, V), reaches that share of the whole: int64, (n)."""
    running = weights.cumsum(1)
    return torch.searchsorted(running, uniform[:, None] * running[:, -1:])[:, 0]


class _LinearCrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """scale · Σ cross-entropy(hidden · weightᵀ, targets), with the gradients that are asked for."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float
    ) -> torch.Tensor:
        low = weight.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        buffer, loss = _buffer(weight), torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), len(buffer)):
            part = slice(start, start + len(buffer))
            x, y = hidden[part], targets[part, None]
            logits, picked, total = _exponentials(x, low, targets[part], buffer)
            loss += (total.log() - picked).sum()
            logits.mul_(scale / total).scatter_add_(1, y, torch.full_like(picked, -scale))
            slope = logits.to(x.dtype)
            torch.mm(slope, low, out=d_hidden[part])
            if d_weight is not None:
                d_weight += slope.t().mm(x)
        ctx.save_for_backward(d_hidden, d_weight)
        return loss * scale

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * slope.to(d_hidden.dtype), None if d_weight is None else d_weight * slope, None, None


def _exponentials(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, buffer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(exp(logits − maximum), the target's logit − maximum, sum of the exponentials): in `buffer`, float32."""
    logits = buffer[: len(hidden)]
    if hidden.dtype == logits.dtype:
        torch.mm(hidden, weight.t(), out=logits)
    else:
        logits.copy_(hidden.mm(weight.t()))
    logits.sub_(logits.amax(1, keepdim=True))
    picked = logits.gather(1, targets[:, None])
    return logits, picked, logits.exp_().sum(1, keepdim=True)


def _buffer(weight: torch.Tensor) -> torch.Tensor:
    size = _CHUNK_LOGITS.get(weight.device.type, _CHUNK_LOGITS_CPU)
    return torch.empty(max(size // len(weight), 16), len(weight), device=weight.device)


def _is_plain(model: PreTrainedModel) -> bool:
    """Whether logits are exactly hidden · weightᵀ; other families may scale, cap or shift them."""
    return bool(model.config.model_type == "llama")


def _hidden(model: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
    low = torch.is_autocast_enabled(hidden.device.type)
    return hidden.to(torch.get_autocast_dtype(hidden.device.type)) if low else hidden


def _weight(model: PreTrainedModel) -> torch.Tensor:
    return model.lm_head.weight
