"""The verbs of channels: to publish, to subscribe, and to be up to date."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core.channel import Matching, Publication, Subscription, SyncReport
from memos_core.checks import (
    checked_id,
    checked_key,
    checked_keys,
    checked_label,
    checked_metadata,
    checked_tags,
    checked_time,
    checked_ttl,
)
from memos_core.errors import InvalidInput
from memos_core.filters import compiled
from memos_core.rules import Rules
from memos_core.sensitivity import Action, Sensitive
from memos_core.store.statements import channels, deliveries
from memos_core.view.delivering import Delivery
from memos_core.view.ruling import Ruling


class Publishing(Ruling):
    """The verbs of channels: to publish, to subscribe, and to be up to date.

    A subscriber holds copies of what is published, as cubes of his own namespace. He gets what
    matches, as it may be shown, and what it is worth knowing of where it came from; he sees changes
    and withdrawals with ``sync``. What the publisher forgets is erased at all subscribers in the
    same transaction.
    """

    def publish(
        self,
        channel: str,
        *,
        tags: Iterable[str] = (),
        semantic_type: str | None = None,
        filter: Mapping[Any, object] | None = None,
        licence: str | None = None,
        watermark: str | None = None,
        mask: Mapping[Sensitive, Action] | None = None,
        tenants: Iterable[str] | None = None,
        condition: Mapping[str, object] | None = None,
        until: date | str | None = None,
        ttl: float | timedelta | None = None,
    ) -> Publication:
        """Offer the cubes of this view that match, now and later, to other tenants of the database.

        They match with all of ``tags``, of ``semantic_type``, where ``filter`` (as for ``search``)
        fits their metadata, and where the caller may read them. ``licence`` and ``watermark`` stand
        in the provenance of each copy. ``mask`` hides what is sensitive in copies or keeps such
        cubes back; by default it is ``export`` of the namespace's rules. Only ``tenants`` get them,
        or everyone, with a context that holds all of ``condition``. Copies end with ``until`` or
        after ``ttl`` seconds.

        Raises:
            InvalidInput: a value that cannot be stored.
        """
        if until is not None and ttl is not None:
            raise InvalidInput("give until or ttl, not both")
        rules = self.rules()
        hidden = rules.export if mask is None else Rules(export=mask).export
        new = Publication(
            id=uuid7(),
            namespace=self.namespace,
            channel=checked_key(channel, what="channel"),
            matching=_matching(tags, semantic_type, filter),
            licence=checked_label(licence, what="licence"),
            watermark=checked_label(watermark, what="watermark"),
            mask=hidden,
            region=rules.region,
            tenants=None if tenants is None else checked_keys(tenants, what="tenant"),
            condition=checked_metadata(condition),
            published_at=datetime.now(UTC),
            expires_at=None,
            withdrawn_at=None,
        )
        return self.engine.run(
            channels.publish(
                self._scope,
                new,
                until=checked_time(until, what="until"),
                ttl=checked_ttl(ttl),
            )
        )

    def withdraw(self, publication: Publication | UUID | str) -> bool:
        """Take back an offer: its copies go with the subscribers' next ``sync``.

        False where nothing stands that this caller may take back.
        """
        known = isinstance(publication, Publication)
        id = publication.id if known else checked_id(publication, what="publication")
        return self.engine.run(channels.withdraw(self._scope, id)) is not None

    def publications(self) -> list[Publication]:
        """Return what stands of what this view published, the oldest first."""
        return self.engine.run(channels.publications(self._scope))

    def subscribe(
        self,
        channel: str,
        *,
        publisher: str | None = None,
        tags: Iterable[str] = (),
        semantic_type: str | None = None,
        filter: Mapping[Any, object] | None = None,
    ) -> Subscription:
        """Take what is published in a channel and matches, into this namespace, with ``sync``.

        ``publisher`` is a tenant; by default it is taken from all but one's own.

        Raises:
            InvalidInput: a value that cannot be stored.
        """
        return self.engine.run(
            channels.subscribe(
                self._scope,
                uuid7(),
                checked_key(channel, what="channel"),
                publisher=None if publisher is None else checked_key(publisher, what="publisher"),
                matching=_matching(tags, semantic_type, filter),
            )
        )

    def unsubscribe(self, subscription: Subscription | UUID | str) -> SyncReport:
        """Take no more, and forget the copies; return which. Nothing where there is none."""
        known = isinstance(subscription, Subscription)
        id = subscription.id if known else checked_id(subscription, what="subscription")
        ended = self.engine.run(channels.unsubscribe(self._scope, id))
        return SyncReport() if ended is None else self._sum(Delivery.end, ended)

    def subscriptions(self) -> list[Subscription]:
        """Return what this view takes, the oldest first."""
        return self.engine.run(channels.subscriptions(self._scope))

    def sync(self) -> SyncReport:
        """Bring this view up to date with what it subscribed to; return what changed.

        New cubes are copied, changed ones become new versions of their copies, and copies of what
        is published no more are forgotten. A copy that you forgot does not come back, and a frozen
        one stays as it is. Each delivery is an event of both.

        Raises:
            LimitExceeded: the rules of this namespace let no more in.
            CubeFrozen: a frozen copy was withdrawn.
        """
        taken = self.engine.run(channels.subscriptions(self._scope))
        return sum((self._sum(Delivery.bring, one) for one in taken), SyncReport())

    def pushes(self, *, timeout: float | None = None) -> Generator[SyncReport]:
        """Sync now, and again whenever a publisher changes something; yield what changed.

        It ends when nothing changed for ``timeout`` seconds, or with the memory.
        """
        with self.engine.listen("memos_channels") as news:
            if report := self.sync():
                yield report
            while news.wait(timeout):
                if report := self.sync():
                    yield report

    def _sum(
        self, step: Callable[[Delivery], SyncReport], subscription: Subscription
    ) -> SyncReport:
        """Take a step with all that is and was offered to a subscription; return what it did."""
        offers = self.engine.run(deliveries.offers(self._scope, subscription))
        done = (step(Delivery(self.engine, self.caller, subscription, one)) for one in offers)
        return sum(done, SyncReport())


def _matching(
    tags: Iterable[str], semantic_type: str | None, filter: Mapping[Any, object] | None
) -> Matching:
    return Matching(
        tags=checked_tags(tags),
        semantic_type=None
        if semantic_type is None
        else checked_key(semantic_type, what="semantic_type"),
        conditions=compiled(filter),
    )
