"""The verbs of channels: to publish, to subscribe, and to be up to date."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
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
from memos_core.cube import MemCube, Provenance, State
from memos_core.errors import InvalidInput, SensitiveText
from memos_core.filters import compiled
from memos_core.rules import Rules
from memos_core.sensitivity import Action, Sensitive, judge, judge_values
from memos_core.store.statements import channels, cubes, forgetting
from memos_core.store.statements.channels import Change, Offer
from memos_core.store.statements.scope import Scope
from memos_core.view.ruling import Ruling
from memos_core.view.writing import Writing

BATCH = 200  # cubes that are delivered in one transaction


@dataclass(slots=True)
class _Brought:
    """What a sync has brought so far."""

    added: list[UUID] = field(default_factory=list[UUID])
    updated: list[UUID] = field(default_factory=list[UUID])
    withdrawn: list[UUID] = field(default_factory=list[UUID])
    withheld: int = 0

    def report(self) -> SyncReport:
        return SyncReport(
            added=tuple(self.added),
            updated=tuple(self.updated),
            withdrawn=tuple(self.withdrawn),
            withheld=self.withheld,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Masked:
    """A cube as it may be delivered; None of a text where it may not be."""

    text: str | None
    metadata: dict[str, object]
    hidden: bool


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
        id = publication.id if isinstance(publication, Publication) else checked_id(publication)
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
        id = subscription.id if isinstance(subscription, Subscription) else checked_id(subscription)
        ended = self.engine.run(channels.unsubscribe(self._scope, id))
        brought = _Brought()
        if ended is not None:
            for offer in self.engine.run(channels.offers(self._scope, ended)):
                self._take_away(ended, offer, [], brought)
        return brought.report()

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
        brought = _Brought()
        for subscription in self.engine.run(channels.subscriptions(self._scope)):
            for offer in self.engine.run(channels.offers(self._scope, subscription)):
                self._bring(subscription, offer, brought)
        return brought.report()

    def pushes(self, *, timeout: float | None = None) -> Generator[SyncReport]:
        """Sync now, and again whenever a publisher changes something; yield what changed.

        It ends when nothing changed for ``timeout`` seconds, or with the memory.
        """
        with self.engine.listen() as news:
            if report := self.sync():
                yield report
            while news.wait(timeout):
                if report := self.sync():
                    yield report

    def _bring(self, subscription: Subscription, offer: Offer, brought: _Brought) -> None:
        """Bring one publication's copies up to date."""
        publication = offer.publication
        scope = Scope(namespace=publication.namespace, caller=offer.caller)
        wanted = publication.matching & subscription.matching if offer.stands else None
        ids = [] if wanted is None else self.engine.run(channels.matches(scope, wanted))
        kept: list[UUID] = []
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            held_back = self._deliver(subscription, offer, batch, brought)
            kept += [cube for cube in batch if cube not in held_back]
        self._take_away(subscription, offer, kept, brought)

    def _deliver(
        self,
        subscription: Subscription,
        offer: Offer,
        ids: Sequence[UUID],
        brought: _Brought,
    ) -> set[UUID]:
        """Deliver a batch in one transaction; return what the rules of one side keep back."""
        publication = offer.publication
        scope = Scope(namespace=publication.namespace, caller=offer.caller)
        held_back: set[UUID] = set()
        added: list[UUID] = []
        updated: list[UUID] = []
        with self.engine.joined() as (engine, transaction):
            transaction.run(channels.lock(publication.id, subscription.id))
            copies = _Copies(engine, subscription.namespace, self.caller)
            for change in transaction.run(
                channels.changed(
                    scope, ids, publication=publication.id, subscription=subscription.id
                )
            ):
                masked = _masked(change.source, publication)
                if masked.text is None:
                    held_back.add(change.source.id)
                    continue
                copy = change.copy
                try:
                    if copy is None:
                        copy = copies.make(change, masked, publication)
                        added.append(copy)
                    elif copies.change(copy, change.source, masked):
                        updated.append(copy)
                except SensitiveText:
                    held_back.add(change.source.id)
                    continue
                transaction.run(channels.delivered(scope, publication, subscription, change, copy))
                transaction.run(channels.received(copies.scope, publication, change, copy))
        brought.added += added
        brought.updated += updated
        brought.withheld += len(held_back)
        return held_back

    def _take_away(
        self, subscription: Subscription, offer: Offer, kept: Sequence[UUID], brought: _Brought
    ) -> None:
        """Forget the copies of all but what is kept."""
        publication = offer.publication
        scope = Scope(namespace=publication.namespace, caller=offer.caller)
        with self.engine.joined() as (engine, transaction):
            transaction.run(channels.lock(publication.id, subscription.id))
            copies = _Copies(engine, subscription.namespace, None)
            gone = transaction.run(
                channels.gone(scope, kept, publication=publication.id, subscription=subscription.id)
            )
            withdrawn = copies.forget_those_there(gone)
        brought.withdrawn += withdrawn


class _Copies(Writing):
    """The copies in a subscriber's namespace, in the transaction that delivers them."""

    @property
    def scope(self) -> Scope:
        """Where they are, and on whose behalf."""
        return self._scope

    def make(self, change: Change, masked: _Masked, publication: Publication) -> UUID:
        """Store a copy; return its id."""
        source, text = change.source, cast("str", masked.text)
        provenance = Provenance(
            source=source.provenance.source,
            created_by=self.caller.user if self.caller else None,
            publisher=publication.namespace.tenant,
            channel=publication.channel,
            licence=publication.licence,
            watermark=publication.watermark,
        )
        header = cubes.Header(
            semantic_type=source.semantic_type,
            tags=source.tags,
            metadata=masked.metadata,
            owner=self.caller.user if self.caller else None,
            sensitivity=source.governance.sensitivity,
            valid_from=source.valid_from,
            valid_to=source.valid_to,
            ttl=_left(source.governance.expires_at, publication.expires_at),
        )

        ruled = self.engine.rules(self._scope)
        draft = self._draft(uuid7(), text, provenance, header, ruled.rules)
        same = not masked.hidden and draft.text == source.text
        vectors = change.embedding if same else self.engine.documents([draft.text])
        (cube,) = self._write(
            ruled,
            cubes.add(
                self._scope,
                [draft],
                vectors,
                model=self.engine.model,
                kind="copied",
                rules=ruled.version,
            ),
            cubes=1,
            characters=len(draft.text),
            writes=1,
        )
        return cube.id

    def change(self, copy: UUID, source: MemCube, masked: _Masked) -> bool:
        """Make a copy say what its source says now; False where it is no more, frozen, or does."""
        known = self.engine.run(cubes.current(self._scope, [copy])).get(copy)
        if known is None or known.cube.state is State.FROZEN:
            return False
        now, text = known.cube, cast("str", masked.text)
        if (now.text, now.tags, now.metadata, now.semantic_type, now.valid_from, now.valid_to) == (
            text,
            source.tags,
            masked.metadata,
            source.semantic_type,
            source.valid_from,
            source.valid_to,
        ):
            return False
        self.update(
            copy,
            None if now.text == text else text,
            tags=source.tags,
            metadata=masked.metadata,
            semantic_type=source.semantic_type,
            valid_from=source.valid_from,
            valid_to=source.valid_to,
        )
        return True

    def forget_those_there(self, copies: Sequence[UUID]) -> list[UUID]:
        """Forget copies, of which some may be gone already; return those that were there."""
        if not copies:
            return []
        there = self.engine.run(forgetting.there(self._scope, copies))
        if there:
            self.forget(there)
        return there


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


def _masked(cube: MemCube, publication: Publication) -> _Masked:
    """Return a cube as a publication may show it."""
    if not publication.mask:
        return _Masked(text=cube.text, metadata=dict(cube.metadata), hidden=False)
    told = judge(cube.text, publication.mask, region=publication.region)
    noted = judge_values(dict(cube.metadata), publication.mask, region=publication.region)
    if told.refused or noted.refused:
        return _Masked(text=None, metadata={}, hidden=True)
    return _Masked(
        text=told.text,
        metadata=cast("dict[str, object]", noted.values),
        hidden=told.text != cube.text,
    )


def _left(*ends: datetime | None) -> float | None:
    """Return the seconds to the first of some moments, None where there is none."""
    known = [end for end in ends if end is not None]
    return max(0.001, (min(known) - datetime.now(UTC)).total_seconds()) if known else None
