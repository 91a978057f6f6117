"""Statements that make an archive visible, once it was decided what of it is loaded.

They run in one transaction and in the order in which they stand here.
"""

from __future__ import annotations

from typing import LiteralString, NamedTuple

from memos_core.embedder import Model
from memos_core.namespace import Namespace
from memos_core.store.statement import Statement
from memos_core.store.statements.columns import COLUMNS, SAID, SEARCHED
from memos_core.store.statements.staging import MADE_OF, MINE, Loading, counted

_LOADED: LiteralString = (
    "(SELECT id FROM memos.staged_id WHERE " + MINE + " AND (fate IS NULL OR fate = 'replacing'))"
)


class Arriving(NamedTuple):
    """How much is about to be loaded into a namespace."""

    namespace: Namespace
    cubes: int
    characters: int


_ARRIVING: LiteralString = (
    "SELECT namespace, count(*) AS cubes, sum(length(text))::bigint AS characters "
    "FROM memos.staged_cube WHERE superseded_at IS NULL AND "
    + MINE
    + " AND id IN "
    + _LOADED
    + " GROUP BY namespace"
)


def arriving(loading: Loading) -> Statement[list[Arriving]]:
    """Count the cubes that will stand, by their namespaces."""
    return Statement(
        sql=_ARRIVING,
        parameters=loading.parameters(),
        read=lambda rows: [
            Arriving(Namespace(*row["namespace"]), row["cubes"], row["characters"]) for row in rows
        ],
    )


# What rules found in a cube here is said of all that was made of it, too.
_MARKS: LiteralString = """
    UPDATE memos.staged_cube AS made SET sensitivity = made.sensitivity || missing.labels
    FROM (
        SELECT edge.child, array_agg(DISTINCT label) AS labels
        FROM memos.staged_edge AS edge
        JOIN memos.staged_cube AS origin ON origin.tenant = edge.tenant
            AND origin.archive = edge.archive AND origin.id = edge.parent
            AND origin.superseded_at IS NULL
        JOIN memos.staged_cube AS child ON child.tenant = edge.tenant
            AND child.archive = edge.archive AND child.id = edge.child
            AND child.superseded_at IS NULL
        CROSS JOIN LATERAL unnest(origin.sensitivity) AS label
        WHERE edge.tenant = %(tenant)s AND edge.archive = %(archive)s
            AND edge.relation NOT IN ('contradicts', 'about')
            AND label <> ALL(child.sensitivity)
        GROUP BY edge.child
    ) AS missing
    WHERE made.tenant = %(tenant)s AND made.archive = %(archive)s AND made.id = missing.child
        AND made.superseded_at IS NULL
    """


def marks(loading: Loading) -> Statement[int]:
    """Mark what was made of cubes as those are marked; count what that changed."""
    return counted(_MARKS, loading)


_MESSAGES: LiteralString = (
    """
    INSERT INTO memos.message (
        tenant, namespace, id, session, role, name, content, metadata, extra, created_at,
        utc_offset, created_by, recorded_at, due_at, retired_at, forgotten_at
    )
    SELECT
        tenant, namespace, id, session, role, name, content, metadata, extra, created_at,
        utc_offset, created_by, recorded_at, CASE WHEN unread THEN now() END, retired_at,
        forgotten_at
    FROM memos.staged_message WHERE """
    + MINE
    + " ORDER BY place ON CONFLICT DO NOTHING"
)


def messages(loading: Loading) -> Statement[int]:
    """Append messages that are not in the log yet, in their order; count them."""
    return counted(_MESSAGES, loading)


# After the messages: a turn's place is that of its message.
_ARRIVALS: LiteralString = (
    """
    FROM memos.staged_cube AS arrival LEFT JOIN LATERAL (
        SELECT memos.thread(message.namespace, message.session) AS thread, position AS turn
        FROM """
    + SAID
    + """ AS said JOIN memos.message ON message.tenant = %(tenant)s
            AND message.trail = arrival.trail AND message.session = said_in
            AND message.id = said_as
        WHERE said.place = 1
    ) AS turn ON spoken
    WHERE memos.embedded_by(%(model)s::jsonb) AND """
    + MINE
    + " AND id IN "
    + _LOADED
)
_CUBES: LiteralString = (
    "INSERT INTO memos.cube ("
    + COLUMNS
    + ","
    + SEARCHED
    + ", content_version) SELECT "
    + COLUMNS
    + ","
    + SEARCHED
    + ", content_version "
    + _ARRIVALS
    + " AND superseded_at IS NULL"
)
_VERSIONS: LiteralString = (
    "INSERT INTO memos.cube_version ("
    + COLUMNS
    + ","
    + SEARCHED
    + ", content_version, superseded_at, trail) SELECT "
    + COLUMNS
    + ","
    + SEARCHED
    + ", content_version, superseded_at, arrival.trail "
    + _ARRIVALS
    + " AND superseded_at IS NOT NULL"
)


def versions(loading: Loading, *, model: Model) -> Statement[int]:
    """Store superseded versions; count them."""
    return counted(_VERSIONS, loading, model=model.as_json())


def cubes(loading: Loading, *, model: Model) -> Statement[int]:
    """Store the cubes that stand; count them."""
    return counted(_CUBES, loading, model=model.as_json())


_ACTIVATIONS: LiteralString = (
    """
    INSERT INTO memos.activation (tenant, cube, at)
    SELECT tenant, id, activated_at FROM memos.staged_cube
    WHERE activated_at IS NOT NULL AND """
    + MINE
    + " AND id IN "
    + _LOADED
    + " ON CONFLICT DO NOTHING"
)
_UNINDEXED: LiteralString = (
    """
    INSERT INTO memos.unindexed (tenant, index, id)
    SELECT cube.tenant, held.id, cube.id
    FROM memos.search_index AS held JOIN memos.cube ON cube.tenant = held.tenant
        AND held.namespace = cube.namespace[:cardinality(held.namespace)]
    WHERE held.tenant = %(tenant)s AND cube.id IN """
    + _LOADED
    + " ON CONFLICT DO NOTHING"
)
_SOURCES: LiteralString = (
    """
    INSERT INTO memos.source (tenant, cube, source, source_version)
    SELECT tenant, child, parent, version FROM memos.staged_edge WHERE """
    + MADE_OF
    + " AND "
    + MINE
    + " AND child IN "
    + _LOADED
    + " ON CONFLICT DO NOTHING"
)


def belongings(loading: Loading) -> list[Statement[int]]:
    """Return statements that store what belongs to cubes, and is no record by itself."""
    return [counted(sql, loading) for sql in (_ACTIVATIONS, _UNINDEXED, _SOURCES)]


_EDGES: LiteralString = (
    """
    INSERT INTO memos.lineage
        (tenant, child, parent, relation, parent_version, position, recorded_at)
    SELECT tenant, child, parent, relation, version, position, recorded_at
    FROM memos.staged_edge
    WHERE relation <> '' AND """
    + MINE
    + " AND child IN "
    + _LOADED
    + """ AND (
        EXISTS (SELECT FROM memos.cube WHERE cube.tenant = %(tenant)s AND cube.id = parent)
        OR EXISTS (
            SELECT FROM memos.cube_version
            WHERE cube_version.tenant = %(tenant)s AND cube_version.id = parent
        )
    ) ON CONFLICT DO NOTHING"""
)
# Who may do what with a cube that stays as it is stays as it is, too.
_GRANTS: LiteralString = (
    """
    INSERT INTO memos.permission (
        tenant, id, namespace, cube, tag, holder, to_user, to_role, rights, condition, expires_at,
        granted_by, granted_at
    )
    SELECT
        tenant, id, namespace, cube, tag, holder, to_user, to_role, rights, condition, expires_at,
        granted_by, granted_at
    FROM memos.staged_grant WHERE """
    + MINE
    + " AND (cube IS NULL OR cube IN "
    + _LOADED
    + " OR cube NOT IN (SELECT id FROM memos.staged_id WHERE "
    + MINE
    + ")) ON CONFLICT DO NOTHING"
)
_EVENTS: LiteralString = (
    """
    INSERT INTO memos.event (tenant, at, id, kind, namespace, caller, cube_ids, details)
    SELECT
        tenant, at, CASE WHEN %(renumber)s THEN nextval('memos.event_id') ELSE id END, kind,
        namespace, caller, cube_ids, details
    FROM (SELECT * FROM memos.staged_event WHERE """
    + MINE
    + " ORDER BY at, id) AS event ON CONFLICT DO NOTHING"
)


def edges(loading: Loading) -> Statement[int]:
    """Store the lineage of cubes that were stored; count its steps and remarks."""
    return counted(_EDGES, loading)


def grants(loading: Loading) -> Statement[int]:
    """Store the grants that are not here yet; count them."""
    return counted(_GRANTS, loading)


def events(loading: Loading, *, renumber: bool) -> Statement[int]:
    """Append to the log what is not in it yet, under new numbers or its own; count the lines."""
    return counted(_EVENTS, loading, renumber=renumber)
