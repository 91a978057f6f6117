"""How a cube is made of others, and stored while they stand as they were read."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

from memos_core import reader
from memos_core.cached import CacheRecord
from memos_core.checks import checked_many
from memos_core.cube import Kind, MemCube, Provenance, State
from memos_core.errors import (
    CubeExists,
    IllegalTransition,
    InvalidInput,
    TransactionCollided,
    VersionConflict,
)
from memos_core.lifecycle import NEXT
from memos_core.lineage import Relation
from memos_core.rules import Ruled
from memos_core.store.statements import caches, cubes, lifecycle, lineage
from memos_core.store.statements.lineage import Bundle, Parent
from memos_core.view.bound import listed
from memos_core.view.ruling import Ruling

if TYPE_CHECKING:
    from memos_core.store.postgres import Transaction

ATTEMPTS = 5  # to make something of cubes that others change meanwhile
COLLISIONS = 20  # of a transaction with others, before it is given up
COLLISION_SECONDS = 0.02  # at most, before it is tried again


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be made of cubes."""

    id: UUID
    text: str
    header: cubes.Header
    relation: Relation
    kind: str  # of the event
    source: str | None = None
    cache: CacheRecord | None = None  # where it is one


class Making(Ruling):
    """How a cube is made of others, and stored while they stand as they were read."""

    def _header(
        self,
        parents: Sequence[MemCube],
        *,
        tags: tuple[str, ...],
        metadata: Mapping[str, object],
        semantic_type: str,
        priority: int,
    ) -> cubes.Header:
        """Return the header of what is made of cubes: no truer, longer-lived or more public."""
        starts = [cube.valid_from for cube in parents if cube.valid_from]
        ends = [cube.valid_to for cube in parents if cube.valid_to]
        start, end = max(starts, default=None), min(ends, default=None)
        if start and end and end <= start:
            raise InvalidInput(
                f"never all true at once: one is true until {end}, another from {start} on"
            )
        lives = [cube.governance.expires_at for cube in parents if cube.governance.expires_at]
        owner = (
            self.caller.user if self.caller else common([cube.governance.owner for cube in parents])
        )
        return cubes.Header(
            semantic_type=semantic_type,
            tags=tags,
            metadata=metadata,
            owner=owner,
            priority=priority,
            sensitivity=tuple(
                dict.fromkeys(label for cube in parents for label in cube.governance.sensitivity)
            ),
            valid_from=start,
            valid_to=end,
            expires_at=min(lives, default=None),
        )

    def _make(
        self, ids: UUID | str | Iterable[UUID | str], plan: Callable[[Sequence[MemCube]], Plan]
    ) -> MemCube:
        """Read the parents, make a text of them, and store it if they stand as they were read."""
        wanted = checked_many(ids)
        if not wanted:
            raise InvalidInput("name the cubes it is to be made of")
        for attempt in count(1):
            parents = self._parents(wanted)
            planned = plan([parents[cube].cube for cube in wanted])
            self._check(planned, parents)
            made = self._stored_in_the_end(planned, parents)
            if made is not None:
                return made
            if attempt == ATTEMPTS:
                raise VersionConflict(
                    f"others kept changing {listed(wanted)} while something was made of them: "
                    "try again"
                )
        raise AssertionError  # the loop has no other end

    def _parents(self, wanted: Sequence[UUID]) -> dict[UUID, Parent]:
        found = self.engine.run(lineage.parents(self._scope, wanted))
        if missing := [cube for cube in wanted if cube not in found]:
            self._missing(missing, right="derive")
        if denied := [cube for cube in wanted if not found[cube].may_derive]:
            self._denied(denied, "derive")
        return {cube: found[cube] for cube in wanted}

    def _check(self, planned: Plan, parents: Mapping[UUID, Parent]) -> None:
        for cube, parent in parents.items():
            if parent.cube.kind is not Kind.PLAINTEXT:
                raise InvalidInput(
                    f"{cube} holds tensors ({parent.cube.kind}): name the memories it was made of"
                )
        for cube, parent in parents.items():
            if planned.id in (cube, *parent.sources):
                raise InvalidInput(
                    f"a bundle cannot be in itself: {cube} is {planned.header.metadata['bundle']!r}"
                    " or was made of it"
                )
        if planned.relation is Relation.COMPOSED:
            there = self.engine.run(lineage.bundle(self._scope, planned.id, planned.header.owner))
            if there is not None and there.members != [*parents]:
                self._check_replaceable(there)
        if planned.relation is Relation.MERGED:
            self._check_mergeable(parents)

    def _check_replaceable(self, bundle: Bundle) -> None:
        if not bundle.mine:
            raise CubeExists(f"the id that this name stands for is another's: {bundle.cube.id}")
        if bundle.cube.state is State.FROZEN:
            self._frozen([bundle.cube.id])

    def _check_mergeable(self, parents: Mapping[UUID, Parent]) -> None:
        if denied := [cube for cube, parent in parents.items() if not parent.may_write]:
            self._denied(denied, "write")
        states = {cube: parent.cube.state for cube, parent in parents.items()}
        if frozen := [cube for cube, state in states.items() if state is State.FROZEN]:
            self._frozen(frozen)
        for cube, state in states.items():
            if state is not State.MERGED and State.MERGED not in NEXT[state]:
                raise IllegalTransition(f"cannot fuse what is {state}: {cube}; activate it first")

    def _stored_in_the_end(self, planned: Plan, parents: Mapping[UUID, Parent]) -> MemCube | None:
        """Store a plan, again where that collides with others; the plan stays as it is."""
        store = functools.partial(self._stored, planned, parents)
        for _ in range(0 if self.engine.in_pipeline else COLLISIONS):
            with suppress(TransactionCollided):
                return self._by_rules(store)
            time.sleep(random.uniform(0, COLLISION_SECONDS))  # noqa: S311 it hides nothing
        return self._by_rules(store)

    def _stored(
        self, planned: Plan, parents: Mapping[UUID, Parent], ruled: Ruled
    ) -> MemCube | None:
        """Store a plan, or nothing and None where a parent is not what it was any more."""
        wanted, engine = list(parents), self.engine
        draft = self._drafted(planned, ruled)
        self._check_room(ruled, cubes=1, characters=len(draft.text))
        vectors = engine.documents([draft.text])
        with engine.transaction() as transaction:
            replaced: list[UUID] = []
            if planned.relation is Relation.COMPOSED:
                replaced = [planned.id]
                transaction.run(lineage.lock_name(planned.id))
            transaction.run(lineage.hold(self._scope, wanted, replaced))
            now = transaction.run(lineage.parents(self._scope, wanted))
            if _rights(now) != _rights(parents):
                return None
            version = 1
            if planned.relation is Relation.COMPOSED:
                there = transaction.run(
                    lineage.bundle(self._scope, planned.id, planned.header.owner)
                )
                if there is not None and there.members == wanted and _same(there, draft):
                    return self._served(transaction, there.cube)
                if there is not None:
                    self._check_replaceable(there)
                version += transaction.run(lineage.unmake(self._scope, planned.id))
            (made,) = transaction.run(
                cubes.add(
                    self._scope,
                    [draft],
                    vectors,
                    model=engine.model,
                    rules=ruled.version,
                    kind=planned.kind,
                    details={"parents": list(map(str, wanted))},
                    version=version,
                    derived=True,
                    of=Kind.ACTIVATION if planned.cache else Kind.PLAINTEXT,
                )
            )
            if planned.cache is not None:
                transaction.run(caches.keep(self._scope, made.id, planned.cache))
            transaction.run(lineage.link(self._scope, made.id, wanted, planned.relation))
            if planned.relation is Relation.MERGED:
                transaction.run(lifecycle.move(self._scope, wanted, State.MERGED, kind="merged"))
            return made

    def _drafted(self, planned: Plan, ruled: Ruled) -> cubes.Draft:
        """Return what the rules let be kept of a plan."""
        provenance = Provenance(
            source=planned.source, created_by=self.caller.user if self.caller else None
        )
        kept = self._kept(planned.text, planned.header.metadata, ruled.rules)
        return cubes.Draft(
            id=planned.id,
            text=kept.text,
            words=reader.words_in(kept.text, provenance),
            provenance=provenance,
            header=replace(planned.header, metadata=kept.metadata),
            found=tuple(kind for kind in kept.found if kind not in planned.header.sensitivity),
        )

    def _served(self, transaction: Transaction, bundle: MemCube) -> MemCube:
        """Return a bundle that is to be found, which is brought back from the archive."""
        if bundle.state is not State.ARCHIVED:
            return bundle
        step = transaction.run(
            lifecycle.move(self._scope, [bundle.id], State.ACTIVATED, kind="activated")
        )
        return step.cubes[bundle.id]


def common(values: Sequence[str | None]) -> str | None:
    """Return the one value that all have, None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _rights(parents: Mapping[UUID, Parent]) -> dict[UUID, tuple[object, ...]]:
    """Return what must not change while something is made of cubes."""
    return {
        cube: (one.cube.version, one.cube.updated_at, one.may_derive, one.may_write)
        for cube, one in parents.items()
    }


def _same(bundle: Bundle, draft: cubes.Draft) -> bool:
    header, cube, governance = draft.header, bundle.cube, bundle.cube.governance
    there = (cube.text, cube.tags, cube.metadata, cube.valid_from, cube.valid_to)
    wanted = (draft.text, header.tags, header.metadata, header.valid_from, header.valid_to)
    held = (governance.priority, set(governance.sensitivity), governance.expires_at)
    asked = (header.priority, {*header.sensitivity, *draft.found}, header.expires_at)
    return bundle.mine and bundle.stands and there == wanted and held == asked
