"""Statements about KV caches, and memories as a model reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import LiteralString
from uuid import UUID

from memos_core.cached import CacheRecord, Remembered
from memos_core.cube import MemCube
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import COLUMNS, WOKEN, cube_from, first_cube
from memos_core.store.statements.filters import Filters
from memos_core.store.statements.permission import MAY_READ, STANDS
from memos_core.store.statements.scope import INSIDE, LAZY_COMMIT, Scope

_DATABASE: LiteralString = "SELECT value #>> '{}' AS id FROM memos.setting WHERE key = 'database'"


def database() -> Statement[str]:
    """Read what tells this database from all others."""
    return Statement(sql=_DATABASE, parameters={}, read=lambda rows: rows[0]["id"])


_KEEP: LiteralString = """
    INSERT INTO memos.kv_cache (tenant, cube, fingerprint, keys, tokens, members, report)
    VALUES (
        %(tenant)s, %(id)s, %(fingerprint)s::jsonb, %(keys)s::text[], %(tokens)s::integer[],
        %(members)s::uuid[], %(report)s::jsonb
    )
    RETURNING cube
    """


def keep(scope: Scope, cube: UUID, record: CacheRecord) -> Statement[None]:
    """Write down of what a cube is the KV cache."""
    return Statement(
        sql=_KEEP,
        parameters=scope.parameters(
            id=cube,
            fingerprint=json.dumps(dict(record.fingerprint)),
            keys=list(record.keys),
            tokens=list(record.tokens),
            members=list(record.members),
            report=json.dumps(dict(record.report)),
        ),
        read=ignored,
    )


_STANDING: LiteralString = (
    " (expires_at IS NULL OR expires_at > now()) AND "
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + STANDS
)
# Members are read by their ids: that they stand and may be read is a part of STANDS.
_REMEMBERED: LiteralString = (
    """
    WITH asked AS MATERIALIZED (
        SELECT given.place, cube.* FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS given (of, place)
        CROSS JOIN LATERAL (
            SELECT """
    + COLUMNS
    + ","
    + WOKEN
    + " FROM memos.cube WHERE id = given.of AND "
    + _STANDING
    + """ OFFSET 0
        ) AS cube
    ), held AS MATERIALIZED (
        SELECT asked.place, cache.* FROM asked JOIN memos.kv_cache AS cache
            ON cache.tenant = %(tenant)s AND cache.cube = asked.id
    ), member AS MATERIALIZED (
        SELECT held.place, given.part, cube.* FROM held
        CROSS JOIN unnest(held.members) WITH ORDINALITY AS given (of, part)
        CROSS JOIN LATERAL (
            SELECT """
    + COLUMNS
    + ","
    + WOKEN
    + """ FROM memos.cube WHERE tenant = %(tenant)s AND id = given.of OFFSET 0
        ) AS cube
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'read', %(namespace)s::text[], %(caller)s::jsonb,
            array_agg(DISTINCT id), '{}'
        FROM (SELECT id FROM asked UNION ALL SELECT id FROM member) AS every, """
    + LAZY_COMMIT
    + """
        WHERE %(log)s HAVING count(*) > 0
    ), activated AS (
        INSERT INTO memos.activation (tenant, cube, at)
        SELECT DISTINCT tenant, id, now() FROM (
            SELECT tenant, id, woken FROM asked UNION ALL SELECT tenant, id, woken FROM member
        ) AS every
        WHERE %(log)s AND woken IS NULL
        ORDER BY id ON CONFLICT DO NOTHING
    )
    SELECT 0 AS part, asked.*, members, fingerprint, keys, tokens, report
    FROM asked LEFT JOIN held USING (place)
    UNION ALL
    SELECT part, place, """
    + COLUMNS
    + """, woken, NULL, NULL, NULL, NULL, NULL FROM member
    ORDER BY place, part
    """
)


def remembered(scope: Scope, cubes: Sequence[UUID], *, log: bool) -> Statement[list[Remembered]]:
    """Read memories as they stand, those of a KV cache with it; what does not stand is left out."""
    return Statement(
        sql=_REMEMBERED,
        parameters=scope.reading(ids=list(cubes), log=log, as_of=None),
        read=_remembered,
    )


def _remembered(rows: Sequence[Row]) -> list[Remembered]:
    found: list[Remembered] = []
    for row in rows:
        if row["part"] == 0:
            cube, record = cube_from(row), _record(row)
            found.append(Remembered(cube=cube, members=() if record else (cube,), cache=record))
        else:
            last = found.pop()
            members = (*last.members, cube_from(row))
            found.append(Remembered(cube=last.cube, members=members, cache=last.cache))
    return found


def _record(row: Row) -> CacheRecord | None:
    if row["keys"] is None:
        return None
    return CacheRecord(
        members=tuple(row["members"]),
        fingerprint=row["fingerprint"],
        keys=tuple(row["keys"]),
        tokens=tuple(row["tokens"]),
        report=row["report"],
    )


_CACHES: LiteralString = (
    "SELECT cube.*, members, fingerprint, keys, tokens, report FROM memos.kv_cache AS cache"
    " CROSS JOIN LATERAL (SELECT "
    + COLUMNS
    + ","
    + WOKEN
    + " FROM memos.cube WHERE id = cache.cube AND state <> 'archived' AND "
    + _STANDING
    + """ OFFSET 0) AS cube
    WHERE cache.tenant = %(tenant)s
        AND (%(model)s::text IS NULL OR model = %(model)s::text)
        AND (%(holding)s::text[] IS NULL OR keys && %(holding)s::text[])
    """
)
_SEARCHABLE: LiteralString = (
    """ AND NOT EXISTS (
        SELECT FROM unnest(cache.members) AS given (of) WHERE NOT EXISTS (
            SELECT FROM memos.cube WHERE tenant = %(tenant)s AND id = given.of AND """
    + Filters().sql()
    + "))"
)


def caches(
    scope: Scope, model: str | None, holding: Sequence[str] | None, *, searchable: bool
) -> Statement[list[Remembered]]:
    """Read the KV caches that stand, of one model or of all, without their members."""
    return Statement(
        sql=_CACHES + (_SEARCHABLE if searchable else "") + " ORDER BY created_at, id",
        parameters=scope.reading(
            model=model, holding=None if holding is None else list(holding), as_of=None
        ),
        read=lambda rows: [
            Remembered(cube=cube_from(row), members=(), cache=_record(row)) for row in rows
        ],
    )


_KEPT: LiteralString = (
    "SELECT cube.* FROM memos.kv_cache AS cache CROSS JOIN LATERAL (SELECT "
    + COLUMNS
    + ","
    + WOKEN
    + """ FROM memos.cube WHERE id = cache.cube AND state <> 'archived'
            AND namespace = %(namespace)s::text[] AND owner IS NOT DISTINCT FROM %(user)s::text AND
        """
    + _STANDING
    + """ OFFSET 0) AS cube
    WHERE cache.tenant = %(tenant)s AND model = %(model)s AND leaf = %(leaf)s
        AND keys = %(keys)s::text[] AND members = %(members)s::uuid[]
    ORDER BY created_at, id LIMIT 1"""
)


def kept(scope: Scope, record: CacheRecord) -> Statement[MemCube | None]:
    """Read the KV cache of the same that the caller has kept in this very namespace."""
    return Statement(
        sql=_KEPT,
        parameters=scope.reading(
            model=record.fingerprint.get("key"),
            leaf=record.keys[-1],
            keys=list(record.keys),
            members=list(record.members),
            as_of=None,
        ),
        read=first_cube,
    )


_LIVE_KEYS: LiteralString = (
    """
    SELECT DISTINCT unnest(keys) AS key FROM memos.kv_cache AS cache CROSS JOIN LATERAL (
        SELECT id FROM memos.cube WHERE tenant = %(tenant)s AND id = cache.cube
            AND (expires_at IS NULL OR expires_at > now()) AND """
    + STANDS
    + """ OFFSET 0
    ) AS cube
    WHERE cache.tenant = %(tenant)s
    """
)


def live_keys(scope: Scope) -> Statement[frozenset[str]]:
    """Read the keys of all KV caches of a tenant that stand, whoever may read them."""
    return Statement(
        sql=_LIVE_KEYS,
        parameters=replace(scope, caller=None).parameters(),
        read=lambda rows: frozenset(row["key"] for row in rows),
    )
