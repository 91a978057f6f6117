"""What other memory layers write to files: LangGraph's store, mem0, LlamaIndex's chat store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, cast
from uuid import NAMESPACE_URL, UUID, uuid5

from memos_core.errors import InvalidInput

# Under these keys LangGraph's documents, LangMem and its agents keep a memory's text.
_TEXT_KEYS = ("text", "content", "memory", "data")
_SCOPES = ("user_id", "agent_id", "run_id", "app_id", "actor_id")  # of mem0, beside the metadata


class Format(StrEnum):
    """Who wrote a file."""

    LANGGRAPH = "langgraph"
    MEM0 = "mem0"
    LLAMAINDEX = "llamaindex"


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignMemory:
    """A memory of another layer: where it lies below the view, under which id, and what it says."""

    id: UUID
    text: str
    below: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    valid_from: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """What a file holds: memories, and messages by session as ``ingest`` takes them.

    ``skipped`` counts what is in it and says nothing.
    """

    format: Format
    memories: Sequence[ForeignMemory] = ()
    messages: Sequence[dict[str, Any]] = ()
    skipped: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """What was taken from a file: new cubes, and what was there already or says nothing."""

    format: Format
    cubes: tuple[UUID, ...]
    skipped: int


def read_file(path: Path, format: Format | None) -> Foreign:
    """Read a file of another memory layer; without ``format`` it is recognised.

    Raises:
        InvalidInput: it cannot be read, or is none of these.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    try:
        value = _parsed(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is neither JSON nor JSON Lines: {error}") from error
    found = format or _recognised(value)
    if found is None:
        raise InvalidInput(
            f"{path} is no dump of LangGraph's store (items with namespace, key and value), no "
            "export of mem0 (results with id and memory) and no persisted chat store of LlamaIndex"
        )
    try:
        return _READERS[found](value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{path} is no file of {found} as we know it: {error}") from error


def _parsed(text: str) -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return json.loads(value) if isinstance(value, str) else value  # an older LlamaIndex quotes it


def _recognised(value: object) -> Format | None:
    if isinstance(value, Mapping):
        record = cast("Mapping[str, object]", value)
        if record.get("class_name") == "SimpleChatStore":
            return Format.LLAMAINDEX
        value = record.get("results")
    first = next(iter(cast("list[object]", value)), None) if isinstance(value, list) else None
    if not isinstance(first, Mapping):
        return None
    keys = cast("Mapping[str, object]", first).keys()
    if keys >= {"id", "memory"}:
        return Format.MEM0
    return Format.LANGGRAPH if keys >= {"key", "value"} else None


# --- LangGraph: items as Item.dict() gives them, or rows of PostgresStore's table -----------------


def _langgraph(value: object) -> Foreign:
    memories: list[ForeignMemory] = []
    skipped = 0
    for item in _records(value):
        below = item["namespace"] if "namespace" in item else item["prefix"].split(".")
        content = cast("Mapping[str, Any]", item["value"])
        text = _text_in(content)
        if not text:
            skipped += 1
            continue
        memories.append(
            ForeignMemory(
                id=uuid5(NAMESPACE_URL, json.dumps(["langgraph", *below, item["key"]])),
                text=text,
                below=tuple(below),
                metadata={**content, "key": item["key"]},
                valid_from=_time(item.get("created_at")),
            )
        )
    return Foreign(format=Format.LANGGRAPH, memories=memories, skipped=skipped)


def _text_in(content: Mapping[str, Any]) -> str:
    """Return the text of an item, else all it holds as JSON."""
    for key in _TEXT_KEYS:
        inner: object = content.get(key)
        if isinstance(inner, Mapping):  # LangMem: {"kind": "Memory", "content": {"content": …}}
            return _text_in(cast("Mapping[str, Any]", inner))
        if isinstance(inner, str):
            return inner.strip()
    return json.dumps(content, ensure_ascii=False) if content else ""


# --- mem0: what get_all gives, or a list of it ----------------------------------------------------


def _mem0(value: object) -> Foreign:
    memories: list[ForeignMemory] = []
    skipped = 0
    for record in _records(value, under="results"):
        text = str(record["memory"] or "").strip()
        if not text:
            skipped += 1
            continue
        scopes = {key: record[key] for key in _SCOPES if record.get(key)}
        memories.append(
            ForeignMemory(
                id=_uuid(str(record["id"])),
                text=text,
                metadata={**(record.get("metadata") or {}), **scopes},
                valid_from=_time(record.get("created_at")),
            )
        )
    return Foreign(format=Format.MEM0, memories=memories, skipped=skipped)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return uuid5(NAMESPACE_URL, f"mem0:{text}")


# --- LlamaIndex: SimpleChatStore.persist ----------------------------------------------------------


def _llamaindex(value: object) -> Foreign:
    store = cast("Mapping[str, Sequence[Mapping[str, Any]]]", cast("Any", value)["store"])
    messages: list[dict[str, Any]] = []
    skipped = 0
    for session, said in store.items():
        for place, message in enumerate(said):
            text = _said(message)
            if not text:
                skipped += 1
                continue
            # They have no ids: a place in a session is one as long as the session only grows.
            messages.append(
                {"id": f"{place}", "session": session, "role": message["role"], "content": text}
            )
    return Foreign(format=Format.LLAMAINDEX, messages=messages, skipped=skipped)


def _said(message: Mapping[str, Any]) -> str:
    blocks = cast("Sequence[Mapping[str, Any]]", message.get("blocks") or ())
    texts = [str(block["text"]) for block in blocks if block.get("block_type") == "text"]
    return "\n".join(texts or [str(message.get("content") or "")]).strip()


def _records(value: object, *, under: str | None = None) -> Iterator[Mapping[str, Any]]:
    if under is not None and isinstance(value, Mapping):
        value = cast("Mapping[str, object]", value)[under]
    for record in cast("Iterable[object]", value):
        if not isinstance(record, Mapping):
            raise TypeError(f"a record is {type(record).__name__}")
        yield cast("Mapping[str, Any]", record)


def _time(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


_READERS: Mapping[Format, Callable[[object], Foreign]] = {
    Format.LANGGRAPH: _langgraph,
    Format.MEM0: _mem0,
    Format.LLAMAINDEX: _llamaindex,
}
