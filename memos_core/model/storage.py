"""Run files with tensors: written whole, mapped into memory, and checked."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import (
    save_file,  # pyright: ignore[reportUnknownVariableType] its paths have no types
)

from memos_core.errors import CacheCorrupt
from memos_core.model.kv_cache import KVCache
from memos_core.model.quantization import Quantization, pack, unpack
from memos_core.tensor_files import RunFile, TensorFiles


def write(
    files: TensorFiles,
    keys: Sequence[str],
    tokens: Sequence[int],
    cache: KVCache,
    how: Quantization,
) -> RunFile:
    """Store a run of memories.

    Raises:
        CacheNotWritten: the disk is full, or the folder cannot be written.
    """

    def save(path: Path, details: dict[str, str]) -> str:
        tensors = {name: tensor.cpu() for name, tensor in pack(cache, how).items()}
        try:
            save_file(tensors, path, metadata=details)
        except SafetensorError as error:  # what the operating system said, in its words
            raise OSError(str(error)) from error
        return _digest(path)

    return files.write(keys, tokens, storage=how.value, save=save)


def mapped(file: RunFile, dtype: torch.dtype, *, checked: bool) -> KVCache:
    """Return what a file holds, mapped: no byte of it is read before it is needed.

    Where it is not ``checked`` yet, all of it is read once to compare its checksum. What was
    quantised is unpacked into memory.

    Raises:
        CacheCorrupt: it is cut short, altered, or not what its header says.
    """
    try:
        if not checked and _digest(file.path) != file.digest:
            raise CacheCorrupt(f"{file.path} was cut short or altered")
        with cast("Any", safe_open)(file.path, "pt") as opened:
            names = cast("list[str]", opened.keys())
            tensors: dict[str, torch.Tensor] = {name: opened.get_tensor(name) for name in names}
        cache = unpack(tensors, Quantization(file.storage), dtype)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CacheCorrupt(f"{file.path} cannot be read: {error}") from error
    if cache.tokens != sum(file.tokens):
        raise CacheCorrupt(f"{file.path} holds {cache.tokens} tokens, not {sum(file.tokens)}")
    return cache


def _digest(path: Path) -> str:
    """Return the XXH3 checksum of a file, which is read at some 8 GB/s."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return xxhash.xxh3_128_hexdigest(data)
