"""The MemCube: one unit of memory, its header and its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from memos_core.namespace import Namespace


class Kind(StrEnum):
    """The three kinds of memory (paper §4.1)."""

    PLAINTEXT = "plaintext"
    ACTIVATION = "activation"
    PARAMETRIC = "parametric"


class State(StrEnum):
    """Where a cube is in its life (paper §5.4)."""

    GENERATED = "generated"
    ACTIVATED = "activated"
    MERGED = "merged"
    ARCHIVED = "archived"
    EXPIRED = "expired"
    FROZEN = "frozen"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a cube came from (the paper's origin signature).

    ``message_ids`` are the conversation turns it was read from, first the one whose words it says,
    and ``sessions`` are theirs where they are several; ``restored_from`` is the version that
    ``restore`` brought back to make this one. ``watermark`` is what was written into it when it
    was exported to where it came from. A copy of what another tenant published names its
    ``publisher``, ``channel`` and ``licence``.
    """

    source: str | None = None
    created_by: str | None = None
    message_ids: tuple[str, ...] = ()
    sessions: tuple[str | None, ...] = ()
    session: str | None = None
    speaker: str | None = None
    role: str | None = None
    said_at: datetime | None = None
    restored_from: int | None = None
    watermark: str | None = None
    publisher: str | None = None
    channel: str | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Governance:
    """Who holds a cube, for how long it lives, and how much it matters (paper §4.2)."""

    owner: str | None = None
    expires_at: datetime | None = None
    priority: int = 0
    sensitivity: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """How often a cube was returned by ``get`` and ``search``, and when last."""

    reads: int
    last_read_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MemCube:
    """One memory at one version: an immutable value, a change is a new version.

    ``created_at`` is when the memory was first stored, ``updated_at`` when this version was.
    ``valid_from`` and ``valid_to`` bound when it is true in the world. ``usage`` is filled by
    ``get`` and is None elsewhere: counting the log is not free.
    """

    id: UUID
    namespace: Namespace
    kind: Kind
    state: State
    version: int
    text: str
    semantic_type: str
    tags: tuple[str, ...]
    metadata: Mapping[str, object]
    provenance: Provenance
    governance: Governance
    created_at: datetime
    updated_at: datetime
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    usage: Usage | None = None
