"""Statements about what is published, who takes it, and what they got."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from memos_core.channel import Matching, Publication, Subscription
from memos_core.cube import MemCube
from memos_core.embedder import Vectors
from memos_core.governance import Caller
from memos_core.namespace import Namespace
from memos_core.sensitivity import Action, Sensitive
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.columns import COLUMNS, cube_from
from memos_core.store.statements.filters import Filters
from memos_core.store.statements.permission import MAY_READ
from memos_core.store.statements.scope import INSIDE, Scope

_PUBLISH: LiteralString = """
    WITH published AS (
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
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'published', namespace, %(caller)s::jsonb, '{}',
            jsonb_build_object('channel', channel, 'publication', id)
        FROM published
    )
    SELECT published.*, memos.announce(tenant) FROM published
    """


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
        read=lambda rows: _publication(rows[0]),
    )


# Who published may withdraw, and the application may.
_WITHDRAW: LiteralString = (
    """
    WITH withdrawn AS (
        UPDATE memos.publication SET withdrawn_at = now()
        WHERE id = %(id)s AND withdrawn_at IS NULL AND """
    + INSIDE
    + """
            AND (%(user)s::text IS NULL OR publication.caller ->> 'user' = %(user)s::text)
        RETURNING *
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'withdrew', namespace, %(caller)s::jsonb, '{}',
            jsonb_build_object('channel', channel, 'publication', id)
        FROM withdrawn
    )
    SELECT withdrawn.*, memos.announce(tenant) FROM withdrawn
    """
)


def withdraw(scope: Scope, publication: UUID) -> Statement[Publication | None]:
    """Take back an offer; None where there is none that the caller may take back."""
    return Statement(
        sql=_WITHDRAW,
        parameters=scope.parameters(id=publication),
        read=lambda rows: _publication(rows[0]) if rows else None,
    )


_STANDING: LiteralString = (
    "withdrawn_at IS NULL AND (publication.expires_at IS NULL OR publication.expires_at > now())"
)
_PUBLICATIONS: LiteralString = (
    "SELECT * FROM memos.publication WHERE "
    + _STANDING
    + " AND "
    + INSIDE
    + " ORDER BY published_at, id"
)


def publications(scope: Scope) -> Statement[list[Publication]]:
    """Read what stands of what a view published."""
    return Statement(
        sql=_PUBLICATIONS,
        parameters=scope.parameters(),
        read=lambda rows: [_publication(row) for row in rows],
    )


def _publication(row: Row) -> Publication:
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


_SUBSCRIBE: LiteralString = """
    WITH subscribed AS (
        INSERT INTO memos.subscription (
            tenant, id, namespace, channel, publisher, matching, caller, subscribed_at
        )
        VALUES (
            %(tenant)s, %(id)s, %(namespace)s::text[], %(channel)s, %(publisher)s,
            %(matching)s::jsonb, %(caller)s::jsonb, now()
        )
        RETURNING *
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'subscribed', namespace, %(caller)s::jsonb, '{}',
            jsonb_build_object('channel', channel, 'subscription', id)
        FROM subscribed
    )
    SELECT * FROM subscribed
    """
_MINE: LiteralString = " AND (%(user)s::text IS NULL OR caller ->> 'user' = %(user)s::text)"
_SUBSCRIPTIONS: LiteralString = (
    "SELECT * FROM memos.subscription WHERE " + INSIDE + _MINE + " ORDER BY subscribed_at, id"
)
_UNSUBSCRIBE: LiteralString = (
    """
    WITH ended AS (
        DELETE FROM memos.subscription WHERE id = %(id)s AND """
    + INSIDE
    + _MINE
    + """
        RETURNING *
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'unsubscribed', namespace, %(caller)s::jsonb, '{}',
            jsonb_build_object('channel', channel, 'subscription', id)
        FROM ended
    )
    SELECT * FROM ended
    """
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A publication to a subscriber: whether it stands for him, and on whose behalf it is read."""

    publication: Publication
    stands: bool
    caller: Caller | None


# All that there ever was in the channel: what was delivered of what stands no more is to go.
_OFFERS: LiteralString = (
    "SELECT publication.*, "
    + _STANDING
    + """ AND (to_tenants IS NULL OR %(tenant)s = ANY(to_tenants))
        AND coalesce(%(caller)s::jsonb -> 'context', '{}') @> condition AS stands
    FROM memos.publication
    WHERE channel = %(channel)s AND tenant <> %(tenant)s
        AND (%(publisher)s::text IS NULL OR tenant = %(publisher)s::text)
    ORDER BY published_at, id
    """
)


def offers(scope: Scope, subscription: Subscription) -> Statement[list[Offer]]:
    """Read what is and was published in a subscription's channel by other tenants."""
    return Statement(
        sql=_OFFERS,
        parameters=scope.parameters(channel=subscription.channel, publisher=subscription.publisher),
        read=lambda rows: [
            Offer(
                publication=_publication(row),
                stands=row["stands"],
                caller=_caller(row["caller"]),
            )
            for row in rows
        ],
    )


def _caller(fields: Mapping[str, Any] | None) -> Caller | None:
    if fields is None:
        return None
    roles: list[str] = fields["roles"]
    return Caller(user=fields["user"], roles=tuple(roles), context=fields["context"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A publisher's cube that a subscriber has not in this version; ``cube_id`` is his copy's."""

    source: MemCube
    embedding: Vectors
    copy: UUID | None


_LIVE: LiteralString = "(expires_at IS NULL OR expires_at > now()) AND "
_MATCH: LiteralString = "SELECT id, version FROM memos.cube WHERE " + _LIVE + INSIDE + " AND "
_CHANGED: LiteralString = (
    """
    SELECT """
    + COLUMNS
    + """, embedding, copy FROM (
        SELECT cube.*, delivery.cube AS copy
        FROM memos.cube LEFT JOIN memos.delivery
            ON delivery.tenant = %(tenant)s AND subscription = %(subscription)s
            AND publication = %(publication)s AND delivery.source = cube.id
        WHERE cube.tenant = %(tenant)s AND cube.id = ANY(%(ids)s::uuid[])
            AND delivery.source_version IS DISTINCT FROM cube.version
    ) AS cube
    """
)


def matches(scope: Scope, matching: Matching) -> Statement[list[UUID]]:
    """Read which cubes of a publisher's view match, as he may read them."""
    filters = Filters(
        tags=matching.tags, semantic_type=matching.semantic_type, conditions=matching.conditions
    )
    return Statement(
        sql=_MATCH + MAY_READ + " AND " + filters.sql() + " ORDER BY id",
        parameters=scope.parameters(**filters.parameters()),
        read=lambda rows: [row["id"] for row in rows],
    )


def changed(
    scope: Scope, ids: Sequence[UUID], *, publication: UUID, subscription: UUID
) -> Statement[list[Change]]:
    """Read those of a publisher's cubes that were not delivered as they are now."""
    return Statement(
        sql=_CHANGED,
        parameters=scope.parameters(
            ids=list(ids), publication=publication, subscription=subscription
        ),
        read=lambda rows: [
            Change(
                source=cube_from(row),
                embedding=row["embedding"].to_numpy().astype("float32")[None],
                copy=row["copy"],
            )
            for row in rows
        ],
    )


_LOCK: LiteralString = """
    SELECT pg_advisory_xact_lock(
        hashtextextended('memos.delivery ' || %(publication)s::text, 0)
        # hashtextextended(%(subscription)s::text, 1)
    )
    """


def lock(publication: UUID, subscription: UUID) -> Statement[None]:
    """Keep others from delivering the same until the transaction ends."""
    return Statement(
        sql=_LOCK,
        parameters={"publication": str(publication), "subscription": str(subscription)},
        read=ignored,
    )


_GONE: LiteralString = """
    DELETE FROM memos.delivery
    WHERE tenant = %(tenant)s AND subscription = %(subscription)s
        AND (%(publication)s::uuid IS NULL OR publication = %(publication)s::uuid)
        AND source <> ALL(%(ids)s::uuid[])
    RETURNING cube
    """


def gone(
    scope: Scope, kept: Sequence[UUID], *, publication: UUID, subscription: UUID
) -> Statement[list[UUID]]:
    """Take out of the deliveries all but those of ``kept``; read the copies that have to go."""
    return Statement(
        sql=_GONE,
        parameters=scope.parameters(
            ids=list(kept), publication=publication, subscription=subscription
        ),
        read=lambda rows: [row["cube"] for row in rows],
    )


_DELIVERED: LiteralString = """
    WITH delivered AS (
        INSERT INTO memos.delivery (
            tenant, publication, source, source_version, subscriber, subscription, cube,
            delivered_at
        )
        VALUES (
            %(tenant)s, %(publication)s, %(source)s, %(version)s, %(subscriber)s,
            %(subscription)s, %(copy)s, now()
        )
        ON CONFLICT (tenant, subscription, publication, source) DO UPDATE SET
            source_version = excluded.source_version, delivered_at = excluded.delivered_at
        RETURNING source
    )
    INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
    SELECT
        %(tenant)s, now(), 'delivered', %(namespace)s::text[], %(caller)s::jsonb, ARRAY[source],
        jsonb_build_object(
            'channel', %(channel)s::text, 'publication', %(publication)s::uuid,
            'subscriber', %(subscriber)s::text, 'version', %(version)s::integer
        )
    FROM delivered
    RETURNING id
    """
_RECEIVED: LiteralString = """
    INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
    VALUES (
        %(tenant)s, now(), 'received', %(namespace)s::text[], %(caller)s::jsonb, ARRAY[%(copy)s],
        jsonb_build_object(
            'channel', %(channel)s::text, 'publisher', %(publisher)s::text,
            'source', %(source)s::uuid, 'version', %(version)s::integer
        )
    )
    RETURNING id
    """


def delivered(
    scope: Scope, publication: Publication, subscription: Subscription, change: Change, copy: UUID
) -> Statement[None]:
    """Write down with the publisher that a cube was delivered at its version."""
    return Statement(
        sql=_DELIVERED,
        parameters=scope.parameters(
            publication=publication.id,
            channel=publication.channel,
            source=change.source.id,
            version=change.source.version,
            subscriber=subscription.namespace.tenant,
            subscription=subscription.id,
            copy=copy,
        ),
        read=ignored,
    )


def received(scope: Scope, publication: Publication, change: Change, copy: UUID) -> Statement[None]:
    """Write down with the subscriber from whom a cube came, and at which version."""
    return Statement(
        sql=_RECEIVED,
        parameters=scope.parameters(
            channel=publication.channel,
            publisher=publication.namespace.tenant,
            source=change.source.id,
            version=change.source.version,
            copy=copy,
        ),
        read=ignored,
    )
