"""Statements that change cubes: update and restore."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from memos_core.cube import MemCube
from memos_core.embedder import Model, Vectors
from memos_core.store.arrays import HalfVectors, SparseVector
from memos_core.store.statement import Statement
from memos_core.store.statements.columns import COLUMNS, SAID, WOKEN, first_cube
from memos_core.store.statements.permission import MAY_READ, MAY_SHARE, MAY_WRITE
from memos_core.store.statements.rules import IN_FORCE
from memos_core.store.statements.scope import INSIDE, Scope
from memos_core.words import Words

# The row to change, once it and what was made of it are locked, and it is still at the version that
# the caller saw; and the moment of the change: later than the old version's even where a clock or a
# lock's wait says otherwise. Most have nothing made of them, which costs less to find out here.
_LOCKED: LiteralString = (
    """
    WITH old AS (
        SELECT * FROM memos.cube
        WHERE id = %(id)s AND version = %(expected)s AND state <> 'frozen'
            -- Under its id there may be another cube by now.
            AND (%(recorded_at)s::timestamptz IS NULL OR recorded_at = %(recorded_at)s)
            AND """
    + INSIDE
    + " AND "
    + MAY_WRITE
    + """ AND CASE WHEN EXISTS (
                SELECT FROM memos.source WHERE source.tenant = %(tenant)s AND source.source = id
            ) THEN memos.hold(%(tenant)s, ARRAY[id]) ELSE true END"""
)
_SUPERSEDED: LiteralString = """
        FOR UPDATE
    ), moment AS (
        SELECT greatest(clock_timestamp(), recorded_at + interval '1 microsecond') AS now FROM old
    ), superseded AS (
        INSERT INTO memos.cube_version SELECT moment.now, old.* FROM old, moment
    )"""
OLD: LiteralString = _LOCKED + _SUPERSEDED
LOGGED: LiteralString = (
    """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, recorded_at, %(kind)s, namespace, %(caller)s::jsonb, ARRAY[id],
            jsonb_build_object('version', version) || %(details)s::jsonb
        FROM changed
    )
    SELECT """
    + COLUMNS
    + ","
    + WOKEN
    + """,
        CASE WHEN content_version = version
            THEN memos.invalidate(tenant, ARRAY[id], recorded_at, %(caller)s::jsonb)
            WHEN sensitivity <> '{}'
            THEN memos.mark(tenant, id, sensitivity, recorded_at, %(caller)s::jsonb)
        END AS reached,
        memos.unindex(tenant, ARRAY[id], namespace), memos.announce(tenant)
    FROM changed"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What a new version says that the old one did not; None keeps what the old one said."""

    text: str | None = None
    words: Words | None = None
    semantic_type: str | None = None
    tags: tuple[str, ...] | None = None
    metadata: dict[str, object] | None = None
    priority: int | None = None
    sensitivity: tuple[str, ...] | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    ttl: float | None = None

    @property
    def content(self) -> bool:
        """Whether the cube says something else, and what was made of it no longer stands."""
        said = (self.text, self.semantic_type, self.metadata, self.valid_from, self.valid_to)
        return any(one is not None for one in said)


# What said the same as others may say something of its own now.
_UPDATED: LiteralString = (
    """, changed AS (
        UPDATE memos.cube AS cube SET
            version = cube.version + 1,
            recorded_at = moment.now,
            content_version = CASE WHEN %(content)s THEN cube.version + 1
                ELSE cube.content_version END,
            state = CASE WHEN %(content)s AND cube.state = 'merged' THEN 'activated'
                ELSE cube.state END,
            text = coalesce(%(text)s, cube.text),
            semantic_type = coalesce(%(semantic_type)s, cube.semantic_type),
            tags = coalesce(%(tags)s::text[], cube.tags),
            metadata = coalesce(%(metadata)s::jsonb, cube.metadata),
            provenance = cube.provenance - 'restored_from',
            priority = coalesce(%(priority)s, cube.priority),
            sensitivity = CASE WHEN %(sensitivity)s::text[] IS NOT NULL AND cube.derived
                THEN memos.labels(cube.tenant, cube.id, %(sensitivity)s::text[])
                ELSE coalesce(%(sensitivity)s::text[], cube.sensitivity) END,
            valid_from = coalesce(%(valid_from)s, cube.valid_from),
            valid_to = coalesce(%(valid_to)s, cube.valid_to),
            expires_at = coalesce(
                moment.now + make_interval(secs => %(ttl)s), cube.expires_at
            ),
            word_count = coalesce(%(word_count)s, cube.word_count),
            words = coalesce(%(words)s::sparsevec, cube.words),
            embedding = coalesce((%(embeddings)s::halfvec[])[1], cube.embedding)
        FROM old, moment
        WHERE cube.tenant = old.tenant AND cube.id = old.id
            AND memos.embedded_by(%(model)s::jsonb) AND """
    + IN_FORCE
    + """
        RETURNING cube.*
    )"""
    + LOGGED
)
_UPDATE: LiteralString = OLD + _UPDATED
# Who may read a cube goes by its tags too, so who gives it others shares it. In a statement of its
# own, since the question costs a tenth of an update.
_UPDATE_TAGS: LiteralString = (
    _LOCKED + " AND (tags = %(tags)s::text[] OR " + MAY_SHARE + ")" + _SUPERSEDED + _UPDATED
)


def update(
    scope: Scope,
    expected: MemCube,
    change: Change,
    embedding: Vectors | None,
    *,
    model: str,
    mode: str,
    rules: int,
) -> Statement[MemCube | None]:
    """Store a new version of what was read, or nothing and None where that stands no more."""
    return Statement(
        sql=_UPDATE if change.tags is None or scope.caller is None else _UPDATE_TAGS,
        parameters=scope.parameters(
            id=expected.id,
            expected=expected.version,
            recorded_at=expected.updated_at,
            content=change.content,
            rules_version=rules,
            text=change.text,
            word_count=change.words and change.words.count,
            words=change.words and SparseVector(change.words.vector),
            semantic_type=change.semantic_type,
            tags=None if change.tags is None else list(change.tags),
            metadata=None
            if change.metadata is None
            else json.dumps(change.metadata, ensure_ascii=False),
            priority=change.priority,
            sensitivity=None if change.sensitivity is None else list(change.sensitivity),
            valid_from=change.valid_from,
            valid_to=change.valid_to,
            ttl=change.ttl,
            embeddings=None if embedding is None else HalfVectors(embedding),
            model=None
            if embedding is None
            else Model(name=model, width=embedding.shape[1]).as_json(),
            as_of=None,
            kind="updated",
            details=json.dumps({"mode": mode}),
        ),
        read=first_cube,
    )


# The content and header of another version, with its vector and words. Identity, times and the time
# to live go on: an old version may have been meant to live for a minute. What was frozen or merged
# then is neither now. A version before the cube expired and was made anew was made of other things.
# The turns that later versions came from are still its own: who forgets it forgets them. Its tags
# come back for those who may share it.
_WANTED: LiteralString = (
    """
        SELECT * FROM memos.cube_version
        WHERE id = %(id)s AND version = %(version)s AND """
    + INSIDE
    + " AND "
    + MAY_READ
    + """
            AND version > ALL (
                SELECT version FROM memos.cube_version
                WHERE id = %(id)s AND state = 'expired' AND tenant = %(tenant)s
            )
    """
)
_RESTORE: LiteralString = (
    _LOCKED
    + " AND EXISTS ("
    + _WANTED
    + ")"
    + _SUPERSEDED
    + ", wanted AS ("
    + _WANTED
    + """
    ), said AS (
        SELECT DISTINCT ON (said_in, said_as) * FROM (
            SELECT 1 AS step, origin.* FROM wanted CROSS JOIN LATERAL """
    + SAID
    + """ AS origin
            UNION ALL
            SELECT 2, origin.* FROM old CROSS JOIN LATERAL """
    + SAID
    + """ AS origin
        ) AS every
        ORDER BY said_in, said_as, step
    ), sharing AS (
        SELECT """
    + MAY_SHARE
    + """ AS may_share FROM old
    ), turns AS (
        SELECT
            coalesce(array_agg(said_as ORDER BY step, place), '{}') AS ids,
            CASE WHEN count(*) > 1
                THEN jsonb_build_object('sessions', jsonb_agg(said_in ORDER BY step, place))
                ELSE '{}' END AS sessions
        FROM said
    ), changed AS (
        UPDATE memos.cube AS cube SET
            version = cube.version + 1,
            recorded_at = moment.now,
            content_version = cube.version + 1,
            state = CASE WHEN wanted.state IN ('frozen', 'merged') THEN 'activated'
                ELSE wanted.state END,
            kind = wanted.kind,
            text = wanted.text,
            semantic_type = wanted.semantic_type,
            tags = CASE WHEN may_share THEN wanted.tags ELSE cube.tags END,
            metadata = wanted.metadata,
            provenance = wanted.provenance
                || jsonb_build_object('restored_from', %(version)s::integer) || turns.sessions,
            message_ids = turns.ids,
            owner = wanted.owner,
            priority = wanted.priority,
            sensitivity = CASE WHEN cube.derived
                THEN memos.labels(cube.tenant, cube.id, wanted.sensitivity)
                ELSE wanted.sensitivity END,
            valid_from = wanted.valid_from,
            valid_to = wanted.valid_to,
            word_count = wanted.word_count,
            words = wanted.words,
            thread = wanted.thread,
            turn = wanted.turn,
            embedding = wanted.embedding
        FROM old, moment, wanted, sharing, turns
        WHERE cube.tenant = old.tenant AND cube.id = old.id
        RETURNING cube.*
    )"""
    + LOGGED
)


def restore(scope: Scope, expected: MemCube, *, version: int) -> Statement[MemCube | None]:
    """Store a new version that says what ``version`` said.

    None where the cube moved on, or has no such version that the caller may bring back.
    """
    return Statement(
        sql=_RESTORE,
        parameters=scope.parameters(
            id=expected.id,
            version=version,
            expected=expected.version,
            recorded_at=expected.updated_at,
            as_of=None,
            kind="restored",
            details=json.dumps({"restored_from": version}),
        ),
        read=first_cube,
    )
