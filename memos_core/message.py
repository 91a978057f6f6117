"""Conversation turns, as they stand in the message log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation.

    ``id`` is unique in its session and makes ``ingest`` idempotent. ``metadata`` is what the caller
    said of it, ``extra`` what else the message held, such as tool calls. ``created_by`` is who
    stored it. A forgotten message keeps its id and its place and nothing else; a retired one is no
    longer part of its session's history.
    """

    id: str
    role: str
    content: str
    name: str | None = None
    created_at: datetime | None = None
    session: str | None = None
    metadata: Mapping[str, object]
    extra: Mapping[str, object]
    created_by: str | None = None
    retired: bool = False
    forgotten: bool = False
