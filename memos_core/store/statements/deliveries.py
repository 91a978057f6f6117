"""Statements about what of a channel is delivered to a subscription, and what was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from memos_core.channel import Matching, Publication, Subscription
from memos_core.cube import MemCube
from memos_core.embedder import Vectors
from memos_core.governance import Caller
from memos_core.store.statement import Statement, ignored
from memos_core.store.statements.channels import STANDING, publication_from
from memos_core.store.statements.columns import COLUMNS, cube_from
from memos_core.store.statements.events import logged
from memos_core.store.statements.filters import Filters
from memos_core.store.statements.permission import MAY_READ
from memos_core.store.statements.scope import INSIDE, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A publication to a subscriber: whether it stands for him, and on whose behalf it is read."""

    publication: Publication
    stands: bool
    caller: Caller | None


# All that there ever was in the channel: what was delivered of what stands no more is to go.
_OFFERS: LiteralString = (
    "SELECT publication.*, "
    + STANDING
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
                publication=publication_from(row),
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
    details = {
        "channel": publication.channel,
        "publisher": publication.namespace.tenant,
        "source": str(change.source.id),
        "version": change.source.version,
    }
    return logged(scope, "received", details, cubes=[copy])
