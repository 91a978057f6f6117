"""What verbs accept: each value is returned as the store takes it, or refused with advice."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core.cube import Kind
from memos_core.errors import InvalidInput
from memos_core.text import unstorable

MAX_ROWS = 10_000  # of one page: answers are built in memory
MAX_KEY = 512  # bytes of an id or a session: they are index keys
MAX_TAGS = 1_000


def checked_id(value: object) -> UUID:
    """Return a cube's id."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError as error:
        raise InvalidInput(
            f"{value!r} is no cube id: pass the id of a MemCube, or derive one from a key of yours "
            "with uuid.uuid5"
        ) from error


def checked_ids(given: object, count: int, *, single: bool) -> list[UUID]:
    """Return one id for each text: those given, or new ones in the order of time."""
    if given is None:
        return [uuid7() for _ in range(count)]
    if single:
        ids = [checked_id(given)]
    elif isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidInput("with many texts, id is a list with one id for each")
    else:
        ids = [checked_id(one) for one in cast("Iterable[object]", given)]
    if len(set(ids)) != count:
        raise InvalidInput(f"{count} texts need {count} different ids, not {len(set(ids))}")
    return ids


def checked_key(value: object, *, what: str) -> str:
    """Return a short string that can be an index key: a message id, a session."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{what} must be a non-empty string, not {value!r}")
    if problem := unstorable(value):
        raise InvalidInput(f"{what} {problem}")
    if len(value.encode()) > MAX_KEY:
        raise InvalidInput(f"{what} has more than {MAX_KEY} bytes")
    return value


def checked_label(value: object, *, what: str) -> str | None:
    """Return a string that is stored as it is, such as a source or a speaker, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"{what} must be a string, not {type(value).__name__}")
    if problem := unstorable(value):
        raise InvalidInput(f"{what} {problem}")
    return value


def checked_tags(tags: Iterable[str], *, what: str = "tag") -> tuple[str, ...]:
    """Return tags in the order given, each once."""
    if isinstance(tags, str):
        raise InvalidInput(f"{what}s are a list of strings, not one: use [{tags!r}]")
    found = tuple(dict.fromkeys(checked_key(tag, what=what) for tag in tags))
    if len(found) > MAX_TAGS:
        raise InvalidInput(f"at most {MAX_TAGS} {what}s, not {len(found)}")
    return found


def checked_metadata(metadata: Mapping[str, object] | None) -> dict[str, object]:
    """Return metadata as JSON values."""
    try:
        text = json.dumps(dict(metadata or {}), allow_nan=False)
        plain = cast("dict[str, object]", json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"metadata must be JSON values under string keys: {error}") from error
    if problem := unstorable(json.dumps(plain, ensure_ascii=False)):
        raise InvalidInput(f"metadata {problem}")
    if "\\u0000" in text and _has_nul(plain):
        raise InvalidInput("metadata holds a NUL byte, which no PostgreSQL text can: remove it")
    return plain


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return any(_has_nul(key) or _has_nul(inner) for key, inner in pairs)
    if isinstance(value, list):
        return any(map(_has_nul, cast("list[object]", value)))
    return False


def checked_time(value: object, *, what: str) -> datetime | None:
    """Return a moment with its time zone; one without is taken as this machine's local time."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidInput(f"{what} {value!r} is no ISO 8601 date and time") from error
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidInput(f"{what} must be a datetime, not {type(value).__name__}")
    try:
        # PostgreSQL and Python agree on the years in between.
        return value.astimezone(UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidInput(f"{what} {value} is out of range") from error


def checked_ttl(ttl: float | timedelta | None) -> float | None:
    """Return a time to live in seconds."""
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if seconds is None:
        return None
    if not 0 < seconds < 10**10 or math.isnan(seconds):
        raise InvalidInput(f"ttl must be more than 0 and less than 10^10 seconds, not {seconds}")
    return float(seconds)


def checked_count(value: object, *, what: str, least: int = 0, most: int = MAX_ROWS) -> int:
    """Return a whole number in its range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(f"{what} must be a whole number from {least} to {most}, not {value!r}")
    return value


def checked_period(
    valid_from: datetime | str | None, valid_to: datetime | str | None
) -> tuple[datetime | None, datetime | None]:
    """Return the bounds of a time in the world."""
    start = checked_time(valid_from, what="valid_from")
    end = checked_time(valid_to, what="valid_to")
    if start and end and end <= start:
        raise InvalidInput(f"valid_to {end} is not after valid_from {start}")
    return start, end


def checked_priority(priority: int) -> int:
    """Return a priority; the higher matters more."""
    return checked_count(priority, what="priority", least=-(2**31), most=2**31 - 1)


def checked_kind(kind: str) -> str:
    """Return the name of a kind."""
    try:
        return Kind(kind).value
    except ValueError as error:
        raise InvalidInput(f"unknown kind {kind!r}; known: {', '.join(Kind)}") from error
