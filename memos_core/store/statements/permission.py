"""Whether the caller of a statement may do something with a row of it, and whether it stands.

The fragments are conditions on a row's unqualified columns. Where nobody asks by name, it is the
application itself, which may do everything. Else a caller may do everything with what is his own,
may read and use what nobody owns, and may do what was granted to him, to a role of his, or to
everyone: with a cube, with a tag, or at a path and below it.
"""

from __future__ import annotations

from typing import LiteralString

_IS_MINE: LiteralString = "(%(user)s::text IS NULL OR owner = %(user)s::text"
_IS_NOBODYS: LiteralString = " OR owner IS NULL"


def _granted(right: LiteralString) -> LiteralString:
    """Return the rest of such a condition: that somebody granted it. That is read once."""
    asked: LiteralString = "(%(tenant)s, %(caller)s::jsonb, '" + right + "')"
    return (
        " OR id IN (SELECT memos.granted_cubes"
        + asked
        + ") OR EXISTS (SELECT FROM unnest((SELECT memos.granted_places"
        + asked
        + """)) AS place
            WHERE path = namespace[:cardinality(path)] AND (label IS NULL OR label = ANY(tags))
                AND (holder_of IS NULL OR holder_of = owner)))"""
    )


MAY_READ: LiteralString = _IS_MINE + _IS_NOBODYS + _granted("read")
MAY_DERIVE: LiteralString = _IS_MINE + _IS_NOBODYS + _granted("derive")
MAY_WRITE: LiteralString = _IS_MINE + _granted("write")
MAY_SHARE: LiteralString = _IS_MINE + _granted("share")
# A message is its sender's: those who may read what is his at its path may read it.
MAY_READ_MESSAGE: LiteralString = """(
    %(user)s::text IS NULL OR created_by IS NULL OR created_by = %(user)s::text
    OR EXISTS (
        SELECT FROM unnest((SELECT memos.granted_places(%(tenant)s, %(caller)s::jsonb, 'read')))
            AS place
        WHERE path = namespace[:cardinality(path)] AND label IS NULL
            AND (holder_of IS NULL OR holder_of = created_by)
    ))"""
MAY_WRITE_MESSAGE: LiteralString = """(
    %(user)s::text IS NULL OR created_by = %(user)s::text
    OR EXISTS (
        SELECT FROM unnest((SELECT memos.granted_places(%(tenant)s, %(caller)s::jsonb, 'write')))
            AS place
        WHERE path = namespace[:cardinality(path)] AND label IS NULL
            AND (holder_of IS NULL OR holder_of = created_by)
    ))"""

# What was made of others stands while each of them says what it said, lives, and may be read. No
# column of `source` and `lineage` is named like one that a fragment reads, so that `id` is that of
# the outer row. Aggregates and no EXISTS, which the planner might answer for all cubes at once.
STANDS: LiteralString = (
    """(NOT derived OR (
        SELECT coalesce(bool_and(readable IS NOT NULL), false)
        FROM memos.source LEFT JOIN LATERAL (
            SELECT true AS readable FROM (
                SELECT * FROM memos.cube
                WHERE cube.tenant = %(tenant)s AND cube.id = source.source
                    AND cube.content_version = source.source_version
                    AND (cube.expires_at IS NULL OR cube.expires_at > now())
            ) AS origin
            WHERE """
    + MAY_READ
    + """
        ) AS found ON true
        WHERE source.tenant = %(tenant)s AND source.cube = id
    ))"""
)
# What stood at an earlier time stood whole then: the end of what it was made of was its own. It is
# for those who may read all of that now.
STOOD: LiteralString = (
    """(NOT derived OR %(user)s::text IS NULL OR (
        SELECT coalesce(bool_and(readable IS NOT NULL), false)
        FROM memos.source LEFT JOIN LATERAL (
            SELECT true AS readable FROM (
                SELECT id, owner, namespace, tags FROM memos.cube
                WHERE cube.tenant = %(tenant)s AND cube.id = source.source
                UNION ALL
                SELECT id, owner, namespace, tags FROM memos.cube_version
                WHERE cube_version.tenant = %(tenant)s AND cube_version.id = source.source
            ) AS origin
            WHERE """
    + MAY_READ
    + """
            LIMIT 1
        ) AS found ON true
        WHERE source.tenant = %(tenant)s AND source.cube = id
    ))"""
)
# What was merged speaks where the cube that it was merged into cannot be had.
UNHEARD: LiteralString = (
    """(state = 'merged' AND NOT (
        SELECT coalesce(bool_or(readable), false)
        FROM memos.lineage CROSS JOIN LATERAL (
            SELECT true AS readable FROM (
                SELECT * FROM memos.cube
                WHERE cube.tenant = %(tenant)s AND cube.id = lineage.child
                    AND (cube.expires_at IS NULL OR cube.expires_at > now())
            ) AS fusion
            WHERE """
    + MAY_READ
    + " AND "
    + STANDS
    + """
        ) AS found
        WHERE lineage.tenant = %(tenant)s AND lineage.parent = id AND relation = 'merged'
    ))"""
)
UNHEARD_THEN: LiteralString = (
    """(state = 'merged' AND NOT (
        SELECT coalesce(bool_or(readable), false)
        FROM memos.lineage CROSS JOIN LATERAL (
            SELECT true AS readable FROM (
                SELECT id, owner, namespace, tags, derived FROM memos.cube
                WHERE cube.tenant = %(tenant)s AND cube.id = lineage.child
                    AND cube.created_at <= %(as_of)s
                UNION ALL
                SELECT id, owner, namespace, tags, derived FROM memos.cube_version
                WHERE cube_version.tenant = %(tenant)s AND cube_version.id = lineage.child
                    AND cube_version.recorded_at <= %(as_of)s
                    AND cube_version.superseded_at > %(as_of)s
            ) AS fusion
            WHERE """
    + MAY_READ
    + " AND "
    + STOOD
    + """
        ) AS found
        WHERE lineage.tenant = %(tenant)s AND lineage.parent = id AND relation = 'merged'
    ))"""
)
