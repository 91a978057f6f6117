"""How what was published comes to a subscriber, changes there, and goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core.channel import Publication, Subscription, SyncReport
from memos_core.cube import MemCube, Provenance, State
from memos_core.engine import Engine
from memos_core.errors import SensitiveText
from memos_core.governance import Caller
from memos_core.sensitivity import judge, judge_values
from memos_core.store.statements import cubes, deliveries, forgetting
from memos_core.store.statements.deliveries import Change, Offer
from memos_core.store.statements.scope import Scope
from memos_core.view.writing import Writing

BATCH = 200  # cubes that are delivered in one transaction


class Delivery:
    """One publication's copies for one subscription."""

    def __init__(
        self, engine: Engine, caller: Caller | None, subscription: Subscription, offer: Offer
    ) -> None:
        self._engine = engine
        self._caller = caller
        self._subscription = subscription
        self._publication = offer.publication
        self._published = Scope(namespace=offer.publication.namespace, caller=offer.caller)
        self._wanted = offer.publication.matching & subscription.matching if offer.stands else None

    def bring(self) -> SyncReport:
        """Bring the copies up to date."""
        matching = self._wanted
        ids = self._engine.run(deliveries.matches(self._published, matching)) if matching else []
        done, held_back = SyncReport(), set[UUID]()
        for start in range(0, len(ids), BATCH):
            report, kept_back = self._deliver(ids[start : start + BATCH])
            done += report
            held_back |= kept_back
        return done + self._take_away([cube for cube in ids if cube not in held_back])

    def end(self) -> SyncReport:
        """Forget the copies."""
        return self._take_away([])

    def _deliver(self, ids: Sequence[UUID]) -> tuple[SyncReport, set[UUID]]:
        """Deliver a batch in one transaction; return what the rules of one side keep back, too."""
        publication, subscription = self._publication, self._subscription
        held_back: set[UUID] = set()
        added: list[UUID] = []
        updated: list[UUID] = []
        with self._engine.joined() as (engine, transaction):
            transaction.run(deliveries.lock(publication.id, subscription.id))
            copies = _Copies(engine, subscription.namespace, self._caller)
            for change in transaction.run(
                deliveries.changed(
                    self._published, ids, publication=publication.id, subscription=subscription.id
                )
            ):
                shown = _shown(change.source, publication)
                if shown is None:
                    held_back.add(change.source.id)
                    continue
                copy = change.copy
                try:
                    if copy is None:
                        copy = copies.make(shown, change, publication)
                        added.append(copy)
                    elif copies.change(copy, shown):
                        updated.append(copy)
                except SensitiveText:
                    held_back.add(change.source.id)
                    continue
                transaction.run(
                    deliveries.delivered(self._published, publication, subscription, change, copy)
                )
                transaction.run(deliveries.received(copies.scope, publication, change, copy))
        report = SyncReport(added=tuple(added), updated=tuple(updated), withheld=len(held_back))
        return report, held_back

    def _take_away(self, kept: Sequence[UUID]) -> SyncReport:
        """Forget the copies of all but what is kept."""
        publication, subscription = self._publication.id, self._subscription.id
        with self._engine.joined() as (engine, transaction):
            transaction.run(deliveries.lock(publication, subscription))
            gone = transaction.run(
                deliveries.gone(
                    self._published, kept, publication=publication, subscription=subscription
                )
            )
            copies = _Copies(engine, self._subscription.namespace, None)
            return SyncReport(withdrawn=tuple(copies.forget_those_there(gone)))


def _shown(cube: MemCube, publication: Publication) -> MemCube | None:
    """Return a cube as a publication may show it; None where it may not."""
    if not publication.mask:
        return cube
    told = judge(cube.text, publication.mask, region=publication.region)
    noted = judge_values(dict(cube.metadata), publication.mask, region=publication.region)
    if told.refused or noted.refused:
        return None
    return replace(cube, text=told.text, metadata=cast("dict[str, object]", noted.values))


class _Copies(Writing):
    """The copies in a subscriber's namespace, in the transaction that delivers them."""

    @property
    def scope(self) -> Scope:
        """Where they are, and on whose behalf."""
        return self._scope

    def make(self, shown: MemCube, change: Change, publication: Publication) -> UUID:
        """Store a copy; return its id."""
        provenance = Provenance(
            source=shown.provenance.source,
            created_by=self.caller.user if self.caller else None,
            publisher=publication.namespace.tenant,
            channel=publication.channel,
            licence=publication.licence,
            watermark=publication.watermark,
        )
        header = cubes.Header(
            semantic_type=shown.semantic_type,
            tags=shown.tags,
            metadata=dict(shown.metadata),
            owner=self.caller.user if self.caller else None,
            sensitivity=shown.governance.sensitivity,
            valid_from=shown.valid_from,
            valid_to=shown.valid_to,
            ttl=_left(shown.governance.expires_at, publication.expires_at),
        )
        ruled = self.engine.rules(self._scope)
        draft = self._draft(uuid7(), shown.text, provenance, header, ruled.rules)
        same = draft.text == change.source.text
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

    def change(self, copy: UUID, shown: MemCube) -> bool:
        """Make a copy say what its source says now; False where it is no more, frozen, or does."""
        known = self.engine.run(cubes.current(self._scope, [copy])).get(copy)
        if known is None or known.cube.state is State.FROZEN:
            return False
        if _content(known.cube) == _content(shown):
            return False
        self.update(
            copy,
            None if known.cube.text == shown.text else shown.text,
            tags=shown.tags,
            metadata=shown.metadata,
            semantic_type=shown.semantic_type,
            valid_from=shown.valid_from,
            valid_to=shown.valid_to,
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


def _content(cube: MemCube) -> tuple[object, ...]:
    """Return what a copy has of its source."""
    return (
        cube.text,
        cube.tags,
        cube.metadata,
        cube.semantic_type,
        cube.valid_from,
        cube.valid_to,
    )


def _left(*ends: datetime | None) -> float | None:
    """Return the seconds to the first of some moments, None where there is none."""
    known = [end for end in ends if end is not None]
    return max(0.001, (min(known) - datetime.now(UTC)).total_seconds()) if known else None
