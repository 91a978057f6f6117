"""Statements that read the cubes of a view with their lineage, for an archive of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from memos_core.cube import Kind, State
from memos_core.kept import KeptCube, KeptEdge
from memos_core.lineage import Relation
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.archive import ENDED, EXPORTED, Extent
from memos_core.store.statements.columns import COLUMNS
from memos_core.store.statements.permission import MADE_OF_READABLE, MAY_READ
from memos_core.store.statements.scope import INSIDE

_KEPT: LiteralString = (
    COLUMNS
    + """, content_version, derived, thread IS NOT NULL AS spoken,
    halfvec_send(embedding) AS embedding, (
        SELECT at FROM memos.activation
        WHERE activation.tenant = %(tenant)s AND activation.cube = id
    ) AS activated_at"""
)
_CUBES: LiteralString = (
    "SELECT "
    + _KEPT
    + ", NULL::timestamptz AS superseded_at FROM memos.cube WHERE "
    + EXPORTED
    + " ORDER BY id"
)
# The latest first: each must be followed by one that is exported. Without history there is only
# what a frozen cube needs to thaw.
_VERSIONS: LiteralString = (
    "SELECT "
    + _KEPT
    + ", superseded_at, (SELECT version FROM memos.cube WHERE cube.id = cube_version.id AND "
    + EXPORTED
    + ") AS standing, "
    + ENDED
    + " AS ended FROM memos.cube_version WHERE "
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + MADE_OF_READABLE
    + """ AND (%(history)s OR EXISTS (
            SELECT FROM memos.cube
            WHERE cube.tenant = %(tenant)s AND cube.id = cube_version.id
                AND cube.version = cube_version.version + 1 AND cube.state = 'frozen'
        ))
    ORDER BY id, version DESC"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """Cubes with their vectors, in the binary form of a halfvec.

    Of superseded ones, ``standing`` is the version of the cube that stands, None where it ended or
    is not exported, and ``ended`` whether this is the last version of one that ended and is.
    """

    cubes: list[KeptCube]
    vectors: list[bytes]
    standing: list[int | None]
    ended: list[bool]

    def only(self, places: Sequence[int]) -> Versions:
        """Return those at some places."""
        return Versions(
            cubes=[self.cubes[place] for place in places],
            vectors=[self.vectors[place] for place in places],
            standing=[self.standing[place] for place in places],
            ended=[self.ended[place] for place in places],
        )


def cubes(extent: Extent) -> Statement[Versions]:
    """Read the cubes that stand."""
    return Statement(
        sql=_CUBES, parameters=extent.parameters(), read=lambda rows: _versions(rows, extent)
    )


def versions(extent: Extent) -> Statement[Versions]:
    """Read superseded versions, those of a cube together and the latest first."""
    return Statement(
        sql=_VERSIONS, parameters=extent.parameters(), read=lambda rows: _versions(rows, extent)
    )


def _versions(rows: Sequence[Row], extent: Extent) -> Versions:
    return Versions(
        cubes=[_cube(row, extent) for row in rows],
        vectors=[row["embedding"] for row in rows],
        standing=[row.get("standing") for row in rows],
        ended=[row.get("ended", False) for row in rows],
    )


def _cube(row: Row, extent: Extent) -> KeptCube:
    last = row["superseded_at"] is None or row["state"] == State.EXPIRED
    return KeptCube(
        id=row["id"],
        below=extent.below(row),
        kind=Kind(row["kind"]),
        state=State(row["state"]),
        version=row["version"],
        content_version=row["content_version"],
        derived=row["derived"],
        spoken=row["spoken"],
        text=row["text"],
        semantic_type=row["semantic_type"],
        tags=tuple(row["tags"]),
        metadata=row["metadata"],
        provenance=row["provenance"],
        message_ids=tuple(row["message_ids"]),
        owner=row["owner"],
        priority=row["priority"],
        sensitivity=tuple(row["sensitivity"]),
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        created_at=row["created_at"],
        recorded_at=row["recorded_at"],
        expires_at=row["expires_at"],
        superseded_at=row["superseded_at"],
        activated_at=row["activated_at"] if last else None,
    )


# A step of lineage says where the cube's words come from, and so does, where there is no such step,
# a source that is further away. A remark is exported where both cubes are.
_EDGES: LiteralString = (
    """
    WITH child AS (SELECT unnest(%(ids)s::uuid[]) AS id), edge AS (
        SELECT lineage.child, parent, relation, parent_version AS version, position, recorded_at
        FROM child JOIN memos.lineage ON lineage.tenant = %(tenant)s AND lineage.child = child.id
        UNION ALL
        SELECT cube, source, NULL, source_version, 0, NULL
        FROM child JOIN memos.source ON source.tenant = %(tenant)s AND cube = child.id
        WHERE NOT EXISTS (
            SELECT FROM memos.lineage
            WHERE lineage.tenant = %(tenant)s AND lineage.child = cube AND parent = source.source
                AND relation NOT IN ('contradicts', 'about')
        )
    )
    SELECT * FROM edge
    WHERE EXISTS (SELECT FROM memos.cube WHERE id = edge.parent AND """
    + EXPORTED
    + ") OR EXISTS (SELECT FROM memos.cube_version WHERE id = edge.parent AND "
    + ENDED
    + ") ORDER BY child, relation, position, parent"
)


def edges(extent: Extent, children: Sequence[UUID]) -> Statement[list[KeptEdge]]:
    """Read what exported cubes were made of, and are said to be about."""
    return Statement(
        sql=_EDGES,
        parameters=extent.parameters(ids=list(children)),
        read=lambda rows: [
            KeptEdge(
                child=row["child"],
                parent=row["parent"],
                relation=Relation(row["relation"]) if row["relation"] else None,
                version=row["version"],
                position=row["position"],
                recorded_at=row["recorded_at"],
            )
            for row in rows
        ],
    )
