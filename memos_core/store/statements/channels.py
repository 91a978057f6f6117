"""Statements about what is published, and who takes it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from memos_core.channel import Matching, Publication, Subscription
from memos_core.namespace import Namespace
from memos_core.sensitivity import Action, Sensitive
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.scope import INSIDE, Scope


def _logged(kind: LiteralString, what: LiteralString) -> LiteralString:
    """Return the CTE that writes an event of each row of ``changed``, which is ``what``."""
    return (
        """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), '"""
        + kind
        + """', namespace, %(caller)s::jsonb, '{}',
            jsonb_build_object('channel', channel, '"""
        + what
        + """', id)
        FROM changed
    )"""
    )


# Who published or subscribed may take that back, and the application may.
_MINE: LiteralString = " AND (%(user)s::text IS NULL OR caller ->> 'user' = %(user)s::text)"
_TOLD: LiteralString = " SELECT changed.*, memos.announce(tenant) FROM changed"
_PUBLISH: LiteralString = (
    """
    WITH changed AS (
        INSERT INTO memos.publication (
            tenant, id, namespace, channel, matching, licence, watermark, mask, region, to_tenants,
            condition, caller, published_at, expires_at
        )
        VALUES (
            %(tenant)s, %(id)s, %(namespace)s::text[], %(channel)s, %(matching)s::jsonb,
            %(licence)s, %(watermark)s, %(mask)s::jsonb, %(region)s, %(tenants)s::text[],
            %(condition)s::jsonb, %(caller)s::jsonb, now(),
            coalesce(%(until)s, now() + make_interval(secs => %(ttl)s))
        )
        RETURNING *
    )"""
    + _logged("published", "publication")
    + _TOLD
)


def publish(
    scope: Scope, new: Publication, *, until: datetime | None, ttl: float | None
) -> Statement[Publication]:
    """Offer cubes in a channel; the times of ``new`` are not looked at."""
    return Statement(
        sql=_PUBLISH,
        parameters=scope.parameters(
            id=new.id,
            channel=new.channel,
            matching=new.matching.as_json(),
            licence=new.licence,
            watermark=new.watermark,
            mask=json.dumps(dict(new.mask)),
            region=new.region,
            tenants=None if new.tenants is None else list(new.tenants),
            condition=json.dumps(dict(new.condition), ensure_ascii=False),
            until=until,
            ttl=ttl,
        ),
        read=lambda rows: publication_from(rows[0]),
    )


_WITHDRAW: LiteralString = (
    """
    WITH changed AS (
        UPDATE memos.publication SET withdrawn_at = now()
        WHERE id = %(id)s AND withdrawn_at IS NULL AND """
    + INSIDE
    + _MINE
    + " RETURNING *)"
    + _logged("withdrew", "publication")
    + _TOLD
)


def withdraw(scope: Scope, publication: UUID) -> Statement[Publication | None]:
    """Take back an offer; None where there is none that the caller may take back."""
    return Statement(
        sql=_WITHDRAW,
        parameters=scope.parameters(id=publication),
        read=lambda rows: publication_from(rows[0]) if rows else None,
    )


STANDING: LiteralString = (
    "withdrawn_at IS NULL AND (publication.expires_at IS NULL OR publication.expires_at > now())"
)
_PUBLICATIONS: LiteralString = (
    "SELECT * FROM memos.publication WHERE "
    + STANDING
    + " AND "
    + INSIDE
    + " ORDER BY published_at, id"
)


def publications(scope: Scope) -> Statement[list[Publication]]:
    """Read what stands of what a view published."""
    return Statement(
        sql=_PUBLICATIONS,
        parameters=scope.parameters(),
        read=lambda rows: [publication_from(row) for row in rows],
    )


def publication_from(row: Row) -> Publication:
    """Return a row as a publication."""
    return Publication(
        id=row["id"],
        namespace=Namespace(*row["namespace"]),
        channel=row["channel"],
        matching=Matching.from_json(row["matching"]),
        licence=row["licence"],
        watermark=row["watermark"],
        mask={Sensitive(kind): Action(action) for kind, action in row["mask"].items()},
        region=row["region"],
        tenants=None if row["to_tenants"] is None else tuple(row["to_tenants"]),
        condition=row["condition"],
        published_at=row["published_at"],
        expires_at=row["expires_at"],
        withdrawn_at=row["withdrawn_at"],
    )


_SUBSCRIBE: LiteralString = (
    """
    WITH changed AS (
        INSERT INTO memos.subscription (
            tenant, id, namespace, channel, publisher, matching, caller, subscribed_at
        )
        VALUES (
            %(tenant)s, %(id)s, %(namespace)s::text[], %(channel)s, %(publisher)s,
            %(matching)s::jsonb, %(caller)s::jsonb, now()
        )
        RETURNING *
    )"""
    + _logged("subscribed", "subscription")
    + " SELECT * FROM changed"
)
_SUBSCRIPTIONS: LiteralString = (
    "SELECT * FROM memos.subscription WHERE " + INSIDE + _MINE + " ORDER BY subscribed_at, id"
)
_UNSUBSCRIBE: LiteralString = (
    "WITH changed AS (DELETE FROM memos.subscription WHERE id = %(id)s AND "
    + INSIDE
    + _MINE
    + " RETURNING *)"
    + _logged("unsubscribed", "subscription")
    + " SELECT * FROM changed"
)


def subscribe(
    scope: Scope, id: UUID, channel: str, *, publisher: str | None, matching: Matching
) -> Statement[Subscription]:
    """Take what is published in a channel, from now on."""
    return Statement(
        sql=_SUBSCRIBE,
        parameters=scope.parameters(
            id=id, channel=channel, publisher=publisher, matching=matching.as_json()
        ),
        read=lambda rows: _subscription(rows[0]),
    )


def subscriptions(scope: Scope) -> Statement[list[Subscription]]:
    """Read what a view takes."""
    return Statement(
        sql=_SUBSCRIPTIONS,
        parameters=scope.parameters(),
        read=lambda rows: [_subscription(row) for row in rows],
    )


def unsubscribe(scope: Scope, subscription: UUID) -> Statement[Subscription | None]:
    """Take no more; None where there is no such subscription of the caller's."""
    return Statement(
        sql=_UNSUBSCRIBE,
        parameters=scope.parameters(id=subscription),
        read=lambda rows: _subscription(rows[0]) if rows else None,
    )


def _subscription(row: Row) -> Subscription:
    return Subscription(
        id=row["id"],
        namespace=Namespace(*row["namespace"]),
        channel=row["channel"],
        publisher=row["publisher"],
        matching=Matching.from_json(row["matching"]),
        subscribed_at=row["subscribed_at"],
    )
