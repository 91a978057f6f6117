"""The verbs that write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta
from typing import Literal, TypedDict, Unpack, overload
from uuid import UUID

from memos_core import reader
from memos_core.checks import (
    checked_count,
    checked_id,
    checked_ids,
    checked_key,
    checked_label,
    checked_many,
    checked_metadata,
    checked_period,
    checked_priority,
    checked_tags,
    checked_time,
    checked_ttl,
)
from memos_core.cube import Kind, MemCube, Provenance, State
from memos_core.errors import (
    CubeExists,
    CubeNotFound,
    InvalidInput,
    NotPermitted,
    TransactionCollided,
    VersionConflict,
)
from memos_core.hit import ForgetReport
from memos_core.rules import Ruled, Rules
from memos_core.store.statements import changes, cubes, forgetting
from memos_core.store.statements import messages as log
from memos_core.store.statements.cubes import Current
from memos_core.view.ingesting import Ingesting

ATTEMPTS = 20  # to forget all while others are at work on it


class HeaderOptions(TypedDict, total=False):
    """What ``View.add`` can be told of the cubes it makes."""

    tags: Iterable[str]
    metadata: Mapping[str, object] | None
    semantic_type: str
    source: str | None
    valid_from: date | str | None
    valid_to: date | str | None
    ttl: float | timedelta | None
    priority: int
    sensitivity: Iterable[str]


class Writing(Ingesting):
    """The verbs that write."""

    @overload
    def add(
        self, text: str, *, id: UUID | str | None = None, **header: Unpack[HeaderOptions]
    ) -> MemCube: ...
    @overload
    def add(
        self,
        text: list[str] | tuple[str, ...],
        *,
        id: Sequence[UUID | str] | None = None,
        **header: Unpack[HeaderOptions],
    ) -> list[MemCube]: ...
    def add(
        self,
        text: str | list[str] | tuple[str, ...],
        *,
        id: UUID | str | Sequence[UUID | str] | None = None,
        tags: Iterable[str] = (),
        metadata: Mapping[str, object] | None = None,
        semantic_type: str = "fact",
        source: str | None = None,
        valid_from: date | str | None = None,
        valid_to: date | str | None = None,
        ttl: float | timedelta | None = None,
        priority: int = 0,
        sensitivity: Iterable[str] = (),
    ) -> MemCube | list[MemCube]:
        """Remember a text, or many in one transaction; the header goes to each of them.

        ``valid_from`` and ``valid_to`` bound when it is true in the world; after ``ttl`` seconds
        (or a timedelta) it is found no more, though its history stays until it is forgotten or its
        id is added again.

        Raises:
            InvalidText: empty, over ``Settings.max_text`` characters, or not storable.
            InvalidInput: a value of the header cannot be stored.
            SensitiveText, LimitExceeded: the rules of the namespace refuse it.
            CubeExists: an id is taken. Nothing was stored.
        """
        texts = list(text) if isinstance(text, (list, tuple)) else [text]
        ids = checked_ids(id, len(texts), single=isinstance(text, str))
        user = self.caller.user if self.caller else None
        provenance = Provenance(source=checked_label(source, what="source"), created_by=user)
        start, end = checked_period(valid_from, valid_to)
        header = cubes.Header(
            semantic_type=checked_key(semantic_type, what="semantic_type"),
            tags=checked_tags(tags),
            metadata=checked_metadata(metadata),
            owner=user,
            priority=checked_priority(priority),
            sensitivity=checked_tags(sensitivity, what="sensitivity label"),
            valid_from=start,
            valid_to=end,
            ttl=checked_ttl(ttl),
        )
        said = list(map(self._text, texts))

        def write(ruled: Ruled) -> list[MemCube]:
            drafts = [
                self._draft(cube, one, provenance, header, ruled.rules)
                for cube, one in zip(ids, said, strict=True)
            ]
            return self._store(drafts, ruled) if id is None else self._store_anew(drafts, ruled)

        added = self._by_rules(write)
        return added[0] if isinstance(text, str) else added

    def update(
        self,
        id: UUID | str,
        text: str | None = None,
        *,
        mode: Literal["overwrite", "append"] = "overwrite",
        expected_version: int | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, object] | None = None,
        semantic_type: str | None = None,
        valid_from: date | str | None = None,
        valid_to: date | str | None = None,
        ttl: float | timedelta | None = None,
        priority: int | None = None,
        sensitivity: Iterable[str] | None = None,
    ) -> MemCube:
        """Store a new version of a cube; what is not given stays as it was.

        ``append`` adds the text as a new line. With ``expected_version`` the update is refused
        where somebody changed the cube since; without it, it applies to whatever stands now.

        Raises:
            CubeNotFound, CubeFrozen: no such cube in this view, or one that is frozen.
            NotPermitted: the caller may not write it; or may not share it and gives it other tags,
                which would be for others to read.
            VersionConflict: the cube is not at ``expected_version``. Nothing was stored.
        """
        if mode not in ("overwrite", "append"):
            raise InvalidInput(f"mode is 'overwrite' or 'append', not {mode!r}")
        header = changes.Change(
            text=None if text is None else self._text(text),
            tags=None if tags is None else checked_tags(tags),
            metadata=None if metadata is None else checked_metadata(metadata),
            semantic_type=None
            if semantic_type is None
            else checked_key(semantic_type, what="semantic_type"),
            valid_from=checked_time(valid_from, what="valid_from"),
            valid_to=checked_time(valid_to, what="valid_to"),
            ttl=checked_ttl(ttl),
            priority=None if priority is None else checked_priority(priority),
            sensitivity=None
            if sensitivity is None
            else checked_tags(sensitivity, what="sensitivity label"),
        )
        if header == changes.Change():
            raise InvalidInput("nothing to update: give a text or a part of the header")

        def attempt(known: Current) -> MemCube | None:
            if header.content:
                self._check_text(known.cube)
            if header.tags not in (None, known.cube.tags) and not known.may_share:
                self._denied([known.cube.id], "share")
            return self._update(known.cube, header, mode)

        return self._changed(checked_id(id), expected_version, attempt)

    def restore(
        self, id: UUID | str, *, version: int, expected_version: int | None = None
    ) -> MemCube:
        """Store a new version that says what ``version`` said: text, header, and search result.

        Restoring the current version changes nothing and returns it. Who may not share the cube
        leaves its tags as they are.

        Raises:
            CubeNotFound: no such cube, or no such version of it that the caller may read, or one
                from before it ended and was made anew.
            VersionConflict: the cube is not at ``expected_version``. Nothing was stored.
        """
        checked_count(version, what="version", least=1, most=2**31 - 1)
        tried: set[int] = set()

        def attempt(known: Current) -> MemCube | None:
            current = known.cube
            if current.version == version:
                return current
            self._check_text(current)
            if version > current.version or current.version in tried:
                raise CubeNotFound(
                    f"cube {current.id} has no version {version} to bring back: the last is "
                    f"{current.version}"
                )
            tried.add(current.version)
            return self.engine.run(changes.restore(self._scope, current, version=version))

        return self._changed(checked_id(id), expected_version, attempt)

    def forget(self, ids: UUID | str | Iterable[UUID | str]) -> ForgetReport:
        """Erase cubes: every version, every vector, and the content of the turns they came from.

        What stays is the event log, which holds ids only, and the ids of the erased messages, so
        that they are not taken for new ones.

        Raises:
            CubeNotFound: one of them is not in this view. Nothing was erased.
        """
        wanted = checked_many(ids)
        # Held first: the erasing statement must see what a change under way has just written.
        done = self.engine.run(
            forgetting.hold(self._scope, wanted), forgetting.forget(self._scope, wanted)
        )
        found = {*done.report.cubes, *done.denied}
        if missing := [cube for cube in wanted if cube not in found]:
            self._missing(missing, right="write")
        if done.denied:
            self._denied(done.denied, "write")
        if done.frozen:
            self._frozen(done.frozen)
        self.engine.others_speak(self.namespace)
        return done.report

    def forget_all(self, *, session: str | None = None) -> ForgetReport:
        """Erase all that this view holds, or all of a session: cubes and every message said.

        What stays is as for ``forget``. Where another session said the same as this one (``ingest``
        with ``resolve``), that has a cube of its own again.
        """
        name = None if session is None else checked_key(session, what="session")
        report = self._forget_all(name)
        if name is not None:
            self._read_overdue()  # what other sessions said of a cube that is gone
        self.engine.others_speak(self.namespace)
        return report

    def _forget_all(self, session: str | None) -> ForgetReport:
        for _ in range(0 if self.engine.in_pipeline else ATTEMPTS):
            with suppress(TransactionCollided):
                return self._forget_all_once(session)
        return self._forget_all_once(session)

    def _forget_all_once(self, session: str | None) -> ForgetReport:
        with self.engine.transaction() as transaction:
            transaction.run(forgetting.hold_all(self._scope, session=session))
            ids = transaction.run(forgetting.lock_all(self._scope, session=session))
            done = transaction.run(forgetting.forget(self._scope, ids, session=session))
            if done.frozen:
                self._frozen(done.frozen)
            others = transaction.run(log.erase(self._scope, session=session))
        return replace(done.report, message_ids=(*done.report.message_ids, *others))

    def _store_anew(self, drafts: Sequence[cubes.Draft], ruled: Ruled) -> list[MemCube]:
        """Store cubes under ids that were given, in place of what has expired under them."""
        ids = [draft.id for draft in drafts]
        with self.engine.joined() as (inside, transaction):
            if taken := transaction.run(cubes.clear_expired(self._scope, ids)):
                raise CubeExists(f"the history of another's cube has this id already: {taken[0]}")
            anew = Writing(inside, self.namespace, self.caller)
            return anew._store(drafts, ruled)

    def retire(self, session: str) -> int:
        """End a session's history; return how many messages left it.

        The messages stay in the log as sources, and the cubes made of them stand.
        """
        return self.engine.run(log.retire(self._scope, checked_key(session, what="session")))

    def build_index(self) -> int:
        """Build the search index of this view, or bring it up to date; return what it holds.

        Search uses it once the view has more than ``Settings.exact_limit`` memories. Such a view
        gets one by itself, in the background, when it is searched, and until then every memory is
        looked at; this builds it at once, while others read and write. A view above or below this
        one is another view, with an index of its own. On a server of your own the building is fast
        where ``maintenance_work_mem`` holds the vectors: some 250 MB for 200,000 of 384 dimensions.

        Raises:
            InvalidInput: its vectors have more dimensions than pgvector can index.
            NotPermitted: a caller asks; an index is of all that the view holds.
        """
        if self.caller is not None:
            raise NotPermitted(
                f"{self.caller.user} may not build indexes: open the view without a caller"
            )
        return self.engine.build_index(self._scope)

    def _check_text(self, cube: MemCube) -> None:
        if cube.kind is not Kind.PLAINTEXT:
            raise InvalidInput(
                f"{cube.id} holds tensors ({cube.kind}), which are made anew and not rewritten: "
                "update the memories it was made of, and encode them"
            )

    def _update(
        self, current: MemCube, header: changes.Change, mode: Literal["overwrite", "append"]
    ) -> MemCube | None:
        checked_period(header.valid_from or current.valid_from, header.valid_to or current.valid_to)
        joined = header.text
        if header.text is not None and mode == "append":
            joined = f"{current.text}\n{header.text}"
        text = None if joined is None else self._text(joined)

        def write(ruled: Ruled) -> MemCube | None:
            change = self._ruled_change(current, replace(header, text=text), ruled.rules)
            vector = None if change.text is None else self.engine.documents([change.text])
            statement = changes.update(
                self._scope,
                current,
                change,
                vector,
                model=self.engine.model,
                mode=mode,
                rules=ruled.version,
            )
            longer = len(change.text or current.text) - len(current.text)
            return self._write(ruled, statement, cubes=0, characters=longer, writes=1)

        return self._by_rules(write)

    def _ruled_change(self, current: MemCube, change: changes.Change, by: Rules) -> changes.Change:
        """Return what the rules let be kept of a change, marked with what was found in it."""
        kept = self._kept(change.text or "", change.metadata or {}, by)
        labels = (
            current.governance.sensitivity if change.sensitivity is None else change.sensitivity
        )
        found = tuple(kind for kind in kept.found if kind not in labels)
        return replace(
            change,
            text=None if change.text is None else kept.text,
            words=None if change.text is None else reader.words_in(kept.text, current.provenance),
            metadata=None if change.metadata is None else kept.metadata,
            sensitivity=(*labels, *found) if found else change.sensitivity,
        )

    def _changed(
        self, cube: UUID, expected: int | None, attempt: Callable[[Current], MemCube | None]
    ) -> MemCube:
        """Compare and swap: an attempt that finds the cube moved on is made again."""
        while True:
            known = self.engine.run(cubes.current(self._scope, [cube])).get(cube)
            if known is None:
                self._missing([cube], right="write")
            if not known.may_write:
                self._denied([cube], "write")
            current = known.cube
            if current.state is State.FROZEN:
                self._frozen([cube])
            if expected is not None and current.version != expected:
                raise VersionConflict(
                    f"cube {cube} is at version {current.version}, not {expected}: "
                    "get it again and decide anew"
                )
            if changed := attempt(known):
                return changed
