"""Statements that read cubes by id, as they are and as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from memos_core.cube import MemCube, Usage
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.columns import (
    COLUMNS,
    WOKEN,
    WOKEN_THEN,
    cube_from,
    cubes_from,
)
from memos_core.store.statements.permission import (
    MADE_OF_READABLE,
    MAY_READ,
    MAY_READ_VERSION,
    STANDS,
    STOOD,
)
from memos_core.store.statements.scope import INSIDE, LAZY_COMMIT, LIES_INSIDE, Scope

# A version held from when it was recorded until it was superseded; the current one still holds.
_AT: LiteralString = """
    AND recorded_at <= coalesce(%(as_of)s, now())
    AND (expires_at IS NULL OR expires_at > coalesce(%(as_of)s, now()))
"""
_COLUMNS: LiteralString = COLUMNS + "," + WOKEN
_COLUMNS_THEN: LiteralString = COLUMNS + "," + WOKEN_THEN
_FOUND: LiteralString = (
    "SELECT "
    + _COLUMNS
    + " FROM memos.cube WHERE id = %(id)s AND "
    + INSIDE
    + _AT
    + " AND "
    + MAY_READ
    + " AND CASE WHEN %(as_of)s::timestamptz IS NULL THEN "
    + STANDS
    + " ELSE "
    + STOOD
    + " END"
)
_FOUND_THEN: LiteralString = (
    "SELECT "
    + _COLUMNS_THEN
    + " FROM memos.cube_version WHERE id = %(id)s AND superseded_at > %(as_of)s AND "
    + INSIDE
    + _AT
    + " AND "
    + MAY_READ_VERSION
    + " AND "
    + STOOD
)
_GET: LiteralString = (
    "WITH found AS ("
    + _FOUND
    + " UNION ALL "
    + _FOUND_THEN
    + """
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT tenant, now(), 'read', namespace, %(caller)s::jsonb, ARRAY[id], '{}'
        FROM found, """
    + LAZY_COMMIT
    + """
        WHERE %(log)s
    ), activated AS (
        INSERT INTO memos.activation (tenant, cube, at)
        SELECT tenant, id, now() FROM found
        WHERE %(log)s AND %(as_of)s::timestamptz IS NULL AND woken IS NULL
        ON CONFLICT DO NOTHING
    )
    SELECT found.*, usage.* FROM found, memos.uses(%(tenant)s, found.id) AS usage
    """
)


def get(
    scope: Scope, cube: UUID, *, as_of: datetime | None, log: bool
) -> Statement[MemCube | None]:
    """Read a cube as it stands, or stood at ``as_of``, with its usage; an event records it."""
    return Statement(
        sql=_GET,
        parameters=scope.reading(id=cube, as_of=as_of, log=log),
        read=_with_usage,
    )


def _with_usage(rows: Sequence[Row]) -> MemCube | None:
    for row in rows:
        usage = Usage(reads=row["reads"], last_read_at=row["last_read_at"])
        return replace(cube_from(row), usage=usage)
    return None


_VERSIONS: LiteralString = (
    """
    SELECT id, version FROM memos.cube
    WHERE id = ANY(%(ids)s::uuid[]) AND (expires_at IS NULL OR expires_at > now()) AND """
    + LIES_INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + STANDS
)


def versions(scope: Scope, cubes: Sequence[UUID]) -> Statement[dict[UUID, int]]:
    """Read at which versions cubes stand; those that are gone are left out."""
    return Statement(
        sql=_VERSIONS,
        parameters=scope.reading(ids=list(cubes)),
        read=lambda rows: {row["id"]: row["version"] for row in rows},
    )


_HISTORY: LiteralString = (
    "WITH found AS (SELECT "
    + _COLUMNS_THEN
    + " FROM memos.cube_version WHERE id = %(id)s AND "
    + INSIDE
    + " AND "
    + MAY_READ_VERSION
    + " AND "
    + MADE_OF_READABLE
    + " UNION ALL SELECT "
    + _COLUMNS
    + " FROM memos.cube WHERE id = %(id)s AND "
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + MADE_OF_READABLE
    + """
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'read', namespace, %(caller)s::jsonb, ARRAY[id],
            jsonb_build_object('versions', count(*))
        FROM found, """
    + LAZY_COMMIT
    + """
        WHERE %(log)s
        GROUP BY tenant, namespace, id
    )
    SELECT * FROM found ORDER BY version
    """
)


def history(scope: Scope, cube: UUID, *, log: bool) -> Statement[list[MemCube]]:
    """Read every version of a cube, the oldest first; none where there is no such cube."""
    return Statement(
        sql=_HISTORY,
        parameters=scope.reading(id=cube, as_of=None, log=log),
        read=cubes_from,
    )
