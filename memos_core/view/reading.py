"""The verbs that read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any
from uuid import UUID

from memos_core.checks import (
    checked_count,
    checked_id,
    checked_keys,
    checked_kind,
    checked_label,
    checked_score,
    checked_tags,
    checked_time,
)
from memos_core.cube import Kind, MemCube
from memos_core.filters import compiled
from memos_core.hit import Event, Hit, Stats
from memos_core.message import Message
from memos_core.store.statements import cubes, events, messages, search
from memos_core.text import searchable
from memos_core.view.bound import Bound


class Reading(Bound):
    """The verbs that read."""

    def get(self, id: UUID | str, *, as_of: date | str | None = None) -> MemCube:
        """Return a cube as it stands, or stood at ``as_of``, with its usage.

        Raises:
            CubeNotFound: there is, or was then, no such cube in this view.
        """
        cube = checked_id(id)
        found = self.engine.run(
            cubes.get(
                self._scope,
                cube,
                as_of=checked_time(as_of, what="as_of"),
                log=self.engine.settings.read_events,
            )
        )
        return found or self._missing([cube])

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        offset: int = 0,
        filter: Mapping[Any, object] | None = None,
        tags: Iterable[str] | None = None,
        exclude_messages: Iterable[str] = (),
        kinds: Iterable[Kind | str] | None = None,
        semantic_type: str | None = None,
        as_of: date | str | None = None,
        valid_at: date | str | None = None,
        min_score: float | None = None,
        context: int = 0,
    ) -> list[Hit]:
        """Find what answers a question: the best ``k`` cubes after ``offset``, in one round trip.

        A hit's score is a weighted sum of cosine similarity and BM25. The lexical part knows
        English word forms ("moved" finds "moving"), matches words of other spaced languages as
        they are written, whatever their case, and sees scripts without spaces (Chinese, Japanese,
        Thai …, and Korean) as overlapping pairs of characters.

        ``filter`` compares metadata: ``{"year": {"$gte": 2020}, "address.city": "Oslo"}``, with
        ``$eq $ne $gt $gte $lt $lte $in``; all must hold. Numbers compare as numbers, strings as
        strings, and never with each other; ``$ne`` also holds where the key is absent. A tuple
        names a path whose keys hold dots. ``tags`` must all be there. Cubes that came from one of
        ``exclude_messages`` are left out, such as turns that the asker has before him already.

        ``as_of`` asks what was known at a moment. ``valid_at`` asks for what was true at a moment
        (default: at ``as_of``, else now; "any" for whenever). ``context=n`` adds the turn a hit
        came from with ``n`` neighbours on each side.

        Raises:
            InvalidText, InvalidFilter, InvalidInput: the question cannot be asked.
        """
        moment = None if valid_at == "any" else checked_time(valid_at, what="valid_at")
        settings = self.engine.settings
        question = self._text(query, what="query")
        wanted = search.Query(
            words=searchable(question),
            k=checked_count(k, what="k"),
            offset=checked_count(offset, what="offset", most=10**9),
            conditions=compiled(filter),
            tags=checked_tags(tags or ()),
            without=checked_keys(exclude_messages, what="message id"),
            kinds=None if kinds is None else tuple(checked_kind(kind) for kind in kinds),
            semantic_type=checked_label(semantic_type, what="semantic_type"),
            as_of=checked_time(as_of, what="as_of"),
            valid_at=moment,
            any_time=valid_at == "any",
            min_score=checked_score(min_score),
            context=checked_count(context, what="context", most=100),
            dense_weight=settings.dense_weight,
            lexical_weight=settings.lexical_weight,
            log=settings.read_events,
        )
        engine = self.engine
        vector = engine.question(question)
        return engine.run(search.search(self._scope, wanted, vector, model=engine.model))

    def versions(self, ids: Iterable[UUID | str]) -> dict[UUID, int]:
        """Return the version each cube stands at, without those that are gone: still as it was?"""
        wanted = [checked_id(one) for one in ids]
        return self.engine.run(cubes.versions(self._scope, wanted))

    def history(self, id: UUID | str) -> list[MemCube]:
        """Return every version of a cube, the oldest first.

        Raises:
            CubeNotFound: no such cube in this view.
        """
        cube = checked_id(id)
        return self.engine.run(cubes.history(self._scope, cube)) or self._missing([cube])

    def messages(
        self, *, session: str | None = None, limit: int | None = None, retired: bool = False
    ) -> list[Message]:
        """Return the messages of this namespace, or the latest ``limit``, in the order said.

        Forgotten messages are left out, and retired ones too unless asked for.
        """
        most = None if limit is None else checked_count(limit, what="limit")
        return self.engine.run(
            messages.messages(
                self._scope,
                session=checked_label(session, what="session"),
                limit=most,
                retired=retired,
            )
        )

    def events(
        self,
        *,
        kind: str | None = None,
        cube: UUID | str | None = None,
        caller: str | None = None,
        since: date | str | None = None,
        until: date | str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Event]:
        """Return the audit log of this view, the latest first.

        ``caller`` is a user's name. Changes are written in the transaction they describe; a read
        of the last fraction of a second may be missing after a crash of the server.
        """
        return self.engine.run(
            events.events(
                self._scope,
                kind=checked_label(kind, what="kind"),
                cube=None if cube is None else checked_id(cube),
                user=checked_label(caller, what="caller"),
                since=checked_time(since, what="since"),
                until=checked_time(until, what="until"),
                limit=checked_count(limit, what="limit"),
                offset=checked_count(offset, what="offset", most=10**9),
            )
        )

    def stats(self) -> Stats:
        """Count what this view holds."""
        return self.engine.run(events.stats(self._scope))
