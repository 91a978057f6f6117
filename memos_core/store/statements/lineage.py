"""Statements about what was made of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from memos_core.cube import MemCube
from memos_core.lineage import Edge, Lineage, Relation
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import COLUMNS, SAID, WOKEN, cube_from
from memos_core.store.statements.messages import message_from
from memos_core.store.statements.permission import (
    MADE_OF_READABLE,
    MAY_DERIVE,
    MAY_READ,
    MAY_READ_MESSAGE,
    MAY_READ_VERSION,
    MAY_WRITE,
    STANDS,
)
from memos_core.store.statements.scope import INSIDE, LIES_INSIDE, Scope

# With all that they were made of: who forgets one of those must either see what is made here, or be
# seen.
_HOLD: LiteralString = (
    "SELECT memos.hold(%(tenant)s, %(replaced)s::uuid[], %(ids)s::uuid[] || %(replaced)s::uuid[])"
)


def hold(scope: Scope, cubes: Sequence[UUID], replaced: Sequence[UUID] = ()) -> Statement[None]:
    """Hold cubes, and all that they were made of, until the transaction ends.

    And what is ``replaced`` by what is made of them, with all that ends with it.
    """
    return Statement(
        sql=_HOLD,
        parameters=scope.parameters(ids=list(cubes), replaced=list(replaced)),
        read=ignored,
    )


_LOCK_NAME: LiteralString = """
    SELECT pg_advisory_xact_lock(hashtextextended('memos.bundle ' || %(id)s::text, 0))
    """


def lock_name(bundle: UUID) -> Statement[None]:
    """Keep others from composing the same bundle until the transaction ends."""
    return Statement(sql=_LOCK_NAME, parameters={"id": str(bundle)}, read=ignored)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """A cube of which something is to be made, all that it was made of, and the caller's rights."""

    cube: MemCube
    sources: frozenset[UUID]
    may_derive: bool
    may_write: bool


_PARENTS: LiteralString = (
    "SELECT "
    + COLUMNS
    + ","
    + WOKEN
    + """, ARRAY(
        SELECT source FROM memos.source
        WHERE source.tenant = %(tenant)s AND source.cube = id
    ) AS sources, """
    + MAY_DERIVE
    + " AS may_derive, "
    + MAY_WRITE
    + """ AS may_write
    FROM memos.cube
    WHERE id = ANY(%(ids)s::uuid[]) AND (expires_at IS NULL OR expires_at > now()) AND """
    + LIES_INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + STANDS
)


def parents(scope: Scope, cubes: Sequence[UUID]) -> Statement[dict[UUID, Parent]]:
    """Read cubes of which something is to be made; those that do not stand are left out."""
    return Statement(
        sql=_PARENTS,
        parameters=scope.reading(ids=list(cubes), as_of=None),
        read=lambda rows: {
            row["id"]: Parent(
                cube=cube_from(row),
                sources=frozenset(row["sources"]),
                may_derive=row["may_derive"],
                may_write=row["may_write"],
            )
            for row in rows
        },
    )


_LINK: LiteralString = """
    WITH parent AS (
        SELECT cube.id AS parent, content_version, place
        FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS given (id, place)
        JOIN memos.cube ON cube.tenant = %(tenant)s AND cube.id = given.id
    ), linked AS (
        INSERT INTO memos.lineage
            (tenant, child, parent, relation, parent_version, position, recorded_at)
        SELECT
            %(tenant)s, %(child)s, parent, %(relation)s, content_version, place, clock_timestamp()
        FROM parent
    )
    INSERT INTO memos.source (tenant, cube, source, source_version)
    SELECT %(tenant)s, %(child)s, parent, content_version FROM parent
    UNION
    SELECT %(tenant)s, %(child)s, source, source_version FROM memos.source
    WHERE tenant = %(tenant)s AND cube = ANY(%(ids)s::uuid[])
    RETURNING source
    """


def link(scope: Scope, child: UUID, parents: Sequence[UUID], relation: Relation) -> Statement[None]:
    """Write down what a cube was made of, in order; the parents must be locked."""
    return Statement(
        sql=_LINK,
        parameters=scope.parameters(child=child, ids=list(parents), relation=relation),
        read=ignored,
    )


_UNMAKE: LiteralString = (
    "SELECT memos.unmake(%(tenant)s, %(child)s, %(caller)s::jsonb) AS last_version"
)


def unmake(scope: Scope, bundle: UUID) -> Statement[int]:
    """Make room for a bundle of the same name; read the version it had last, 0 for none."""
    return Statement(
        sql=_UNMAKE,
        parameters=scope.parameters(child=bundle),
        read=lambda rows: rows[0]["last_version"],
    )


# As `link`, but nothing depends on it: the one stands whatever becomes of the other.
_RELATE: LiteralString = (
    """
    WITH there AS (
        SELECT id, content_version, """
    + MAY_WRITE
    + """ AS may_write FROM memos.cube
        WHERE id IN (%(cube)s, %(other)s) AND (expires_at IS NULL OR expires_at > now()) AND """
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + STANDS
    + """
    ), related AS (
        INSERT INTO memos.lineage
            (tenant, child, parent, relation, parent_version, position, recorded_at)
        SELECT %(tenant)s, %(cube)s, %(other)s, %(relation)s, content_version, 1, now()
        FROM there
        WHERE id = %(other)s AND (SELECT bool_or(may_write AND id = %(cube)s) FROM there)
        ON CONFLICT (tenant, child, parent, relation) DO UPDATE SET
            parent_version = excluded.parent_version, recorded_at = excluded.recorded_at
        RETURNING child
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'related', %(namespace)s::text[], %(caller)s::jsonb,
            ARRAY[%(cube)s, %(other)s]::uuid[],
            jsonb_build_object('relation', %(relation)s::text)
        FROM related
    )
    SELECT id, may_write FROM there
    """
)


def relate(
    scope: Scope, cube: UUID, other: UUID, relation: Relation
) -> Statement[dict[UUID, bool]]:
    """Write down that a cube contradicts another or is about it.

    Reads which of the two are there, and whether the caller may write them; where one is missing,
    or he may not write the first, nothing was written.
    """
    return Statement(
        sql=_RELATE,
        parameters=scope.parameters(cube=cube, other=other, relation=relation),
        read=lambda rows: {row["id"]: row["may_write"] for row in rows},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What is or last was under a bundle's id, and of what it was composed.

    ``mine`` tells whether it is its owner's who composes now, ``stands`` whether it may be served.
    """

    cube: MemCube
    members: list[UUID]
    mine: bool
    stands: bool


_BUNDLE: LiteralString = (
    "SELECT "
    + COLUMNS
    + ","
    + WOKEN
    + """, ARRAY(
        SELECT parent FROM memos.lineage
        WHERE lineage.tenant = %(tenant)s AND child = id AND relation = 'composed'
        ORDER BY position
    ) AS members, owner IS NOT DISTINCT FROM %(owner)s::text AS mine, stands
    FROM (
        SELECT """
    + COLUMNS
    + ", derived AND "
    + STANDS
    + """ AS stands FROM memos.cube WHERE tenant = %(tenant)s AND id = %(id)s
        UNION ALL
        SELECT """
    + COLUMNS
    + """, false FROM memos.cube_version WHERE tenant = %(tenant)s AND id = %(id)s
        ORDER BY version DESC LIMIT 1
    ) AS bundle
    """
)


def bundle(scope: Scope, cube: UUID, owner: str | None) -> Statement[Bundle | None]:
    """Read what is or last was under a bundle's id, whoever asks."""
    return Statement(
        sql=_BUNDLE,
        parameters=scope.parameters(id=cube, owner=owner, as_of=None),
        read=_bundle,
    )


def _bundle(rows: Sequence[Row]) -> Bundle | None:
    for row in rows:
        return Bundle(
            cube=cube_from(row), members=row["members"], mine=row["mine"], stands=row["stands"]
        )
    return None


# The cubes as they are or last were. Edges that lead to what the caller may not read are left out.
# ANY of an array and OFFSET 0 have rows looked up by their keys: for a join the planner, who cannot
# know how few they are, would read all of a tenant's.
_PROVENANCE: LiteralString = (
    """
    WITH RECURSIVE up (id) AS (
        SELECT %(id)s::uuid
        UNION
        SELECT parent FROM up CROSS JOIN LATERAL (
            SELECT parent FROM memos.lineage
            WHERE lineage.tenant = %(tenant)s AND child = up.id
                AND relation NOT IN ('contradicts', 'about')
            OFFSET 0
        ) AS origin
    ), edge AS (
        SELECT child, parent, relation, parent_version, position
        FROM memos.lineage
        WHERE lineage.tenant = %(tenant)s AND child = ANY(ARRAY(SELECT id FROM up))
        UNION
        SELECT child, parent, relation, parent_version, position
        FROM memos.lineage WHERE lineage.tenant = %(tenant)s AND parent = %(id)s::uuid
            AND relation IN ('contradicts', 'about')
    ), wanted AS (
        SELECT id FROM up UNION SELECT parent FROM edge UNION SELECT child FROM edge
    ), known AS (
        SELECT DISTINCT ON (id) * FROM (
            SELECT """
    + COLUMNS
    + ","
    + WOKEN
    + """ FROM memos.cube WHERE id = ANY(ARRAY(SELECT wanted.id FROM wanted)) AND """
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + MADE_OF_READABLE
    + """
            UNION ALL
            SELECT """
    + COLUMNS
    + ","
    + WOKEN
    + """ FROM memos.cube_version WHERE id = ANY(ARRAY(SELECT wanted.id FROM wanted)) AND """
    + INSIDE
    + " AND "
    + MAY_READ_VERSION
    + " AND "
    + MADE_OF_READABLE
    + """
        ) AS every
        ORDER BY id, version DESC
    ), said AS (
        SELECT message.* FROM known CROSS JOIN LATERAL """
    + SAID
    + """ AS turn CROSS JOIN LATERAL (
            SELECT * FROM memos.message
            WHERE message.tenant = %(tenant)s AND message.trail = memos.trail(known.namespace)
                AND message.session = said_in AND message.id = said_as AND """
    + MAY_READ_MESSAGE
    + """
            OFFSET 0
        ) AS message
        WHERE known.id IN (SELECT id FROM up)
    )
    SELECT
        ARRAY(
            SELECT jsonb_build_object(
                'child', child, 'parent', parent, 'relation', relation,
                'parent_version', parent_version
            )
            FROM edge
            WHERE child IN (SELECT id FROM known) AND parent IN (SELECT id FROM known)
            ORDER BY child, relation, position
        ) AS edges,
        ARRAY(
            SELECT to_jsonb(said) FROM (SELECT DISTINCT ON (position) * FROM said) AS said
            ORDER BY position
        ) AS messages,
        cube.*
    FROM known AS cube
    """
)


def provenance(scope: Scope, cube: UUID) -> Statement[Lineage | None]:
    """Read what a cube was made of, to the messages; None where there is no such cube."""
    return Statement(
        sql=_PROVENANCE,
        parameters=scope.reading(id=cube, as_of=None),
        read=lambda rows: _lineage(rows, cube),
    )


def _lineage(rows: Sequence[Row], root: UUID) -> Lineage | None:
    cubes = {row["id"]: cube_from(row) for row in rows}
    if root not in cubes:
        return None
    return Lineage(
        root=root,
        cubes=cubes,
        edges=tuple(
            Edge(
                child=UUID(edge["child"]),
                parent=UUID(edge["parent"]),
                relation=Relation(edge["relation"]),
                parent_version=edge["parent_version"],
            )
            for edge in rows[0]["edges"]
        ),
        messages=tuple(message_from(message) for message in rows[0]["messages"]),
    )
