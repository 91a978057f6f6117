"""What verbs accept: each value is returned as the store takes it, or refused with advice."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, cast
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core.errors import InvalidInput
from memos_core.text import MAX_NESTED, unstorable

MAX_ROWS = 10_000  # of one page: answers are built in memory
MAX_KEY = 512  # bytes of an id or a session: they are index keys
MAX_TAGS = 1_000
_LONGEST = 10**10  # seconds: 300 years


def checked_id(value: object, *, what: str = "cube") -> UUID:
    """Return the id of a cube, or of what else there is."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError as error:
        own = "; derive one from a key of yours with uuid.uuid5" if what == "cube" else ""
        raise InvalidInput(f"{value!r} is no {what} id: ids are UUIDs{own}") from error


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


def checked_many(ids: object) -> list[UUID]:
    """Return the ids of an argument that takes one or many, each once, in the order given."""
    many = cast("Iterable[object]", ids) if _are_many(ids) else [ids]
    return list(dict.fromkeys(map(checked_id, many)))


def _are_many(ids: object) -> bool:
    return isinstance(ids, Iterable) and not isinstance(ids, str | UUID)


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


def checked_keys(keys: Iterable[str], *, what: str) -> tuple[str, ...]:
    """Return short strings in the order given, each once."""
    if isinstance(keys, str):
        raise InvalidInput(f"{what}s are a list of strings, not one: use [{keys!r}]")
    if not isinstance(cast("object", keys), Iterable):
        raise InvalidInput(f"{what}s are a list of strings, not {keys!r}")
    return tuple(dict.fromkeys(checked_key(key, what=what) for key in keys))


def checked_tags(tags: Iterable[str], *, what: str = "tag") -> tuple[str, ...]:
    """Return tags in the order given, each once."""
    found = checked_keys(tags, what=what)
    if len(found) > MAX_TAGS:
        raise InvalidInput(f"at most {MAX_TAGS} {what}s, not {len(found)}")
    return found


def checked_metadata(metadata: object) -> dict[str, object]:
    """Return metadata as JSON values."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata must be a mapping, not {type(metadata).__name__}")
    try:
        return cast("dict[str, object]", as_json_values(dict(cast("Mapping[Any, Any]", metadata))))
    except ValueError as error:
        raise InvalidInput(f"metadata must be JSON values under string keys: {error}") from error


def as_json_values(value: object) -> object:
    """Return a value as PostgreSQL's jsonb would give it back.

    Raises:
        ValueError: it is no JSON, nests too deep, or holds a text that PostgreSQL cannot store.
    """
    try:
        values: object = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    for text in _texts(values, MAX_NESTED):
        if problem := unstorable(text):
            raise ValueError(f"a text {problem}")
    return values


def _texts(value: object, deep: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and not deep:
        raise ValueError(f"it nests more than {MAX_NESTED} deep")
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield key
            yield from _texts(inner, deep - 1)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _texts(inner, deep - 1)


def checked_time(value: object, *, what: str) -> datetime | None:
    """Return a moment with its time zone; one without is taken as this machine's local time."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidInput(
                f"{what} {value!r} is no ISO 8601 date and time, such as "
                "2026-01-31 or 2026-01-31T18:30+01:00"
            ) from error
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 made aware below
    if not isinstance(value, datetime):
        raise InvalidInput(f"{what} must be a datetime, not {type(value).__name__}")
    try:
        value.astimezone(UTC)  # a moment of the years 1 to 9999 there too
        return value if value.tzinfo else value.astimezone()
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidInput(f"{what} {value} is out of range") from error


def checked_ttl(ttl: object) -> float | None:
    """Return a time to live in seconds."""
    if ttl is None:
        return None
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if not isinstance(seconds, (int, float)) or not 0 < seconds < _LONGEST:
        raise InvalidInput(f"ttl must be more than 0 and less than 10^10 seconds, not {seconds!r}")
    return float(seconds)


def checked_score(score: object) -> float | None:
    """Return a least score."""
    if score is None:
        return None
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        raise InvalidInput(f"min_score must be a number, not {score!r}")
    return float(score)


def checked_count(value: object, *, what: str, least: int = 0, most: int = MAX_ROWS) -> int:
    """Return a whole number in its range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(f"{what} must be a whole number from {least} to {most}, not {value!r}")
    return value


def checked_period(
    valid_from: date | str | None, valid_to: date | str | None
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


def checked_names(
    given: Iterable[str] | None, known: type[StrEnum], *, what: str
) -> tuple[str, ...] | None:
    """Return names of which each is a member of ``known``."""
    if given is None:
        return None
    names = checked_keys(given, what=what)
    if unknown := [name for name in names if name not in set(known)]:
        raise InvalidInput(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
    return names
