"""Which models have a KV cache that can be kept, and for how many tokens it holds."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from memos_core.errors import ModelUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_GROWING = {"dynamic", "longrope"}  # their angles depend on how long the whole text is


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of a model's decoder."""
    return cast("Any", model.config).get_text_config(decoder=True)


def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether a model is told where tokens stand, and does not count what is before them."""
    inner = cast("Any", model)
    if hasattr(inner, "get_base_model"):  # PEFT's wrapper passes on what it does not name
        inner = inner.get_base_model()
    return "position_ids" in inspect.signature(inner.forward).parameters


def check_keeps_keys(model: PreTrainedModel) -> None:
    """Refuse a model whose memory of a text is not keys and values for each token of it.

    A recurrent state (Mamba, linear attention) stands for all that was read so far: it can neither
    be shared in part nor continued exactly.

    Raises:
        ModelUnsupported: it is such a model, it has an encoder, or its cache is of no use.
    """
    config, name = text_config(model), type(model).__name__
    if model.config.is_encoder_decoder:
        raise ModelUnsupported(f"{name} has an encoder: only causal language models have a prefix")
    if not cast("Any", model)._supports_default_dynamic_cache():  # noqa: SLF001
        raise ModelUnsupported(_why(name, "its state is not kept in transformers' DynamicCache"))
    if len({parameter.device for parameter in model.parameters()}) > 1:
        raise ModelUnsupported(_why(name, "its layers lie on several devices"))
    if config.model_type == "mpt":  # its ``generate`` of transformers, given a cache
        raise ModelUnsupported(_why(name, "it says something else once it is given a cache"))
    if any(of.is_prompt_learning for of in getattr(model, "peft_config", {}).values()):
        raise ModelUnsupported(_why(name, "its adapter is a prompt, which stands before all text"))
    if getattr(config, "num_kv_shared_layers", 0):
        raise ModelUnsupported(_why(name, "it has layers that share the keys of others"))
    # By their exact class: hybrids are subclasses that keep a recurrent state beside.
    others = sorted(
        {
            kind
            for kind, layer in zip(
                _layer_types(config), DynamicCache(config=config).layers, strict=False
            )
            if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)
        }
    )
    if others or getattr(model, "_is_stateful", False):
        raise ModelUnsupported(_why(name, f"it has layers of {', '.join(others) or 'a state'}"))
    if not _cached_layers(model):
        raise ModelUnsupported(_why(name, "it leaves nothing in transformers' DynamicCache"))


def context_window(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a model can read at once, None where its configuration is silent."""
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        if isinstance(limit := getattr(config, name, None), int):
            return limit
    return None


def stable_length(config: PreTrainedConfig) -> int | None:
    """Return up to how many tokens in all a prefix keeps its keys; None is without limit.

    With dynamic NTK and LongRoPE scaling the rotation of every key changes once a text is longer
    than what the model was trained on (transformers, ``modeling_rope_utils``).
    """
    limits = [
        parameters.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or context_window(config)
        for parameters in _rope(config)
        if parameters.get("rope_type") in _GROWING
    ]
    return min((int(limit) for limit in limits if limit), default=None)


@torch.inference_mode()
def _cached_layers(model: PreTrainedModel) -> int:
    """Return how many layers keep keys and values, once a token was read."""
    cache, token = DynamicCache(), torch.zeros((1, 1), dtype=torch.long, device=model.device)
    place = {"position_ids": torch.zeros_like(token)} if takes_positions(model) else {}
    model(input_ids=token, **place, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return len(cache.layers)


def _rope(config: PreTrainedConfig) -> Iterable[Mapping[str, Any]]:
    """Return the RoPE parameters of a model: one set, or one for each type of layer."""
    given = cast("Mapping[str, Any]", getattr(config, "rope_parameters", None) or {})
    if "rope_type" in given or "rope_theta" in given:
        return [given]
    return [cast("Mapping[str, Any]", of) for of in given.values() if isinstance(of, Mapping)]


def _layer_types(config: PreTrainedConfig) -> list[str]:
    types = cast("list[str] | None", getattr(config, "layer_types", None))
    return types or ["another kind"] * int(config.num_hidden_layers)


def _why(name: str, reason: str) -> str:
    return (
        f"{name} has no KV cache that could be kept: {reason}; give it its memory as text "
        "(MemoryModel(..., kinds=['plaintext']))"
    )
