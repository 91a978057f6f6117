"""Who asks, and who may do what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from memos_core.checks import checked_key, checked_metadata, checked_tags
from memos_core.namespace import Namespace


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, and in what context; recorded with every event and as the owner of new cubes.

    A caller may do everything with cubes that are his own, may read and use those that nobody owns,
    and may do what he was granted. Where nobody asks by name, it is the application, which may do
    everything in its view.
    """

    user: str
    roles: tuple[str, ...] = ()
    context: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Check that the log can hold it.

        Raises:
            InvalidInput: a value that cannot be stored.
        """
        checked_key(self.user, what="a caller's user")
        object.__setattr__(self, "roles", checked_tags(self.roles, what="role"))
        checked_metadata(self.context)


class Right(StrEnum):
    """What may be done with a cube: ``share`` is to grant others what one may do oneself."""

    READ = "read"
    WRITE = "write"
    SHARE = "share"
    DERIVE = "derive"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """That somebody may do something: ``user``, all who have ``role``, or else everyone.

    It is about ``cube``, or about all with ``tag``, or about all, in ``namespace`` and below; only
    about those of ``owner`` where that is named. It is in force until ``expires_at``, while the
    caller's context holds all that is in ``condition``.
    """

    id: UUID
    namespace: Namespace
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
