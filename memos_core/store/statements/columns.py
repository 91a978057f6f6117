"""The columns of a cube, and how a row of them is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any, LiteralString, cast

from memos_core.cube import Governance, Kind, MemCube, Provenance, State
from memos_core.namespace import Namespace
from memos_core.store.statement import Row

COLUMNS: LiteralString = """
    tenant, id, namespace, kind, state, version, text, semantic_type, tags, metadata, provenance,
    message_ids, owner, priority, sensitivity, valid_from, valid_to, created_at, recorded_at,
    expires_at
"""
# What search reads beside them.
SEARCHED: LiteralString = "word_count, words, thread, turn, embedding, derived"
# Whether it was read by then: readers write nothing into what they read, so that stands beside it.
WOKEN: LiteralString = """(
        SELECT true FROM memos.activation
        WHERE activation.tenant = %(tenant)s AND activation.cube = id
            AND activation.at <= coalesce(%(as_of)s::timestamptz, now())
    ) AS woken"""
WOKEN_THEN: LiteralString = """(
        SELECT true FROM memos.activation
        WHERE activation.tenant = %(tenant)s AND activation.cube = id
            AND activation.at <= coalesce(%(as_of)s::timestamptz, now())
            AND activation.at < superseded_at
    ) AS woken"""
# The turns that a cube came from. A turn's id is its own in its session only.
SAID: LiteralString = """(
        SELECT listed.place, listed.id AS said_as, coalesce(
            provenance -> 'sessions' ->> (listed.place - 1)::integer, provenance ->> 'session', ''
        ) AS said_in
        FROM unnest(message_ids) WITH ORDINALITY AS listed (id, place)
    )"""


def provenance_json(provenance: Provenance) -> dict[str, object]:
    """Return what is known of a provenance as JSON values; its messages have their own column."""
    known = {
        name: value
        for name, value in asdict(provenance).items()
        if value is not None and name not in {"message_ids", "sessions"}
    }
    if provenance.sessions:
        known["sessions"] = [session or "" for session in provenance.sessions]
    if provenance.said_at is not None:
        known["said_at"] = provenance.said_at.isoformat()
    return known


def cube_from(row: Row) -> MemCube:
    """Read one row of ``COLUMNS``, and of ``WOKEN`` where that was asked for."""
    state = State(row["state"])
    if state is State.GENERATED and row.get("woken"):
        state = State.ACTIVATED
    origin = dict(cast("dict[str, Any]", row["provenance"]))
    said_at = origin.pop("said_at", None)
    sessions = cast("list[str]", origin.pop("sessions", []))
    return MemCube(
        id=row["id"],
        namespace=_namespace(*row["namespace"]),
        kind=Kind(row["kind"]),
        state=state,
        version=row["version"],
        text=row["text"],
        semantic_type=row["semantic_type"],
        tags=tuple(row["tags"]),
        metadata=row["metadata"],
        provenance=Provenance(
            message_ids=tuple(row["message_ids"]),
            sessions=tuple(session or None for session in sessions),
            said_at=datetime.fromisoformat(said_at) if said_at else None,
            **origin,
        ),
        governance=Governance(
            owner=row["owner"],
            expires_at=row["expires_at"],
            priority=row["priority"],
            sensitivity=tuple(row["sensitivity"]),
        ),
        created_at=row["created_at"],
        updated_at=row["recorded_at"],
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
    )


@lru_cache(maxsize=4096)
def _namespace(*labels: str) -> Namespace:
    """Return a stored path; the rows of one answer are mostly of one."""
    return Namespace(*labels)


def cubes_from(rows: Sequence[Row]) -> list[MemCube]:
    """Read rows of ``COLUMNS``."""
    return [cube_from(row) for row in rows]


def first_cube(rows: Sequence[Row]) -> MemCube | None:
    """Read the only row of ``COLUMNS``, or None where there is none."""
    return cube_from(rows[0]) if rows else None
