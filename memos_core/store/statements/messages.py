"""Statements about the message log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString

from memos_core.message import Message
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.scope import Scope


def message_from(row: Row) -> Message:
    """Read a row of the message table, as columns or as JSON."""
    created_at = row["created_at"]
    if isinstance(created_at, str):
        created_at = datetime.fromisoformat(created_at)
    return Message(
        id=row["id"],
        role=row["role"],
        name=row["name"],
        content=row["content"],
        created_at=created_at,
        session=row["session"] or None,
        metadata=row["metadata"],
        forgotten=row["forgotten_at"] is not None,
    )


def _messages(rows: Sequence[Row]) -> list[Message]:
    return [message_from(row) for row in rows]


# The answer names what is still unread: the new messages, those of an earlier call whose reading
# failed, and older leftovers of the namespace. A reader at work elsewhere has a minute's grace;
# two readers of one message cost double work, never a double cube.
_LOCK: LiteralString = """
    SELECT pg_advisory_xact_lock(hashtextextended(array_to_string(%(namespace)s::text[], '/'), 0))
    """


def lock(scope: Scope) -> Statement[None]:
    """Keep other appenders out until the transaction ends, so that what was said stays together."""
    return Statement(sql=_LOCK, parameters=scope.parameters(), read=ignored)


_LOG: LiteralString = """
    WITH sent AS (
        SELECT * FROM jsonb_to_recordset(%(messages)s::jsonb) AS sent (
            id text, session text, role text, name text, content text, metadata jsonb,
            created_at timestamptz, readable boolean
        )
    ), logged AS (
        INSERT INTO memos.message (
            tenant, namespace, id, session, role, name, content, metadata, created_at, recorded_at,
            read_at
        )
        SELECT
            %(tenant)s, %(namespace)s::text[], id, session, role, name, content, metadata,
            created_at, now(), CASE WHEN NOT readable THEN now() END
        FROM sent
        ON CONFLICT DO NOTHING
        RETURNING *
    )
    SELECT * FROM logged WHERE read_at IS NULL
    UNION ALL
    SELECT * FROM memos.message
    WHERE tenant = %(tenant)s AND namespace = %(namespace)s::text[] AND read_at IS NULL
        AND (id IN (SELECT id FROM sent) OR recorded_at < now() - interval '1 minute')
    ORDER BY position
    """


def log(scope: Scope, messages: Sequence[tuple[Message, bool]]) -> Statement[list[Message]]:
    """Append messages that are not in the log yet; True beside one asks for cubes of it.

    Reads the messages of the namespace that no cubes were made of yet, in the order said.
    """
    records = [
        {
            "id": message.id,
            "session": message.session or "",
            "role": message.role,
            "name": message.name,
            "content": message.content,
            "metadata": message.metadata,
            "created_at": message.created_at and message.created_at.isoformat(),
            "readable": readable,
        }
        for message, readable in messages
    ]
    return Statement(
        sql=_LOG,
        parameters=scope.parameters(messages=json.dumps(records, ensure_ascii=False)),
        read=_messages,
    )


_MESSAGES: LiteralString = """
    SELECT * FROM (
        SELECT * FROM memos.message
        WHERE (%(session)s::text IS NULL OR session = %(session)s::text)
            AND (%(retired)s OR retired_at IS NULL) AND forgotten_at IS NULL
            AND tenant = %(tenant)s AND namespace = %(namespace)s::text[]
        ORDER BY position DESC LIMIT %(limit)s
    ) AS latest
    ORDER BY position
    """


def messages(
    scope: Scope, *, session: str | None, limit: int | None, retired: bool
) -> Statement[list[Message]]:
    """Read the latest ``limit`` messages, the oldest of them first."""
    return Statement(
        sql=_MESSAGES,
        parameters=scope.parameters(session=session, limit=limit, retired=retired),
        read=_messages,
    )


_RETIRE: LiteralString = """
    WITH retired AS (
        UPDATE memos.message SET retired_at = now()
        WHERE session = %(session)s AND retired_at IS NULL
            AND tenant = %(tenant)s AND namespace = %(namespace)s::text[]
        RETURNING id
    )
    SELECT count(*) AS retired FROM retired
    """


def retire(scope: Scope, session: str) -> Statement[int]:
    """Take a session's messages out of its history; they stay in the log, and their cubes stand."""
    return Statement(
        sql=_RETIRE,
        parameters=scope.parameters(session=session),
        read=lambda rows: int(rows[0]["retired"]),
    )
