"""Statements that find what a turn may say again, and make it part of a cube that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from memos_core.cube import MemCube, Provenance
from memos_core.embedder import Model, Vectors
from memos_core.message import Message
from memos_core.store.arrays import HalfVectors, SparseVector
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements import candidates
from memos_core.store.statements.changes import LOGGED, OLD
from memos_core.store.statements.columns import COLUMNS, cube_from, first_cube, provenance_json
from memos_core.store.statements.permission import MAY_WRITE
from memos_core.store.statements.rules import IN_FORCE
from memos_core.store.statements.scope import INSIDE, Scope
from memos_core.words import Words

_LOCK: LiteralString = """
    SELECT pg_advisory_xact_lock(hashtextextended(
        'memos.resolution/' || array_to_string(%(namespace)s::text[], '/'), 0
    ))
    """


def lock(scope: Scope) -> Statement[None]:
    """Keep others from resolving turns of this namespace until the transaction ends.

    So two who are told the same at once do not both find nothing like it.
    """
    return Statement(sql=_LOCK, parameters=scope.parameters(), read=ignored)


# What lives for a while only, what others publish and may take back, and what is made of others is
# no place for what was said here; what was merged into another is. IS TRUE as in `candidates`: rows
# are found by id or by distance.
_PASSING: LiteralString = (
    """memos.embedded_by(%(model)s::jsonb) AND (trail = %(trail)s::text) IS TRUE
        AND kind = 'plaintext' AND state IN ('generated', 'activated', 'merged') AND NOT derived
        AND expires_at IS NULL AND valid_to IS NULL AND NOT provenance ? 'publisher'
        AND owner IS NOT DISTINCT FROM turn.owner AND """
    + MAY_WRITE
)
_DISTANCE: LiteralString = "embedding <=> turn.embedding"
_COLUMNS: LiteralString = "id, " + _DISTANCE + " AS distance"
_ALL: LiteralString = (
    "SELECT "
    + _COLUMNS
    + " FROM memos.cube WHERE tenant = %(tenant)s AND trail = %(trail)s::text AND "
    + _PASSING
)
_INDEXED: LiteralString = (
    "WITH "
    + candidates.LATE
    + ","
    + candidates.nearest(_COLUMNS, _PASSING, _DISTANCE)
    + " SELECT * FROM nearest UNION ALL "
    + candidates.fetched("SELECT id FROM late", _COLUMNS, _PASSING)
)


def _nearest(found: LiteralString) -> LiteralString:
    """Return the statement; ``found`` is a query of the ids of what is near a turn."""
    return (
        """
        WITH turn AS (
            SELECT * FROM unnest(%(embeddings)s::halfvec[], %(owners)s::text[])
                WITH ORDINALITY AS given (embedding, owner, place)
        )
        SELECT cube.*, 1 - distance AS cosine, place FROM turn CROSS JOIN LATERAL (
            SELECT id, distance FROM ("""
        + found
        + """) AS found ORDER BY distance, id LIMIT %(nearest)s
        ) AS near CROSS JOIN LATERAL (
            SELECT """
        + COLUMNS
        + """ FROM memos.cube WHERE tenant = %(tenant)s AND id = near.id OFFSET 0
        ) AS cube
        ORDER BY place, distance, near.id
        """
    )


_EXACT: LiteralString = _nearest(_ALL)
_BY_INDEX: LiteralString = _nearest(_INDEXED)


def nearest(
    scope: Scope,
    embeddings: Vectors,
    owners: Sequence[str | None],
    *,
    model: str,
    k: int,
    index: int | None,
) -> Statement[list[list[tuple[MemCube, float]]]]:
    """Read for each of several turns the cubes that are nearest in meaning, with their cosines.

    Of this namespace alone, the turn's owner's, and such as the caller may write. With ``index``,
    the view's search index, not all are looked at.
    """
    return Statement(
        sql=_EXACT if index is None else _BY_INDEX,
        parameters=scope.parameters(
            embeddings=HalfVectors(embeddings),
            owners=list(owners),
            model=Model(name=model, width=embeddings.shape[1]).as_json(),
            nearest=k,
            index=index,
            depth=k,
        ),
        read=lambda rows: _by_place(rows, len(owners)),
    )


def _by_place(rows: Sequence[Row], count: int) -> list[list[tuple[MemCube, float]]]:
    found = [list[tuple[MemCube, float]]() for _ in range(count)]
    for row in rows:
        place: int = row["place"]
        found[place - 1].append((cube_from(row), row["cosine"]))
    return found


# What was made of them ends if they change, and is locked with them, in the order of ids. The table
# of versions is locked first, as in every change.
_HOLD: LiteralString = (
    """
    WITH locked AS (DELETE FROM memos.cube_version WHERE false), held AS (
        SELECT * FROM memos.cube
        WHERE tenant = %(tenant)s AND (id = ANY(%(ids)s::uuid[]) OR id IN (
            SELECT cube FROM memos.source
            WHERE source.tenant = %(tenant)s AND source.source = ANY(%(ids)s::uuid[])
        ))
        ORDER BY id FOR UPDATE
    )
    SELECT id, version FROM held WHERE id = ANY(%(ids)s::uuid[]) AND """
    + INSIDE
    + " AND "
    + MAY_WRITE
)


def hold(scope: Scope, cubes: Sequence[UUID]) -> Statement[dict[UUID, int]]:
    """Hold cubes against changes until the transaction ends; read at which versions they are.

    Those that are gone, or that the caller may not write, are left out.
    """
    return Statement(
        sql=_HOLD,
        parameters=scope.parameters(ids=list(cubes)),
        read=lambda rows: {row["id"]: row["version"] for row in rows},
    )


_DUE: LiteralString = """
    SELECT session, id FROM memos.message
    WHERE tenant = %(tenant)s AND trail = %(trail)s::text
        AND (session, id) IN (
            SELECT * FROM unnest(%(sessions)s::text[], %(messages)s::text[])
        )
        AND due_at IS NOT NULL AND forgotten_at IS NULL
    ORDER BY position FOR UPDATE
    """


def due(scope: Scope, messages: Sequence[Message]) -> Statement[set[tuple[str | None, str]]]:
    """Hold messages until the transaction ends; read the sessions and ids of those still unread."""
    return Statement(
        sql=_DUE,
        parameters=scope.parameters(
            sessions=[message.session or "" for message in messages],
            messages=[message.id for message in messages],
        ),
        read=lambda rows: {(row["session"] or None, row["id"]) for row in rows},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Absorbed:
    """What a cube says once a turn is part of it; None of ``text`` is what it says already.

    With ``replaced`` that is true since the turn, and not since the cube's time; with ``moved`` its
    place in a conversation is the turn's. ``content`` tells whether it says something else, and
    ``found`` are sensitive kinds.
    """

    message: Message
    provenance: Provenance
    metadata: Mapping[str, object]
    text: str | None = None
    words: Words | None = None
    content: bool = False
    replaced: bool = False
    moved: bool = False
    found: tuple[str, ...] = ()


# What it says now is true since that was said: not before, and not from a time to come. What said
# the same as others says something of its own then.
_ABSORB: LiteralString = (
    OLD
    + """, read AS (
        UPDATE memos.message SET due_at = NULL
        FROM old
        WHERE message.tenant = old.tenant AND message.trail = %(trail)s::text
            AND session = %(session)s AND message.id = %(message)s
        RETURNING memos.thread(message.namespace, session) AS said_in, position
    ), changed AS (
        UPDATE memos.cube AS cube SET
            version = cube.version + 1,
            recorded_at = moment.now,
            content_version = CASE WHEN %(content)s THEN cube.version + 1
                ELSE cube.content_version END,
            state = CASE WHEN %(content)s AND cube.state = 'merged' THEN 'activated'
                ELSE cube.state END,
            text = coalesce(%(text)s, cube.text),
            metadata = %(metadata)s::jsonb,
            provenance = %(provenance)s::jsonb,
            message_ids = %(message_ids)s::text[],
            sensitivity = cube.sensitivity || ARRAY(
                SELECT kind FROM unnest(%(found)s::text[]) AS kind
                WHERE kind <> ALL(cube.sensitivity)
            ),
            valid_from = CASE WHEN %(replaced)s
                THEN least(%(said_at)s::timestamptz, moment.now) ELSE cube.valid_from END,
            word_count = coalesce(%(word_count)s, cube.word_count),
            words = coalesce(%(words)s::sparsevec, cube.words),
            embedding = coalesce((%(embeddings)s::halfvec[])[1], cube.embedding),
            thread = CASE WHEN %(moved)s THEN said_in ELSE cube.thread END,
            turn = CASE WHEN %(moved)s THEN position ELSE cube.turn END
        FROM old, moment, read
        WHERE cube.tenant = old.tenant AND cube.id = old.id
            AND memos.embedded_by(%(model)s::jsonb) AND """
    + IN_FORCE
    + """
        RETURNING cube.*
    )"""
    + LOGGED
)


def absorb(
    scope: Scope,
    cube: UUID,
    absorbed: Absorbed,
    embedding: Vectors | None,
    *,
    expected: int,
    model: str,
    rules: int,
    details: Mapping[str, object],
) -> Statement[MemCube | None]:
    """Make a turn part of a cube as its new version, and mark the turn as read.

    The cube and the message must be held. Nothing and None where the cube is not at ``expected``.
    """
    words, message = absorbed.words, absorbed.message
    return Statement(
        sql=_ABSORB,
        parameters=scope.parameters(
            id=cube,
            expected=expected,
            recorded_at=None,
            session=message.session or "",
            message=message.id,
            content=absorbed.content,
            text=absorbed.text,
            metadata=_json(dict(absorbed.metadata)),
            provenance=_json(provenance_json(absorbed.provenance)),
            message_ids=list(absorbed.provenance.message_ids),
            found=list(absorbed.found),
            replaced=absorbed.replaced,
            said_at=message.created_at,
            word_count=words and words.count,
            words=words and SparseVector(words.vector),
            embeddings=None if embedding is None else HalfVectors(embedding),
            moved=absorbed.moved,
            model=None
            if embedding is None
            else Model(name=model, width=embedding.shape[1]).as_json(),
            rules_version=rules,
            as_of=None,
            kind="resolved",
            details=_json(dict(details)),
        ),
        read=first_cube,
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
