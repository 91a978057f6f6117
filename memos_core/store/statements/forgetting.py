"""Statements that forget cubes, and what was said that they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from memos_core.hit import ForgetReport
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import SAID
from memos_core.store.statements.permission import MAY_READ, MAY_WRITE
from memos_core.store.statements.scope import INSIDE, LIES_INSIDE, Scope

_HOLD: LiteralString = (
    "SELECT memos.hold(%(tenant)s, ARRAY(SELECT id FROM memos.cube "
    "WHERE id = ANY(%(ids)s::uuid[]) AND " + LIES_INSIDE + " AND " + MAY_WRITE + "))"
)


def hold(scope: Scope, cubes: Sequence[UUID]) -> Statement[None]:
    """Hold cubes, and what goes with them, until the transaction ends."""
    return Statement(sql=_HOLD, parameters=scope.parameters(ids=list(cubes)), read=ignored)


_OF_SESSION: LiteralString = (
    "(%(session)s::text IS NULL OR provenance ->> 'session' = %(session)s::text "
    "OR provenance -> 'sessions' ? %(session)s::text)"
)
_ALL: LiteralString = _OF_SESSION + " AND " + INSIDE + " AND " + MAY_WRITE + " AND " + MAY_READ
_HOLD_ALL: LiteralString = (
    "SELECT memos.hold(%(tenant)s, ARRAY(SELECT id FROM memos.cube WHERE " + _ALL + "))"
)
# Those that came meanwhile are locked, and those that went are no longer among them.
_LOCK_ALL: LiteralString = (
    "WITH live AS (SELECT id FROM memos.cube WHERE "
    + _ALL
    + """ ORDER BY id FOR UPDATE)
    SELECT id FROM live
    UNION
    SELECT id FROM memos.cube_version WHERE state = 'expired' AND """
    + _ALL
)


def hold_all(scope: Scope, *, session: str | None) -> Statement[None]:
    """Hold every cube of a view, or of a session, and what goes with them."""
    return Statement(sql=_HOLD_ALL, parameters=scope.parameters(session=session), read=ignored)


def lock_all(scope: Scope, *, session: str | None) -> Statement[list[UUID]]:
    """Read the ids of every cube of a view, or of a session, once they are held."""
    return Statement(
        sql=_LOCK_ALL,
        parameters=scope.parameters(session=session),
        read=lambda rows: [row["id"] for row in rows],
    )


_THERE: LiteralString = (
    "SELECT id FROM memos.cube WHERE id = ANY(%(ids)s::uuid[]) AND "
    + LIES_INSIDE
    + " UNION SELECT id FROM memos.cube_version "
    "WHERE id = ANY(%(ids)s::uuid[]) AND state = 'expired' AND " + LIES_INSIDE
)


def there(scope: Scope, cubes: Sequence[UUID]) -> Statement[list[UUID]]:
    """Read which of some cubes are there to be forgotten."""
    return Statement(
        sql=_THERE,
        parameters=scope.parameters(ids=list(cubes)),
        read=lambda rows: [row["id"] for row in rows],
    )


# All or nothing: where one id is unknown, may not be written, or is frozen, `whole` is empty, and
# nothing is removed. What was made of them goes with them, whosever and in whatever state it is.
# The turns that a cube came from say what it says, so their content goes with it; their ids stay,
# so that a client that sends them again does not bring them back.
_FORGET: LiteralString = (
    """
    WITH doomed AS (
        SELECT DISTINCT ON (id) id, trail, provenance, message_ids, state, may_write
        FROM (
            SELECT id, trail, provenance, message_ids, state, version, """
    + MAY_WRITE
    + """ AS may_write FROM memos.cube
            WHERE id = ANY(%(ids)s::uuid[]) AND """
    + LIES_INSIDE
    + " AND "
    + MAY_READ
    + """
            UNION ALL
            SELECT id, trail, provenance, message_ids, state, version, """
    + MAY_WRITE
    + """ AS may_write FROM memos.cube_version
            WHERE id = ANY(%(ids)s::uuid[]) AND state = 'expired' AND """
    + LIES_INSIDE
    + " AND "
    + MAY_READ
    + """
        ) AS known
        ORDER BY id, version DESC
    ), derived AS (
        SELECT DISTINCT cube AS id FROM memos.source
        WHERE tenant = %(tenant)s AND source = ANY(%(ids)s::uuid[])
            AND cube <> ALL(%(ids)s::uuid[])
    ), frozen AS (
        SELECT id FROM memos.cube
        WHERE tenant = %(tenant)s AND state = 'frozen'
            AND id = ANY(%(ids)s::uuid[])
    ), whole AS (
        SELECT count(*) AS cubes FROM doomed WHERE may_write
        HAVING count(*) = cardinality(%(ids)s::uuid[]) AND NOT EXISTS (SELECT FROM frozen)
    ), removed AS MATERIALIZED (
        SELECT memos.erase(
            %(tenant)s, %(ids)s::uuid[] || ARRAY(SELECT id FROM derived)
        ) AS versions FROM whole WHERE cubes > 0
    ), said AS (
        SELECT DISTINCT trail, said_in AS session, said_as AS id
        FROM doomed CROSS JOIN whole CROSS JOIN LATERAL """
    + SAID
    + """ AS origin
    ), erased AS (
        UPDATE memos.message SET
            content = '', name = NULL, metadata = '{}', extra = '{}', due_at = NULL,
            forgotten_at = now()
        FROM said
        WHERE message.tenant = %(tenant)s AND message.trail = said.trail
            AND message.session = said.session AND message.id = said.id AND forgotten_at IS NULL
            AND (%(session)s::text IS NULL OR message.session = %(session)s::text)
        RETURNING message.id
    ), unread AS (
        UPDATE memos.message SET due_at = now()
        FROM said
        WHERE message.tenant = %(tenant)s AND message.trail = said.trail
            AND message.session = said.session AND message.id = said.id AND forgotten_at IS NULL
            AND message.session <> %(session)s::text
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'forgot', %(namespace)s::text[], %(caller)s::jsonb,
            %(ids)s::uuid[] || ARRAY(SELECT id FROM derived), jsonb_build_object(
                'messages', (SELECT count(*) FROM erased), 'versions', versions,
                'derived', (SELECT count(*) FROM derived)
            )
        FROM removed
    )
    SELECT
        ARRAY(SELECT id FROM doomed WHERE may_write) AS cubes,
        ARRAY(SELECT id FROM doomed WHERE NOT may_write) AS denied,
        ARRAY(SELECT id FROM frozen) AS frozen,
        ARRAY(SELECT id FROM derived, whole) AS derived,
        coalesce((SELECT versions FROM removed), 0) AS versions,
        (SELECT memos.recall(
            %(tenant)s, %(ids)s::uuid[] || ARRAY(SELECT id FROM derived)
        ) FROM removed) AS recalled,
        ARRAY(SELECT id FROM erased) AS message_ids
    """
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """What came of it; where a cube was not found, denied, or frozen, nothing was removed."""

    report: ForgetReport
    denied: tuple[UUID, ...]
    frozen: tuple[UUID, ...]


def forget(
    scope: Scope, cubes: Sequence[UUID], *, session: str | None = None
) -> Statement[Forgetting]:
    """Remove cubes with all their versions, what was made of them, and the messages' content.

    Of a ``session``, only its messages: what others said of such a cube has to be read again.
    """
    return Statement(
        sql=_FORGET,
        parameters=scope.parameters(ids=list(cubes), session=session),
        read=_forgetting,
    )


def _forgetting(rows: Sequence[Row]) -> Forgetting:
    (row,) = rows
    return Forgetting(
        report=ForgetReport(
            cubes=tuple(row["cubes"]),
            derived=tuple(row["derived"]),
            versions=row["versions"],
            message_ids=tuple(row["message_ids"]),
        ),
        denied=tuple(row["denied"]),
        frozen=tuple(row["frozen"]),
    )
