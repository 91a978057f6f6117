"""Statements about the audit log, and counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from memos_core.hit import Event, Stats
from memos_core.namespace import Namespace
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.permission import (
    MADE_OF_READABLE,
    MAY_READ,
    MAY_READ_MESSAGE,
    MAY_READ_VERSION,
    STANDS,
)
from memos_core.store.statements.scope import INSIDE, LIES_INSIDE, Scope

# Who asks by name sees what he did himself, and all that was done with a cube that is his.
# Of what others did with his cube, a caller learns who did what and when, and nothing of theirs.
_SELECTED: LiteralString = """
    SELECT
        id, at, kind, namespace, caller,
        CASE WHEN his THEN cube_ids ELSE ARRAY[%(cube)s::uuid] END AS cube_ids,
        CASE WHEN his THEN details ELSE '{}' END AS details
    FROM (
        SELECT *, %(user)s::text IS NULL
            OR coalesce(caller ->> 'user' = %(user)s::text, false) AS his
        FROM """
_OF_CUBE: LiteralString = "memos.events_of(%(tenant)s, %(cube)s::uuid)"
# What a caller was refused is not for him: it would tell which ids there are.
_SEEN: LiteralString = (
    ") AS event WHERE "
    + INSIDE
    + """ AND (
        %(user)s::text IS NULL OR his AND kind <> 'denied'
        OR kind <> 'denied' AND %(cube)s::uuid IN (
            SELECT id FROM memos.cube
            WHERE cube.tenant = %(tenant)s AND owner = %(user)s::text AND id = %(cube)s::uuid
            UNION ALL
            SELECT id FROM memos.cube_version
            WHERE cube_version.tenant = %(tenant)s AND owner = %(user)s::text
                AND id = %(cube)s::uuid
        )
    )"""
)
_LATEST: LiteralString = " ORDER BY at DESC, id DESC LIMIT %(limit)s OFFSET %(offset)s"
_FIRST: LiteralString = " ORDER BY at, id LIMIT %(limit)s OFFSET %(offset)s"


def events(
    scope: Scope,
    *,
    kind: str | None,
    cube: UUID | None,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    offset: int,
    before: Event | None = None,
    after: Event | None = None,
    oldest_first: bool = False,
) -> Statement[list[Event]]:
    """Read the log, the latest first unless ``oldest_first``."""
    given: list[tuple[object, LiteralString]] = [
        (kind, " AND kind = %(kind)s"),
        (by, " AND caller ->> 'user' = %(by)s"),
        (since, " AND at >= %(since)s"),
        (until, " AND at < %(until)s"),
        (before, " AND (at, id) < (%(before_at)s, %(before_id)s)"),
        (after, " AND (at, id) > (%(after_at)s, %(after_id)s)"),
    ]
    return Statement(
        sql=_SELECTED
        + ("memos.event" if cube is None else _OF_CUBE)
        + _SEEN
        + "".join([sql for value, sql in given if value is not None])
        + (_FIRST if oldest_first else _LATEST),
        parameters=scope.parameters(
            kind=kind,
            cube=cube,
            by=by,
            since=since,
            until=until,
            before_at=before and before.at,
            before_id=before and before.id,
            after_at=after and after.at,
            after_id=after and after.id,
            limit=limit,
            offset=offset,
        ),
        read=_events,
    )


def _events(rows: Sequence[Row]) -> list[Event]:
    return [
        Event(
            id=row["id"],
            at=row["at"],
            kind=row["kind"],
            namespace=Namespace(*row["namespace"]),
            user=row["caller"]["user"] if row["caller"] else None,
            cube_ids=tuple(row["cube_ids"]),
            details=row["details"],
        )
        for row in rows
    ]


_DENIED: LiteralString = (
    """
    WITH denied AS (
        SELECT DISTINCT id FROM (
            SELECT id FROM memos.cube WHERE id = ANY(%(ids)s::uuid[]) AND """
    + LIES_INSIDE
    + """ UNION ALL
            SELECT id FROM memos.cube_version WHERE id = ANY(%(ids)s::uuid[]) AND """
    + LIES_INSIDE
    + """
        ) AS there
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'denied', %(namespace)s::text[], %(caller)s::jsonb, array_agg(id),
            jsonb_build_object('right', %(right)s::text)
        FROM denied HAVING count(*) > 0
    )
    SELECT
    """
)


def denied(scope: Scope, cubes: Sequence[UUID], right: str) -> Statement[None]:
    """Write down that a caller asked for what he may not have; nothing where nothing is there."""
    return Statement(
        sql=_DENIED, parameters=scope.parameters(ids=list(cubes), right=right), read=ignored
    )


_LOGGED: LiteralString = """
    INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
    VALUES (
        %(tenant)s, clock_timestamp(), %(kind)s, %(namespace)s::text[], %(caller)s::jsonb,
        %(ids)s::uuid[], %(details)s::jsonb
    )
    RETURNING id
    """


def logged(
    scope: Scope, kind: str, details: Mapping[str, Any], *, cubes: Sequence[UUID] = ()
) -> Statement[None]:
    """Write down what was done with cubes, or with a view as a whole, or refused by its rules."""
    return Statement(
        sql=_LOGGED,
        parameters=scope.parameters(
            kind=kind, ids=list(cubes), details=json.dumps(dict(details), ensure_ascii=False)
        ),
        read=ignored,
    )


_STATS: LiteralString = (
    "SELECT (SELECT count(*) FROM memos.cube WHERE "
    "(expires_at IS NULL OR expires_at > now()) AND "
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + STANDS
    + ") AS cubes, (SELECT count(*) FROM memos.cube_version WHERE "
    + INSIDE
    + " AND "
    + MAY_READ_VERSION
    + " AND "
    + MADE_OF_READABLE
    + ") AS superseded, (SELECT count(*) FROM memos.message WHERE forgotten_at IS NULL AND "
    + INSIDE
    + " AND "
    + MAY_READ_MESSAGE
    + ") AS messages, (SELECT count(*) FROM memos.event WHERE "
    + INSIDE
    + """ AND (
        %(user)s::text IS NULL OR caller ->> 'user' = %(user)s::text AND kind <> 'denied'
    )) AS events, (
        SELECT cubes FROM memos.search_index
        WHERE %(user)s::text IS NULL AND tenant = %(tenant)s
            AND namespace = %(namespace)s::text[] AND built_at IS NOT NULL
    ) AS indexed, pg_database_size(current_database()) AS bytes,
    (SELECT value FROM memos.setting WHERE key = 'embedder') AS embedder"""
)


def stats(scope: Scope) -> Statement[Stats]:
    """Count what a view holds."""
    return Statement(sql=_STATS, parameters=scope.reading(), read=_stats)


def _stats(rows: Sequence[Row]) -> Stats:
    (row,) = rows
    embedder = row["embedder"] or {"name": None, "width": None}
    return Stats(
        cubes=row["cubes"],
        versions=row["cubes"] + row["superseded"],
        messages=row["messages"],
        events=row["events"],
        indexed=row["indexed"],
        bytes=row["bytes"],
        embedder=embedder["name"],
        width=embedder["width"],
    )
