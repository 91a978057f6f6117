"""Whether the caller of a statement may do something with a row of it, and whether it stands.

The fragments are conditions on a row's unqualified columns. Where nobody asks by name, it is the
application itself, which may do everything. Else a caller may do everything with what is his own,
may read and use what nobody owns, and may do what was granted to him, to a role of his, or to
everyone: with a cube, with a tag, or at a path and below it.
"""

from __future__ import annotations

from typing import LiteralString

from memos_core.store.statements.scope import INSIDE

_IS_MINE: LiteralString = "(%(user)s::text IS NULL OR owner IS NOT DISTINCT FROM %(user)s::text"
_IS_NOBODYS: LiteralString = " OR owner IS NULL"


def _granted(right: LiteralString, how: LiteralString = "granted") -> LiteralString:
    """Return the rest of such a condition: that somebody granted it. That is read once."""
    asked: LiteralString = "(%(tenant)s, %(caller)s::jsonb, '" + right + "')"
    return (
        " OR id IN (SELECT memos."
        + how
        + "_cubes"
        + asked
        + ") OR EXISTS (SELECT FROM unnest((SELECT memos."
        + how
        + "_places"
        + asked
        + """)) AS place
            WHERE path = namespace[:cardinality(path)] AND (label IS NULL OR label = ANY(tags))
                AND (holder_of IS NULL OR holder_of = owner)))"""
    )


MAY_READ: LiteralString = _IS_MINE + _IS_NOBODYS + _granted("read")
# The same for rows inside the view, where one grant on all that lies there spares asking of each.
MAY_READ_INSIDE: LiteralString = (
    """(
    %(user)s::text IS NULL OR (
        SELECT coalesce(bool_or(
            path = (%(namespace)s::text[])[:cardinality(path)]
            AND label IS NULL AND holder_of IS NULL
        ), false)
        FROM unnest((SELECT memos.granted_places(%(tenant)s, %(caller)s::jsonb, 'read'))) AS place
    ) OR """
    + MAY_READ
    + ")"
)
MAY_DERIVE: LiteralString = _IS_MINE + _IS_NOBODYS + _granted("derive")
MAY_WRITE: LiteralString = _IS_MINE + _granted("write")
# What may be granted on is one's own, or was granted to oneself for good: a right that ends with a
# time, a place or a role must not outlive it in other hands.
MAY_GRANT_READ: LiteralString = _IS_MINE + _granted("read", "lasting")
MAY_GRANT_DERIVE: LiteralString = _IS_MINE + _granted("derive", "lasting")
MAY_GRANT_WRITE: LiteralString = _IS_MINE + _granted("write", "lasting")
MAY_SHARE: LiteralString = _IS_MINE + _granted("share", "lasting")


def _with_message(right: LiteralString) -> LiteralString:
    """Return the rest of a condition on a message: that all was granted at a path of it."""
    return (
        """ OR EXISTS (
        SELECT FROM unnest((
            SELECT memos.granted_places(%(tenant)s, %(caller)s::jsonb, '"""
        + right
        + """')
        )) AS place
        WHERE path = namespace[:cardinality(path)] AND label IS NULL
            AND (holder_of IS NULL OR holder_of = created_by)
    ))"""
    )


# A message is its sender's: those who may read what is his at its path may read it.
MAY_READ_MESSAGE: LiteralString = (
    "(%(user)s::text IS NULL OR created_by IS NULL OR created_by = %(user)s::text"
    + _with_message("read")
)
MAY_WRITE_MESSAGE: LiteralString = (
    "(%(user)s::text IS NULL OR created_by = %(user)s::text" + _with_message("write")
)

# A version may be read by those who may read what it says, and the cube as it stands or last was:
# what was taken back is taken back for the past as well.
MAY_READ_VERSION: LiteralString = (
    "(%(user)s::text IS NULL OR ("
    + MAY_READ
    + """ AND (
        SELECT coalesce(bool_and("""
    + MAY_READ
    + """), false) FROM memos.had_by(%(tenant)s, cube_version.id, NULL) AS cube
    )))"""
)


# What was made of others stands while each of them says what it said, lives, and may be read. No
# column of `source` and `lineage` is named like one that a fragment reads, so that `id` is that of
# the outer row. Aggregates and no EXISTS, which the planner might answer for all cubes at once.
def _stands(may_read: LiteralString) -> LiteralString:
    return (
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
        + may_read
        + """
        ) AS found ON true
        WHERE source.tenant = %(tenant)s AND source.cube = id
    ))"""
    )


STANDS: LiteralString = _stands(MAY_READ)
# The same where the application itself asks: what is never looked at costs a statement time, too.
STANDS_TO_ALL: LiteralString = _stands("true")
# For those who look back: all that it was made of may be read, as it was then and as it stands.
MADE_OF_READABLE: LiteralString = (
    """(NOT derived OR %(user)s::text IS NULL OR (
        SELECT coalesce(bool_and(readable), false)
        FROM memos.source CROSS JOIN LATERAL (
            SELECT coalesce(bool_and("""
    + MAY_READ
    + """), false) AS readable
            FROM memos.had_by(%(tenant)s, source.source, source.source_version) AS origin
        ) AS found
        WHERE source.tenant = %(tenant)s AND source.cube = id
    ))"""
)
# What was made of others stood while each of them lived and said what it said when it was made.
STOOD: LiteralString = (
    "("
    + MADE_OF_READABLE
    + """ AND (NOT derived OR (
        SELECT coalesce(bool_and(EXISTS (
            SELECT FROM memos.cube AS origin
            WHERE origin.tenant = %(tenant)s AND origin.id = source.source
                AND origin.content_version = source.source_version
                AND origin.recorded_at <= %(as_of)s
                AND (origin.expires_at IS NULL OR origin.expires_at > %(as_of)s)
            UNION ALL
            SELECT FROM memos.cube_version AS origin
            WHERE origin.tenant = %(tenant)s AND origin.id = source.source
                AND origin.content_version = source.source_version
                AND origin.recorded_at <= %(as_of)s AND origin.superseded_at > %(as_of)s
                AND (origin.expires_at IS NULL OR origin.expires_at > %(as_of)s)
        )), false)
        FROM memos.source WHERE source.tenant = %(tenant)s AND source.cube = id
    )))"""
)


def unheard(moment: LiteralString | None, *, governed: bool) -> LiteralString:
    """Return the condition that what was merged speaks for itself.

    That is where the cube that it was merged into cannot be had in this view, or is not true at
    ``moment``; None is whenever. Where nobody asks by name, not ``governed``, all may be had.
    """
    return (
        """(state = 'merged' AND NOT (
        SELECT coalesce(bool_or(readable), false)
        FROM memos.lineage CROSS JOIN LATERAL (
            SELECT true AS readable FROM (
                SELECT * FROM memos.cube
                WHERE cube.tenant = %(tenant)s AND cube.id = lineage.child
                    AND (cube.expires_at IS NULL OR cube.expires_at > now())
            ) AS fusion
            WHERE """
        + INSIDE
        + _true_at(moment)
        + " AND "
        + (MAY_READ + " AND " + STANDS if governed else STANDS_TO_ALL)
        + """
        ) AS found
        WHERE lineage.tenant = %(tenant)s AND lineage.parent = id AND relation = 'merged'
    ))"""
    )


def unheard_then(moment: LiteralString | None) -> LiteralString:
    """Return the same for what was known ``as_of`` a time."""
    known: LiteralString = INSIDE + _true_at(moment) + " AND " + _LIVED + " AND "
    return (
        """(state = 'merged' AND NOT (
        SELECT coalesce(bool_or(readable), false)
        FROM memos.lineage CROSS JOIN LATERAL (
            SELECT true AS readable FROM (
                SELECT * FROM memos.cube
                WHERE cube.tenant = %(tenant)s AND cube.id = lineage.child
                    AND cube.created_at <= %(as_of)s
            ) AS cube
            WHERE """
        + known
        + MAY_READ
        + " AND "
        + STOOD
        + """
            UNION ALL
            SELECT true FROM (
                SELECT * FROM memos.cube_version
                WHERE cube_version.tenant = %(tenant)s AND cube_version.id = lineage.child
                    AND cube_version.recorded_at <= %(as_of)s
                    AND cube_version.superseded_at > %(as_of)s
            ) AS cube_version
            WHERE """
        + known
        + MAY_READ_VERSION
        + " AND "
        + STOOD
        + """
        ) AS found
        WHERE lineage.tenant = %(tenant)s AND lineage.parent = id AND relation = 'merged'
    ))"""
    )


_LIVED: LiteralString = "(expires_at IS NULL OR expires_at > %(as_of)s)"


def _true_at(moment: LiteralString | None) -> LiteralString:
    if moment is None:
        return ""
    return (
        " AND (valid_from IS NULL OR valid_from <= "
        + moment
        + ") AND (valid_to IS NULL OR valid_to > "
        + moment
        + ")"
    )
