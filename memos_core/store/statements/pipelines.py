"""Statements that a pipeline runs beside those of its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

from memos_core.cube import MemCube
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import COLUMNS, WOKEN, cube_from
from memos_core.store.statements.permission import MAY_READ, STANDS
from memos_core.store.statements.scope import Scope

# A read makes the commit of its transaction lazy, which is not meant for what else is in it.
_DURABLE: LiteralString = """
    SELECT set_config('synchronous_commit', reset_val, true)
    FROM pg_settings WHERE name = 'synchronous_commit'
    """


def durable() -> Statement[None]:
    """Let the transaction's commit wait for the disk, whatever reads were in it."""
    return Statement(sql=_DURABLE, parameters={}, read=ignored)


# The rows of the log that this transaction wrote name all that it changed. An event's time is not
# before its transaction's, so only the newest partition is read.
_TOUCHED: LiteralString = (
    """
    WITH touched AS (
        SELECT DISTINCT unnest(cube_ids) AS id FROM memos.event
        WHERE tenant = %(tenant)s AND at >= now()
            AND xmin = pg_current_xact_id()::xid AND kind NOT IN ('read', 'searched')
    )
    SELECT touched.id AS touched, now.* FROM touched LEFT JOIN LATERAL (
        SELECT """
    + COLUMNS
    + ","
    + WOKEN
    + """ FROM memos.cube WHERE cube.tenant = %(tenant)s AND cube.id = touched.id AND """
    + MAY_READ
    + " AND "
    + STANDS
    + """
    ) AS now ON true
    ORDER BY touched.id
    """
)
_CUBES: LiteralString = (
    "SELECT id AS touched, "
    + COLUMNS
    + ","
    + WOKEN
    + " FROM memos.cube WHERE cube.tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[]) AND "
    + MAY_READ
    + " AND "
    + STANDS
)


def touched(scope: Scope) -> Statement[dict[UUID, MemCube | None]]:
    """Read the cubes of a tenant that this transaction changed; None for what is not to be had."""
    return Statement(sql=_TOUCHED, parameters=scope.parameters(as_of=None), read=_by_id)


def cubes(scope: Scope, ids: Sequence[UUID]) -> Statement[dict[UUID, MemCube | None]]:
    """Read those of some cubes that stand and that the caller may read."""
    return Statement(
        sql=_CUBES, parameters=scope.parameters(ids=list(ids), as_of=None), read=_by_id
    )


def _by_id(rows: Sequence[Row]) -> dict[UUID, MemCube | None]:
    return {row["touched"]: cube_from(row) if row["id"] else None for row in rows}
