"""Statements that read all of a view, for an archive of it.

Who asks by name gets what he may read: cubes with the versions before them, as far back as he may
read without a gap, messages, the grants he may see, and the events that he may. What was made of
others is read while it stands, and by the application also where it no longer does; never without
all that it was made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import LiteralString, cast

from memos_core.kept import KeptEvent, KeptGrant, KeptMessage
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.grants import MAY_SEE, fields_of
from memos_core.store.statements.permission import (
    MAY_READ,
    MAY_READ_MESSAGE,
    STANDS,
)
from memos_core.store.statements.scope import INSIDE, Scope

# All that a row was made of is in this view. No column of `source` is named `id`.
_WHOLE: LiteralString = """(NOT derived OR NOT EXISTS (
        SELECT FROM memos.source
        WHERE source.tenant = %(tenant)s AND source.cube = id AND NOT EXISTS (
            SELECT FROM memos.cube AS origin
            WHERE origin.tenant = %(tenant)s AND origin.id = source.source
                AND origin.trail >= %(trail)s::text
                AND origin.trail < %(past)s::text
        ) AND NOT EXISTS (
            SELECT FROM memos.cube_version AS origin
            WHERE %(whole)s AND origin.tenant = %(tenant)s AND origin.id = source.source
                AND origin.trail >= %(trail)s::text
                AND origin.trail < %(past)s::text
        )
    ))"""
# The cubes that are exported, and those that have ended: there only their last version says so.
# Tensors are computed anew from what they are of, where there is a model for them.
EXPORTED: LiteralString = (
    "kind = 'plaintext' AND "
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND (%(history)s OR expires_at IS NULL OR expires_at > now()) AND "
    + _WHOLE
    + " AND (%(whole)s OR "
    + STANDS
    + ")"
)
ENDED: LiteralString = (
    "kind = 'plaintext' AND state = 'expired' AND %(history)s AND (%(whole)s OR NOT derived) AND "
    + INSIDE
    + " AND "
    + MAY_READ
    + " AND "
    + _WHOLE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """How much of a view is read.

    ``whole`` is what the application reads: also what no longer stands. Without ``history`` it is
    what stands and lives now.
    """

    scope: Scope
    history: bool

    def parameters(self, **others: object) -> dict[str, object]:
        """Return the shared parameters joined with a statement's own."""
        whole = self.history and self.scope.caller is None
        return self.scope.reading(history=self.history, whole=whole, **others)

    def below(self, row: Row) -> tuple[str, ...]:
        """Return the labels of a row's namespace after the view's; () where it is above."""
        return tuple(row["namespace"][len(self.scope.namespace) :])


_MESSAGES: LiteralString = (
    "SELECT * FROM memos.message WHERE "
    + INSIDE
    + " AND "
    + MAY_READ_MESSAGE
    + " ORDER BY position"
)


def messages(extent: Extent) -> Statement[list[KeptMessage]]:
    """Read what was said, in its order; of what was forgotten that it was."""
    return Statement(
        sql=_MESSAGES,
        parameters=extent.parameters(),
        read=lambda rows: [_message(row, extent) for row in rows],
    )


def _message(row: Row, extent: Extent) -> KeptMessage:
    said = cast("datetime | None", row["created_at"])
    return KeptMessage(
        below=extent.below(row),
        id=row["id"],
        session=row["session"] or None,
        role=row["role"],
        name=row["name"],
        content=row["content"],
        metadata=row["metadata"],
        extra=row["extra"],
        created_at=said and said.astimezone(timezone(timedelta(minutes=row["utc_offset"]))),
        created_by=row["created_by"],
        recorded_at=row["recorded_at"],
        unread=row["due_at"] is not None,
        retired_at=row["retired_at"],
        forgotten_at=row["forgotten_at"],
    )


# What was granted above the view is in force in it.
_GRANTS: LiteralString = (
    """
    SELECT * FROM memos.permission
    WHERE tenant = %(tenant)s AND (expires_at IS NULL OR expires_at > now())
        AND (namespace = (%(namespace)s::text[])[:cardinality(namespace)] OR """
    + INSIDE
    + ") AND "
    + MAY_SEE
    + """ AND (
        permission.cube IS NULL
        OR EXISTS (SELECT FROM memos.cube WHERE id = permission.cube AND """
    + EXPORTED
    + ") OR EXISTS (SELECT FROM memos.cube_version WHERE id = permission.cube AND "
    + ENDED
    + ")) ORDER BY granted_at, id"
)


def grants(extent: Extent) -> Statement[list[KeptGrant]]:
    """Read the grants in force, as far as the caller may see them."""
    return Statement(
        sql=_GRANTS,
        parameters=extent.parameters(),
        read=lambda rows: [KeptGrant(below=extent.below(row), **fields_of(row)) for row in rows],
    )


_EVENTS: LiteralString = (
    "SELECT id, at, kind, namespace, caller, cube_ids, details FROM memos.event WHERE "
    + INSIDE
    + """ AND (
        %(user)s::text IS NULL OR caller ->> 'user' = %(user)s::text AND kind <> 'denied'
    ) ORDER BY at, id"""
)


def events(extent: Extent) -> Statement[list[KeptEvent]]:
    """Read the audit log; a caller what he did himself, but for what he was denied."""
    return Statement(
        sql=_EVENTS,
        parameters=extent.parameters(),
        read=lambda rows: [
            KeptEvent(
                id=row["id"],
                at=row["at"],
                kind=row["kind"],
                below=extent.below(row),
                caller=row["caller"],
                cubes=tuple(row["cube_ids"]),
                details=row["details"],
            )
            for row in rows
        ],
    )


_SIZES: LiteralString = (
    "SELECT (SELECT count(*) FROM memos.cube WHERE "
    + INSIDE
    + ") AS cubes, (SELECT count(*) FROM memos.cube_version WHERE "
    + INSIDE
    + " AND %(history)s) AS versions, (SELECT count(*) FROM memos.message WHERE "
    + INSIDE
    + ") AS messages, (SELECT count(*) FROM memos.event WHERE "
    + INSIDE
    + ") AS events"
)


def sizes(extent: Extent) -> Statement[dict[str, int]]:
    """Count what a view holds, whoever may read it."""
    return Statement(sql=_SIZES, parameters=extent.parameters(), read=lambda rows: dict(rows[0]))
