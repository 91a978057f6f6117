"""The records of an archive, as docs/archive-format.md describes them, and what they stand for.

What a record does not say has its usual value, and the writer leaves such fields out. A field that
is not known, or not of its type, makes the archive invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from memos_core.archive.values import (
    Read,
    flag,
    json_object,
    key,
    keys,
    labels,
    moment,
    name_of,
    number,
    optional,
    said,
    text,
    time,
    uuid,
    uuids,
)
from memos_core.cube import Kind, State
from memos_core.errors import ArchiveInvalid
from memos_core.governance import Right
from memos_core.kept import KeptCube, KeptEdge, KeptEvent, KeptGrant, KeptMessage
from memos_core.lineage import Relation

V = TypeVar("V")
_NEEDED = object()
_BIG = 2**31 - 1  # PostgreSQL's integer
_NOTHING: Mapping[str, object] = {}


class _Field(NamedTuple):
    """One field: how it is read and written, and what it is where a record does not name it."""

    read: Read
    default: object = _NEEDED
    write: Callable[[Any], object] | None = None


_ID = _Field(uuid, write=str)
_PATH = _Field(labels, ())
_KEYS = _Field(keys, (), list)
_LABEL = _Field(optional(text), None)
_KEY = _Field(optional(key), None)
_JSON = _Field(json_object, _NOTHING)
_TIME = _Field(optional(time), None, datetime.isoformat)
_MOMENT = _Field(optional(moment), None, datetime.isoformat)
_PAST = _Field(moment, write=datetime.isoformat)

_PROVENANCE = {
    "source": _LABEL,
    "created_by": _LABEL,
    "session": _KEY,
    "speaker": _LABEL,
    "role": _LABEL,
    "said_at": _Field(optional(said), None),
    "restored_from": _Field(optional(number(1, _BIG)), None),
    "watermark": _LABEL,
}


def _provenance(value: object) -> dict[str, object]:
    known = _read(_PROVENANCE, json_object(value))
    return {name: one for name, one in known.items() if one is not None}


_VERSION = {
    "id": _ID,
    "below": _PATH,
    "kind": _Field(name_of(Kind), Kind.PLAINTEXT),
    "state": _Field(name_of(State), State.GENERATED),
    "version": _Field(number(1, _BIG)),
    "content_version": _Field(optional(number(1, _BIG)), None),
    "derived": _Field(flag, False),  # noqa: FBT003 the default
    "text": _Field(said_text),
    "semantic_type": _Field(key, "fact"),
    "tags": _KEYS,
    "metadata": _JSON,
    "provenance": _Field(_provenance, _NOTHING),
    "message_ids": _KEYS,
    "owner": _KEY,
    "priority": _Field(number(-_BIG - 1, _BIG), 0),
    "sensitivity": _KEYS,
    "valid_from": _TIME,
    "valid_to": _TIME,
    "created_at": _PAST,
    "recorded_at": _PAST,
    "expires_at": _TIME,
    "superseded_at": _MOMENT,
    "activated_at": _MOMENT,
}
