"""What an archive keeps of a memory: rows of the store, whole, as values.

``below`` are the labels of a namespace after those of the view that was dumped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memos_core.cube import Kind, State
from memos_core.governance import Right
from memos_core.lineage import Relation


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptCube:
    """One version of a cube.

    ``superseded_at`` is None for the version that stands. ``state`` is as it is stored: that a cube
    was read says ``activated_at``, which only a cube's last version has. ``content_version`` is the
    version at which it last came to say something else; ``derived`` that it was made of others;
    ``spoken`` that it stands where the first of its messages stands. ``provenance`` are JSON
    values, without the messages.
    """

    id: UUID
    below: tuple[str, ...]
    kind: Kind
    state: State
    version: int
    content_version: int
    derived: bool
    spoken: bool
    text: str
    semantic_type: str
    tags: tuple[str, ...]
    metadata: Mapping[str, object]
    provenance: Mapping[str, object]
    message_ids: tuple[str, ...]
    owner: str | None
    priority: int
    sensitivity: tuple[str, ...]
    valid_from: datetime | None
    valid_to: datetime | None
    created_at: datetime
    recorded_at: datetime
    expires_at: datetime | None
    superseded_at: datetime | None
    activated_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptMessage:
    """One turn: ``created_at`` by the speaker's clock, ``unread`` until cubes were made of it."""

    below: tuple[str, ...]
    id: str
    session: str | None
    role: str
    name: str | None
    content: str
    metadata: Mapping[str, object]
    extra: Mapping[str, object]
    created_at: datetime | None
    created_by: str | None
    recorded_at: datetime
    unread: bool
    retired_at: datetime | None
    forgotten_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptEdge:
    """What a cube is to another, in the order of ``position``.

    Without a ``relation`` it was made of something that was made of the other, at ``version``.
    """

    child: UUID
    parent: UUID
    relation: Relation | None
    version: int
    position: int
    recorded_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptGrant:
    """One rule; see ``Grant``."""

    id: UUID
    below: tuple[str, ...]
    cube: UUID | None
    tag: str | None
    owner: str | None
    user: str | None
    role: str | None
    rights: tuple[Right, ...]
    condition: Mapping[str, object]
    expires_at: datetime | None
    granted_by: str | None
    granted_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptEvent:
    """One line of the audit log; ``caller`` are JSON values."""

    id: int
    at: datetime
    kind: str
    below: tuple[str, ...]
    caller: Mapping[str, object] | None
    cubes: tuple[UUID, ...]
    details: Mapping[str, object]
