"""Statements that decide which cubes of an archive are loaded, and make room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from memos_core.store.statement import Statement, ignored
from memos_core.store.statements.columns import SAID
from memos_core.store.statements.scope import INSIDE
from memos_core.store.statements.staging import MADE_OF, MINE, Loading, counted

_STORED: LiteralString = (
    "UPDATE memos.staged_id AS staged SET fate = %(fate)s WHERE "
    + MINE
    + """ AND (
        known
        OR EXISTS (SELECT FROM memos.cube WHERE cube.tenant = %(tenant)s AND cube.id = staged.id)
        OR EXISTS (
            SELECT FROM memos.cube_version
            WHERE cube_version.tenant = %(tenant)s AND cube_version.id = staged.id
        )
    )"""
)
# What came of a message that was forgotten here since the archive was made is not brought back, nor
# what was made of that.
_FORGOTTEN: LiteralString = (
    """
    WITH RECURSIVE gone AS (
        SELECT staged.id FROM memos.staged_cube AS staged CROSS JOIN LATERAL """
    + SAID
    + """ AS said JOIN memos.message ON message.tenant = %(tenant)s
            AND message.trail = staged.trail AND message.session = said_in
            AND message.id = said_as
        WHERE staged.tenant = %(tenant)s AND staged.archive = %(archive)s
            AND message.forgotten_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM memos.staged_message AS known
                WHERE known.tenant = %(tenant)s AND known.archive = %(archive)s
                    AND known.trail = message.trail AND known.session = message.session
                    AND known.id = message.id AND known.forgotten_at IS NOT NULL
            )
        UNION
        SELECT child FROM gone JOIN memos.staged_edge ON parent = gone.id WHERE """
    + MADE_OF
    + " AND "
    + MINE
    + """
    )
    UPDATE memos.staged_id SET fate = 'left out'
    WHERE fate IS NULL AND id IN (SELECT id FROM gone) AND """
    + MINE
)
# What was made of a cube that is not loaded stands where that is here, says what it says in the
# archive, and was made of nothing that the archive does not tell of.
_STALE: LiteralString = (
    """
    WITH stale AS (
        SELECT edge.child AS id FROM memos.staged_edge AS edge
        JOIN memos.staged_cube AS made ON made.tenant = edge.tenant AND made.archive = edge.archive
            AND made.id = edge.child AND made.superseded_at IS NULL
        LEFT JOIN memos.staged_id AS origin ON origin.tenant = edge.tenant
            AND origin.archive = edge.archive AND origin.id = edge.parent
        WHERE edge.tenant = %(tenant)s AND edge.archive = %(archive)s
            AND edge.relation NOT IN ('contradicts', 'about')
            AND (origin.id IS NULL OR origin.fate IN ('skipped', 'left out'))
            AND (NOT EXISTS (
                SELECT FROM memos.cube AS here
                WHERE here.tenant = %(tenant)s AND here.id = edge.parent
                    AND here.content_version = edge.version
                    AND NOT EXISTS (
                        SELECT FROM memos.staged_cube AS there
                        WHERE there.tenant = %(tenant)s AND there.archive = %(archive)s
                            AND there.id = edge.parent AND there.superseded_at IS NULL
                            AND (
                                there.text, there.semantic_type, there.metadata, there.valid_from,
                                there.valid_to
                            ) IS DISTINCT FROM (
                                here.text, here.semantic_type, here.metadata, here.valid_from,
                                here.valid_to
                            )
                    )
            ) OR EXISTS (
                SELECT FROM memos.source
                WHERE source.tenant = %(tenant)s AND source.cube = edge.parent AND NOT EXISTS (
                    SELECT FROM memos.staged_edge AS told
                    WHERE told.tenant = %(tenant)s AND told.archive = %(archive)s
                        AND told.child = edge.child AND told.parent = source.source
                        AND told.relation NOT IN ('contradicts', 'about')
                )
            ))
    )
    UPDATE memos.staged_id SET fate = 'left out'
    WHERE fate IS NULL AND id IN (SELECT id FROM stale) AND """
    + MINE
)


def decide(loading: Loading, *, stored: str | None) -> list[Statement[int]]:
    """Return statements that decide which cubes are loaded.

    ``stored`` is what becomes of those whose ids are taken: 'skipped', 'replacing', or None where
    the archive's have new ones.
    """
    first = [] if stored is None else [counted(_STORED, loading, fate=stored)]
    return [*first, *(counted(sql, loading) for sql in (_FORGOTTEN, _STALE))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """How many cubes have which fate."""

    new: int
    replaced: int
    skipped: int
    left_out: int


_FATES: LiteralString = (
    """
    SELECT
        count(*) FILTER (WHERE fate IS NULL) AS new,
        count(*) FILTER (WHERE fate = 'replacing') AS replaced,
        count(*) FILTER (WHERE fate = 'skipped') AS skipped,
        count(*) FILTER (WHERE fate = 'left out') AS left_out
    FROM memos.staged_id WHERE """
    + MINE
)


def fates(loading: Loading) -> Statement[Fates]:
    """Read what was decided."""
    return Statement(
        sql=_FATES, parameters=loading.parameters(), read=lambda rows: Fates(**rows[0])
    )


_REPLACED: LiteralString = (
    "(SELECT id FROM memos.staged_id WHERE " + MINE + " AND fate = 'replacing')"
)
_HOLD: LiteralString = (
    """
    WITH held AS (
        SELECT id, state FROM memos.cube
        WHERE tenant = %(tenant)s AND id = ANY(ARRAY"""
    + _REPLACED
    + """ || ARRAY(
            SELECT cube FROM memos.source
            WHERE source.tenant = %(tenant)s AND source.source = ANY(ARRAY"""
    + _REPLACED
    + """)
        ))
        ORDER BY id FOR UPDATE
    ), known AS (
        SELECT tenant, id, trail FROM memos.cube
        UNION ALL
        SELECT tenant, id, trail FROM memos.cube_version
    )
    SELECT
        ARRAY(SELECT id FROM held WHERE state = 'frozen' ORDER BY id) AS frozen,
        ARRAY(
            SELECT DISTINCT id FROM known
            WHERE tenant = %(tenant)s AND id = ANY(ARRAY"""
    + _REPLACED
    + ") AND NOT ("
    + INSIDE
    + ")) AS elsewhere"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacles:
    """Cubes that cannot be replaced: frozen ones, and those of other views."""

    frozen: Sequence[UUID]
    elsewhere: Sequence[UUID]


def hold(loading: Loading) -> Statement[Obstacles]:
    """Hold the cubes that are to be replaced, and what was made of them."""
    return Statement(
        sql=_HOLD, parameters=loading.parameters(), read=lambda rows: Obstacles(**rows[0])
    )


# What was made of replaced cubes ends, unless it is itself replaced.
_ERASE_MADE: LiteralString = (
    """
    SELECT memos.erase(%(tenant)s, ids) FROM (
        SELECT array_agg(DISTINCT cube) AS ids FROM memos.source
        WHERE source.tenant = %(tenant)s AND cube = ANY(ARRAY"""
    + _REPLACED
    + ") AND source.source = ANY(ARRAY"
    + _REPLACED
    + ")) AS made WHERE ids IS NOT NULL"
)
_INVALIDATE: LiteralString = (
    """
    SELECT memos.invalidate(%(tenant)s, ids, clock_timestamp(), %(caller)s::jsonb) FROM (
        SELECT array_agg(DISTINCT source) AS ids FROM memos.source
        WHERE source.tenant = %(tenant)s AND source.source = ANY(ARRAY"""
    + _REPLACED
    + ")) AS changed WHERE ids IS NOT NULL"
)
_ERASE: LiteralString = (
    "SELECT memos.erase(%(tenant)s, ids) FROM (SELECT array_agg(id) AS ids FROM "
    + _REPLACED
    + " AS replaced) AS gone WHERE ids IS NOT NULL"
)


def make_room(loading: Loading) -> list[Statement[None]]:
    """Return statements that erase the cubes that are to be replaced."""
    return [
        Statement(sql=sql, parameters=loading.parameters(), read=ignored)
        for sql in (_ERASE_MADE, _INVALIDATE, _ERASE)
    ]
