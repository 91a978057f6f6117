"""The verbs by which a language model reads memories, and keeps KV caches of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, UUID, uuid5

from uuid_utils.compat import uuid7

from memos_core.cached import CacheRecord, Remembered
from memos_core.checks import checked_many
from memos_core.cube import Kind, MemCube
from memos_core.errors import VersionConflict
from memos_core.lineage import Relation
from memos_core.rules import Ruled
from memos_core.store.statements import caches, events, lineage
from memos_core.store.statements.lineage import Parent
from memos_core.view.bound import listed
from memos_core.view.making import Making, Plan

if TYPE_CHECKING:
    from memos_core.store.news import News


class Caching(Making):
    """The verbs by which a language model reads memories, and keeps KV caches of them.

    A KV cache is a cube that is made of memories, and lives by the same rules: it is served while
    each of them says what it said and may be read by the caller, ends where one is changed, and is
    forgotten with it. ``memos_core.model.MemoryModel`` makes and uses them.
    """

    def remembered(self, ids: Iterable[UUID | str]) -> list[Remembered]:
        """Return memories as they stand, in the order asked, and the members of KV caches.

        An event records that they were read.

        Raises:
            CubeNotFound: one is not there, or may not be read.
        """
        wanted = checked_many(ids)
        log = self.engine.settings.read_events
        found = self.engine.run(caches.remembered(self._scope, wanted, log=log))
        there = {one.cube.id for one in found}
        if missing := [cube for cube in wanted if cube not in there]:
            self._missing(missing, right="read")
        return found

    def caches(
        self,
        fingerprint: str | None = None,
        *,
        holding: Sequence[str] | None = None,
        searchable: bool = False,
    ) -> list[Remembered]:
        """Return the KV caches that stand, of the model with a ``fingerprint`` or of all.

        The oldest is first. Their members are left out; ``remembered`` has them. ``holding`` asks
        for those with one of some keys, ``searchable`` for those of memories that a search may
        find: not archived, true now, and not merged into others.
        """
        asked = caches.caches(self._scope, fingerprint, holding, searchable=searchable)
        return self.engine.run(asked)

    def keep_cache(
        self,
        record: CacheRecord,
        *,
        name: str | None = None,
        said: Mapping[UUID, str] | None = None,
    ) -> MemCube:
        """Store that a KV cache was made of its members; return its cube.

        Its text is its name. Where the same caller keeps one that is the same, that is returned.
        ``said`` is what its members said when they were read for it.

        Raises:
            CubeNotFound, NotPermitted: one of them is not there, or may not be used.
            VersionConflict: one of them says something else now, or kept changing.
        """
        wanted = checked_many(record.members)
        record = replace(record, members=tuple(wanted))
        known = f"KV cache of {len(wanted)} memories, {sum(record.tokens)} tokens"
        title = self._text(known if name is None else name, what="name")

        def plan(parents: Sequence[MemCube]) -> Plan:
            changed = [one.id for one in parents if said and said.get(one.id) != one.text]
            if changed:
                raise VersionConflict(f"changed while a KV cache was made of it: {listed(changed)}")
            header = self._header(
                parents, tags=(), metadata={}, semantic_type="kv_cache", priority=0
            )
            return Plan(
                id=uuid7(),
                text=title,
                header=header,
                relation=Relation.DERIVED,
                kind="promoted",
                cache=record,
            )

        return self._same(record) or self._make(wanted, plan)

    def _stored(
        self, planned: Plan, parents: Mapping[UUID, Parent], ruled: Ruled
    ) -> MemCube | None:
        """Store a plan; a KV cache unless another has kept the same since that was asked."""
        record = planned.cache
        if record is None:
            return super()._stored(planned, parents, ruled)
        with self.engine.joined() as (inside, transaction):
            within = Caching(inside, self.namespace, self.caller)
            name = f"KV cache {self.namespace!r} {record.keys[-1]}"
            transaction.run(lineage.lock_name(uuid5(NAMESPACE_OID, name)))
            return within._same(record) or super(Caching, within)._stored(planned, parents, ruled)

    def _same(self, record: CacheRecord) -> MemCube | None:
        """Return a KV cache that this caller has kept here of the same."""
        return self.engine.run(caches.kept(self._scope, record))

    def refuse_cache(self, record: CacheRecord) -> None:
        """Write down that a KV cache was made, and was not right enough to be kept."""
        details = {"kind": Kind.ACTIVATION, "report": dict(record.report)}
        self.engine.run(
            events.logged(self._scope, "promotion_failed", details, cubes=record.members)
        )

    def live_keys(self) -> frozenset[str]:
        """Return the keys of the tenant's KV caches, whoever may read them: what may be held."""
        return self.engine.run(caches.live_keys(self._scope))

    def cache_news(self) -> AbstractContextManager[News]:
        """Hear of KV caches that ended, for as long as it takes: the MD5 of their tenants is told.

        Raises:
            InvalidInput: in a pipeline, which sees nothing of what others do.
        """
        return self.engine.listen("memos_caches")
