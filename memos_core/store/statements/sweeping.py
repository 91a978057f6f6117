"""Statements that archive and end cubes whose time is over, so many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID

from memos_core.retention import Retention
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.permission import (
    MAY_READ,
    MAY_WRITE,
)
from memos_core.store.statements.scope import INSIDE, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What was done with a batch; ``last`` is where the next begins, None after the last one."""

    cubes: tuple[UUID, ...]
    invalidated: tuple[UUID, ...]
    last: UUID | None


# Whoever holds a row is at work on it: the next sweep will find it.
_LOOKED: LiteralString = (
    """
    WITH looked AS (
        SELECT * FROM memos.cube
        WHERE (%(last)s::uuid IS NULL OR id > %(last)s::uuid) AND """
    + INSIDE
    + " AND "
    + MAY_WRITE
    + " AND "
    + MAY_READ
    + " AND "
)
_BATCH: LiteralString = """
        ORDER BY id LIMIT %(batch)s
    ), """
_HELD: LiteralString = """held AS (
        SELECT cube.* FROM memos.cube JOIN due USING (tenant, id, version)
        ORDER BY id FOR UPDATE OF cube SKIP LOCKED
    ), """
_LAPSED: LiteralString = "expires_at <= now() AND state <> 'frozen'"
_FORSAKEN: LiteralString = "state = 'archived' AND recorded_at <= now() - %(archived)s::interval"
_UNTOUCHED: LiteralString = (
    "state IN ('generated', 'activated') AND recorded_at <= now() - %(age)s::interval"
)
_ALL: LiteralString = "due AS (SELECT tenant, id, version FROM looked), "
# How often and when a cube was used is asked of the log, for those alone that are old enough.
_UNUSED: LiteralString = """due AS (
        SELECT looked.tenant, looked.id, version
        FROM looked CROSS JOIN LATERAL (
            SELECT reads, greatest(last_read_at, looked.recorded_at) AS last
            FROM memos.uses(%(tenant)s, looked.id)
        ) AS usage
        WHERE last <= now() - %(idle)s::interval
            OR last <= now() - %(shortest)s::interval * (1 + reads + greatest(priority, 0))
    ), """
_MOMENT: LiteralString = """whole AS (
        SELECT
            max(greatest(clock_timestamp(), recorded_at + interval '1 microsecond')) AS moment,
            array_agg(id ORDER BY id) AS ids
        FROM held HAVING count(*) > 0
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, moment, %(kind)s, namespace, %(caller)s::jsonb, array_agg(id),
            jsonb_build_object('because', %(because)s::text)
        FROM held, whole GROUP BY tenant, namespace, moment
    )"""
_ENDED: LiteralString = """, fallen AS MATERIALIZED (
        SELECT memos.invalidate(%(tenant)s, ids, moment, %(caller)s::jsonb) AS fallen, ids, moment
        FROM whole
    ), ended AS MATERIALIZED (
        SELECT
            fallen, memos.unmerge(%(tenant)s, ids, moment), memos.expire(%(tenant)s, ids, moment)
        FROM fallen
    )
    SELECT
        (SELECT ids FROM whole) AS cubes, (SELECT fallen FROM ended) AS invalidated,
        (SELECT max(id::text) FROM looked) AS last,
        (SELECT memos.announce(%(tenant)s) FROM whole)
    """
_ARCHIVED: LiteralString = """, superseded AS (
        INSERT INTO memos.cube_version SELECT moment, held.* FROM held, whole
    ), changed AS (
        UPDATE memos.cube AS cube SET
            state = 'archived', version = cube.version + 1, recorded_at = moment
        FROM held, whole WHERE cube.tenant = held.tenant AND cube.id = held.id
        RETURNING cube.tenant, cube.id, cube.namespace
    )
    SELECT
        (SELECT ids FROM whole) AS cubes, NULL AS invalidated,
        (SELECT max(id::text) FROM looked) AS last,
        (SELECT count(memos.unindex(tenant, ARRAY[id], namespace)::text) FROM changed),
        (SELECT memos.announce(%(tenant)s) FROM whole)
    """
_LAPSE: LiteralString = _LOOKED + _LAPSED + _BATCH + _ALL + _HELD + _MOMENT + _ENDED
_END: LiteralString = _LOOKED + _FORSAKEN + _BATCH + _ALL + _HELD + _MOMENT + _ENDED
_ARCHIVE: LiteralString = _LOOKED + _UNTOUCHED + _BATCH + _UNUSED + _HELD + _MOMENT + _ARCHIVED


def lapse(scope: Scope, *, last: UUID | None, batch: int) -> Statement[Swept]:
    """End cubes whose time to live is over."""
    return Statement(
        sql=_LAPSE,
        parameters=scope.parameters(last=last, batch=batch, kind="expired", because="ttl"),
        read=_swept,
    )


def end(scope: Scope, archived: timedelta, *, last: UUID | None, batch: int) -> Statement[Swept]:
    """End cubes that were long enough in the archive."""
    return Statement(
        sql=_END,
        parameters=scope.parameters(
            last=last, batch=batch, kind="expired", because="archived", archived=archived
        ),
        read=_swept,
    )


def archive(
    scope: Scope, retention: Retention, *, last: UUID | None, batch: int
) -> Statement[Swept]:
    """Archive cubes that nobody used for long enough."""
    ages = [age for age in (retention.idle, retention.shortest) if age is not None]
    return Statement(
        sql=_ARCHIVE,
        parameters=scope.parameters(
            last=last,
            batch=batch,
            kind="archived",
            because="unused",
            age=min(ages),
            idle=retention.idle,
            shortest=retention.shortest,
        ),
        read=_swept,
    )


def _swept(rows: Sequence[Row]) -> Swept:
    (row,) = rows
    return Swept(
        cubes=tuple(row["cubes"] or ()),
        invalidated=tuple(row["invalidated"] or ()),
        last=UUID(row["last"]) if row["last"] else None,
    )


# Lines that came when there was no month for them yet are in none, and stay.
_LOSING: LiteralString = """
    SELECT tenant, count(*) AS lines FROM memos.event
    WHERE at < date_trunc('month', %(before)s::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
        AND tableoid <> 'memos.event_rest'::regclass
    GROUP BY tenant
    """
_DROP_EVENTS: LiteralString = "SELECT memos.drop_event_partitions(%(before)s) AS months"
_DROPPED: LiteralString = """
    INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
    SELECT
        loser, now(), 'dropped', ARRAY[loser], NULL, '{}',
        jsonb_build_object(
            'months', %(months)s::text[], 'events', lines, 'before', %(before)s::text
        )
    FROM unnest(%(tenants)s::text[], %(lines)s::bigint[]) AS lost (loser, lines)
    RETURNING id
    """


def losing_events(before: datetime) -> Statement[dict[str, int]]:
    """Count the lines of the log in months that ended before a moment, by tenant."""
    return Statement(
        sql=_LOSING,
        parameters={"before": before},
        read=lambda rows: {row["tenant"]: row["lines"] for row in rows},
        every_tenant=True,
    )


def drop_events(before: datetime) -> Statement[list[str]]:
    """Drop the months of the log that ended before a moment; read which, as YYYY_MM."""
    return Statement(
        sql=_DROP_EVENTS, parameters={"before": before}, read=lambda rows: rows[0]["months"]
    )


def log_dropped(
    before: datetime, months: Sequence[str], lines: Mapping[str, int]
) -> Statement[None]:
    """Write into the log of each tenant which months it lost, and how many lines of its own."""
    return Statement(
        sql=_DROPPED,
        parameters={
            "before": before.astimezone(UTC).isoformat(),
            "months": list(months),
            "tenants": list(lines),
            "lines": list(lines.values()),
        },
        read=ignored,
        every_tenant=True,
    )
