"""The last layer and its cross-entropy, a chunk of positions at a time: all logits never exist at once.

A row of logits is as long as the vocabulary, so for small models this layer is most of the work and of the memory.
In one piece it allocates three arrays of positions × vocabulary per step; in chunks that stay in the cache a step of
`tiny` takes 0.6 of the time on the CPU. The gradient is worked out in the forward pass, while the chunk is at hand.
"""

from __future__ import annotations

from collections.abc import Callable
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
    return scaled_losses(model, inputs, targets, scale)[0]


def scaled_losses(
    model: PreTrainedModel,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    scale: float | torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
    body: Callable[..., Any] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ scale · loss in nats, to be differentiated; the losses, without gradients: float32, (n)).

    inputs, targets : as of `mean_loss`, n targets. scale : one for all; float32, (n); or what makes that of the
    losses, which are then computed before it is known. body : the transformer, if not the model's own, e.g. compiled.
    """
    if _is_plain(model):
        hidden, weight = _hidden(model, inputs, body)[: len(targets)], _weight(model)
        if callable(scale):
            scale = scale(_losses(hidden.detach(), weight.detach(), targets))
        summed, each = _LinearCrossEntropy.apply(hidden, weight, targets, scale)
        return summed, each
    logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)[: len(targets)].float()
    if isinstance(scale, float):
        each = torch.nn.functional.cross_entropy(logits.detach(), targets, reduction="none")
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum") * scale, each
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return (each * (scale(each.detach()) if callable(scale) else scale)).sum(), each.detach()


def token_losses(model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Losses in nats of all positions, without gradients: float32, (B, T).

    inputs, targets : int64, (B, T). All are computed, wanted or not: shapes, and with them the order of sums, stay
    the same.
    """
    if not _is_plain(model):
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits.float(), targets.flatten(), reduction="none")
        return losses.view(inputs.shape)
    return _losses(_hidden(model, inputs), _weight(model), targets.flatten()).view(inputs.shape)


def _losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Losses in nats of what the last layer makes of hidden states, (n, d), without gradients: float32, (n)."""
    weight = weight.to(hidden.dtype)
    buffer, losses = _buffer(weight), torch.empty(len(hidden), device=hidden.device)
    for start in range(0, len(hidden), len(buffer)):
        part = slice(start, start + len(buffer))
        _, picked, total = _exponentials(hidden[part], weight, targets[part], buffer)
        losses[part] = (total.log() - picked)[:, 0]
    return losses


def token_errors(model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How far the predicted distribution is from the token that came, ‖p − onehot(y)‖₂: float32, (B, T), from 0 to √2.

    inputs, targets : int64, (B, T). It is √((Σ_{j≠y} p_j)² + Σ_{j≠y} p_j²), which loses no digit where p_y is near 1.
    Source: EL2N of Paul, Ganguli, Dziugaite 2021, Deep learning on a data diet.
    """
    if not _is_plain(model):
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1).float()
        weights = (logits - logits.amax(1, keepdim=True)).exp()
        return _distance(weights, targets.flatten(), weights.sum(1)).view(inputs.shape)
    hidden, weight = _hidden(model, inputs), _weight(model)
    weight, targets = weight.to(hidden.dtype), targets.flatten()
    buffer, errors = _buffer(weight), torch.empty(len(hidden), device=hidden.device)
    for start in range(0, len(hidden), len(buffer)):
        part = slice(start, start + len(buffer))
        weights, _, total = _exponentials(hidden[part], weight, targets[part], buffer)
        errors[part] = _distance(weights, targets[part], total[:, 0])
    return errors.view(inputs.shape)


def _distance(weights: torch.Tensor, targets: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Of weights / total, (n, V), from one-hot rows, (n): `weights` is written to."""
    weights.scatter_(1, targets[:, None], 0.0)
    others = weights.sum(1)
    return (others.square() + weights.square_().sum(1)).sqrt() / total


def target_logits(model: PreTrainedModel, embeddings: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The logit of the token that came at each position, to be differentiated: (B, T).

    embeddings : (B, T, d), what the model's input embedding makes of the inputs. targets : int64, (B, T).
    """
    if not _is_plain(model):
        logits = model(inputs_embeds=embeddings, use_cache=False).logits
        return logits.gather(2, targets[..., None])[..., 0]
    hidden = model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    return (hidden * _weight(model)[targets]).sum(2)


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
    """(Σ scale · cross-entropy(hidden · weightᵀ, targets), each of them unscaled), with the gradients asked for."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        low = weight.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        buffer, loss = _buffer(weight), torch.zeros((), device=hidden.device)
        each = torch.empty(len(hidden), 1, device=hidden.device)
        for start in range(0, len(hidden), len(buffer)):
            part = slice(start, start + len(buffer))
            x, y = hidden[part], targets[part, None]
            logits, picked, total = _exponentials(x, low, targets[part], buffer)
            torch.sub(total.log(), picked, out=each[part])
            own = scale[part, None] if isinstance(scale, torch.Tensor) else torch.full_like(picked, scale)
            loss += (each[part] * own).sum() if isinstance(scale, torch.Tensor) else each[part].sum()
            logits.mul_(total.reciprocal() * own).scatter_add_(1, y, -own)
            slope = logits.to(x.dtype)
            torch.mm(slope, low, out=d_hidden[part])
            if d_weight is not None:
                d_weight += slope.t().mm(x)
        ctx.save_for_backward(d_hidden, d_weight)
        each = each[:, 0]
        ctx.mark_non_differentiable(each)
        return loss if isinstance(scale, torch.Tensor) else loss * scale, each

    @staticmethod
    def backward(
        ctx: Any, slope: torch.Tensor, _each: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
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


def _hidden(model: PreTrainedModel, inputs: torch.Tensor, body: Callable[..., Any] | None = None) -> torch.Tensor:
    hidden = (model.model if body is None else body)(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
    low = torch.is_autocast_enabled(hidden.device.type)
    return hidden.to(torch.get_autocast_dtype(hidden.device.type)) if low else hidden


def _weight(model: PreTrainedModel) -> torch.Tensor:
    return model.lm_head.weight
