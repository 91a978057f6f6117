"""Reading single values of records: each is returned as the store takes it, or refused.

A reader is a function of a JSON value that raises ValueError with what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias, cast
from uuid import UUID

from memos_core.checks import MAX_KEY
from memos_core.namespace import MAX_LABELS
from memos_core.text import shortened, unstorable

Read: TypeAlias = Callable[[object], Any]

MAX_CHARACTERS = 2 * 65_536  # of a cube's text: what redaction wrote may be longer than what it hid
_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_AHEAD = timedelta(days=1)  # that the writer's clock may be


def text(value: object) -> str:
    """Read a text that PostgreSQL can store."""
    if not isinstance(value, str):
        raise _wrong("a text", value)
    if problem := unstorable(value):
        raise ValueError(problem)
    return value


def texts(value: object) -> list[str]:
    """Read a list of texts."""
    return list(map(text, _items(value)))


def memory(value: object) -> str:
    """Read what a cube says."""
    found = text(value)
    if not found.strip() or len(found) > MAX_CHARACTERS:
        raise ValueError(f"must have 1 to {MAX_CHARACTERS} characters, and not only spaces")
    return found


def key(value: object) -> str:
    """Read a text that can be an index key."""
    found = text(value)
    if not found or len(found) > MAX_KEY or len(found.encode()) > MAX_KEY:
        raise ValueError(f"must have 1 to {MAX_KEY} bytes")
    return found


def key_list(value: object) -> tuple[str, ...]:
    """Read a list of such texts."""
    return tuple(map(key, _items(value)))


def keys(value: object) -> tuple[str, ...]:
    """Read a list of such texts, each once."""
    found = key_list(value)
    if len(set(found)) != len(found):
        raise ValueError("names something twice")
    return found


def labels(value: object) -> tuple[str, ...]:
    """Read the end of a namespace."""
    found = tuple(map(text, _items(value)))
    if not all(found) or len(found) >= MAX_LABELS:
        raise ValueError(f"must be less than {MAX_LABELS} labels, and none empty")
    return found


def uuid(value: object) -> UUID:
    """Read an id, in its usual form."""
    if not isinstance(value, str) or not is_uuid(value):
        raise _wrong("a UUID in lower-case hex digits", value)
    return UUID(value)


def is_uuid(value: str) -> bool:
    """Tell whether a text is an id, in its usual form."""
    return _UUID.fullmatch(value) is not None


def uuids(value: object) -> tuple[UUID, ...]:
    """Read a list of ids."""
    return tuple(map(uuid, _items(value)))


def time(value: object) -> datetime:
    """Read a moment, in its own time zone."""
    if not isinstance(value, str):
        raise _wrong("an ISO 8601 time with a time zone", value)
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is not None and found.astimezone(UTC):  # of the years 1 to 9999 there too
            return found
    except (ValueError, OverflowError):
        pass
    raise _wrong("an ISO 8601 time with a time zone", value)


def past(value: object) -> datetime:
    """Read a moment at which something was written down."""
    found = time(value)
    if found > datetime.now(UTC) + _AHEAD:
        raise ValueError(f"is of the future: {value}")
    return found


def time_text(value: object) -> str:
    """Read a moment, as it is written."""
    time(value)
    return cast("str", value)


def flag(value: object) -> bool:
    """Read a truth value."""
    if not isinstance(value, bool):
        raise _wrong("true or false", value)
    return value


def number(least: int, most: int) -> Read:
    """Return a reader of whole numbers."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _wrong(f"a whole number from {least} to {most}", value)
        return value

    return read


def one_of(names: type[StrEnum]) -> Read:
    """Return a reader of a member's name."""
    known = {str(member): member for member in names}

    def read(value: object) -> StrEnum:
        if not isinstance(value, str) or value not in known:
            raise _wrong(f"one of {', '.join(known)}", value)
        return known[value]

    return read


def some_of(names: type[StrEnum]) -> Read:
    """Return a reader of a list of members' names, at least one, each once."""
    one = one_of(names)

    def read(value: object) -> tuple[StrEnum, ...]:
        found = tuple(map(one, _items(value)))
        if not found or len(set(found)) != len(found):
            raise ValueError("must name at least one, and each once")
        return found

    return read


def optional(read: Read) -> Read:
    """Return a reader that takes null as well."""
    return lambda value: None if value is None else read(value)


def values(value: object) -> Mapping[str, object]:
    """Read an object of any JSON values whose texts PostgreSQL can store."""
    if not isinstance(value, dict):
        raise _wrong("an object", value)
    unread: list[object] = [value]  # no recursion: they nest as deep as the container allows
    while unread:
        one = unread.pop()
        if isinstance(one, str):
            text(one)
        elif isinstance(one, dict):
            inner = cast("dict[str, object]", one)
            unread += (*inner, *inner.values())
        elif isinstance(one, list):
            unread += cast("list[object]", one)
    return cast("Mapping[str, object]", value)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _wrong("a list", value)
    return cast("list[object]", value)


def _wrong(wanted: str, value: object) -> ValueError:
    if isinstance(value, list | dict):  # whose repr may be long
        return ValueError(f"must be {wanted}, not a {type(cast('object', value)).__name__}")
    return ValueError(f"must be {wanted}, not {shortened(repr(value), 80)}")
