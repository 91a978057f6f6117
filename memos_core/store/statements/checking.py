"""Statements that tell whether what was put aside of an archive can be loaded."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.scope import INSIDE
from memos_core.store.statements.staging import MADE_OF, MINE, Loading

# One loading of a tenant after the other: two could wait for each other's messages. Versions are
# locked first, as in every change.
_LOCK: LiteralString = """
    WITH held AS (DELETE FROM memos.cube_version WHERE false)
    SELECT pg_advisory_xact_lock(hashtextextended('memos.load/' || %(tenant)s, 0))
    """


def lock(loading: Loading) -> Statement[None]:
    """Keep other loadings into the tenant out until the transaction ends."""
    return Statement(sql=_LOCK, parameters=loading.parameters(), read=ignored)


# --- whether it is an archive ---------------------------------------------------------------------

_CHAIN: LiteralString = (
    """
    SELECT
        (SELECT was FROM memos.staged_id WHERE """
    + MINE
    + """ AND staged_id.id = chain.id) AS cube,
        CASE
            WHEN next IS NULL AND superseded_at IS NOT NULL THEN 'ends before its last version'
            WHEN next IS NULL THEN 'is frozen, and there is no version before it'
            WHEN next <> version + 1 THEN 'lacks version ' || version + 1
            WHEN superseded_at IS NULL THEN 'stands at two versions'
            ELSE 'has no time at which version ' || next || ' followed'
        END AS problem
    FROM (
        SELECT
            id, version, state, superseded_at, lead(version) OVER versions AS next,
            lead(recorded_at) OVER versions AS followed_at, lag(version) OVER versions AS last
        FROM memos.staged_cube WHERE """
    + MINE
    + """
        WINDOW versions AS (PARTITION BY id ORDER BY version)
    ) AS chain
    WHERE CASE
        WHEN next IS NULL AND superseded_at IS NOT NULL THEN state <> 'expired'
        WHEN next IS NULL THEN state = 'frozen' AND last IS NULL
        WHEN next <> version + 1 OR superseded_at IS NULL THEN true
        ELSE state <> 'expired' AND superseded_at <> followed_at
    END
    LIMIT 1
    """
)
_PARENTLESS: LiteralString = (
    "SELECT parent AS cube, 'is in the lineage of ' || child || ', and neither in the archive nor "
    "here' AS problem FROM memos.staged_edge WHERE "
    + MINE
    + """
    AND NOT EXISTS (
        SELECT FROM memos.staged_id WHERE """
    + MINE
    + """ AND staged_id.id = staged_edge.parent
    ) AND NOT EXISTS (
        SELECT FROM memos.cube WHERE id = staged_edge.parent AND """
    + INSIDE
    + """
    ) AND NOT EXISTS (
        SELECT FROM memos.cube_version WHERE id = staged_edge.parent AND """
    + INSIDE
    + """
    ) LIMIT 1"""
)
_UNDERIVED: LiteralString = (
    "SELECT id AS cube, 'was made of others, and does not say so' AS problem "
    "FROM memos.staged_cube AS made WHERE "
    + MINE
    + """
        AND NOT derived AND (superseded_at IS NULL OR state = 'expired') AND EXISTS (
            SELECT FROM memos.staged_edge
            WHERE staged_edge.tenant = made.tenant AND staged_edge.archive = made.archive
                AND child = made.id AND """
    + MADE_OF
    + ") LIMIT 1"
)
# Whoever changes a cube ends all that was made of it by a look at the sources alone.
_INCOMPLETE: LiteralString = """
    SELECT
        step.child AS cube,
        'was made of ' || step.parent || ', and its lineage does not tell of ' || further.parent
            || ', of which that was made' AS problem
    FROM memos.staged_edge AS step
    JOIN memos.staged_cube AS made ON made.tenant = step.tenant AND made.archive = step.archive
        AND made.id = step.parent AND made.superseded_at IS NULL
        AND made.content_version = step.version
    JOIN memos.staged_edge AS further ON further.tenant = step.tenant
        AND further.archive = step.archive AND further.child = step.parent
        AND further.relation NOT IN ('contradicts', 'about')
    WHERE step.tenant = %(tenant)s AND step.archive = %(archive)s
        AND step.relation NOT IN ('contradicts', 'about') AND NOT EXISTS (
            SELECT FROM memos.staged_edge AS told
            WHERE told.tenant = step.tenant AND told.archive = step.archive
                AND told.child = step.child AND told.parent = further.parent
                AND told.version = further.version
                AND told.relation NOT IN ('contradicts', 'about')
        )
    LIMIT 1
    """
_CUBELESS: LiteralString = (
    "SELECT cube, 'is what a grant is about, and neither in the archive nor here' AS problem "
    "FROM memos.staged_grant WHERE "
    + MINE
    + """ AND cube IS NOT NULL AND NOT EXISTS (
        SELECT FROM memos.staged_id WHERE """
    + MINE
    + """ AND staged_id.id = staged_grant.cube
    ) AND NOT EXISTS (
        SELECT FROM memos.cube WHERE cube.id = staged_grant.cube AND """
    + INSIDE
    + """
    ) AND NOT EXISTS (
        SELECT FROM memos.cube_version WHERE cube_version.id = staged_grant.cube AND """
    + INSIDE
    + """
    ) LIMIT 1"""
)


def problems(loading: Loading) -> list[Statement[str | None]]:
    """Return statements of which each reads what is wrong with what was put aside, or None."""
    return [
        Statement(sql=sql, parameters=loading.parameters(), read=_problem)
        for sql in (_CHAIN, _PARENTLESS, _UNDERIVED, _INCOMPLETE, _CUBELESS)
    ]


def _problem(rows: Sequence[Row]) -> str | None:
    return f"the cube {rows[0]['cube']} {rows[0]['problem']}" if rows else None


# As two lists of numbers: a few bytes for each step.
_STEPS: LiteralString = (
    """
    WITH step AS (
        SELECT child, parent FROM memos.staged_edge
        WHERE relation <> '' AND """
    + MADE_OF
    + " AND "
    + MINE
    + """
    ), node AS (
        SELECT id, (row_number() OVER ())::integer - 1 AS number
        FROM (SELECT child AS id FROM step UNION SELECT parent FROM step) AS every
    )
    SELECT
        (SELECT count(*) FROM node) AS nodes,
        string_agg(int4send(one.number), '') AS children,
        string_agg(int4send(two.number), '') AS parents
    FROM step JOIN node AS one ON one.id = child JOIN node AS two ON two.id = parent
    """
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What was made of what: pairs of numbers from 0 to ``nodes``."""

    nodes: int
    children: array[int]
    parents: array[int]


def steps(loading: Loading) -> Statement[Steps]:
    """Read which cube was made of which."""
    return Statement(sql=_STEPS, parameters=loading.parameters(), read=_steps)


def _steps(rows: Sequence[Row]) -> Steps:
    children, parents = array("i"), array("i")
    for numbers, name in ((children, "children"), (parents, "parents")):
        numbers.frombytes(rows[0][name] or b"")
        if sys.byteorder == "little":
            numbers.byteswap()
    return Steps(nodes=rows[0]["nodes"], children=children, parents=parents)
