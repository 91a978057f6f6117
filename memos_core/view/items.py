"""The verb of items: values under keys, put, got, searched and listed in one transaction."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

from memos_core import reader
from memos_core.checks import checked_count, checked_key, checked_metadata, checked_ttl
from memos_core.cube import MemCube, Provenance, State
from memos_core.errors import (
    CubeExists,
    CubeNotFound,
    LimitExceeded,
    RulesChanged,
    SensitiveText,
    TransactionCollided,
)
from memos_core.filters import compiled
from memos_core.item import (
    GetItem,
    Item,
    ItemOp,
    ItemResult,
    ListNamespaces,
    PutItem,
    SearchItems,
    conditions_of,
    id_of,
    key_of,
    metadata_of,
    value_of,
)
from memos_core.namespace import Namespace
from memos_core.rules import Ruled
from memos_core.store.statements import by_id, cubes, forgetting, item_reads, items, rules
from memos_core.store.statements.filters import Filters
from memos_core.store.statements.items import ItemDraft
from memos_core.store.statements.scope import Scope
from memos_core.text import checked_text, excerpt, shortened
from memos_core.view.bound import listed
from memos_core.view.ruling import check_write, kept, refusal
from memos_core.view.writing import Writing

if TYPE_CHECKING:
    from memos_core.embedder import Vectors

COLLISIONS = 20  # of a batch with others, before it is given up
COLLISION_SECONDS = 0.02  # at most, before it is tried again
_MOST_SKIPPED = 10**9  # by an offset
_LONGEST = 1_000_000  # characters of a query


@dataclass(kw_only=True, slots=True)
class _Plan:
    """What a batch asks for: its reads by their place in it, and of its writes the last ones."""

    count: int
    reads: dict[int, GetItem | SearchItems | ListNamespaces]
    writes: dict[Namespace, dict[str, PutItem]]
    questions: dict[int, Vectors | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Writes:
    """What is to be written: drafts with their vectors, by these rules, and what is to end."""

    ruled: Mapping[Namespace, Ruled]
    drafts: list[ItemDraft]
    vectors: Vectors | None  # of the drafts' texts, then of their passages; None for none
    ended: list[UUID]


class _InTheWay(Exception):
    """In an item's place is something that a single statement does not replace."""


class Items(Writing):
    """The verb of items: values under keys, put, got, searched and listed in one transaction."""

    def batch_items(self, ops: Iterable[ItemOp]) -> list[ItemResult]:
        """Put, get, search and list items, all in one transaction; return the result of each.

        An item is a JSON value under a key of a namespace, which is relative to this view; and it
        is a memory like others: each put is a version of one cube (``Item.cube``), by the rules in
        force where it lies, which every other verb finds, and to forget either is to forget both.
        Where another verb gave the cube another text, that is the value: {"text": …}.

        Reads see what was there before the batch. Of several puts under one key the last counts.
        A put gives None, and so does a get that finds nothing.

        Raises:
            InvalidInput, InvalidNamespace, InvalidFilter: something of it cannot be stored or
                asked. Nothing was written.
            SensitiveText, LimitExceeded: the rules of a namespace refuse a value.
            NotPermitted, CubeFrozen: an item may not be changed.
        """
        plan = self._planned(ops)
        while True:
            ruled = {path: self.engine.rules(self._scope_of(path)) for path in plan.writes}
            try:
                return self._at_once(plan, self._written_as(plan, ruled))
            except RulesChanged:
                self.engine.rules_changed()
                if self.engine.in_pipeline:
                    raise
            except (SensitiveText, LimitExceeded) as error:
                if self._in_force(ruled):
                    self.engine.log_denied(refusal(self._scope, error, "write"))
                    raise
                self.engine.rules_changed()

    # ---------------------------------------------------------------- what is asked for

    def _planned(self, ops: Iterable[ItemOp]) -> _Plan:
        asked = list(ops)
        plan = _Plan(count=len(asked), reads={}, writes={}, questions={})
        for place, op in enumerate(asked):
            if isinstance(op, PutItem):
                path = self._path(op.namespace)
                plan.writes.setdefault(path, {})[checked_key(op.key, what="key")] = op
            else:
                plan.reads[place] = op
        if plan.reads:
            self._check_reads()
        for place, op in plan.reads.items():
            if isinstance(op, SearchItems):
                plan.questions[place] = self._asked(op)
        return plan

    def _asked(self, op: SearchItems) -> Vectors | None:
        """Return the vector to which the nearest are sought, None where none is."""
        if op.vector is not None:
            return self.engine.given(op.vector)
        if op.query is None or not op.query.strip():
            return None
        return self.engine.question(excerpt(checked_text(op.query, limit=_LONGEST, what="query")))

    def _written_as(self, plan: _Plan, ruled: Mapping[Namespace, Ruled]) -> _Writes:
        """Draft what is to be written by the rules, and embed it."""
        every = [(path, key, op) for path, ops in plan.writes.items() for key, op in ops.items()]
        drafts = [
            self._item(path, key, op, ruled[path])
            for path, key, op in every
            if op.value is not None
        ]
        texts = [draft.text for draft in drafts]
        texts += [passage for draft in drafts for passage in draft.passages]
        return _Writes(
            ruled=ruled,
            drafts=drafts,
            vectors=self.engine.documents(texts) if texts else None,
            ended=[id_of(path, key) for path, key, op in every if op.value is None],
        )

    def _item(self, path: Namespace, key: str, op: PutItem, ruled: Ruled) -> ItemDraft:
        """Return what the rules let be kept of an item."""
        ttl, by = checked_ttl(op.ttl), ruled.rules
        value = kept("", checked_metadata(op.value), by, namespace=path)
        found_by = [] if op.texts is None else list(op.texts(value.metadata))
        texts = [text for text in found_by if text.strip()]
        said = "\n".join(texts) or json.dumps(value.metadata, ensure_ascii=False)
        text = kept(shortened(said, self.engine.settings.max_text), {}, by, namespace=path)
        return ItemDraft(
            id=id_of(path, key),
            namespace=path,
            text=text.text,
            words=reader.words_in(text.text, Provenance()),
            metadata=metadata_of(key, value.metadata, text=text.text, found_by=len(texts), ttl=ttl),
            sensitivity=tuple(dict.fromkeys((*value.found, *text.found))),
            ttl=ttl,
            passages=tuple(texts) if len(texts) > 1 else (),
        )

    def _in_force(self, ruled: Mapping[Namespace, Ruled]) -> bool:
        return all(
            self.engine.run(rules.in_force(self._scope_of(path))).version == known.version
            for path, known in ruled.items()
        )

    def _path(self, namespace: tuple[str, ...]) -> Namespace:
        return Namespace(*self.namespace, *namespace)

    def _scope_of(self, path: Namespace) -> Scope:
        return Scope(namespace=path, caller=self.caller)

    # ---------------------------------------------------------------- all of it

    def _at_once(self, plan: _Plan, writes: _Writes) -> list[ItemResult]:
        """Read, then write, in one transaction; again where that collides with others."""
        alone = _is_one_statement(plan, writes)
        for attempt in range(COLLISIONS + 1):
            try:
                if alone:
                    return self._steps(plan, writes, alone=True)
                with self.engine.joined() as (inside, _):
                    within = Items(inside, self.namespace, self.caller)
                    return within._steps(plan, writes)
            except _InTheWay:
                alone = False
            except TransactionCollided:
                if self.engine.in_pipeline or attempt == COLLISIONS:
                    raise
                time.sleep(random.uniform(0, COLLISION_SECONDS))  # noqa: S311 it hides nothing
        raise AssertionError  # the loop has no other end

    def _steps(self, plan: _Plan, writes: _Writes, *, alone: bool = False) -> list[ItemResult]:
        results: list[ItemResult] = [None] * plan.count
        gets = {place: op for place, op in plan.reads.items() if isinstance(op, GetItem)}
        for place, item in self._got(gets).items() if gets else ():
            results[place] = item
        for place, op in plan.reads.items():
            if isinstance(op, SearchItems):
                results[place] = self._found(op, plan.questions[place])
            elif isinstance(op, ListNamespaces):
                results[place] = self._listed(op)
        if writes.ended:
            self._end(writes.ended)
        if writes.vectors is not None:
            self._write_items(writes, writes.vectors, alone=alone)
        return results

    # ---------------------------------------------------------------- reading

    def _got(self, ops: Mapping[int, GetItem]) -> dict[int, Item]:
        log = self.engine.settings.read_events
        ids = {place: id_of(self._path(op.namespace), op.key) for place, op in ops.items()}
        found = self.engine.run(item_reads.get(self._scope, list(set(ids.values())), log=log))
        found |= self._refreshed(
            [found[ids[place]] for place, op in ops.items() if op.refresh and ids[place] in found]
        )
        return {
            place: self._as_item(found[ids[place]], op.key)
            for place, op in ops.items()
            if ids[place] in found
        }

    def _found(self, op: SearchItems, question: Vectors | None) -> list[Item]:
        conditions = conditions_of(op.filter)
        path = self._path(op.namespace)
        sought = (path, bool(conditions))  # few that pass a filter say nothing of all
        newest = question is None and sought not in self.engine.scattered
        done = self.engine.run(
            item_reads.search(
                self._scope_of(path),
                question,
                model=self.engine.model,
                filters=Filters(conditions=compiled(conditions), any_time=True),
                limit=checked_count(op.limit, what="limit"),
                offset=checked_count(op.offset, what="offset", most=_MOST_SKIPPED),
                vectors=op.vectors,
                newest=newest,
                log=self.engine.settings.read_events,
            )
        )
        if newest and not done.newest:
            self.engine.scattered.add(sought)
        found = done.items
        fresh = self._refreshed([one.cube for one in found]) if op.refresh else {}
        return [
            replace(
                self._as_item(fresh.get(one.cube.id, one.cube), key_of(one.cube)),
                score=one.similarity,
                vector=one.vector,
            )
            for one in found
        ]

    def _refreshed(self, found: Sequence[MemCube]) -> dict[UUID, MemCube]:
        """Let what has a time to live begin it anew; return those cubes with their new ends."""
        living = {cube.id: cube for cube in found if "ttl" in cube.metadata}
        if not living:
            return {}
        ends = self.engine.run(item_reads.refresh(self._scope, list(living)))
        return {
            id: replace(living[id], governance=replace(living[id].governance, expires_at=end))
            for id, end in ends.items()
        }

    def _listed(self, op: ListNamespaces) -> list[tuple[str, ...]]:
        return self.engine.run(
            item_reads.namespaces(
                self._scope,
                op.matches,
                max_depth=None
                if op.max_depth is None
                else checked_count(op.max_depth, what="max_depth", least=1),
                limit=checked_count(op.limit, what="limit"),
                offset=checked_count(op.offset, what="offset", most=_MOST_SKIPPED),
            )
        )

    def _as_item(self, cube: MemCube, key: str) -> Item:
        return Item(
            namespace=tuple(cube.namespace[len(self.namespace) :]),
            key=key,
            value=value_of(cube.metadata, cube.text),
            cube=cube.id,
            version=cube.version,
            created_at=cube.created_at,
            updated_at=cube.updated_at,
            expires_at=cube.governance.expires_at,
        )

    # ---------------------------------------------------------------- writing

    def _write_items(self, writes: _Writes, vectors: Vectors, *, alone: bool) -> None:
        """Write drafts; ``alone``, by one statement or not at all."""
        drafts, count = writes.drafts, len(writes.drafts)
        for path, ruled in writes.ruled.items():
            if ruled.rules.limits_writes:
                self._check_growth(ruled, [one for one in drafts if one.namespace == path])
        versions = self._put(drafts, vectors[:count], writes.ruled)
        left = [place for place, draft in enumerate(drafts) if draft.id not in versions]
        if left and alone:
            raise _InTheWay
        if left:
            others = [drafts[place] for place in left]
            ids = [draft.id for draft in others]
            self.engine.run(cubes.clear_expired(self._scope, ids))
            versions |= self._put(others, vectors[left], writes.ruled)
            if missing := [id for id in ids if id not in versions]:
                self._refuse_items(missing)
        if len(vectors) > count:
            self.engine.run(
                items.keep_passages(
                    self._scope, drafts, versions, vectors[count:], model=self.engine.model
                )
            )

    def _put(
        self, drafts: Sequence[ItemDraft], vectors: Vectors, ruled: Mapping[Namespace, Ruled]
    ) -> dict[UUID, int]:
        versions = {path: by.version for path, by in ruled.items()}
        return self.engine.run(
            items.put(self._scope, drafts, vectors, model=self.engine.model, rules=versions)
        )

    def _check_growth(self, ruled: Ruled, drafts: Sequence[ItemDraft]) -> None:
        """Refuse what would be more than the rules allow; what is there already counts once."""
        there = self.engine.run(cubes.current(self._scope, [draft.id for draft in drafts]))
        before = sum(len(known.cube.text) for known in there.values())
        with self.engine.transaction() as transaction:
            check_write(
                transaction,
                Scope(namespace=ruled.namespace or self.namespace, caller=self.caller),
                ruled.rules,
                cubes=len(drafts) - len(there),
                characters=sum(len(draft.text) for draft in drafts) - before,
                writes=len(drafts),
            )

    def _refuse_items(self, ids: Sequence[UUID]) -> NoReturn:
        """Say why items were not written."""
        every = set(self.engine.run(forgetting.there(self._scope, ids)))
        there = self.engine.run(cubes.current(self._scope, ids))
        if denied := [id for id in ids if id in there and not there[id].may_write]:
            self._denied(denied, "write")
        if frozen := [id for id in ids if id in there and there[id].cube.state is State.FROZEN]:
            self._frozen(frozen)
        if self.caller is not None and (others := [id for id in every if id not in there]):
            raise CubeExists(f"these items are others': {listed(others)}; nothing was stored")
        raise TransactionCollided(  # somebody put or deleted them between two looks
            f"others put and deleted {listed(ids)} at the same time: put them again"
        )

    def _end(self, ids: Sequence[UUID]) -> None:
        """Forget those of some items that are there for the caller."""
        while found := self._there(ids):
            with suppress(CubeNotFound):  # one went meanwhile
                self.forget(found)
                return

    def _there(self, ids: Sequence[UUID]) -> list[UUID]:
        """Return which of some items are there for the caller."""
        if self.caller is None:
            return self.engine.run(forgetting.there(self._scope, ids))
        return list(self.engine.run(by_id.versions(self._scope, ids)))


def _is_one_statement(plan: _Plan, writes: _Writes) -> bool:
    """Say whether a batch is a single read, or a single write that needs no transaction."""
    if plan.reads:
        return len(plan.reads) == 1 and not plan.writes
    if len(writes.drafts) != 1 or writes.ended or writes.drafts[0].passages:
        return False
    return not any(by.rules.limits_writes for by in writes.ruled.values())
