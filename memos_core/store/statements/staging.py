"""Statements that put an archive's parts aside, until all of it is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import LiteralString, NamedTuple
from uuid import UUID

from memos_core.kept import KeptCube, KeptEdge, KeptEvent, KeptGrant, KeptMessage
from memos_core.namespace import Namespace
from memos_core.store.arrays import HalfVector, SparseVector, Texts, Uuids
from memos_core.store.statement import Copy, Row, Statement, ignored
from memos_core.store.statements.scope import Scope
from memos_core.words import Words

# What statements about a loading say of its rows; and of lineage, that it holds another's words.
MINE: LiteralString = "tenant = %(tenant)s AND archive = %(archive)s"
MADE_OF: LiteralString = "relation NOT IN ('contradicts', 'about')"


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """One loading: ``archive`` names what is loaded, to where, and how."""

    scope: Scope
    archive: str

    def parameters(self, **others: object) -> dict[str, object]:
        """Return the shared parameters joined with a statement's own."""
        return self.scope.parameters(archive=self.archive, **others)

    def namespace(self, below: tuple[str, ...]) -> Namespace:
        """Return where something will be."""
        return _joined(self.scope.namespace, below)


@lru_cache(maxsize=4096)
def _joined(namespace: Namespace, below: tuple[str, ...]) -> Namespace:
    return Namespace(*namespace, *below)


_COUNT: LiteralString = " RETURNING 1) SELECT count(*) FROM changed"


def counted(sql: LiteralString, loading: Loading, **others: object) -> Statement[int]:
    """Return a statement that changes rows, and reads how many."""
    return Statement(
        sql="WITH changed AS (" + sql + _COUNT,
        parameters=loading.parameters(**others),
        read=lambda rows: int(rows[0]["count"]),
    )


class Part(NamedTuple):
    """A part of an archive."""

    kind: str
    number: int


_PARTS: LiteralString = """
    SELECT kind, part, records FROM memos.staged_part
    WHERE tenant = %(tenant)s AND archive = %(archive)s
    """
_BEGIN: LiteralString = """
    INSERT INTO memos.staged_part (tenant, archive, kind, part, records, staged_at)
    VALUES (%(tenant)s, %(archive)s, %(kind)s, %(part)s, %(records)s, now())
    ON CONFLICT DO NOTHING RETURNING part
    """
_DROP: LiteralString = "SELECT memos.unstage(%(tenant)s, ARRAY[%(archive)s])"
_MEASURE: LiteralString = "SELECT memos.measure_staged()"
_ABANDONED: LiteralString = """
    WITH abandoned AS (
        SELECT tenant, archive FROM memos.staged_part
        WHERE archive <> %(archive)s
        GROUP BY tenant, archive HAVING max(staged_at) < now() - interval '1 day'
    )
    SELECT memos.unstage(tenant, array_agg(archive)) FROM abandoned GROUP BY tenant
    """


def parts(loading: Loading) -> Statement[dict[Part, int]]:
    """Read which parts are here, and how many records each has."""
    return Statement(sql=_PARTS, parameters=loading.parameters(), read=_parts)


def _parts(rows: Sequence[Row]) -> dict[Part, int]:
    return {Part(row["kind"], row["part"]): row["records"] for row in rows}


def lock_parts(loading: Loading) -> Statement[dict[Part, int]]:
    """As ``parts``, which nobody else adds to or takes from until the transaction ends."""
    return Statement(sql=_PARTS + " FOR UPDATE", parameters=loading.parameters(), read=_parts)


def begin_part(loading: Loading, part: Part, *, records: int) -> Statement[bool]:
    """Begin to put a part here; read False where somebody else did."""
    return Statement(
        sql=_BEGIN,
        parameters=loading.parameters(kind=part.kind, part=part.number, records=records),
        read=bool,
    )


def drop(loading: Loading) -> Statement[None]:
    """Take away all that lies here of a loading."""
    return Statement(sql=_DROP, parameters=loading.parameters(), read=ignored)


def measure() -> Statement[None]:
    """Have the server know how much lies here."""
    return Statement(sql=_MEASURE, parameters={}, read=ignored)


def drop_abandoned(loading: Loading) -> Statement[None]:
    """Take away other loadings that did not go on for a day."""
    return Statement(sql=_ABANDONED, parameters=loading.parameters(), read=ignored)


class Staged(NamedTuple):
    """The id that a cube of the archive gets, and whether it was stored under it already."""

    id: UUID
    known: bool


_IDS: LiteralString = """
    SELECT was, id, known FROM memos.staged_id
    WHERE tenant = %(tenant)s AND archive = %(archive)s AND was = ANY(%(ids)s::uuid[])
    """
_GRANT_IDS: LiteralString = """
    UNION ALL
    SELECT was, id, false FROM memos.staged_grant
    WHERE tenant = %(tenant)s AND archive = %(archive)s AND was = ANY(%(ids)s::uuid[])
    """
_STORED: LiteralString = """
    SELECT id FROM memos.cube WHERE tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[])
    UNION
    SELECT id FROM memos.cube_version WHERE tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[])
    """


def ids(loading: Loading, was: Iterable[UUID]) -> Statement[dict[UUID, Staged]]:
    """Read which of some cubes are in the parts that are here, by the ids they had."""
    return Statement(
        sql=_IDS,
        parameters=loading.parameters(ids=Uuids(list(was))),
        read=lambda rows: {row["was"]: Staged(row["id"], row["known"]) for row in rows},
    )


def all_ids(loading: Loading, was: Iterable[UUID]) -> Statement[dict[UUID, UUID]]:
    """Read the new ids of cubes and grants that are here, by the ids they had."""
    return Statement(
        sql=_IDS + _GRANT_IDS,
        parameters=loading.parameters(ids=Uuids(list(was))),
        read=lambda rows: {row["was"]: row["id"] for row in rows},
    )


def stored(loading: Loading, cubes: Iterable[UUID]) -> Statement[set[UUID]]:
    """Read which ids are taken in the tenant."""
    return Statement(
        sql=_STORED,
        parameters=loading.parameters(ids=Uuids(list(cubes))),
        read=lambda rows: {row["id"] for row in rows},
    )


_COPY_IDS: LiteralString = """
    COPY memos.staged_id (tenant, archive, was, id, known) FROM STDIN WITH (FORMAT BINARY)
    """


def put_ids(loading: Loading, given: Mapping[UUID, Staged]) -> Copy:
    """Put the ids of cubes here."""
    tenant, archive = loading.scope.namespace.tenant, loading.archive
    return Copy(
        sql=_COPY_IDS,
        types=("text", "text", "uuid", "uuid", "bool"),
        rows=((tenant, archive, was, one.id, one.known) for was, one in given.items()),
    )


class Arrival(NamedTuple):
    """A version on its way in, with what search needs unless the cube was known."""

    cube: KeptCube
    id: UUID
    words: Words | None
    vector: bytes | None


_COPY_CUBES: LiteralString = """
    COPY memos.staged_cube (
        tenant, archive, id, superseded_at, activated_at, namespace, kind, state, version, text,
        semantic_type, tags, metadata, provenance, message_ids, owner, priority, sensitivity,
        valid_from, valid_to, created_at, recorded_at, expires_at, content_version, derived,
        spoken, word_count, words, embedding
    ) FROM STDIN WITH (FORMAT BINARY)
    """
_CUBE_TYPES = (
    *("text", "text", "uuid", "timestamptz", "timestamptz", "text[]", "text", "text", "int4"),
    *("text", "text", "text[]", "jsonb", "jsonb", "text[]", "text", "int4", "text[]"),
    *("timestamptz", "timestamptz", "timestamptz", "timestamptz", "timestamptz", "int4", "bool"),
    *("bool", "int4", "sparsevec", "halfvec"),
)


def put_cubes(loading: Loading, arrivals: Iterable[Arrival]) -> Copy:
    """Put versions of cubes here."""

    def rows() -> Iterator[tuple[object, ...]]:
        tenant, archive = loading.scope.namespace.tenant, loading.archive
        for cube, id, words, vector in arrivals:
            yield (
                tenant,
                archive,
                id,
                cube.superseded_at,
                cube.activated_at,
                Texts(loading.namespace(cube.below)),
                cube.kind,
                cube.state,
                cube.version,
                cube.text,
                cube.semantic_type,
                Texts(cube.tags),
                cube.metadata,
                cube.provenance,
                Texts(cube.message_ids),
                cube.owner,
                cube.priority,
                Texts(cube.sensitivity),
                cube.valid_from,
                cube.valid_to,
                cube.created_at,
                cube.recorded_at,
                cube.expires_at,
                cube.content_version,
                cube.derived,
                cube.spoken,
                words and words.count,
                words and SparseVector(words.vector),
                vector and HalfVector(vector),
            )

    return Copy(sql=_COPY_CUBES, types=_CUBE_TYPES, rows=rows())


_COPY_MESSAGES: LiteralString = """
    COPY memos.staged_message (
        tenant, archive, place, namespace, id, session, role, name, content, metadata, extra,
        created_at, utc_offset, created_by, recorded_at, unread, retired_at, forgotten_at
    ) FROM STDIN WITH (FORMAT BINARY)
    """
_MESSAGE_TYPES = (
    *("text", "text", "int8", "text[]", "text", "text", "text", "text", "text", "jsonb", "jsonb"),
    *("timestamptz", "int4", "text", "timestamptz", "bool", "timestamptz", "timestamptz"),
)


def put_messages(loading: Loading, messages: Iterable[KeptMessage], *, start: int) -> Copy:
    """Put messages here, whose places count from ``start``."""

    def rows() -> Iterator[tuple[object, ...]]:
        tenant, archive = loading.scope.namespace.tenant, loading.archive
        for place, message in enumerate(messages, start):
            offset = message.created_at.utcoffset() if message.created_at else None
            yield (
                tenant,
                archive,
                place,
                Texts(loading.namespace(message.below)),
                message.id,
                message.session or "",
                message.role,
                message.name,
                message.content,
                message.metadata,
                message.extra,
                message.created_at,
                None if offset is None else round(offset / timedelta(minutes=1)),
                message.created_by,
                message.recorded_at,
                message.unread,
                message.retired_at,
                message.forgotten_at,
            )

    return Copy(sql=_COPY_MESSAGES, types=_MESSAGE_TYPES, rows=rows())


_COPY_EDGES: LiteralString = """
    COPY memos.staged_edge (
        tenant, archive, child, parent, relation, version, position, recorded_at
    ) FROM STDIN WITH (FORMAT BINARY)
    """


def put_edges(loading: Loading, edges: Iterable[KeptEdge]) -> Copy:
    """Put lineage here."""
    tenant, archive = loading.scope.namespace.tenant, loading.archive
    return Copy(
        sql=_COPY_EDGES,
        types=("text", "text", "uuid", "uuid", "text", "int4", "int4", "timestamptz"),
        rows=(
            (
                tenant,
                archive,
                edge.child,
                edge.parent,
                edge.relation or "",
                edge.version,
                edge.position,
                edge.recorded_at,
            )
            for edge in edges
        ),
    )


_COPY_GRANTS: LiteralString = """
    COPY memos.staged_grant (
        tenant, archive, was, id, namespace, cube, tag, holder, to_user, to_role, rights, condition,
        expires_at, granted_by, granted_at
    ) FROM STDIN WITH (FORMAT BINARY)
    """
_GRANT_TYPES = (
    *("text", "text", "uuid", "uuid", "text[]", "uuid", "text", "text", "text", "text", "text[]"),
    *("jsonb", "timestamptz", "text", "timestamptz"),
)


def put_grants(loading: Loading, grants: Iterable[tuple[UUID, KeptGrant]]) -> Copy:
    """Put grants here, each with the id that it had."""
    tenant, archive = loading.scope.namespace.tenant, loading.archive
    return Copy(
        sql=_COPY_GRANTS,
        types=_GRANT_TYPES,
        rows=(
            (
                tenant,
                archive,
                was,
                grant.id,
                Texts(loading.namespace(grant.below)),
                grant.cube,
                grant.tag,
                grant.owner,
                grant.user,
                grant.role,
                Texts(grant.rights),
                grant.condition,
                grant.expires_at,
                grant.granted_by,
                grant.granted_at,
            )
            for was, grant in grants
        ),
    )


_COPY_EVENTS: LiteralString = """
    COPY memos.staged_event (
        tenant, archive, at, id, kind, namespace, caller, cube_ids, details
    ) FROM STDIN WITH (FORMAT BINARY)
    """
_EVENT_TYPES = (
    *("text", "text", "timestamptz", "int8", "text", "text[]", "jsonb", "uuid[]", "jsonb"),
)


def put_events(loading: Loading, events: Iterable[KeptEvent]) -> Copy:
    """Put lines of the log here."""
    tenant, archive = loading.scope.namespace.tenant, loading.archive
    return Copy(
        sql=_COPY_EVENTS,
        types=_EVENT_TYPES,
        rows=(
            (
                tenant,
                archive,
                event.at,
                event.id,
                event.kind,
                Texts(loading.namespace(event.below)),
                event.caller,
                Uuids(event.cubes),
                event.details,
            )
            for event in events
        ),
    )
