"""Run files with tensors: written whole, mapped into memory, and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import (
    save_file,  # pyright: ignore[reportUnknownVariableType] its paths have no types
)

from memos_core.errors import CacheCorrupt, CacheMismatch
from memos_core.model.kv_cache import KVCache
from memos_core.model.quantization import Quantization, pack, unpack
from memos_core.tensor_files import Draft, RunFile, TensorFiles

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}  # as safetensors names what a cache holds, packed or not


def draft(
    files: TensorFiles,
    keys: Sequence[str],
    tokens: Sequence[int],
    cache: KVCache,
    how: Quantization,
) -> Draft:
    """Write a run of memories, to be published.

    Raises:
        CacheNotWritten: the disk is full, or the folder cannot be written.
    """

    def save(path: Path, details: dict[str, str]) -> str:
        tensors = {name: tensor.cpu() for name, tensor in pack(cache, how, tokens).items()}
        try:
            save_file(tensors, path, metadata=details)
        except SafetensorError as error:  # what the operating system said, in its words
            raise OSError(str(error)) from error
        return _checksum(_mapped(path))

    return files.draft(keys, tokens, storage=how.value, save=save)


def mapped(file: RunFile, dtype: torch.dtype, *, checked: bool) -> KVCache:
    """Return what a file holds, mapped: no byte of it is read before it is needed.

    Where it is not ``checked`` yet, all of it is read once to compare its checksum. What was
    quantised is unpacked into memory.

    Raises:
        CacheCorrupt: it is cut short, altered, or not what its header says.
        CacheMismatch: it is stored in another dtype.
        OSError: it cannot be read now, which says nothing about what is in it.
    """
    data = _mapped(file.path)
    if not checked and _checksum(data) != file.digest:
        raise CacheCorrupt(f"{file.path} was cut short or altered")
    try:
        how, tensors = Quantization(file.storage), _tensors(data)
        stored = {tensor.dtype for tensor in tensors.values()}
        if how is Quantization.NONE and stored != {dtype}:
            raise CacheMismatch(f"it is stored in {stored}, not {dtype}")
        cache = unpack(tensors, how, dtype, file.tokens)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CacheCorrupt(f"{file.path} cannot be read: {error}") from error
    if cache.tokens != sum(file.tokens):
        raise CacheCorrupt(f"{file.path} holds {cache.tokens} tokens, not {sum(file.tokens)}")
    return cache


def _mapped(path: Path) -> torch.Tensor:
    """Return the bytes of a file, which the system reads when they are used."""
    size = path.stat().st_size
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except RuntimeError as error:  # what the operating system said, in its words
        raise OSError(str(error)) from error


def _checksum(data: torch.Tensor) -> str:
    """Return the XXH3 checksum of bytes, which is taken at some 8 GB/s."""
    return xxhash.xxh3_128_hexdigest(data.numpy().data)


def _tensors(data: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file as views of its bytes.

    ``safe_open`` maps a file once for each of its tensors, which takes longer than to read a small
    file. The format is described at https://huggingface.co/docs/safetensors: the length of the
    header, the header as JSON, and the tensors, to whose begin the offsets are relative.
    """
    start = 8 + int.from_bytes(bytes(data[:8].numpy()), "little")
    header = json.loads(bytes(data[8:start].numpy()))
    del header["__metadata__"]
    tensors: dict[str, torch.Tensor] = {}
    for name, said in header.items():
        first, end = said["data_offsets"]
        part = data[start + first : start + end].view(_DTYPES[said["dtype"]])
        tensors[name] = part.view(said["shape"])
    return tensors
