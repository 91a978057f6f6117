"""Statements that add cubes and read them by id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import LiteralString
from uuid import UUID

from pgvector import HalfVector

from memos_core.cube import MemCube, Provenance, Usage
from memos_core.embedder import Model, Vectors
from memos_core.message import Message
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import (
    COLUMNS,
    SEARCHED,
    cube_from,
    cubes_from,
    first_cube,
    provenance_json,
)
from memos_core.store.statements.scope import INSIDE, LAZY_COMMIT, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What the maker of a cube says of it; ``ttl`` is in seconds."""

    semantic_type: str
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    owner: str | None = None
    priority: int = 0
    sensitivity: tuple[str, ...] = ()
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    ttl: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A cube to be, before the store gives it a version and times.

    ``lexical`` is the text that lexical search sees.
    """

    id: UUID
    text: str
    lexical: str
    provenance: Provenance
    header: Header


# Turns `lexical`, a text of the row before it, into what search reads.
ANALYSED: LiteralString = """
    LATERAL (
        SELECT
            coalesce(sum(cardinality(positions)), 0)::integer AS word_count,
            coalesce(jsonb_object_agg(lexeme, cardinality(positions)), '{}') AS words
        FROM unnest(to_tsvector('english', lexical))
    ) AS analysed
"""

# `claimed` are the messages that this statement may make cubes of: of two readers of one message
# only one gets it.
_ADD: LiteralString = (
    """
    WITH claimed AS (
        UPDATE memos.message SET due_at = NULL
        WHERE tenant = %(tenant)s AND namespace = %(namespace)s::text[]
            AND (session, id) IN (SELECT * FROM unnest(%(sessions)s::text[], %(messages)s::text[]))
            AND due_at IS NOT NULL AND forgotten_at IS NULL
        RETURNING session, id
    ), added AS (
        INSERT INTO memos.cube ("""
    + COLUMNS
    + ","
    + SEARCHED
    + """)
        SELECT
            %(tenant)s, draft.id, %(namespace)s::text[], 'plaintext', 'generated', 1, draft.text,
            semantic_type, tags, metadata, provenance, message_ids, owner, priority, sensitivity,
            -- A speaker's clock ahead of ours must not hide what was just said.
            CASE WHEN %(reading)s AND valid_from > now() THEN NULL ELSE valid_from END,
            valid_to, now(), now(), now() + make_interval(secs => ttl),
            word_count, words, embedding
        FROM ROWS FROM (
            jsonb_to_recordset(%(drafts)s::jsonb) AS (
                id uuid, text text, lexical text, semantic_type text, tags text[], metadata jsonb,
                provenance jsonb, message_ids text[], owner text, priority integer,
                sensitivity text[], valid_from timestamptz, valid_to timestamptz,
                ttl double precision
            ),
            unnest(%(embeddings)b::halfvec[])
        ) WITH ORDINALITY AS draft (
            id, text, lexical, semantic_type, tags, metadata, provenance, message_ids, owner,
            priority, sensitivity, valid_from, valid_to, ttl, embedding, ordinal
        ), """
    + ANALYSED
    + """
        WHERE memos.embedded_by(%(model)s::jsonb)
            AND (NOT %(reading)s OR (coalesce(provenance ->> 'session', ''), message_ids[1])
                IN (SELECT session, id FROM claimed))
        ORDER BY ordinal
        RETURNING """
    + COLUMNS
    + """
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), %(kind)s, %(namespace)s::text[], %(caller)s::jsonb, array_agg(id),
            CASE WHEN %(reading)s
                THEN jsonb_build_object('messages', (SELECT count(*) FROM claimed)) ELSE '{}'
            END
        FROM added HAVING count(*) > 0
    )
    SELECT """
    + COLUMNS
    + " FROM added"
)


def add(
    scope: Scope,
    drafts: Sequence[Draft],
    embeddings: Vectors,
    *,
    model: str,
    read: Sequence[Message] | None = None,
) -> Statement[list[MemCube]]:
    """Store new cubes, all or none.

    With ``read``, each draft comes from one of these messages. They are marked as read, and drafts
    of those that another reader was quicker to read are left out.
    """
    return Statement(
        sql=_ADD,
        parameters=scope.parameters(
            drafts=json.dumps([_record(draft) for draft in drafts], ensure_ascii=False),
            embeddings=[HalfVector(vector) for vector in embeddings],
            model=Model(name=model, width=embeddings.shape[1]).as_json(),
            kind="added" if read is None else "ingested",
            reading=read is not None,
            sessions=[message.session or "" for message in read or ()],
            messages=[message.id for message in read or ()],
        ),
        read=cubes_from,
    )


def _record(draft: Draft) -> dict[str, object]:
    header = draft.header
    return {
        "id": str(draft.id),
        "text": draft.text,
        "lexical": draft.lexical,
        "provenance": provenance_json(draft.provenance),
        "message_ids": draft.provenance.message_ids,
        "semantic_type": header.semantic_type,
        "tags": header.tags,
        "metadata": dict(header.metadata),
        "owner": header.owner,
        "priority": header.priority,
        "sensitivity": header.sensitivity,
        "valid_from": header.valid_from and header.valid_from.isoformat(),
        "valid_to": header.valid_to and header.valid_to.isoformat(),
        "ttl": header.ttl,
    }


_CLEAR_EXPIRED: LiteralString = (
    """
    WITH over AS (
        SELECT tenant, id FROM memos.cube
        WHERE id = ANY(%(ids)s::uuid[]) AND expires_at <= now() AND """
    + INSIDE
    + """
        FOR UPDATE
    ), versions AS (
        DELETE FROM memos.cube_version WHERE (tenant, id) IN (SELECT tenant, id FROM over)
    )
    DELETE FROM memos.cube WHERE (tenant, id) IN (SELECT tenant, id FROM over)
    RETURNING id
    """
)


def clear_expired(scope: Scope, cubes: Sequence[UUID]) -> Statement[None]:
    """Make room for new cubes under ids whose cubes have expired."""
    return Statement(sql=_CLEAR_EXPIRED, parameters=scope.parameters(ids=list(cubes)), read=ignored)


# A version held from when it was recorded until it was superseded; the current one still holds.
_AT: LiteralString = """
    AND recorded_at <= coalesce(%(as_of)s, now())
    AND (expires_at IS NULL OR expires_at > coalesce(%(as_of)s, now()))
"""
_FOUND: LiteralString = (
    "SELECT "
    + COLUMNS
    + " FROM memos.cube WHERE id = %(id)s AND "
    + INSIDE
    + _AT
    + " UNION ALL SELECT "
    + COLUMNS
    + " FROM memos.cube_version WHERE id = %(id)s AND superseded_at > %(as_of)s AND "
    + INSIDE
    + _AT
)
_GET: LiteralString = (
    "WITH found AS ("
    + _FOUND
    + """
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT tenant, now(), 'read', namespace, %(caller)s::jsonb, ARRAY[id], '{}'
        FROM found, """
    + LAZY_COMMIT
    + """
        WHERE %(log)s
    )
    SELECT found.*, usage.*
    FROM found, LATERAL (
        SELECT count(*) AS reads, max(at) AS last_read_at FROM memos.event
        WHERE event.tenant = found.tenant AND cube_ids @> ARRAY[found.id]
            AND event.kind IN ('read', 'searched')
    ) AS usage
    """
)


def get(
    scope: Scope, cube: UUID, *, as_of: datetime | None, log: bool
) -> Statement[MemCube | None]:
    """Read a cube as it stands, or stood at ``as_of``, with its usage; an event records it."""
    return Statement(
        sql=_GET,
        parameters=scope.parameters(id=cube, as_of=as_of, log=log),
        read=_with_usage,
    )


def _with_usage(rows: Sequence[Row]) -> MemCube | None:
    for row in rows:
        usage = Usage(reads=row["reads"], last_read_at=row["last_read_at"])
        return replace(cube_from(row), usage=usage)
    return None


_CURRENT: LiteralString = (
    "SELECT "
    + COLUMNS
    + " FROM memos.cube WHERE id = %(id)s AND (expires_at IS NULL OR expires_at > now()) AND "
    + INSIDE
)


def current(scope: Scope, cube: UUID) -> Statement[MemCube | None]:
    """Read the current version of a cube for a change to it; no event."""
    return Statement(sql=_CURRENT, parameters=scope.parameters(id=cube), read=first_cube)


_VERSIONS: LiteralString = (
    """
    SELECT id, version FROM memos.cube
    WHERE id = ANY(%(ids)s::uuid[]) AND (expires_at IS NULL OR expires_at > now()) AND """
    + INSIDE
)


def versions(scope: Scope, cubes: Sequence[UUID]) -> Statement[dict[UUID, int]]:
    """Read at which versions cubes stand; those that are gone are left out."""
    return Statement(
        sql=_VERSIONS,
        parameters=scope.parameters(ids=list(cubes)),
        read=lambda rows: {row["id"]: row["version"] for row in rows},
    )


_HISTORY: LiteralString = (
    "WITH found AS (SELECT "
    + COLUMNS
    + " FROM memos.cube_version WHERE id = %(id)s AND "
    + INSIDE
    + " UNION ALL SELECT "
    + COLUMNS
    + " FROM memos.cube WHERE id = %(id)s AND "
    + INSIDE
    + """
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'read', namespace, %(caller)s::jsonb, ARRAY[id],
            jsonb_build_object('versions', count(*))
        FROM found, """
    + LAZY_COMMIT
    + """
        WHERE %(log)s
        GROUP BY tenant, namespace, id
    )
    SELECT * FROM found ORDER BY version
    """
)


def history(scope: Scope, cube: UUID, *, log: bool) -> Statement[list[MemCube]]:
    """Read every version of a cube, the oldest first; none where there is no such cube."""
    return Statement(sql=_HISTORY, parameters=scope.parameters(id=cube, log=log), read=cubes_from)
