"""Memories in the artifacts of our tools' answers, which a conversation keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from langchain_core.messages import ToolMessage

from memos_core import Hit, MemCube
from memos_langchain.documents import document

_MEMORIES = "memos_memories"  # of an artifact: the memories that a tool showed or changed


def artifact_of(memories: Iterable[Hit | MemCube]) -> dict[str, Any]:
    """Return memories as plain JSON, which a checkpoint keeps as it is."""
    kept = {"id", "page_content", "metadata"}
    return {_MEMORIES: [document(memory).model_dump(include=kept) for memory in memories]}


def shows_memories(message: object) -> bool:
    """Tell whether a message is what one of our tools answered."""
    return isinstance(message, ToolMessage) and _memories_in(message) is not None


def ids_in(messages: Iterable[object]) -> Iterator[UUID]:
    """Return the ids of the memories that messages show."""
    for message in messages:
        for memory in _memories_in(message) or ():
            yield UUID(memory["id"])


def _memories_in(message: object) -> Sequence[Mapping[str, Any]] | None:
    artifact: object = getattr(message, "artifact", None)
    if not isinstance(artifact, Mapping):
        return None
    return cast("Mapping[str, Any]", artifact).get(_MEMORIES)
