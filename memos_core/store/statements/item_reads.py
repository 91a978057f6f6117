"""Statements that read items: values under keys, each of which is a cube."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from pgvector import HalfVector

from memos_core.cube import MemCube
from memos_core.embedder import Model, Vectors
from memos_core.item import PathMatch
from memos_core.store.arrays import Uuids
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.columns import COLUMNS, cube_from
from memos_core.store.statements.filters import Filters
from memos_core.store.statements.permission import MAY_READ, MAY_READ_INSIDE, STANDS
from memos_core.store.statements.scope import INSIDE, LAZY_COMMIT, LIES_INSIDE, Scope

_LIVE: LiteralString = "(expires_at IS NULL OR expires_at > now())"
_IS_ITEM: LiteralString = "semantic_type = 'item'"
_FOUND: LiteralString = (
    "WITH found AS (SELECT "
    + COLUMNS
    + " FROM memos.cube WHERE id = ANY(%(ids)s::uuid[]) AND "
    + LIES_INSIDE
    + " AND NOT derived AND "
    + _LIVE
)
_LOGGED: LiteralString = (
    """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT tenant, now(), 'read', namespace, %(caller)s::jsonb, array_agg(id), '{}'
        FROM found, """
    + LAZY_COMMIT
    + """
        GROUP BY tenant, namespace
    ), activated AS (
        INSERT INTO memos.activation (tenant, cube, at)
        SELECT tenant, id, now() FROM found WHERE state = 'generated'
        ORDER BY id ON CONFLICT DO NOTHING
    )"""
)


def get(scope: Scope, cubes: Sequence[UUID], *, log: bool) -> Statement[dict[UUID, MemCube]]:
    """Read items by the ids of their cubes; those that are not there are left out."""
    return Statement(
        sql=_FOUND
        + ("" if scope.caller is None else " AND " + MAY_READ)
        + ")"
        + (_LOGGED if log else "")
        + " SELECT * FROM found",
        parameters=scope.reading(ids=Uuids(cubes)),
        read=lambda rows: {row["id"]: cube_from(row) for row in rows},
    )


_REFRESH: LiteralString = (
    """
    UPDATE memos.cube SET expires_at = now() + make_interval(secs => (metadata ->> 'ttl')::float8)
    WHERE id = ANY(ARRAY(
            SELECT id FROM memos.cube WHERE tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[])
            ORDER BY id FOR UPDATE
        )) AND """
    + LIES_INSIDE
    + " AND "
    + _LIVE
    + " AND state <> 'frozen' AND jsonb_typeof(metadata -> 'ttl') = 'number'"
    + " RETURNING id, expires_at"
)


def refresh(scope: Scope, cubes: Sequence[UUID]) -> Statement[dict[UUID, datetime]]:
    """Let items live their time anew, from now on; read when each will end."""
    return Statement(
        sql=_REFRESH,
        parameters=scope.parameters(ids=list(cubes)),
        read=lambda rows: {row["id"]: row["expires_at"] for row in rows},
    )


# Of an item with passages the nearest one counts, while there are vectors of this model.
_DISTANCE: LiteralString = """
    CASE WHEN metadata ? 'passages' THEN coalesce((
        SELECT min(passage.embedding <=> %(embedding)b::halfvec) FROM memos.passage
        WHERE passage.tenant = %(tenant)s AND passage.cube = memory.id
            AND passage.version = memory.content_version AND passage.model = %(model)s::jsonb
    ), embedding <=> %(embedding)b::halfvec) ELSE embedding <=> %(embedding)b::halfvec END
    """
_NEWEST: LiteralString = "256"  # items that are looked at before all are
_PAGE: LiteralString = " ORDER BY {}, id LIMIT %(limit)s OFFSET %(offset)s"
_FETCHED: LiteralString = """, found AS MATERIALIZED (
        SELECT cube.*, place, distance FROM best CROSS JOIN LATERAL (
            SELECT """
_BEST: LiteralString = """ FROM memos.cube WHERE tenant = %(tenant)s AND id = best.id OFFSET 0
        ) AS cube
    )"""
_SEARCHED: LiteralString = (
    """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'searched', %(namespace)s::text[], %(caller)s::jsonb,
            ARRAY(SELECT id FROM best ORDER BY place),
            jsonb_build_object('k', %(limit)s::bigint, 'offset', %(offset)s::bigint)
        FROM """
    + LAZY_COMMIT
    + """
    ), activated AS (
        INSERT INTO memos.activation (tenant, cube, at)
        SELECT tenant, id, now() FROM found WHERE state = 'generated'
        ORDER BY id ON CONFLICT DO NOTHING
    )"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundItem:
    """An item's cube, its cosine similarity with what was asked, and its vector if it was."""

    cube: MemCube
    similarity: float | None
    vector: Vectors | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundItems:
    """What was found, and whether it was among the tenant's ``newest`` items."""

    items: list[FoundItem]
    newest: bool


def search(
    scope: Scope,
    vector: Vectors | None,
    *,
    model: str,
    filters: Filters,
    limit: int,
    offset: int,
    vectors: bool,
    newest: bool,
    log: bool,
) -> Statement[FoundItems]:
    """Find items: the nearest to a vector of shape (1, width) first, or those put last.

    With ``newest`` the tenant's newest are looked at before all of the namespace is.
    """
    parameters = scope.reading(limit=limit, offset=offset, **filters.parameters())
    if vector is not None:
        parameters["embedding"] = HalfVector(vector[0])
        parameters["model"] = Model(name=model, width=vector.shape[1]).as_json()
    passing = _passing(scope, filters)
    return Statement(
        sql=(_latest(passing, newest=newest) if vector is None else _nearest(passing))
        + _FETCHED
        + COLUMNS
        + (", embedding" if vectors else "")
        + _BEST
        + (_SEARCHED if log else "")
        + (" SELECT found.*, there" if vector is None and newest else " SELECT *")
        + (" FROM enough LEFT JOIN found ON true" if vector is None and newest else " FROM found")
        + " ORDER BY place",
        parameters=parameters,
        read=_found,
    )


def _passing(scope: Scope, filters: Filters) -> LiteralString:
    """Return the condition of items that may answer."""
    may_read: LiteralString = "" if scope.caller is None else MAY_READ_INSIDE + " AND "
    return (
        _LIVE
        + " AND "
        + may_read
        + _IS_ITEM
        + " AND "
        + filters.sql(governed=scope.caller is not None)
    )


def _nearest(passing: LiteralString) -> LiteralString:
    return (
        """
    WITH best AS MATERIALIZED (
        SELECT *, row_number() OVER (ORDER BY distance, id) AS place FROM (
            SELECT id, """
        + _DISTANCE
        + " AS distance FROM memos.cube AS memory WHERE "
        + INSIDE
        + " AND memos.embedded_by(%(model)s::jsonb) AND metadata ? 'found' AND "
        + passing
        + _PAGE.format("distance")
        + ") AS nearest)"
    )


def _latest(passing: LiteralString, *, newest: bool) -> LiteralString:
    """Return what finds those put last: among the tenant's newest, else among all."""
    every = "SELECT id, recorded_at FROM memos.cube AS memory WHERE " + INSIDE + " AND " + passing
    page = _PAGE.format("recorded_at DESC")
    if not newest:
        return "WITH " + _best(every + page)
    return (
        """
    WITH newest AS MATERIALIZED (
        SELECT id, recorded_at FROM (
            SELECT * FROM memos.cube WHERE tenant = %(tenant)s AND """
        + _IS_ITEM
        + " ORDER BY recorded_at DESC, id LIMIT "
        + _NEWEST
        + """
        ) AS memory WHERE """
        + LIES_INSIDE
        + " AND "
        + passing
        + """
    ), enough AS MATERIALIZED (
        SELECT count(*) >= %(limit)s + %(offset)s AS there FROM newest
    ), """
        + _best(
            "(SELECT * FROM newest WHERE (SELECT there FROM enough)"
            + page
            + ") UNION ALL ("
            + every
            + " AND NOT (SELECT there FROM enough)"
            + page
            + ")"
        )
    )


def _best(rows: LiteralString) -> LiteralString:
    return (
        """best AS MATERIALIZED (
        SELECT
            id, NULL::float8 AS distance,
            row_number() OVER (ORDER BY recorded_at DESC, id) AS place
        FROM ("""
        + rows
        + ") AS latest)"
    )


def _found(rows: Sequence[Row]) -> FoundItems:
    return FoundItems(
        items=[_item(row) for row in rows if row["place"] is not None],
        newest=bool(rows) and bool(rows[0].get("there")),
    )


def _item(row: Row) -> FoundItem:
    vector = row.get("embedding")
    return FoundItem(
        cube=cube_from(row),
        similarity=None if row["distance"] is None else 1 - row["distance"],
        vector=None if vector is None else vector.to_numpy().astype("float32"),
    )


# A path is compared label by label; "*" is any one.
_NAMESPACES: LiteralString = (
    """
    SELECT DISTINCT path[: coalesce(%(max_depth)s::integer, cardinality(path))] AS path FROM (
        SELECT DISTINCT namespace[%(root)s::integer + 1 :] AS path FROM memos.cube
        WHERE """
    + INSIDE
    + " AND "
    + _LIVE
    + " AND "
    + MAY_READ_INSIDE
    + " AND "
    + STANDS
    + " AND state <> 'archived' AND "
    + _IS_ITEM
    + """
    ) AS every
    WHERE cardinality(path) > 0 AND NOT EXISTS (
        SELECT FROM jsonb_to_recordset(%(matches)s::jsonb) AS wanted (suffix boolean, labels text[])
        WHERE cardinality(labels) > cardinality(path) OR EXISTS (
            SELECT FROM unnest(labels) WITH ORDINALITY AS one (label, place)
            WHERE label NOT IN ('*', path[
                place::integer + CASE WHEN suffix THEN cardinality(path) - cardinality(labels)
                    ELSE 0 END
            ])
        )
    )
    ORDER BY path LIMIT %(limit)s OFFSET %(offset)s
    """
)


def namespaces(
    scope: Scope, matches: Sequence[PathMatch], *, max_depth: int | None, limit: int, offset: int
) -> Statement[list[tuple[str, ...]]]:
    """Read in which namespaces below this one items are, relative to it."""
    wanted = [{"suffix": one.at == "suffix", "labels": one.path} for one in matches]
    return Statement(
        sql=_NAMESPACES,
        parameters=scope.reading(
            root=len(scope.namespace),
            matches=json.dumps(wanted),
            max_depth=max_depth,
            limit=limit,
            offset=offset,
            as_of=None,
        ),
        read=lambda rows: [tuple(row["path"]) for row in rows],
    )
