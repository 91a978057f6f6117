"""Channels: cubes that one tenant publishes and others take (the paper's MemStore)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from memos_core.namespace import Namespace
from memos_core.sensitivity import Action, Sensitive


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """Which cubes are meant: those with all these tags, of this type, and whose metadata fits.

    ``conditions`` is a metadata filter as JSON, None for none.
    """

    tags: tuple[str, ...] = ()
    semantic_type: str | None = None
    conditions: str | None = None

    def __and__(self, other: Matching) -> Matching | None:
        """Return what both mean, None where that is nothing."""
        types = {self.semantic_type, other.semantic_type} - {None}
        if len(types) > 1:
            return None
        conditions = [
            condition for one in (self, other) for condition in json.loads(one.conditions or "[]")
        ]
        return Matching(
            tags=tuple(dict.fromkeys((*self.tags, *other.tags))),
            semantic_type=types.pop() if types else None,
            conditions=json.dumps(conditions, ensure_ascii=False) if conditions else None,
        )

    def as_json(self) -> str:
        """Return it as JSON."""
        values = {
            "tags": self.tags,
            "semantic_type": self.semantic_type,
            "conditions": self.conditions,
        }
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Matching:
        """Return what ``as_json`` made of it."""
        return cls(
            tags=tuple(cast("list[str]", values["tags"])),
            semantic_type=values["semantic_type"],
            conditions=values["conditions"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """Cubes that a tenant offers in a channel, now and as long as it stands.

    ``mask`` tells what is hidden in each copy, or keeps a cube from being delivered. ``tenants``
    None is every tenant of the database; the subscriber's context must hold all of ``condition``.
    """

    id: UUID
    namespace: Namespace
    channel: str
    matching: Matching
    licence: str | None
    watermark: str | None
    mask: Mapping[Sensitive, Action]
    region: str | None
    tenants: tuple[str, ...] | None
    condition: Mapping[str, object]
    published_at: datetime
    expires_at: datetime | None
    withdrawn_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscription:
    """That a namespace takes what is published in a channel, by one publisher or by any."""

    id: UUID
    namespace: Namespace
    channel: str
    publisher: str | None
    matching: Matching
    subscribed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncReport:
    """What ``sync`` brought: cubes of this view that are new, that changed, and that are gone.

    ``withheld`` counts cubes that match and hold what the publication's mask refuses, or what the
    rules of the subscriber's namespace do.
    """

    added: tuple[UUID, ...] = ()
    updated: tuple[UUID, ...] = ()
    withdrawn: tuple[UUID, ...] = ()
    withheld: int = 0

    def __bool__(self) -> bool:
        """Tell whether anything changed."""
        return bool(self.added or self.updated or self.withdrawn)

    def __add__(self, other: SyncReport) -> SyncReport:
        """Return what two syncs brought."""
        return SyncReport(
            added=self.added + other.added,
            updated=self.updated + other.updated,
            withdrawn=self.withdrawn + other.withdrawn,
            withheld=self.withheld + other.withheld,
        )
