"""What a KV cache depends on beside its tokens."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
import xxhash

from memos_core.model.architecture import stable_length, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIBRARY_FORMAT = 2  # of what is computed: raise it where the same tokens would give other tensors
# What of a configuration says nothing of keys and values: names, labels, and how answers are made.
_SILENT = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "decoder_start_token_id",
    "dtype",  # stands for itself
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "transformers_version",
    "use_cache",
}
# SDPA and FlashAttention may leave out what these ask for, so there the implementation matters.
_SOFTENING = ("attn_logit_softcapping",)
_SAMPLE = 64  # bytes of each tensor that are compared at each use


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
    config: str
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
        if (theirs := stored.get("format")) != self.format:
            return [f"its {_NAMES['format']} is {theirs!r}, not {self.format!r}"]
        ours, theirs = self._named(asdict(self)), self._named(stored)
        return [
            f"its {name} is {theirs.get(name)!r}, not {ours.get(name)!r}"
            for name in ours | theirs
            if ours.get(name) != theirs.get(name)
        ]

    @staticmethod
    def _named(stored: Mapping[str, object]) -> dict[str, object]:
        """Return the parts by their names, the configuration taken apart."""
        config = cast("dict[str, object]", json.loads(str(stored["config"])))
        return {
            **{name: stored.get(part) for part, name in _NAMES.items()},
            **{f"configuration's {name}": value for name, value in config.items()},
        }


_NAMES = {
    "format": "format of this library",
    "architecture": "architecture",
    "revision": "revision",
    "weights": "checksum of the weights",
    "adapter": "adapter",
    "dtype": "dtype",
    "attention": "attention implementation",
    "layout": "tokenizer or chat template",
}


class Fingerprinted:
    """A model whose fingerprint is always that of what it is now.

    The checksum reads all weights (some 5 GB/s), so it is taken anew only where a tensor was
    replaced or written to since. PyTorch counts what is written, but not through ``tensor.data``: a
    sample of each tensor shows that, unless it was a few of its numbers alone.
    """

    def __init__(self, model: PreTrainedModel, layout: str) -> None:
        self._model = model
        self._layout = layout
        self._lock = threading.Lock()
        self._seen: object = None
        self._sampled = b""
        self._samples: list[torch.Tensor] = []  # which see what is written to the tensors
        self._weights = ""

    def now(self) -> Fingerprint:
        """Return the fingerprint."""
        model, config = self._model, text_config(self._model)
        with self._lock:
            seen = [_state(tensor) for _, tensor in _tensors(model)]
            if seen != self._seen:
                self._samples = [_sample(tensor) for _, tensor in _tensors(model)]
            sampled = _bytes_of(self._samples)
            if (seen, sampled) != (self._seen, self._sampled):
                self._weights, self._seen, self._sampled = _checksum(model), seen, sampled
            weights = self._weights
        softened = any(getattr(config, name, None) for name in _SOFTENING)
        shaping = {key: value for key, value in config.to_dict().items() if key not in _SILENT}
        return Fingerprint(
            format=LIBRARY_FORMAT,
            architecture=type(model).__name__,
            revision=getattr(model.config, "_commit_hash", None),
            weights=weights,
            adapter=_adapter(model),
            dtype=str(model.dtype).removeprefix("torch."),
            attention=config._attn_implementation if softened else None,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            config=json.dumps(shaping, sort_keys=True, default=str),
            layout=self._layout,
        )


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    grows = stable_length(text_config(model)) is not None
    for name, buffer in model.named_buffers():
        # What a model turns by the length of each text, and back; its original stays.
        if not (grows and name.endswith("inv_freq") and not name.endswith("original_inv_freq")):
            yield name, buffer


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    written = 0 if tensor.is_inference() else tensor._version  # noqa: SLF001
    return tensor.data_ptr(), written


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of some bytes of a tensor, from its beginning to its end."""
    storage = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    whole = storage.set_(tensor.untyped_storage())
    start = tensor.storage_offset() * tensor.element_size()
    part = whole[start : start + tensor.numel() * tensor.element_size()]
    # An odd step, so that they are not all the same byte of their numbers.
    return part[:: max(1, len(part) // _SAMPLE) | 1]


def _bytes_of(samples: Sequence[torch.Tensor]) -> bytes:
    """Return what samples show, copied from each device at once."""
    devices = dict.fromkeys(sample.device for sample in samples)
    return b"".join(
        torch.cat([sample for sample in samples if sample.device == device]).cpu().numpy().tobytes()
        for device in devices
    )


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
        if not hasattr(layer, "adapter_layer_names"):  # that PEFT's layers have, of any method
            continue
        at_work = [] if layer.disable_adapters else list(layer.active_adapters)
        named = {setting: getattr(layer, setting, None) for setting in layer.other_param_names}
        settings = {
            setting: [cast("dict[str, object]", values).get(adapter) for adapter in at_work]
            for setting, values in named.items()
            if isinstance(values, dict)
        }
        layers.append(f"{name} {at_work} {settings} {list(layer.merged_adapters)}")
    if not layers:
        return None
    return hashlib.sha256("\n".join(layers).encode()).hexdigest()
