"""Statements that add cubes, and that read them for a change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import LiteralString
from uuid import UUID

from memos_core.cube import Governance, Kind, MemCube, Provenance, State
from memos_core.embedder import Model, Vectors
from memos_core.message import Message
from memos_core.namespace import Namespace
from memos_core.store.arrays import HalfVectors, SparseVectors, Texts, Uuids
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.columns import (
    COLUMNS,
    SEARCHED,
    WOKEN,
    cube_from,
    provenance_json,
)
from memos_core.store.statements.permission import (
    MAY_READ,
    MAY_SHARE,
    MAY_WRITE,
    STANDS,
)
from memos_core.store.statements.rules import IN_FORCE
from memos_core.store.statements.scope import LIES_INSIDE, Scope
from memos_core.words import Words


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What the maker of a cube says of it; it lives for ``ttl`` seconds, or until a moment."""

    semantic_type: str
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    owner: str | None = None
    priority: int = 0
    sensitivity: tuple[str, ...] = ()
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    ttl: float | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A cube to be, before the store gives it a version and times.

    ``found`` are the sensitive kinds that its text holds, beside those that its header names.
    """

    id: UUID
    text: str
    words: Words
    provenance: Provenance
    header: Header
    found: tuple[str, ...] = ()


_FACTS: LiteralString = """
    WITH draft AS (
        SELECT
            *, %(metadata)s::jsonb AS metadata, %(provenance)s::jsonb AS provenance,
            '{}'::text[] AS message_ids, %(owner)s::text AS owner,
            %(valid_from)s::timestamptz AS valid_from, NULL::bigint AS thread, NULL::bigint AS turn
        FROM unnest(
            %(ids)s::uuid[], %(texts)s::text[], %(counts)s::integer[], %(words)s::sparsevec[],
            %(embeddings)s::halfvec[], %(found)s::text[]
        ) WITH ORDINALITY AS given (id, text, word_count, words, embedding, found, ordinal)
    )"""
# `claimed` are the messages that this statement may make cubes of: of two readers of one message
# only one gets it. A speaker's clock ahead of ours must not hide what was just said.
_TURNS: LiteralString = """
    WITH claimed AS (
        UPDATE memos.message SET due_at = NULL
        FROM unnest(%(sessions)s::text[], %(messages)s::text[]) AS wanted (of_session, of_id)
        WHERE tenant = %(tenant)s AND trail = %(trail)s::text
            AND session = of_session AND id = of_id
            AND due_at IS NOT NULL AND forgotten_at IS NULL
        RETURNING session, id, position
    ), draft AS (
        SELECT
            given.id, text, word_count, words, embedding, ordinal, metadata, provenance,
            ARRAY[message] AS message_ids, owner, found,
            CASE WHEN valid_from <= now() THEN valid_from END AS valid_from,
            memos.thread(%(namespace)s::text[], claimed.session) AS thread,
            claimed.position AS turn
        FROM unnest(
            %(ids)s::uuid[], %(texts)s::text[], %(counts)s::integer[], %(words)s::sparsevec[],
            %(embeddings)s::halfvec[], %(metadata)s::jsonb[], %(provenance)s::jsonb[],
            %(turn_sessions)s::text[], %(turn_messages)s::text[], %(owners)s::text[],
            %(found)s::text[], %(valid_from)s::timestamptz[]
        ) WITH ORDINALITY AS given (
            id, text, word_count, words, embedding, metadata, provenance, session, message, owner,
            found, valid_from, ordinal
        )
        JOIN claimed ON claimed.session = given.session AND claimed.id = message
    )"""
# What the event says beside the ids stands between this and _LOGGED.
_ADDED: LiteralString = (
    """, added AS (
        INSERT INTO memos.cube ("""
    + COLUMNS
    + ","
    + SEARCHED
    + """, content_version)
        SELECT
            %(tenant)s, id, %(namespace)s::text[], %(of)s, 'generated', %(version)s, text,
            %(semantic_type)s, %(tags)s::text[], metadata, provenance, message_ids, owner,
            %(priority)s, %(sensitivity)s::text[] || string_to_array(found, ','), valid_from,
            %(valid_to)s::timestamptz, now(), now(),
            coalesce(%(expires_at)s, now() + make_interval(secs => %(ttl)s)),
            word_count, words, thread, turn, embedding, %(derived)s, %(version)s
        FROM draft
        WHERE memos.embedded_by(%(model)s::jsonb) AND """
    + IN_FORCE
    + """
        RETURNING id, metadata, valid_from, recorded_at, expires_at
    ), late AS (
        INSERT INTO memos.unindexed (tenant, index, id)
        SELECT tenant, held.id, added.id FROM added CROSS JOIN memos.search_index AS held
        WHERE tenant = %(tenant)s
            AND namespace = (%(namespace)s::text[])[:cardinality(namespace)]
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), %(kind)s, %(namespace)s::text[], %(caller)s::jsonb, array_agg(id),
    """
)
_LOGGED: LiteralString = (
    " FROM added HAVING count(*) > 0) SELECT added.*, memos.announce(%(tenant)s) FROM added"
)
# One row says what the store made of all: they have one header.
_ADD: LiteralString = _FACTS + _ADDED + "%(details)s::jsonb" + _LOGGED + " LIMIT 1"
_READ: LiteralString = (
    _TURNS + _ADDED + "jsonb_build_object('messages', (SELECT count(*) FROM claimed))" + _LOGGED
)


def add(
    scope: Scope,
    drafts: Sequence[Draft],
    embeddings: Vectors,
    *,
    model: str,
    kind: str = "added",
    details: Mapping[str, object] | None = None,
    rules: int,
    version: int = 1,
    derived: bool = False,
    of: Kind = Kind.PLAINTEXT,
) -> Statement[list[MemCube]]:
    """Store new cubes of a kind with one header and provenance in common, all or none.

    ``rules`` is the version of those that were applied; ``kind`` and ``details`` are the event's. A
    cube that takes an expired one's place goes on from its ``version``.
    """
    header, provenance = drafts[0].header, drafts[0].provenance
    return Statement(
        sql=_ADD,
        parameters=scope.parameters(
            **_parameters(drafts, embeddings, model),
            metadata=_json(dict(header.metadata)),
            provenance=_json(provenance_json(provenance)),
            owner=header.owner,
            valid_from=header.valid_from,
            kind=kind,
            details=_json(dict(details or {})),
            rules_version=rules,
            version=version,
            derived=derived,
            of=of,
        ),
        read=lambda rows: [
            replace(_cube(rows[0], draft, scope.namespace), version=version, kind=of)
            for draft in drafts
        ],
    )


def read(
    scope: Scope,
    drafts: Sequence[Draft],
    embeddings: Vectors,
    messages: Sequence[Message],
    *,
    model: str,
    rules: int,
) -> Statement[list[MemCube]]:
    """Store cubes made of messages, and mark these as read.

    Drafts of messages that another reader was quicker to read are left out.
    """
    origins = [draft.provenance for draft in drafts]
    return Statement(
        sql=_READ,
        parameters=scope.parameters(
            **_parameters(drafts, embeddings, model),
            metadata=[_json(dict(draft.header.metadata)) for draft in drafts],
            provenance=[_json(provenance_json(origin)) for origin in origins],
            turn_sessions=[origin.session or "" for origin in origins],
            turn_messages=[origin.message_ids[0] for origin in origins],
            owners=[draft.header.owner for draft in drafts],
            valid_from=[draft.header.valid_from for draft in drafts],
            sessions=[message.session or "" for message in messages],
            messages=[message.id for message in messages],
            kind="ingested",
            rules_version=rules,
            version=1,
            derived=False,
            of=Kind.PLAINTEXT,
        ),
        read=lambda rows: _those_of(rows, drafts, scope.namespace),
    )


def _parameters(drafts: Sequence[Draft], embeddings: Vectors, model: str) -> dict[str, object]:
    header = drafts[0].header
    return {
        "ids": Uuids([draft.id for draft in drafts]),
        "texts": Texts([draft.text for draft in drafts]),
        "counts": [draft.words.count for draft in drafts],
        "words": SparseVectors([draft.words.vector for draft in drafts]),
        "embeddings": HalfVectors(embeddings),
        "found": [",".join(draft.found) for draft in drafts],
        "model": Model(name=model, width=embeddings.shape[1]).as_json(),
        "semantic_type": header.semantic_type,
        "tags": list(header.tags),
        "priority": header.priority,
        "sensitivity": list(header.sensitivity),
        "valid_to": header.valid_to,
        "ttl": header.ttl,
        "expires_at": header.expires_at,
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _those_of(rows: Sequence[Row], drafts: Sequence[Draft], namespace: Namespace) -> list[MemCube]:
    known = {draft.id: draft for draft in drafts}
    return [_cube(row, known[row["id"]], namespace) for row in rows]


def _cube(row: Row, draft: Draft, namespace: Namespace) -> MemCube:
    """Put together what was sent and what the store made of it."""
    header = draft.header
    return MemCube(
        id=draft.id,
        namespace=namespace,
        kind=Kind.PLAINTEXT,
        state=State.GENERATED,
        version=1,
        text=draft.text,
        semantic_type=header.semantic_type,
        tags=header.tags,
        metadata=dict(row["metadata"]),  # jsonb has numbers of its own
        provenance=draft.provenance,
        governance=Governance(
            owner=header.owner,
            expires_at=row["expires_at"],
            priority=header.priority,
            sensitivity=(*header.sensitivity, *draft.found),
        ),
        created_at=row["recorded_at"],
        updated_at=row["recorded_at"],
        valid_from=row["valid_from"],
        valid_to=header.valid_to,
    )


_CLEAR_EXPIRED: LiteralString = (
    """
    WITH lapsed AS (
        SELECT id FROM memos.cube
        WHERE id = ANY(%(ids)s::uuid[]) AND expires_at <= now() AND """
    + LIES_INSIDE
    + " AND "
    + MAY_WRITE
    + """
        FOR UPDATE
    ), ended AS (
        SELECT id FROM memos.cube_version
        WHERE id = ANY(%(ids)s::uuid[]) AND state = 'expired' AND """
    + LIES_INSIDE
    + " AND "
    + MAY_WRITE
    + """ AND id NOT IN (
            SELECT id FROM memos.cube
            WHERE tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[])
        )
    ), gone AS (
        SELECT id FROM lapsed UNION SELECT id FROM ended
    ), over AS (
        SELECT array_agg(id) AS ids FROM (
            SELECT id FROM gone
            UNION
            SELECT cube FROM memos.source
            WHERE source.tenant = %(tenant)s AND source = ANY(ARRAY(SELECT gone.id FROM gone))
                AND (
                    SELECT state FROM memos.cube AS made
                    WHERE made.tenant = %(tenant)s AND made.id = source.cube
                ) IS DISTINCT FROM 'frozen'
        ) AS both_kinds
    ), cut AS (
        UPDATE memos.source SET source = gen_random_uuid()
        WHERE source.tenant = %(tenant)s AND source = ANY(ARRAY(SELECT gone.id FROM gone))
            AND cube <> ALL((SELECT ids FROM over)::uuid[])
        RETURNING cube
    ), erased AS MATERIALIZED (
        SELECT memos.erase(%(tenant)s, over.ids) AS versions
        FROM over, (SELECT count(*) FROM cut) AS first WHERE ids IS NOT NULL
    )
    SELECT (SELECT versions FROM erased), ARRAY(
        SELECT DISTINCT id FROM memos.cube_version
        WHERE tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[]) AND state = 'expired'
            AND id <> ALL(coalesce((SELECT ids FROM over), '{}'))
    ) AS taken
    """
)


def clear_expired(scope: Scope, cubes: Sequence[UUID]) -> Statement[list[UUID]]:
    """Make room for new cubes under ids whose cubes have expired; read those where there is none.

    Their histories go, and all that was made of them; what is frozen of that is served no more.
    Only those who may write such a cube can take its place.
    """
    return Statement(
        sql=_CLEAR_EXPIRED,
        parameters=scope.parameters(ids=list(cubes)),
        read=lambda rows: rows[0]["taken"],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Current:
    """A cube as it stands, for a change to it, and what the caller may do with it."""

    cube: MemCube
    may_write: bool
    may_share: bool


_CURRENT: LiteralString = (
    "SELECT "
    + COLUMNS
    + ","
    + WOKEN
    + ","
    + MAY_WRITE
    + " AS may_write, "
    + MAY_SHARE
    + """ AS may_share FROM memos.cube
    WHERE id = ANY(%(ids)s::uuid[]) AND (expires_at IS NULL OR expires_at > now()) AND """
    + LIES_INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + STANDS
)


def current(scope: Scope, cubes: Sequence[UUID]) -> Statement[dict[UUID, Current]]:
    """Read the current versions of cubes for a change to them; no event."""
    return Statement(
        sql=_CURRENT,
        parameters=scope.reading(ids=list(cubes), as_of=None),
        read=lambda rows: {
            row["id"]: Current(
                cube=cube_from(row), may_write=row["may_write"], may_share=row["may_share"]
            )
            for row in rows
        },
    )
