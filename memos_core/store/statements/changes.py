"""Statements that change cubes: update, restore, forget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from memos_core.cube import MemCube
from memos_core.embedder import Model, Vectors
from memos_core.hit import ForgetReport
from memos_core.store.arrays import HalfVectors, SparseVector
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import COLUMNS, WOKEN, first_cube
from memos_core.store.statements.permission import MAY_READ, MAY_WRITE
from memos_core.store.statements.rules import IN_FORCE
from memos_core.store.statements.scope import INSIDE, Scope
from memos_core.words import Words

# The row to change, once it is locked and still at the version that the caller saw, and the moment
# of the change: later than the old version's even where a clock or a lock's wait says otherwise.
_OLD: LiteralString = (
    """
    WITH old AS (
        SELECT * FROM memos.cube
        WHERE id = %(id)s AND version = %(expected)s AND state <> 'frozen' AND """
    + INSIDE
    + " AND "
    + MAY_WRITE
    + """
        FOR UPDATE
    ), moment AS (
        SELECT greatest(clock_timestamp(), recorded_at + interval '1 microsecond') AS now FROM old
    ), superseded AS (
        INSERT INTO memos.cube_version SELECT moment.now, old.* FROM old, moment
    )"""
)
_LOGGED: LiteralString = (
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
        CASE WHEN content_version = version THEN memos.invalidate(
            tenant, ARRAY[id], recorded_at, %(caller)s::jsonb
        ) END AS fallen,
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
_UPDATE: LiteralString = (
    _OLD
    + """, changed AS (
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
            sensitivity = coalesce(%(sensitivity)s::text[], cube.sensitivity),
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
    + _LOGGED
)


def update(
    scope: Scope,
    cube: UUID,
    change: Change,
    embedding: Vectors | None,
    *,
    expected: int,
    model: str,
    mode: str,
    rules: int,
) -> Statement[MemCube | None]:
    """Store a new version, or nothing and None where the cube is no longer at ``expected``."""
    return Statement(
        sql=_UPDATE,
        parameters=scope.parameters(
            id=cube,
            expected=expected,
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
_RESTORE: LiteralString = (
    _OLD
    + """, wanted AS (
        SELECT * FROM memos.cube_version
        WHERE id = %(id)s AND version = %(version)s AND """
    + INSIDE
    + """
            AND version > ALL (
                SELECT version FROM memos.cube_version
                WHERE id = %(id)s AND state = 'expired' AND tenant = %(tenant)s
            )
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
            tags = wanted.tags,
            metadata = wanted.metadata,
            provenance = wanted.provenance
                || jsonb_build_object('restored_from', %(version)s::integer),
            message_ids = wanted.message_ids,
            owner = wanted.owner,
            priority = wanted.priority,
            sensitivity = wanted.sensitivity,
            valid_from = wanted.valid_from,
            valid_to = wanted.valid_to,
            word_count = wanted.word_count,
            words = wanted.words,
            thread = wanted.thread,
            turn = wanted.turn,
            embedding = wanted.embedding
        FROM old, moment, wanted
        WHERE cube.tenant = old.tenant AND cube.id = old.id
        RETURNING cube.*
    )"""
    + _LOGGED
)


def restore(scope: Scope, cube: UUID, *, version: int, expected: int) -> Statement[MemCube | None]:
    """Store a new version that says what ``version`` said; None where the cube moved on."""
    return Statement(
        sql=_RESTORE,
        parameters=scope.parameters(
            id=cube,
            version=version,
            expected=expected,
            as_of=None,
            kind="restored",
            details=json.dumps({"restored_from": version}),
        ),
        read=first_cube,
    )


# The table of versions is locked as well, before any row is, as in every other change: `reembed`
# waits for both tables in that order.
_LOCK: LiteralString = (
    "WITH held AS (DELETE FROM memos.cube_version WHERE false) "
    "SELECT id FROM memos.cube WHERE id = ANY(%(ids)s::uuid[]) AND "
    + INSIDE
    + " AND "
    + MAY_WRITE
    + " ORDER BY id FOR UPDATE"
)


def lock(scope: Scope, cubes: Sequence[UUID]) -> Statement[None]:
    """Hold cubes against changes until the transaction ends."""
    return Statement(sql=_LOCK, parameters=scope.parameters(ids=list(cubes)), read=ignored)


_LOCK_ALL: LiteralString = (
    "WITH held AS (DELETE FROM memos.cube_version WHERE false), live AS ("
    "SELECT id FROM memos.cube "
    "WHERE (%(session)s::text IS NULL OR provenance ->> 'session' = %(session)s::text) AND "
    + INSIDE
    + " AND "
    + MAY_WRITE
    + """ ORDER BY id FOR UPDATE)
    SELECT id FROM live
    UNION
    SELECT id FROM memos.cube_version
    WHERE state = 'expired'
        AND (%(session)s::text IS NULL OR provenance ->> 'session' = %(session)s::text) AND """
    + INSIDE
    + " AND "
    + MAY_WRITE
)


def lock_all(scope: Scope, *, session: str | None) -> Statement[list[UUID]]:
    """Hold every cube of a view, or of a session, until the transaction ends; read their ids."""
    return Statement(
        sql=_LOCK_ALL,
        parameters=scope.parameters(session=session),
        read=lambda rows: [row["id"] for row in rows],
    )


_THERE: LiteralString = (
    "SELECT id FROM memos.cube WHERE id = ANY(%(ids)s::uuid[]) AND "
    + INSIDE
    + " UNION SELECT id FROM memos.cube_version "
    "WHERE id = ANY(%(ids)s::uuid[]) AND state = 'expired' AND " + INSIDE
)


def there(scope: Scope, cubes: Sequence[UUID]) -> Statement[list[UUID]]:
    """Read which of some cubes are there to be forgotten."""
    return Statement(
        sql=_THERE,
        parameters=scope.parameters(ids=list(cubes)),
        read=lambda rows: [row["id"] for row in rows],
    )


# All or nothing: where one id is unknown, may not be written, or is frozen, or something frozen was
# made of it, `whole` is empty and nothing is removed. What was made of them, whosever it is, goes
# with them. The turns that a cube came from say what it says, so their content goes with it; their
# ids stay, so that a client that sends them again does not bring them back.
_FORGET: LiteralString = (
    """
    WITH doomed AS (
        SELECT DISTINCT ON (id) id, namespace, provenance, message_ids, state, may_write
        FROM (
            SELECT id, namespace, provenance, message_ids, state, version, """
    + MAY_WRITE
    + """ AS may_write FROM memos.cube
            WHERE id = ANY(%(ids)s::uuid[]) AND """
    + INSIDE
    + " AND "
    + MAY_READ
    + """
            UNION ALL
            SELECT id, namespace, provenance, message_ids, state, version, """
    + MAY_WRITE
    + """ AS may_write FROM memos.cube_version
            WHERE id = ANY(%(ids)s::uuid[]) AND state = 'expired' AND """
    + INSIDE
    + " AND "
    + MAY_READ
    + """
        ) AS known
        ORDER BY id, version DESC
    ), derived AS (
        SELECT DISTINCT cube AS id FROM memos.source
        WHERE tenant = %(tenant)s AND source = ANY(%(ids)s::uuid[])
            AND cube <> ALL(%(ids)s::uuid[])
    ), frozen AS (
        SELECT id FROM memos.cube
        WHERE tenant = %(tenant)s AND state = 'frozen'
            AND (id = ANY(%(ids)s::uuid[]) OR id IN (SELECT id FROM derived))
    ), whole AS (
        SELECT count(*) AS cubes FROM doomed WHERE may_write
        HAVING count(*) = cardinality(%(ids)s::uuid[]) AND NOT EXISTS (SELECT FROM frozen)
    ), removed AS MATERIALIZED (
        SELECT memos.erase(
            %(tenant)s, %(ids)s::uuid[] || ARRAY(SELECT id FROM derived)
        ) AS versions FROM whole WHERE cubes > 0
    ), said AS (
        SELECT DISTINCT
            namespace, coalesce(provenance ->> 'session', '') AS session, unnest(message_ids) AS id
        FROM doomed, whole
    ), erased AS (
        UPDATE memos.message SET
            content = '', name = NULL, metadata = '{}', extra = '{}', due_at = NULL,
            forgotten_at = now()
        FROM said
        WHERE message.tenant = %(tenant)s AND message.namespace = said.namespace
            AND message.session = said.session AND message.id = said.id AND forgotten_at IS NULL
        RETURNING message.id
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'forgot', %(namespace)s::text[], %(caller)s::jsonb,
            %(ids)s::uuid[] || ARRAY(SELECT id FROM derived), jsonb_build_object(
                'messages', (SELECT count(*) FROM erased), 'versions', versions,
                'derived', (SELECT count(*) FROM derived)
            )
        FROM removed
    )
    SELECT
        ARRAY(SELECT id FROM doomed WHERE may_write) AS cubes,
        ARRAY(SELECT id FROM doomed WHERE NOT may_write) AS denied,
        ARRAY(SELECT id FROM frozen) AS frozen,
        ARRAY(SELECT id FROM derived, whole) AS derived,
        coalesce((SELECT versions FROM removed), 0) AS versions,
        (SELECT memos.recall(
            %(tenant)s, %(ids)s::uuid[] || ARRAY(SELECT id FROM derived)
        ) FROM removed) AS recalled,
        ARRAY(SELECT id FROM erased) AS message_ids
    """
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """What came of it; where a cube was not found, denied, or frozen, nothing was removed."""

    report: ForgetReport
    denied: tuple[UUID, ...]
    frozen: tuple[UUID, ...]


def forget(scope: Scope, cubes: Sequence[UUID]) -> Statement[Forgetting]:
    """Remove cubes with all their versions, what was made of them, and the messages' content."""
    return Statement(sql=_FORGET, parameters=scope.parameters(ids=list(cubes)), read=_forgetting)


def _forgetting(rows: Sequence[Row]) -> Forgetting:
    (row,) = rows
    return Forgetting(
        report=ForgetReport(
            cubes=tuple(row["cubes"]),
            derived=tuple(row["derived"]),
            versions=row["versions"],
            message_ids=tuple(row["message_ids"]),
        ),
        denied=tuple(row["denied"]),
        frozen=tuple(row["frozen"]),
    )
