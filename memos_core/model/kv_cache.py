"""Keys and values of a run of tokens, and the caches that requests are given of them.

They are computed and kept without the model's sliding windows: a window is a matter of the mask,
and a cache that dropped what lies behind it could be neither cut nor continued elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from memos_core.model.architecture import takes_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Layer = tuple[torch.Tensor, torch.Tensor]
CHUNK = 2_048  # tokens that are prefilled at once: what a forward pass holds grows with them


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """The keys and values that a run of tokens left in each layer, each of shape (1, heads, n, d).

    They are shared by all that read them and never changed. What is ``partial`` lies in tensors of
    more tokens.
    """

    layers: tuple[Layer, ...]
    partial: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens it is of."""
        return self.layers[0][0].shape[-2]

    @property
    def nbytes(self) -> int:
        """How many bytes the tensors take."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    @property
    def dtype(self) -> torch.dtype:
        """What its numbers are stored as."""
        return self.layers[0][0].dtype

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.layers[0][0].device

    def part(self, start: int, stop: int | None = None) -> KVCache:
        """Return what the tokens from ``start`` to ``stop`` left, without a copy."""
        if start == 0 and stop in (None, self.tokens):
            return self
        return KVCache(
            tuple(
                (keys[..., start:stop, :], values[..., start:stop, :])
                for keys, values in self.layers
            ),
            partial=True,
        )

    def by_itself(self) -> KVCache:
        """Return it in tensors of no other token: a copy where it is a part."""
        if not self.partial:
            return self
        form = torch.contiguous_format
        return KVCache(
            tuple(
                (keys.clone(memory_format=form), values.clone(memory_format=form))
                for keys, values in self.layers
            )
        )

    def to(self, device: torch.device) -> KVCache:
        """Return it on a device; itself where it lies there."""
        if device == self.device:
            return self
        return KVCache(
            tuple(
                (keys.to(device, non_blocking=True), values.to(device, non_blocking=True))
                for keys, values in self.layers
            )
        )

    def request(self, rows: int = 1) -> DynamicCache:
        """Return a cache for one request of ``rows`` rows, which reads these tensors in place.

        What the request adds goes to tensors of its own: attention layers bind the concatenation.
        """
        cache = DynamicCache()
        for keys, values in self.layers:
            layer = DynamicLayer()
            layer.dtype, layer.device = keys.dtype, keys.device
            layer.keys = keys.expand(rows, -1, -1, -1)
            layer.values = values.expand(rows, -1, -1, -1)
            layer.is_initialized = True
            cache.layers.append(layer)
        return cache

    @classmethod
    def taken(cls, cache: Cache, start: int = 0) -> Self:
        """Return a copy of what a cache of one row holds from token ``start`` on."""
        layers = cast("Sequence[Any]", cache.layers)
        return cls(
            tuple(
                (
                    layer.keys[..., start:, :].contiguous(),
                    layer.values[..., start:, :].contiguous(),
                )
                for layer in layers
            )
        )

    @classmethod
    def joined(cls, parts: Sequence[KVCache]) -> KVCache:
        """Return runs that follow each other as one; the only one itself, without a copy."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            tuple(
                (
                    torch.cat([keys for keys, _ in layer], dim=-2),
                    torch.cat([values for _, values in layer], dim=-2),
                )
                for layer in zip(*(part.layers for part in parts), strict=True)
            )
        )


@torch.inference_mode()
def prefill(model: PreTrainedModel, ids: Sequence[int], past: KVCache | None = None) -> KVCache:
    """Return what ``ids`` leave after the tokens of ``past``: the keys and values of both."""
    cache = past.request() if past else DynamicCache()
    for start in range(0, len(ids), CHUNK):
        step(model, ids[start : start + CHUNK], cache, keep=1)
    return KVCache.taken(cache)


@torch.inference_mode()
def logits(model: PreTrainedModel, ids: Sequence[int], past: KVCache | None = None) -> torch.Tensor:
    """Return the logits after each of ``ids``, read after ``past``: (len(ids), vocabulary)."""
    return step(model, ids, past.request() if past else DynamicCache(), keep=len(ids)).float()


def step(model: PreTrainedModel, ids: Sequence[int], cache: Cache, *, keep: int) -> torch.Tensor:
    """Read ``ids`` after what a cache holds, into it, and return the logits after the last."""
    device, start = model.device, int(cache.get_seq_length())
    given: dict[str, Any] = {"input_ids": torch.tensor([list(ids)], device=device)}
    if takes_positions(model):  # as ``generate`` counts them: some models do otherwise themselves
        given["position_ids"] = torch.arange(start, start + len(ids), device=device)[None]
    return model(**given, past_key_values=cache, use_cache=True, logits_to_keep=keep).logits[0]
