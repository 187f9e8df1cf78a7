"""Proxy models from a size and a seed, and from a folder: ordinary Hugging Face Llama models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.models.libraries import quiet, torch, transformers
from tamis.models.sizes import Size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CAUSAL = "causal_sdpa"  # a name of ours among transformers' kinds of attention

# Matrices, embeddings included, start with deviation √(2 / (5·width)) (Nguyen and Salazar 2019, "small init"); those
# that write to the residual stream with 1/√(2·layers) of that (GPT-2, section 2.3). It matters at these widths:
# `tiny`, rate 4e-3, 300k tokens, three seeds: 1.86 to 1.88 bits per byte; with 0.02 throughout 2.03 to 2.48, by seed.
_RESIDUAL = ("o_proj.weight", "down_proj.weight")


def build(size: Size, vocab_size: int, seed: int) -> PreTrainedModel:
    """A fresh LlamaForCausalLM on the CPU, float32; its weights depend on these three alone.

    seed : 0 … 2⁶⁴ − 1. Torch's global random state is left as it was.
    """
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.width,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.row_tokens,
        tie_word_embeddings=size.tied,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        model = transformers.LlamaForCausalLM(config).float()
    _initialise(model, size, seed)
    return _causal(model).eval()


def _initialise(model: PreTrainedModel, size: Size, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    std = math.sqrt(2 / (5 * size.width))
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() == 1:
                weight.fill_(1.0)
            else:
                depth = math.sqrt(2 * size.layers) if name.endswith(_RESIDUAL) else 1.0
                weight.normal_(0.0, std / depth, generator=generator)


def load(folder: Path) -> PreTrainedModel:
    """The causal language model of a Hugging Face folder: on the CPU, float32, in evaluation mode.

    Reads safetensors only, runs no code from the folder, and never asks the network.
    Raises FileNotFoundError if there is no config.json.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model here; a model folder holds config.json and model.safetensors")
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    return _causal(model.float()).eval()


def _causal(model: PreTrainedModel) -> PreTrainedModel:
    """The model, if a Llama, with attention that is told to be causal instead of being given a mask.

    Transformers otherwise waits for the device in every pass to see whether a mask is needed, and when compiling makes
    one, for which there are only slower kernels on a GPU. What it computes is the same; padding has to be on the right.
    """
    if model.config.model_type == "llama":
        transformers.AttentionInterface.register(_CAUSAL, transformers.AttentionInterface()["sdpa"])
        model.set_attn_implementation(_CAUSAL)
    return model


def save(model: PreTrainedModel, folder: Path) -> None:
    """Writes config.json, generation_config.json and model.safetensors."""
    with quiet():
        model.save_pretrained(folder)
