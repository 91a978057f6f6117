"""Long arrays as parameters of statements; ``binary`` says how they travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from memos_core.embedder import Vectors


@dataclass(frozen=True, slots=True)
class HalfVectors:
    """Vectors of one width, as a ``halfvec[]``."""

    vectors: Vectors


@dataclass(frozen=True, slots=True)
class HalfVector:
    """A ``halfvec`` that is in binary form already."""

    vector: bytes


@dataclass(frozen=True, slots=True)
class SparseVector:
    """A ``sparsevec`` that is in binary form already."""

    vector: bytes


@dataclass(frozen=True, slots=True)
class SparseVectors:
    """Several, as a ``sparsevec[]``."""

    vectors: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Uuids:
    """Ids, as a ``uuid[]``."""

    ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, as a ``text[]``."""

    texts: Sequence[str]
