"""KV caches in fewer bits, for storage: how their tensors are packed, and read back.

None of this is exact, and all of it is opt-in: what a packed cache changes in a model's logits is
measured (``model/verification.py``) and written beside the cube.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import torch
from torch.nn.functional import pad

from memos_core.model.kv_cache import KVCache, Layer

GROUP = 32  # numbers that share a scale in 4 bits, as in KIVI (arXiv 2402.02750)
_MOST_4, _MOST_8 = 15, 127
_TOKENS, _CHANNELS = -2, -1  # axes
_HALF = torch.float16  # of scales: 11 bits of precision, and no scale comes near its range


class Quantization(StrEnum):
    """How the numbers of a KV cache are stored.

    Bytes are those of a head 64 wide; what was float32 becomes 3.9 times smaller in ``int8`` and
    at best 6.4 times in ``int4``, what was bfloat16 1.9 and 3.2 times. Each memory begins groups of
    its own, so that in ``int4`` short ones take more.
    """

    NONE = "none"  # as they are
    INT8 = "int8"  # 8 bits, one scale for each token and head: 66 bytes instead of 256
    INT4 = "int4"  # 4 bits, a scale and a least value for 32 numbers: 40 bytes instead of 256


def pack(
    cache: KVCache, how: Quantization, runs: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """Return a cache as named contiguous tensors, which safetensors can store.

    ``runs`` are how many tokens each of its memories has: what one is packed as depends on no
    other, so that it is the same wherever a file begins.

    ``none``: ``keys.0`` and ``values.0`` are those of the first layer, as they are.

    ``int8``: they are int8, of the same shape, and ``keys.0.scales`` (float16, 1 wide) is the
    largest number of each token and head, divided by 127: a number is its code times the scale.

    ``int4`` is asymmetric, as KIVI (arXiv 2402.02750, section 3): keys share a scale per channel,
    of 32 tokens that follow each other in a run, for some channels of keys are large in all tokens;
    values per token, of 32 channels. ``keys.0`` has two codes a byte (uint8), the even channel in
    its low four bits; a number is its code times ``keys.0.scales`` plus ``keys.0.least`` (both
    float16).
    ``widths`` (int32, 2 for each layer) says how many channels keys and values have: an odd last
    one shares its byte with nothing.
    """
    if how is Quantization.NONE:
        return {
            name: tensor.contiguous()
            for layer, pair in enumerate(cache.layers)
            for name, tensor in zip(_names(layer), pair, strict=True)
        }
    packed: dict[str, torch.Tensor] = {}
    for layer, (keys, values) in enumerate(cache.layers):
        for name, tensor, axis in zip(
            _names(layer), (keys, values), (_TOKENS, _CHANNELS), strict=True
        ):
            numbers = tensor.float()
            if how is Quantization.INT8:
                packed[name], packed[f"{name}.scales"] = _in_8(numbers)
            else:
                along = runs if runs and axis == _TOKENS else [numbers.shape[axis]]
                packed[name], packed[f"{name}.scales"], packed[f"{name}.least"] = _in_4(
                    numbers, axis, along
                )
    if how is Quantization.INT4:
        widths = [[keys.shape[-1], values.shape[-1]] for keys, values in cache.layers]
        packed["widths"] = torch.tensor(widths, dtype=torch.int32)
    return packed


def unpack(
    tensors: Mapping[str, torch.Tensor],
    how: Quantization,
    dtype: torch.dtype,
    runs: Sequence[int] | None = None,
) -> KVCache:
    """Return the cache that was packed in ``runs``, of the shapes that it had, in ``dtype``.

    Raises:
        KeyError: a tensor is missing.
        ValueError: there is no layer, or one that was stored as it is has another dtype.
    """
    count = sum(name.startswith("keys.") and name.count(".") == 1 for name in tensors)
    if not count:
        raise ValueError("there are no layers")
    return KVCache(tuple(_layer(tensors, layer, how, dtype, runs) for layer in range(count)))


def _layer(
    tensors: Mapping[str, torch.Tensor],
    layer: int,
    how: Quantization,
    dtype: torch.dtype,
    runs: Sequence[int] | None,
) -> Layer:
    read: list[torch.Tensor] = []
    for part, name in enumerate(_names(layer)):
        if how is Quantization.NONE:
            if tensors[name].dtype != dtype:
                raise ValueError(f"{name} is stored as {tensors[name].dtype}, not {dtype}")
            read.append(tensors[name])
        elif how is Quantization.INT8:
            read.append((tensors[name].float() * tensors[f"{name}.scales"].float()).to(dtype))
        else:
            width = int(tensors["widths"][layer, part])
            scales, least = tensors[f"{name}.scales"].float(), tensors[f"{name}.least"].float()
            axis = (_TOKENS, _CHANNELS)[part]
            whole = [(tensors[name].shape[_TOKENS], width)[part]]
            along = runs if runs and axis == _TOKENS else whole
            numbers = _from_4(tensors[name], width, scales, least, axis=axis, runs=along)
            read.append(numbers.to(dtype))
    return read[0], read[1]


def _names(layer: int) -> tuple[str, str]:
    return f"keys.{layer}", f"values.{layer}"


def _in_8(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes and scales of numbers, of which the last axis shares a scale."""
    scales = (numbers.abs().amax(-1, keepdim=True) / _MOST_8).to(_HALF)
    codes = _divided(numbers, scales.float()).round().clamp(-_MOST_8, _MOST_8)
    return codes.to(torch.int8), scales


def _in_4(
    numbers: torch.Tensor, axis: int, runs: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the packed codes, scales and least values; groups lie along ``axis``, in runs."""
    sizes = _sizes(runs)
    groups = torch.split(numbers, sizes, axis)
    least = torch.cat([group.amin(axis, keepdim=True) for group in groups], axis).to(_HALF)
    most = torch.cat([group.amax(axis, keepdim=True) for group in groups], axis)
    scales = ((most - least.float()).clamp(min=0) / _MOST_4).to(_HALF)
    rest = numbers - _spread(least.float(), sizes, axis)
    codes = _divided(rest, _spread(scales.float(), sizes, axis)).round().clamp(0, _MOST_4)
    codes = pad(codes.to(torch.uint8), (0, numbers.shape[-1] % 2))
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales, least


def _from_4(
    packed: torch.Tensor,
    width: int,
    scales: torch.Tensor,
    least: torch.Tensor,
    *,
    axis: int,
    runs: Sequence[int],
) -> torch.Tensor:
    """Return the numbers that were packed, in float32."""
    codes = torch.stack((packed & _MOST_4, packed >> 4), dim=-1).flatten(-2)[..., :width].float()
    sizes = _sizes(runs)
    return codes * _spread(scales, sizes, axis) + _spread(least, sizes, axis)


def _sizes(runs: Sequence[int]) -> list[int]:
    """Return how many numbers each group of runs has: 32, and fewer where a run ends."""
    return [min(GROUP, run - first) for run in runs for first in range(0, run, GROUP)]


def _spread(of_groups: torch.Tensor, sizes: Sequence[int], axis: int) -> torch.Tensor:
    """Return what is said once for each group once for each of its numbers."""
    return of_groups.repeat_interleave(torch.tensor(sizes, device=of_groups.device), axis)


def _divided(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return numbers divided by their scales: 0 where all are too small to have one."""
    return torch.where(scales > 0, numbers / scales, 0.0)
