"""What the records of an archive stand for, as docs/archive-format.md describes them.

A field that a record does not name has its usual value, and such fields are left out. A field that
is not known, or not of its type, makes the archive invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar, cast
from uuid import UUID

from memos_core.archive import values
from memos_core.cube import Kind, State
from memos_core.errors import ArchiveInvalid
from memos_core.governance import Right
from memos_core.kept import KeptCube, KeptEdge, KeptEvent, KeptGrant, KeptMessage
from memos_core.lineage import Relation
from memos_core.text import shortened

Kept = KeptCube | KeptMessage | KeptEdge | KeptGrant | KeptEvent
V = TypeVar("V", KeptCube, KeptMessage, KeptEdge, KeptGrant, KeptEvent)

_BIG = 2**31 - 1  # PostgreSQL's integer
_NEEDED = object()


class _Field(NamedTuple):
    """How a field is read and written, and what it is where a record does not name it."""

    read: values.Read
    default: object = _NEEDED
    write: Callable[[Any], object] | None = None


_ID = _Field(values.uuid, write=str)
_LABELS = _Field(values.labels, (), list)
_KEYS = _Field(values.keys, (), list)
_LABEL = _Field(values.optional(values.text), None)
_KEY = _Field(values.optional(values.key), None)
_VALUES = _Field(values.values, {}, dict)
_TIME = _Field(values.optional(values.time), None, datetime.isoformat)
_SINCE = _Field(values.optional(values.past), None, datetime.isoformat)
_WHEN = _Field(values.past, write=datetime.isoformat)
_FALSE = _Field(values.flag, default=False)

_PROVENANCE = {
    "source": _LABEL,
    "created_by": _LABEL,
    "session": _KEY,
    "speaker": _LABEL,
    "role": _LABEL,
    "said_at": _Field(values.optional(values.time_text), None),
    "restored_from": _Field(values.optional(values.number(1, _BIG)), None),
    "watermark": _LABEL,
    "sessions": _Field(values.optional(values.texts), None),
    "publisher": _LABEL,
    "channel": _LABEL,
    "licence": _LABEL,
}


def _provenance(value: object) -> dict[str, object]:
    return _present(_read(_PROVENANCE, values.values(value)))


_CALLER = {
    "user": _Field(values.key),
    "roles": _KEYS,
    "context": _VALUES,
}


def _caller(value: object) -> dict[str, object] | None:
    if value is None:
        return None
    found = _read(_CALLER, values.values(value))
    return {**found, "roles": list(found["roles"])}


_VERSION = {
    "id": _ID,
    "below": _LABELS,
    "kind": _Field(values.one_of(Kind), Kind.PLAINTEXT),
    "state": _Field(values.one_of(State), State.GENERATED),
    "version": _Field(values.number(1, _BIG)),
    "content_version": _Field(values.number(1, _BIG)),
    "derived": _FALSE,
    "spoken": _FALSE,
    "text": _Field(values.memory),
    "semantic_type": _Field(values.key, "fact"),
    "tags": _KEYS,
    "metadata": _VALUES,
    "provenance": _Field(_provenance, {}, dict),
    "message_ids": _Field(values.key_list, (), list),  # of several sessions, so one may be twice
    "owner": _KEY,
    "priority": _Field(values.number(-_BIG - 1, _BIG), 0),
    "sensitivity": _KEYS,
    "valid_from": _TIME,
    "valid_to": _TIME,
    "created_at": _WHEN,
    "recorded_at": _WHEN,
    "expires_at": _TIME,
    "superseded_at": _WHEN,
    "activated_at": _SINCE,
}
_CUBE = {name: how for name, how in _VERSION.items() if name != "superseded_at"}
_MESSAGE = {
    "below": _LABELS,
    "id": _Field(values.key),
    "session": _KEY,
    "role": _Field(values.key),
    "name": _LABEL,
    "content": _Field(values.text, ""),
    "metadata": _VALUES,
    "extra": _VALUES,
    "created_at": _TIME,
    "created_by": _KEY,
    "recorded_at": _WHEN,
    "unread": _FALSE,
    "retired_at": _SINCE,
    "forgotten_at": _SINCE,
}
_EDGE = {
    "child": _ID,
    "parent": _ID,
    "relation": _Field(values.optional(values.one_of(Relation)), None),
    "version": _Field(values.number(1, _BIG)),
    "position": _Field(values.number(0, _BIG), 0),
    "recorded_at": _SINCE,
}
_GRANT = {
    "id": _ID,
    "below": _LABELS,
    "cube": _Field(values.optional(values.uuid), None, str),
    "tag": _KEY,
    "owner": _KEY,
    "user": _KEY,
    "role": _KEY,
    "rights": _Field(values.some_of(Right), write=list),
    "condition": _VALUES,
    "expires_at": _TIME,
    "granted_by": _KEY,
    "granted_at": _WHEN,
}


def _written(ids: tuple[UUID, ...]) -> list[str]:
    return [str(one) for one in ids]


_EVENT = {
    "id": _Field(values.number(1, 2**63 - 1)),
    "at": _WHEN,
    "kind": _Field(values.key),
    "below": _LABELS,
    "caller": _Field(_caller, None, dict),
    "cubes": _Field(values.uuids, (), _written),
    "details": _VALUES,
}


@dataclass(frozen=True, slots=True)
class Records(Generic[V]):
    """What records of one kind stand for; ``fixed`` are values that none of them names."""

    of: type[V]
    fields: Mapping[str, _Field]
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def value(self, record: Mapping[str, object], *, where: str) -> V:
        """Return what a record stands for.

        Raises:
            ArchiveInvalid: a field is missing, unknown, or of another type or range.
        """
        try:
            value = self.of(**_read(self.fields, record), **self.fixed)
            problem = _problem(value)
        except ValueError as error:
            raise ArchiveInvalid(f"{where}: {error}") from error
        if problem:
            raise ArchiveInvalid(f"{where}: {problem}")
        return value

    def record(self, value: V) -> dict[str, object]:
        """Return what an archive says of a value."""
        record: dict[str, object] = {}
        for name, how in self.fields.items():
            one = getattr(value, name)
            if one != how.default:
                record[name] = how.write(one) if how.write else one
        return record


CUBES = Records(KeptCube, _CUBE, MappingProxyType({"superseded_at": None}))
VERSIONS = Records(KeptCube, _VERSION)
MESSAGES = Records(KeptMessage, _MESSAGE)
LINEAGE = Records(KeptEdge, _EDGE)
GRANTS = Records(KeptGrant, _GRANT)
EVENTS = Records(KeptEvent, _EVENT)


def _read(fields: Mapping[str, _Field], record: Mapping[str, object]) -> dict[str, Any]:
    if len(record.keys() & fields.keys()) != len(record):
        name = min(record.keys() - fields.keys())
        raise ValueError(f"there is no field {shortened(repr(name), 80)} in such a record")
    found: dict[str, Any] = {}
    for name, how in fields.items():
        if name in record:
            try:
                found[name] = how.read(record[name])
            except ValueError as error:
                raise ValueError(f"the field {name!r} {error}") from error
        elif how.default is _NEEDED:
            raise ValueError(f"there is no field {name!r}")
        else:
            found[name] = how.default
    return found


def _present(found: Mapping[str, object]) -> dict[str, object]:
    return {name: one for name, one in found.items() if one is not None}


def _problem(value: Kept) -> str | None:
    """Say what is wrong with fields that are right each by itself."""
    match value:
        case KeptCube():
            return _cube_problem(value)
        case KeptMessage():
            said = (value.content, value.name, value.metadata, value.extra) != ("", None, {}, {})
            return "a forgotten message has no content" if value.forgotten_at and said else None
        case KeptEdge():
            return _edge_problem(value)
        case KeptGrant():
            for one, two in (("user", "role"), ("cube", "tag")):
                if getattr(value, one) is not None and getattr(value, two) is not None:
                    return f"a grant names no {one} and {two} at once"
        case KeptEvent():
            pass
    return None


def _cube_problem(cube: KeptCube) -> str | None:
    last = cube.superseded_at is None or cube.state is State.EXPIRED
    if cube.superseded_at is None and cube.state is State.EXPIRED:
        return "an expired cube stands no more: its versions are in 'versions'"
    if cube.content_version > cube.version:
        return "'content_version' is after 'version'"
    if cube.activated_at is not None and not last:
        return "'activated_at' belongs to a cube's last version"
    if cube.superseded_at is not None and cube.superseded_at < cube.recorded_at:
        return "'superseded_at' is before 'recorded_at'"
    return None


def _edge_problem(edge: KeptEdge) -> str | None:
    if edge.child == edge.parent:
        return "a cube is not made of itself, nor about itself"
    step = edge.relation is not None
    if step != (edge.recorded_at is not None) or step != (edge.position > 0):
        return "'recorded_at' and 'position' are those of a relation"
    return None


def ids_in(details: object) -> Iterator[UUID]:
    """Yield the ids that values name, however deep."""
    unread = [details]
    while unread:
        one = unread.pop()
        if isinstance(one, str):
            if values.is_uuid(one):
                yield UUID(one)
        elif isinstance(one, Mapping):
            unread += cast("Mapping[str, object]", one).values()
        elif isinstance(one, list):
            unread += cast("list[object]", one)


def renamed(details: object, names: Mapping[str, str]) -> object:
    """Return values with other texts for those that ``names`` names."""
    if isinstance(details, str):
        return names.get(details, details)
    if isinstance(details, Mapping):
        inner = cast("Mapping[str, object]", details)
        return {name: renamed(one, names) for name, one in inner.items()}
    if isinstance(details, list):
        return [renamed(one, names) for one in cast("list[object]", details)]
    return details
