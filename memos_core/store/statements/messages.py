"""Statements about the message log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import LiteralString

from memos_core.message import Message
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.permission import MAY_READ_MESSAGE, MAY_WRITE_MESSAGE
from memos_core.store.statements.rules import IN_FORCE
from memos_core.store.statements.scope import INSIDE, Scope


def message_from(row: Row) -> Message:
    """Read a row of the message table, as columns or as JSON."""
    return Message(
        id=row["id"],
        role=row["role"],
        name=row["name"],
        content=row["content"],
        created_at=_created_at(row),
        session=row["session"] or None,
        metadata=row["metadata"],
        extra=row["extra"],
        created_by=row["created_by"],
        retired=row["retired_at"] is not None,
        forgotten=row["forgotten_at"] is not None,
    )


def _created_at(row: Row) -> datetime | None:
    moment = row["created_at"]
    if moment is None:
        return None
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.astimezone(timezone(timedelta(minutes=row["utc_offset"])))


def _messages(rows: Sequence[Row]) -> list[Message]:
    return [message_from(row) for row in rows]


_LOCK: LiteralString = """
    SELECT pg_advisory_xact_lock(hashtextextended(array_to_string(%(namespace)s::text[], '/'), 0))
    """


def lock(scope: Scope) -> Statement[None]:
    """Keep other appenders out until the transaction ends, so that what was said stays together."""
    return Statement(sql=_LOCK, parameters=scope.parameters(), read=ignored)


# The answer names the messages that nothing was made of yet: the new ones, and those of an earlier
# call whose reading failed. Others who find them due have a minute's grace; two readers of one
# message cost double work, never a double cube.
_LOG: LiteralString = (
    """
    WITH sent AS (
        SELECT * FROM jsonb_to_recordset(%(messages)s::jsonb) AS sent (
            id text, session text, role text, name text, content text, metadata jsonb, extra jsonb,
            created_at timestamptz, utc_offset integer, readable boolean
        )
    ), logged AS (
        INSERT INTO memos.message (
            tenant, namespace, id, session, role, name, content, metadata, extra, created_at,
            utc_offset, created_by, recorded_at, due_at
        )
        SELECT
            %(tenant)s, %(namespace)s::text[], id, session, role, name, content, metadata, extra,
            created_at, utc_offset, %(caller)s::jsonb ->> 'user', now(),
            CASE WHEN readable THEN now() + interval '1 minute' END
        FROM sent WHERE """
    + IN_FORCE
    + """
        ON CONFLICT DO NOTHING
        RETURNING *
    )
    SELECT * FROM logged WHERE due_at IS NOT NULL
    UNION ALL
    SELECT known.* FROM sent CROSS JOIN LATERAL (
        SELECT * FROM memos.message
        WHERE tenant = %(tenant)s AND trail = %(trail)s::text
            AND session = sent.session AND id = sent.id AND due_at IS NOT NULL
            AND (%(user)s::text IS NULL OR created_by = %(user)s::text)
        OFFSET 0
    ) AS known
    ORDER BY position
    """
)


def log(
    scope: Scope, messages: Sequence[tuple[Message, bool]], *, rules: int
) -> Statement[list[Message]]:
    """Append messages that are not in the log yet; True beside one asks for cubes of it.

    Reads those of them that no cubes were made of yet, in the order said.
    """
    records = [_record(message, readable=readable) for message, readable in messages]
    return Statement(
        sql=_LOG,
        parameters=scope.parameters(
            messages=json.dumps(records, ensure_ascii=False), rules_version=rules
        ),
        read=_messages,
    )


def _record(message: Message, *, readable: bool) -> dict[str, object]:
    said = message.created_at
    offset = said.utcoffset() if said else None
    return {
        "id": message.id,
        "session": message.session or "",
        "role": message.role,
        "name": message.name,
        "content": message.content,
        "metadata": message.metadata,
        "extra": message.extra,
        "created_at": said and said.isoformat(),
        "utc_offset": None if offset is None else round(offset / timedelta(minutes=1)),
        "readable": readable,
    }


_OVERDUE: LiteralString = """
    WITH due AS (
        SELECT session, id FROM memos.message
        WHERE due_at < now() AND tenant = %(tenant)s AND trail = %(trail)s::text
            AND (%(user)s::text IS NULL OR created_by = %(user)s::text)
        ORDER BY due_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    )
    UPDATE memos.message SET
        attempts = attempts + 1,
        due_at = now() + interval '1 minute' * 2 ^ least(attempts + 1, 10)
    WHERE (session, id) IN (SELECT session, id FROM due) AND due_at < now()
        AND tenant = %(tenant)s AND trail = %(trail)s::text
    RETURNING *
    """


def overdue(scope: Scope, *, limit: int) -> Statement[list[Message]]:
    """Read messages whose reading failed before, oldest first; each is due again later.

    The time grows with every attempt, so that one that can never be read costs ever less.
    """
    return Statement(
        sql=_OVERDUE,
        parameters=scope.parameters(limit=limit),
        read=lambda rows: _messages(sorted(rows, key=lambda row: row["position"])),
    )


# Each step jumps to the next name in the index, over all that this one said. Two branches, since by
# one comparison of pairs the planner would rather sort the namespace.
_SPEAKERS: LiteralString = (
    """
    WITH RECURSIVE speaker AS (
        (SELECT trail, name FROM memos.message WHERE name IS NOT NULL AND """
    + INSIDE
    + " AND "
    + MAY_READ_MESSAGE
    + """ ORDER BY trail, name LIMIT 1)
        UNION ALL
        SELECT next.trail, next.name FROM speaker
        CROSS JOIN LATERAL (
            (SELECT trail, name FROM memos.message
             WHERE tenant = %(tenant)s AND trail = speaker.trail AND name > speaker.name AND """
    + MAY_READ_MESSAGE
    + """
             ORDER BY name LIMIT 1)
            UNION ALL
            (SELECT trail, name FROM memos.message
             WHERE name IS NOT NULL AND tenant = %(tenant)s
                AND trail > speaker.trail AND trail < %(past)s::text AND """
    + MAY_READ_MESSAGE
    + """
             ORDER BY trail, name LIMIT 1)
            LIMIT 1
        ) AS next
    )
    SELECT DISTINCT name FROM (SELECT name FROM speaker LIMIT %(steps)s) AS visited
    """
)


def speakers(scope: Scope, *, steps: int) -> Statement[frozenset[str]]:
    """Read who speaks in a view, in turns that the caller may read.

    Each of its namespaces costs a step for each name.
    """
    return Statement(
        sql=_SPEAKERS,
        parameters=scope.parameters(steps=steps),
        read=lambda rows: frozenset(row["name"] for row in rows),
    )


_MESSAGES: LiteralString = (
    """
    SELECT * FROM (
        SELECT * FROM memos.message
        WHERE (%(retired)s OR retired_at IS NULL) AND forgotten_at IS NULL
            AND tenant = %(tenant)s AND trail = %(trail)s::text AND """
    + MAY_READ_MESSAGE
)
_OF_SESSION: LiteralString = " AND session = %(session)s"
_LATEST: LiteralString = " ORDER BY position DESC LIMIT %(limit)s) AS latest ORDER BY position"


def messages(
    scope: Scope, *, session: str | None, limit: int | None, retired: bool
) -> Statement[list[Message]]:
    """Read the latest ``limit`` messages, the oldest of them first."""
    return Statement(
        sql=_MESSAGES + ("" if session is None else _OF_SESSION) + _LATEST,
        parameters=scope.reading(session=session, limit=limit, retired=retired),
        read=_messages,
    )


_ERASE: LiteralString = (
    """
    WITH erased AS (
        UPDATE memos.message SET
            content = '', name = NULL, metadata = '{}', extra = '{}', due_at = NULL,
            forgotten_at = now()
        WHERE forgotten_at IS NULL
            AND (%(session)s::text IS NULL OR session = %(session)s::text) AND """
    + INSIDE
    + " AND "
    + MAY_WRITE_MESSAGE
    + """
        RETURNING id
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'forgot', %(namespace)s::text[], %(caller)s::jsonb, '{}',
            jsonb_build_object('messages', count(*))
        FROM erased HAVING count(*) > 0
    )
    SELECT id FROM erased
    """
)


def erase(scope: Scope, *, session: str | None) -> Statement[tuple[str, ...]]:
    """Empty every message of a view, or of a session in it; read their ids."""
    return Statement(
        sql=_ERASE,
        parameters=scope.parameters(session=session),
        read=lambda rows: tuple(row["id"] for row in rows),
    )


_RETIRE: LiteralString = (
    """
    WITH retired AS (
        UPDATE memos.message SET retired_at = now()
        WHERE session = %(session)s AND retired_at IS NULL
            AND tenant = %(tenant)s AND trail = %(trail)s::text AND """
    + MAY_WRITE_MESSAGE
    + """
        RETURNING id
    ), counted AS (
        SELECT count(*) AS messages FROM retired
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'retired', %(namespace)s::text[], %(caller)s::jsonb, '{}',
            jsonb_build_object('messages', messages)
        FROM counted WHERE messages > 0
    )
    SELECT messages FROM counted
    """
)


def retire(scope: Scope, session: str) -> Statement[int]:
    """Take a session's messages out of its history; they stay in the log, and their cubes stand."""
    return Statement(
        sql=_RETIRE,
        parameters=scope.parameters(session=session),
        read=lambda rows: int(rows[0]["messages"]),
    )
