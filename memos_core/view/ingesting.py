"""The verb that remembers conversations, and how cubes are stored."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from memos_core import reader
from memos_core.cube import MemCube, Provenance
from memos_core.fusion import ChatFn, checked_resolve
from memos_core.message import Message
from memos_core.rules import Ruled, Rules
from memos_core.store.statements import cubes
from memos_core.store.statements import messages as log
from memos_core.view.resolving import RESOLVE_BATCH, Resolving

_log = logging.getLogger("memos_core")
READ_BATCH = 256  # messages whose cubes are stored in one transaction
READ_OVERDUE = 16  # messages of failed readings that one call makes up for


class Ingesting(Resolving):
    """The verb that remembers conversations, and how cubes are stored."""

    def ingest(
        self,
        messages: Mapping[str, Any] | str | Iterable[Mapping[str, Any] | str],
        *,
        session: str | None = None,
        repair: bool = False,
        resolve: bool | ChatFn = False,
    ) -> list[MemCube]:
        """Remember a conversation; return the cubes that were made or changed by it now.

        Messages are ``{"id", "role", "content", "name", "created_at", "session", "metadata"}``, of
        which role and content are needed; a bare text is what a user said. They are stored first,
        in a transaction of their own, so that nothing said is lost if reading them fails; a later
        ``ingest`` in this namespace then reads them. A message whose id is known in its session is
        not stored again, so sending a conversation twice is safe, and a forgotten one does not
        come back.

        Without a language model each turn of a user or an assistant becomes a cube, word for word,
        with the message's metadata. With ``resolve``, a turn that says again what a cube of its
        sender in this namespace says becomes part of that cube, and one that says otherwise is its
        next version, where that is sure; ``resolution.decide`` tells by which rules. A language
        model (``messages -> text``) decides where one is given. An event ``resolved`` tells of
        each turn that something like it was found for.

        With ``repair``, NUL bytes, lone surrogates and values that are no JSON are replaced and
        texts over ``Settings.max_message`` characters cut, for programs that must take what a tool
        returned.

        Raises:
            InvalidInput, InvalidText: a message cannot be stored; none was.
            SensitiveText, LimitExceeded: the rules of the namespace refuse one; none was stored.
        """
        return self.ingest_later(messages, session=session, repair=repair, resolve=resolve)()

    def ingest_later(
        self,
        messages: Mapping[str, Any] | str | Iterable[Mapping[str, Any] | str],
        *,
        session: str | None = None,
        repair: bool = False,
        resolve: bool | ChatFn = False,
    ) -> Callable[[], list[MemCube]]:
        """Store a conversation as ``ingest`` does, and return what makes cubes of it.

        That can be called by another thread, once the answer is given. If it never is, an
        ``ingest`` here that comes by a minute later makes them.

        Raises:
            As ``ingest``.
        """
        wanted = checked_resolve(resolve)
        chat = None if isinstance(wanted, bool) else wanted
        settings = self.engine.settings
        said = reader.messages_from(messages, session=session, settings=settings, repair=repair)
        if not said:
            return list[MemCube]

        def write(ruled: Ruled) -> list[Message]:
            kept = [self._kept_message(one, ruled.rules) for one in said]
            readable = [one for one in kept if reader.is_readable(one)]
            self._check_room(
                ruled, cubes=len(readable), characters=sum(len(one.content) for one in readable)
            )
            return self.engine.run(
                log.lock(self._scope),
                log.log(
                    self._scope,
                    [(one, reader.is_readable(one)) for one in kept],
                    rules=ruled.version,
                ),
            )

        unread = self._by_rules(write)
        if any(message.name for message in unread):
            self.engine.others_speak(self.namespace)
        if wanted is False:
            cubes_of, most = self._read, READ_BATCH
        else:
            cubes_of, most = functools.partial(self._read_again, chat=chat), RESOLVE_BATCH
        return functools.partial(self._read_all, unread, cubes_of, most)

    def _read_all(
        self,
        messages: Sequence[Message],
        cubes_of: Callable[[Sequence[Message]], list[MemCube]],
        most: int,
    ) -> list[MemCube]:
        made = {
            cube.id: cube
            for start in range(0, len(messages), most)
            for cube in cubes_of(messages[start : start + most])
        }
        self._read_overdue()
        return list(made.values())

    def _draft(
        self, id: UUID, text: str, provenance: Provenance, header: cubes.Header, by: Rules
    ) -> cubes.Draft:
        """Return a cube to be, of what the rules let be kept of a text and its header."""
        kept = self._kept(text, header.metadata, by)
        return cubes.Draft(
            id=id,
            text=kept.text,
            words=reader.words_in(kept.text, provenance),
            provenance=provenance,
            header=replace(header, metadata=kept.metadata),
            found=tuple(kind for kind in kept.found if kind not in header.sensitivity),
        )

    def _read(self, messages: Sequence[Message]) -> list[MemCube]:
        def write(ruled: Ruled) -> list[MemCube]:
            drafts = [
                replace(draft, found=self._found_in(draft.text, ruled.rules))
                for draft in reader.drafts_from(messages, settings=self.engine.settings)
            ]
            return self._store(drafts, ruled, read=messages)

        return self._by_rules(write)

    def _read_overdue(self) -> None:
        """Make up for readings that failed, each by itself: one that fails again holds up none."""
        for message in self.engine.run(log.overdue(self._scope, limit=READ_OVERDUE)):
            try:
                self._read([message])
            except Exception:  # noqa: BLE001 its sender was told, nothing is lost, it is due again
                _log.exception("message %r of an earlier ingest still cannot be read", message.id)

    def _store(
        self, drafts: Sequence[cubes.Draft], ruled: Ruled, *, read: Sequence[Message] | None = None
    ) -> list[MemCube]:
        if not drafts:
            return []
        scope, engine, version = self._scope, self.engine, ruled.version
        vectors = engine.documents([draft.text for draft in drafts])
        if read is None:
            statement = cubes.add(scope, drafts, vectors, model=engine.model, rules=version)
        else:
            statement = cubes.read(scope, drafts, vectors, read, model=engine.model, rules=version)
        characters = sum(len(draft.text) for draft in drafts)
        return self._write(
            ruled, statement, cubes=len(drafts), characters=characters, writes=len(drafts)
        )
