"""The verbs that make a cube of others, and tell what it was made of."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core import fusion, reader
from memos_core.checks import (
    checked_id,
    checked_key,
    checked_many,
    checked_metadata,
    checked_priority,
    checked_tags,
)
from memos_core.cube import MemCube, Provenance, State
from memos_core.errors import (
    CubeExists,
    IllegalTransition,
    InvalidInput,
    TransactionCollided,
    VersionConflict,
)
from memos_core.fusion import ChatFn
from memos_core.lifecycle import NEXT
from memos_core.lineage import Lineage, Relation, bundle_id
from memos_core.rules import Ruled
from memos_core.store.statements import cubes, lifecycle, lineage
from memos_core.store.statements.lineage import Bundle, Parent
from memos_core.view.bound import listed
from memos_core.view.ruling import Ruling

ATTEMPTS = 5  # to make something of cubes that others change meanwhile
COLLISIONS = 20  # of a transaction with others, before it is given up
COLLISION_SECONDS = 0.02  # at most, before it is tried again


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What is to be made of cubes."""

    id: UUID
    text: str
    header: cubes.Header
    relation: Relation
    kind: str  # of the event
    source: str | None = None


class Composing(Ruling):
    """The verbs that make a cube of others, and tell what it was made of.

    Such a cube is served while each of its parents stands, says what it said then, and may be read
    by the caller. Where one is changed it ends; where one is forgotten it is forgotten as well.
    """

    def derive(
        self,
        text: str,
        ids: UUID | str | Iterable[UUID | str],
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, object] | None = None,
        semantic_type: str = "fact",
        source: str | None = None,
        priority: int = 0,
    ) -> MemCube:
        """Remember a text that you made of other cubes: a summary, a conclusion, a translation.

        It ends when the first of them does, and is as sensitive as all of them.

        Raises:
            InvalidText, InvalidInput: it cannot be stored.
            CubeNotFound, NotPermitted: one of them is not there, or may not be used.
        """
        said = self._text(text)
        labels = checked_tags(tags)
        values = checked_metadata(metadata)
        name = checked_key(semantic_type, what="semantic_type")
        weight = checked_priority(priority)

        def plan(parents: Sequence[MemCube]) -> _Plan:
            header = self._header(
                parents, tags=labels, metadata=values, semantic_type=name, priority=weight
            )
            return _Plan(
                id=uuid7(),
                text=said,
                header=header,
                relation=Relation.DERIVED,
                kind="derived",
                source=source,
            )

        return self._make(ids, plan)

    def compose(
        self,
        ids: Iterable[UUID | str],
        name: str,
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, object] | None = None,
        priority: int = 0,
    ) -> MemCube:
        """Make an ordered bundle of cubes, which is found and read as one; they stay as they are.

        Its text is its name and what they say, in the order given. Each owner's
        name stands for one bundle in a namespace: to compose it again replaces it, unless nothing
        has changed. Its history is that of its members.

        Raises:
            InvalidInput: no cubes, or a bundle that would be in itself.
            InvalidText: it would be longer than ``Settings.max_text``.
            CubeNotFound, NotPermitted: one of them is not there, or may not be used.
            CubeFrozen: the bundle of this name is.
        """
        title = self._text(name, what="name")
        labels, values = checked_tags(tags), checked_metadata(metadata)
        weight = checked_priority(priority)

        def plan(parents: Sequence[MemCube]) -> _Plan:
            text = "\n".join([title, *(parent.text for parent in parents)])
            header = self._header(
                parents,
                tags=labels,
                metadata={**values, "bundle": title},
                semantic_type="bundle",
                priority=weight,
            )
            return _Plan(
                id=bundle_id(self.namespace, title, header.owner),
                text=self._text(text, what=f"the bundle {title!r}"),
                header=header,
                relation=Relation.COMPOSED,
                kind="composed",
            )

        return self._make(ids, plan)

    def fuse(self, ids: Iterable[UUID | str], *, chat: ChatFn | None = None) -> MemCube:
        """Make one cube of several, which speaks for them: they are merged, and found no more.

        ``chat`` is a language model, ``messages -> text``, that writes what they say; without one
        it is their sentences in the order in which they became true, each once. The cube has all
        their tags and sensitivities, their metadata (of two values the later), the highest of
        their priorities, and the times in which all of them are true. Whoever may not read it
        finds them as before, and so does everybody once it ends.

        Raises:
            InvalidInput: fewer than two cubes, or no time at which all of them are true.
            InvalidText: the model wrote nothing, or too much.
            CubeNotFound, NotPermitted, CubeFrozen, IllegalTransition: one of them is not there, may
                not be used and changed, is frozen, or is in the archive.
        """
        wanted = checked_many(ids)
        if len(wanted) < 2:  # noqa: PLR2004 one is itself
            raise InvalidInput("fuse takes two cubes or more")

        def plan(parents: Sequence[MemCube]) -> _Plan:
            ordered = fusion.in_order(parents)
            if chat is None:
                text = fusion.fused_by_rule([parent.text for parent in ordered])
            else:
                text = fusion.fused_by_model(ordered, chat)
            header = self._header(
                ordered,
                tags=tuple(dict.fromkeys(tag for cube in ordered for tag in cube.tags)),
                metadata=fusion.common_metadata(ordered),
                semantic_type=_common([cube.semantic_type for cube in ordered]) or "fact",
                priority=max(cube.governance.priority for cube in ordered),
            )
            return _Plan(
                id=uuid7(),
                text=self._text(text, what="the fused text"),
                header=header,
                relation=Relation.MERGED,
                kind="fused",
                source="rule" if chat is None else "model",
            )

        return self._make(wanted, plan)

    def relate(self, id: UUID | str, relation: Relation | str, other: UUID | str) -> None:
        """Write down that a cube ``contradicts`` another, or is ``about`` it; both stand.

        Raises:
            InvalidInput: another relation, or one cube.
            CubeNotFound, NotPermitted: one is not there, or the first may not be changed.
        """
        if relation not in (Relation.CONTRADICTS, Relation.ABOUT):
            raise InvalidInput(
                f"relate says 'contradicts' or 'about', not {relation!r}: what holds another's "
                "words is made with derive, compose or fuse"
            )
        one, two = checked_id(id), checked_id(other)
        if one == two:
            raise InvalidInput("a cube is not related to itself")
        there = self.engine.run(lineage.relate(self._scope, one, two, Relation(relation)))
        if missing := [cube for cube in (one, two) if cube not in there]:
            self._missing(missing, right="write")
        if not there[one]:
            self._denied([one], "write")

    def provenance(self, id: UUID | str) -> Lineage:
        """Return what a cube was made of, step by step, to the messages that said it.

        Of a cube that has ended too; what was forgotten is in no answer.

        Raises:
            CubeNotFound: no such cube in this view.
        """
        cube = checked_id(id)
        return self.engine.run(lineage.provenance(self._scope, cube)) or self._missing(
            [cube], right="read"
        )

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
            self.caller.user
            if self.caller
            else _common([cube.governance.owner for cube in parents])
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
        self, ids: UUID | str | Iterable[UUID | str], plan: Callable[[Sequence[MemCube]], _Plan]
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

    def _check(self, planned: _Plan, parents: Mapping[UUID, Parent]) -> None:
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

    def _stored_in_the_end(self, planned: _Plan, parents: Mapping[UUID, Parent]) -> MemCube | None:
        """Store a plan, again where that collides with others; the plan stays as it is."""
        store = functools.partial(self._stored, planned, parents)
        for _ in range(0 if self.engine.in_pipeline else COLLISIONS):
            with suppress(TransactionCollided):
                return self._by_rules(store)
            time.sleep(random.uniform(0, COLLISION_SECONDS))  # noqa: S311 it hides nothing
        return self._by_rules(store)

    def _stored(
        self, planned: _Plan, parents: Mapping[UUID, Parent], ruled: Ruled
    ) -> MemCube | None:
        """Store a plan, or nothing and None where a parent is not what it was any more."""
        wanted, engine = list(parents), self.engine
        provenance = Provenance(
            source=planned.source, created_by=self.caller.user if self.caller else None
        )
        kept = self._kept(planned.text, planned.header.metadata, ruled.rules)
        draft = cubes.Draft(
            id=planned.id,
            text=kept.text,
            words=reader.words_in(kept.text, provenance),
            provenance=provenance,
            header=replace(planned.header, metadata=kept.metadata),
            found=tuple(kind for kind in kept.found if kind not in planned.header.sensitivity),
        )
        self._check_room(ruled, cubes=1, characters=len(kept.text))
        vectors = engine.documents([kept.text])
        with engine.transaction() as transaction:
            if planned.relation is Relation.COMPOSED:
                transaction.run(lineage.lock_name(planned.id))
            transaction.run(lineage.lock(self._scope, [*wanted, planned.id]))
            now = transaction.run(lineage.parents(self._scope, wanted))
            if _rights(now) != _rights(parents):
                return None
            version = 1
            if planned.relation is Relation.COMPOSED:
                there = transaction.run(
                    lineage.bundle(self._scope, planned.id, planned.header.owner)
                )
                if there is not None and there.members == wanted and _same(there, draft):
                    return there.cube
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
                )
            )
            transaction.run(lineage.link(self._scope, made.id, wanted, planned.relation))
            if planned.relation is Relation.MERGED:
                transaction.run(lifecycle.move(self._scope, wanted, State.MERGED, kind="merged"))
            return made


def _common(values: Sequence[str | None]) -> str | None:
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
    held = (governance.priority, governance.sensitivity, governance.expires_at)
    asked = (header.priority, (*header.sensitivity, *draft.found), header.expires_at)
    return bundle.mine and bundle.stands and there == wanted and held == asked
