"""Conversation turns, as they stand in the message log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation.

    ``id`` is unique in its namespace and makes ``ingest`` idempotent. ``metadata`` is whatever
    the caller stored with it. A forgotten message keeps its id and its place and nothing else.
    """

    id: str
    role: str
    content: str
    name: str | None = None
    created_at: datetime | None = None
    session: str | None = None
    metadata: Mapping[str, object]
    forgotten: bool = False
