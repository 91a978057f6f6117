"""What is stored of a KV cache beside its tensors, and memories as a model reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from memos_core.cube import MemCube


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheRecord:
    """Of which prompt beginning a KV cache is, and how it was found to be right.

    It was made of ``members``, in their order. ``keys`` stand for its runs of tokens, the prompt's
    head and then a memory each, and ``tokens`` are their lengths; ``fingerprint`` is the model's.
    ``report`` has the numbers of its verification.
    """

    members: tuple[UUID, ...]
    fingerprint: Mapping[str, object]
    keys: tuple[str, ...]
    tokens: tuple[int, ...]
    report: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """A memory as it stands, and what it was cached as.

    The memories of a KV cache (``cache``) are its ``members``, in its order; another cube is its
    own only one.
    """

    cube: MemCube
    members: tuple[MemCube, ...]
    cache: CacheRecord | None = None
