"""Statements that pass cubes from one state to another: each such step is a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import LiteralString
from uuid import UUID

from memos_core.cube import MemCube, State
from memos_core.lifecycle import before
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import COLUMNS, WOKEN, cube_from
from memos_core.store.statements.permission import (
    MADE_OF_READABLE,
    MAY_READ,
    MAY_WRITE,
    STANDS,
)
from memos_core.store.statements.scope import LIES_INSIDE, Scope

_IDS: LiteralString = (
    "SELECT id FROM memos.cube WHERE id = ANY(%(ids)s::uuid[]) AND "
    + LIES_INSIDE
    + " AND "
    + MAY_WRITE
)
# The table of versions is locked as well, before any row is, as in every other change: `reembed`
# waits for both tables in that order.
_LOCK: LiteralString = (
    "WITH held AS (DELETE FROM memos.cube_version WHERE false) " + _IDS + " ORDER BY id FOR UPDATE"
)
_HOLD: LiteralString = (
    "WITH held AS MATERIALIZED (SELECT array_agg(id) AS ids FROM (" + _IDS + ") AS known) "
    "SELECT memos.hold(%(tenant)s, ids, ids) FROM held"
)


def hold(scope: Scope, cubes: Sequence[UUID], *, ends: bool) -> Statement[None]:
    """Hold cubes until the transaction ends; where some may end, with what that depends on."""
    return Statement(
        sql=_HOLD if ends else _LOCK, parameters=scope.parameters(ids=list(cubes)), read=ignored
    )


# All or nothing: where a cube is not there, may not be written, or is in a state from which there
# is no way, `whole` is empty. One that is in the wanted state already is left as it is.
_FOUND: LiteralString = (
    """
    WITH held AS (
        SELECT * FROM memos.cube
        WHERE id = ANY(%(ids)s::uuid[]) AND (expires_at IS NULL OR expires_at > now()) AND """
    + LIES_INSIDE
    + " AND "
    + MAY_READ
    + " AND (%(user)s::text IS NULL OR "
    + STANDS
)
_WHOLE: LiteralString = (
    """)
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
_HELD: LiteralString = _FOUND + _WHOLE
# A frozen cube does not expire: its time goes on when it thaws.
_MOVED: LiteralString = """, superseded AS (
        INSERT INTO memos.cube_version SELECT moment, moving.* FROM moving, whole
    ), changed AS (
        UPDATE memos.cube AS cube SET
            state = %(to)s, version = cube.version + 1, recorded_at = moment,
            expires_at = CASE WHEN %(to)s <> 'frozen' THEN cube.expires_at END
        FROM moving, whole WHERE cube.tenant = moving.tenant AND cube.id = moving.id
        RETURNING cube.*
    )"""
# Who may look back at what no longer stands may let it go. It ends, as it would have without the
# frost: `reasons` are the sources that say something else by now. What was merged speaks for itself
# where its fusion is gone, or goes.
_THAWED: LiteralString = """, reasons AS (
        SELECT moving.id, source.source FROM moving CROSS JOIN LATERAL (
            SELECT * FROM memos.source
            WHERE source.tenant = moving.tenant AND source.cube = moving.id
            OFFSET 0
        ) AS source
        WHERE source_version IS DISTINCT FROM (
            SELECT content_version FROM memos.cube AS origin
            WHERE origin.tenant = source.tenant AND origin.id = source.source
        )
    ), stale AS (
        SELECT array_agg(DISTINCT id) AS ids, array_agg(DISTINCT source) AS sources FROM reasons
    ), fallen AS MATERIALIZED (
        SELECT memos.fall(%(tenant)s, ids, sources, moment, %(caller)s::jsonb)
        FROM stale, whole WHERE ids IS NOT NULL
    ), thawing AS (
        SELECT moving.* FROM moving WHERE id NOT IN (SELECT id FROM reasons)
    ), superseded AS (
        INSERT INTO memos.cube_version SELECT moment, thawing.* FROM thawing, whole
    ), changed AS (
        UPDATE memos.cube AS cube SET
            state = CASE WHEN earlier.state = 'merged' AND NOT memos.spoken_for(
                cube.tenant, cube.id, coalesce(stale.ids, '{}')
            ) THEN 'activated' ELSE earlier.state END,
            version = cube.version + 1, recorded_at = moment, expires_at = earlier.expires_at
        FROM thawing CROSS JOIN LATERAL (
            SELECT * FROM memos.cube_version AS old
            WHERE old.tenant = thawing.tenant AND old.id = thawing.id AND old.state <> 'frozen'
            ORDER BY version DESC LIMIT 1
        ) AS earlier, whole, stale
        WHERE cube.tenant = thawing.tenant AND cube.id = thawing.id
        RETURNING cube.*
    )"""
_LOGGED: LiteralString = """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT tenant, moment, %(kind)s, namespace, %(caller)s::jsonb, array_agg(id), '{}'
        FROM moving, whole GROUP BY tenant, namespace, moment
    )"""
_PERMITTED: LiteralString = """, id IN (SELECT id FROM permitted) AS may_write,
        EXISTS (SELECT FROM whole) AS done, memos.announce(tenant)"""
_OUTCOME: LiteralString = """, unindexed FROM (
        SELECT changed.*, memos.unindex(tenant, ARRAY[id], namespace) AS unindexed FROM changed
        UNION ALL
        SELECT held.*, NULL FROM held WHERE id NOT IN (SELECT id FROM changed)
    ) AS cube
    """
_ANSWER: LiteralString = " SELECT " + COLUMNS + "," + WOKEN + _PERMITTED
_MOVE: LiteralString = _HELD + _MOVED + _LOGGED + _ANSWER + _OUTCOME
_THAW: LiteralString = (
    _FOUND
    + " OR "
    + MADE_OF_READABLE
    + _WHOLE
    + _THAWED
    + _LOGGED
    + _ANSWER
    + """, CASE WHEN id IN (SELECT id FROM reasons) THEN (SELECT moment FROM whole) END AS ended_at,
        (SELECT count(*) FROM fallen)"""
    + _OUTCOME
)
_EXPIRE: LiteralString = (
    _HELD
    + _LOGGED
    + """, fallen AS MATERIALIZED (
        SELECT memos.invalidate(%(tenant)s, ids, moment, %(caller)s::jsonb), ids, moment
        FROM whole, (SELECT array_agg(id) AS ids FROM moving) AS gone WHERE ids IS NOT NULL
    ), ended AS MATERIALIZED (
        SELECT memos.unmerge(%(tenant)s, ids, moment), memos.expire(%(tenant)s, ids, moment)
        FROM fallen
    )"""
    + _ANSWER
    + ", (SELECT count(*) FROM ended) FROM held"
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
    """Pass frozen cubes back to the states they were in; end those that do not stand any more."""
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
        cubes={row["id"]: _moved(row) for row in rows},
        denied=tuple(row["id"] for row in rows if not row["may_write"]),
    )


def _moved(row: Row) -> MemCube:
    cube, ended_at = cube_from(row), row.get("ended_at")
    if ended_at is None:
        return cube
    return replace(cube, state=State.EXPIRED, version=cube.version + 1, updated_at=ended_at)
