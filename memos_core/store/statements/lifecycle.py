"""Statements that pass cubes from one state to another: each such step is a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from memos_core.cube import MemCube, State
from memos_core.lifecycle import before
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.columns import COLUMNS, WOKEN, cube_from
from memos_core.store.statements.permission import (
    MAY_READ,
    MAY_WRITE,
    STANDS,
)
from memos_core.store.statements.scope import INSIDE, Scope

# All or nothing: where a cube is not there, may not be written, or is in a state from which there
# is no way, `whole` is empty. One that is in the wanted state already is left as it is.
_HELD: LiteralString = (
    """
    WITH held AS (
        SELECT * FROM memos.cube
        WHERE id = ANY(%(ids)s::uuid[]) AND (expires_at IS NULL OR expires_at > now()) AND """
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND (%(user)s::text IS NULL OR "
    + STANDS
    + """)
        ORDER BY id FOR UPDATE
    ), permitted AS (
        SELECT id FROM held WHERE """
    + MAY_WRITE
    + """
    ), whole AS (
        SELECT max(greatest(
            -- What is merged speaks until the moment at which its fusion was made, and no longer.
            CASE WHEN %(to)s = 'merged' THEN now() ELSE clock_timestamp() END,
            recorded_at + interval '1 microsecond'
        )) AS moment
        FROM held
        HAVING count(*) = cardinality(%(ids)s::uuid[])
            AND count(*) = (SELECT count(*) FROM permitted)
            AND bool_and(state = ANY(%(before)s::text[]) OR state = %(to)s)
    ), moving AS (
        SELECT held.* FROM held, whole
        WHERE state <> %(to)s AND NOT (state = 'generated' AND %(to)s = 'activated' AND id IN (
            SELECT cube FROM memos.activation
            WHERE activation.tenant = %(tenant)s AND cube = ANY(%(ids)s::uuid[])
        ))
    )"""
)
_SUPERSEDED: LiteralString = """, superseded AS (
        INSERT INTO memos.cube_version SELECT moment, moving.* FROM moving, whole
    )"""
# A frozen cube does not expire: its time goes on when it thaws.
_MOVED: LiteralString = (
    _SUPERSEDED
    + """, changed AS (
        UPDATE memos.cube AS cube SET
            state = %(to)s, version = cube.version + 1, recorded_at = moment,
            expires_at = CASE WHEN %(to)s <> 'frozen' THEN cube.expires_at END
        FROM moving, whole WHERE cube.tenant = moving.tenant AND cube.id = moving.id
        RETURNING cube.*
    )"""
)
_THAWED: LiteralString = (
    _SUPERSEDED
    + """, changed AS (
        UPDATE memos.cube AS cube SET
            state = earlier.state, version = cube.version + 1, recorded_at = moment,
            expires_at = earlier.expires_at
        FROM moving JOIN memos.cube_version AS earlier ON earlier.tenant = moving.tenant
            AND earlier.id = moving.id AND earlier.version = moving.version - 1, whole
        WHERE cube.tenant = moving.tenant AND cube.id = moving.id
        RETURNING cube.*
    )"""
)
_LOGGED: LiteralString = """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT tenant, moment, %(kind)s, namespace, %(caller)s::jsonb, array_agg(id), '{}'
        FROM moving, whole GROUP BY tenant, namespace, moment
    )"""
_ANSWER: LiteralString = (
    _LOGGED
    + " SELECT "
    + COLUMNS
    + ","
    + WOKEN
    + """, id IN (SELECT id FROM permitted) AS may_write,
        EXISTS (SELECT FROM whole) AS done, unindexed, memos.announce(tenant)
    FROM (
        SELECT changed.*, memos.unindex(tenant, ARRAY[id], namespace) AS unindexed FROM changed
        UNION ALL
        SELECT held.*, NULL FROM held WHERE id NOT IN (SELECT id FROM changed)
    ) AS cube
    """
)
_MOVE: LiteralString = _HELD + _MOVED + _ANSWER
_THAW: LiteralString = _HELD + _THAWED + _ANSWER
_EXPIRE: LiteralString = (
    _HELD
    + _LOGGED
    + """, fallen AS MATERIALIZED (
        SELECT memos.invalidate(%(tenant)s, ids, moment, %(caller)s::jsonb), ids, moment
        FROM whole, (SELECT array_agg(id) AS ids FROM moving) AS gone WHERE ids IS NOT NULL
    ), ended AS MATERIALIZED (
        SELECT memos.unmerge(%(tenant)s, ids, moment), memos.expire(%(tenant)s, ids, moment)
        FROM fallen
    )
    SELECT """
    + COLUMNS
    + ","
    + WOKEN
    + """, id IN (SELECT id FROM permitted) AS may_write,
        EXISTS (SELECT FROM whole) AS done, (SELECT count(*) FROM ended) AS ended,
        memos.announce(tenant)
    FROM held
    """
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a step made of cubes; where it was not ``done`` they are as they were.

    ``denied`` are those that the caller may read and not write.
    """

    done: bool
    cubes: dict[UUID, MemCube]
    denied: tuple[UUID, ...]


def move(scope: Scope, cubes: Sequence[UUID], to: State, *, kind: str) -> Statement[Step]:
    """Pass cubes to a state; ``kind`` is the event's."""
    return Statement(
        sql=_EXPIRE if to is State.EXPIRED else _MOVE,
        parameters=scope.parameters(
            ids=list(cubes), before=list(before(to)), to=to, kind=kind, as_of=None
        ),
        read=_read,
    )


def thaw(scope: Scope, cubes: Sequence[UUID]) -> Statement[Step]:
    """Pass frozen cubes back to the states they were in."""
    return Statement(
        sql=_THAW,
        parameters=scope.parameters(
            ids=list(cubes), before=[State.FROZEN], to="", kind="unfroze", as_of=None
        ),
        read=_read,
    )


def _read(rows: Sequence[Row]) -> Step:
    return Step(
        done=bool(rows) and rows[0]["done"],
        cubes={row["id"]: cube_from(row) for row in rows},
        denied=tuple(row["id"] for row in rows if not row["may_write"]),
    )
