"""Items: JSON values under keys, each of which is a memory too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, cast
from uuid import UUID, uuid5

from memos_core.cube import MemCube
from memos_core.namespace import Namespace

if TYPE_CHECKING:
    from memos_core.embedder import Vectors

SEMANTIC_TYPE = "item"  # of the cubes that items are
_ITEMS = UUID("5f0d5a0e-6c1c-4f3e-9a55-3f1b8f0d7c11")  # under which their ids are made

TextsOf = Callable[[Mapping[str, object]], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A value under a key, as it stands; ``namespace`` is relative to the view that was asked.

    ``score`` is its cosine similarity with a query, 1 for the same direction; of several texts that
    it is found by, that of the nearest. ``vector`` is its cube's, of length 1, where it was asked
    for.
    """

    namespace: tuple[str, ...]
    key: str
    value: dict[str, object]
    cube: UUID
    version: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    score: float | None = None
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutItem:
    """Put a value under a key, in place of what is there; ``value`` None forgets what is.

    ``texts`` returns by what texts a value is found; None, or no text, and no query finds it. It
    is given what the rules of the namespace let be kept. After ``ttl`` seconds it is gone; a read
    may give it as long again.
    """

    namespace: tuple[str, ...]
    key: str
    value: Mapping[str, object] | None
    texts: TextsOf | None = None
    ttl: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetItem:
    """Get what is under a key; ``refresh`` lets it live its time anew."""

    namespace: tuple[str, ...]
    key: str
    refresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchItems:
    """Find items in a namespace and below it.

    With a ``query``, or a ``vector`` of the memory's embedder, the nearest come first, and only
    what is found by texts; without, what was put last. ``filter`` compares what is in the values,
    as ``View.search`` compares metadata; a key is a key of the value, dots and all, and a tuple
    names a path. With ``vectors``, items come with theirs.
    """

    namespace: tuple[str, ...] = ()
    query: str | None = None
    vector: Sequence[float] | None = None
    filter: Mapping[str, object] | Mapping[tuple[str, ...], object] | None = None
    limit: int = 10
    offset: int = 0
    refresh: bool = False
    vectors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMatch:
    """Which namespaces are wanted: those that begin, or end, with labels; "*" is any one label."""

    at: Literal["prefix", "suffix"]
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNamespaces:
    """List where there are items, cut to ``max_depth`` labels, in order, each once."""

    matches: tuple[PathMatch, ...] = ()
    max_depth: int | None = None
    limit: int = 100
    offset: int = 0


ItemOp = PutItem | GetItem | SearchItems | ListNamespaces
ItemResult = Item | list[Item] | list[tuple[str, ...]] | None


def id_of(namespace: Namespace, key: str) -> UUID:
    """Return the id of the cube that an item is: always the same under the same key."""
    return uuid5(_ITEMS, namespace.trail + key)


def metadata_of(
    key: str, value: Mapping[str, object], *, text: str, found_by: int, ttl: float | None
) -> dict[str, object]:
    """Return the metadata of the cube that an item is, and whose text is ``text``.

    ``found_by`` is how many texts it is found by.
    """
    facts: dict[str, object] = {"key": key, "value": dict(value), "text": _digest(text)}
    if found_by:
        facts["found"] = True
    if found_by > 1:
        facts["passages"] = found_by
    if ttl is not None:
        facts["ttl"] = ttl
    return facts


def conditions_of(
    wanted: Mapping[str, object] | Mapping[tuple[str, ...], object] | None,
) -> dict[object, object]:
    """Return a filter of items' values as one of cubes' metadata."""
    return {
        ("value", *(key if isinstance(key, tuple) else (key,))): _compared(condition)
        for key, condition in (wanted or {}).items()
    }


def _compared(wanted: object) -> object:
    """Return a condition on one key of a value: operators, or what it must equal."""
    if not isinstance(wanted, Mapping):
        return wanted
    keys = cast("Mapping[object, object]", wanted)
    if any(isinstance(key, str) and key.startswith("$") for key in keys):
        return keys
    return {"$eq": dict(keys)}


def key_of(cube: MemCube) -> str:
    """Return the key of an item; its cube's id, where another verb gave that other metadata."""
    return str(cube.metadata.get("key", cube.id))


def value_of(metadata: Mapping[str, object], text: str) -> dict[str, object]:
    """Return an item's value, with its cube's ``text`` where another verb changed that.

    It stands where the old text stood; where that stood nowhere by itself, it is all of the value.
    """
    value, old = metadata.get("value"), metadata.get("text")
    if not isinstance(value, dict):
        return {"text": text}
    known = cast("dict[str, object]", value)
    if old == _digest(text):
        return known
    changed = _replaced(known, old, text)
    return {"text": text} if changed == known else cast("dict[str, object]", changed)


def _replaced(value: object, old: object, new: str) -> object:
    """Return a value with a text in place of those that have the digest ``old``."""
    if isinstance(value, str):
        return new if _digest(value) == old else value
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return {key: _replaced(inner, old, new) for key, inner in pairs}
    if isinstance(value, list):
        return [_replaced(inner, old, new) for inner in cast("list[object]", value)]
    return value


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
