"""What a KV cache depends on beside its tokens."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
import xxhash

from memos_core.model.architecture import text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIBRARY_FORMAT = 1  # of what is computed: raise it where the same tokens would give other tensors
# What of a configuration decides the keys and values beside weights: how far and how layers look.
_SHAPING = (
    "rope_parameters",
    "partial_rotary_factor",
    "layer_types",
    "sliding_window",
    "attention_chunk_size",
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "scale_attn_by_inverse_layer_idx",
    "no_rope_layers",
)
# SDPA and FlashAttention may leave out what these ask for, so there the implementation matters.
_SOFTENING = ("attn_logit_softcapping",)


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """A model, its adapter, and how prompts are made for it; equal ones give equal caches."""

    format: int
    architecture: str
    revision: str | None
    weights: str
    adapter: str | None
    dtype: str
    attention: str | None
    shape: str
    layout: str

    @cached_property
    def key(self) -> str:
        """A digest of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, object]:
        """Return it as it is stored."""
        return asdict(self)

    def differences(self, stored: Mapping[str, object]) -> list[str]:
        """Return in what a stored one differs, in words."""
        return [
            f"its {_NAMES[name]} is {stored.get(name)!r}, not {ours!r}"
            for name, ours in asdict(self).items()
            if stored.get(name) != ours
        ]


_NAMES = {
    "format": "format of this library",
    "architecture": "architecture",
    "revision": "revision",
    "weights": "checksum of the weights",
    "adapter": "adapter",
    "dtype": "dtype",
    "attention": "attention implementation",
    "shape": "RoPE and window settings",
    "layout": "tokenizer or chat template",
}


class Fingerprinted:
    """A model whose fingerprint is always that of what it is now.

    The checksum reads all weights (some 5 GB/s), so it is taken anew only where tensors were
    replaced or written to since, which costs microseconds to see.
    """

    def __init__(self, model: PreTrainedModel, layout: str) -> None:
        self._model = model
        self._layout = layout
        self._lock = threading.Lock()
        self._seen: object = None
        self._weights = ""

    def now(self) -> Fingerprint:
        """Return the fingerprint."""
        model, config = self._model, text_config(self._model)
        with self._lock:
            seen = [_state(tensor) for _, tensor in _tensors(model)]
            if seen != self._seen:
                self._weights, self._seen = _checksum(model), seen
            weights = self._weights
        softened = any(getattr(config, name, None) for name in _SOFTENING)
        shape = {name: getattr(config, name, None) for name in _SHAPING}
        return Fingerprint(
            format=LIBRARY_FORMAT,
            architecture=type(model).__name__,
            revision=getattr(model.config, "_commit_hash", None),
            weights=weights,
            adapter=_adapter(model),
            dtype=str(model.dtype).removeprefix("torch."),
            attention=config._attn_implementation if softened else None,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            shape=json.dumps(shape, sort_keys=True, default=str),
            layout=self._layout,
        )


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    written = 0 if tensor.is_inference() else tensor._version  # noqa: SLF001
    return tensor.data_ptr(), written


@torch.no_grad()
def _checksum(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model)):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
        digest.update(xxhash.xxh3_128_digest(data.tobytes()))
    return digest.hexdigest()


def _adapter(model: PreTrainedModel) -> str | None:
    """Return which adapters are at work and how strongly; their weights are among the weights."""
    layers: list[str] = []
    for name, layer in cast("Iterator[tuple[str, Any]]", model.named_modules()):
        if not hasattr(layer, "lora_A"):
            continue
        at_work = [] if layer.disable_adapters else list(layer.active_adapters)
        scales = {adapter: layer.scaling.get(adapter) for adapter in at_work}
        layers.append(f"{name} {scales} {list(layer.merged_adapters)}")
    if not layers:
        return None
    return hashlib.sha256("\n".join(layers).encode()).hexdigest()
