"""The verbs that read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import UUID

from memos_core.checks import (
    MAX_ROWS,
    checked_count,
    checked_id,
    checked_keys,
    checked_label,
    checked_names,
    checked_score,
    checked_tags,
    checked_time,
)
from memos_core.cube import Kind, MemCube, State
from memos_core.diff import Diff, diff
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.event_file import as_record, written_lines
from memos_core.filters import compiled
from memos_core.hit import Event, Hit, Stats
from memos_core.message import Message
from memos_core.prompt import (
    RECALL_DEPTH,
    Recall,
    cube_of,
    recalled,
    worth_showing,
)
from memos_core.question import Terms, as_statement, names_in, terms_of
from memos_core.settings import DENSE_ALONE
from memos_core.store.statements import by_id, candidates, events, messages, search
from memos_core.store.statements.filters import Filters
from memos_core.text import checked_text, excerpt, storable
from memos_core.view.ruling import Ruling

Mode = Literal["hybrid", "dense", "lexical"]
_MODES = get_args(Mode)
EXPORTED = 5_000  # events that are read at once


class Reading(Ruling):
    """The verbs that read."""

    def get(self, id: UUID | str, *, as_of: date | str | None = None) -> MemCube:
        """Return a cube as it stands, or stood at ``as_of``, with its usage.

        What was made of others is returned while all of them say what they said then.

        Raises:
            CubeNotFound: there is, or was then, no such cube in this view.
        """
        cube = checked_id(id)
        self._check_reads()
        found = self.engine.run(
            by_id.get(
                self._scope,
                cube,
                as_of=checked_time(as_of, what="as_of"),
                log=self.engine.settings.read_events,
            )
        )
        return found or self._missing([cube], right="read")

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        offset: int = 0,
        filter: Mapping[Any, object] | None = None,
        tags: Iterable[str] | None = None,
        exclude_messages: Iterable[str] | None = None,
        kinds: Iterable[Kind | str] | None = None,
        states: Iterable[State | str] | None = None,
        semantic_type: str | None = None,
        as_of: date | str | None = None,
        valid_at: date | str | None = None,
        min_score: float | None = None,
        context: int = 0,
        mode: Mode = "hybrid",
    ) -> list[Hit]:
        """Find what answers a question: the best ``k`` cubes after ``offset``, in one round trip.

        A hit's score is a weighted sum (``Settings.weights``) of cosine similarity and of BM25, of
        the memory itself and together with the two turns said before and after it. What is
        embedded is the question as a statement: "When did Ann move house?" as "I move house",
        where Ann is one who speaks in this view. ``mode`` "dense" ranks by cosine alone, and the
        score is the cosine; "lexical" by words alone, and embeds nothing.

        The lexical part knows English word forms ("moved" finds "moving"), matches words of other
        spaced languages as they are written, whatever their case, and sees scripts without spaces
        (Chinese, Japanese, Thai …, and Korean) as overlapping pairs of characters. A ``"quoted
        phrase"`` and a ``prefix*`` count as one more word, found as they are written. They rank
        and do not filter. Of a question over 4,000 characters the beginning and the end are asked,
        of its words at most 48.

        A view of more than ``Settings.exact_limit`` memories is searched by its index, once it has
        one (``build_index``): what is scored are the nearest 200, those around the question's
        rarest words, and what was written last. A ``prefix*`` then finds nothing by itself, unless
        ``mode`` is "lexical". Where few memories pass the filters, past the first 100 results and
        with ``as_of``, all are looked at. Pages found by an index may overlap. ``hit.route`` tells
        which way a hit was found.

        ``filter`` compares metadata: ``{"year": {"$gte": 2020}, "address.city": "Oslo"}``, with
        ``$eq $ne $gt $gte $lt $lte $in $nin``; all must hold. Numbers compare as numbers, strings
        as strings, and never with each other; ``$ne`` and ``$nin`` also hold where the key is
        absent. A tuple names a path whose keys hold dots. ``tags`` must all be there. Cubes that
        came from one of ``exclude_messages`` are left out, such as turns that the asker has before
        him already, and what was made of such cubes alone.

        What is archived is left out, and what was merged into a cube that can be had, unless
        ``states`` names what is wanted: ``["archived"]``.

        ``as_of`` asks what was known at a moment. ``valid_at`` asks for what was true at a moment
        (default: at ``as_of``, else now; "any" for whenever). ``context=n`` adds the turn a hit
        came from with ``n`` neighbours on each side.

        Raises:
            InvalidText, InvalidFilter, InvalidInput: the question cannot be asked.
        """
        if mode not in _MODES:
            raise InvalidInput(f"mode is one of {', '.join(_MODES)}, not {mode!r}")
        count = checked_count(k, what="k")
        skipped = checked_count(offset, what="offset", most=10**9)
        least = checked_score(min_score)
        neighbours = checked_count(context, what="context", most=100)
        self._check_reads()
        engine, settings = self.engine, self.engine.settings
        question = excerpt(checked_text(query, limit=settings.max_message, what="query"))
        moment = None if valid_at == "any" else checked_time(valid_at, what="valid_at")
        filters = Filters(
            conditions=compiled(filter),
            tags=checked_tags(tags or ()),
            without=checked_keys(exclude_messages or (), what="message id"),
            kinds=checked_names(kinds, Kind, what="kind"),
            states=checked_names(states, State, what="state"),
            semantic_type=checked_label(semantic_type, what="semantic_type"),
            as_of=checked_time(as_of, what="as_of"),
            valid_at=moment,
            any_time=valid_at == "any",
        )
        terms = None if mode == "dense" else terms_of(question)
        named = names_in(question, engine.speakers(self._scope))
        wanted = search.Query(
            terms=terms,
            vector=None if mode == "lexical" else engine.question(as_statement(question, named)),
            model=engine.model,
            names=tuple(named),
            filters=filters,
            weights=DENSE_ALONE if mode == "dense" else settings.weights,
            k=count,
            offset=skipped,
            min_score=least,
            context=neighbours,
            log=settings.read_events,
            index=self._index_for(mode, terms, filters, last=count + skipped),
            governed=self.caller is not None,
        )
        if not wanted.terms and wanted.vector is None:
            return []
        found = engine.run(search.search(self._scope, wanted))
        if not found.enough:
            engine.indexing.ask_again(self.namespace)
            found = engine.run(search.search(self._scope, replace(wanted, index=None)))
        return found.hits

    def recall(
        self,
        question: str,
        *,
        k: int = 5,
        token_limit: int | None = None,
        count_tokens: Callable[[str], int] = len,
        min_score: float | None = None,
        exclude_messages: Iterable[str] = (),
    ) -> Recall:
        """Return what a model should be reminded of before it answers: at most ``k`` memories.

        Neither the question itself nor the same words twice, and what was only ever asked comes
        last. A blank question recalls nothing, and what no database can hold of one is replaced.
        ``text`` is as ``render_memories`` makes it.

        Raises:
            InvalidText, InvalidInput: as ``search``.
        """
        asked = excerpt(str(storable(question)))
        if not asked or not checked_count(k, what="k"):
            return Recall(hits=(), text="")
        hits = self.search(
            asked,
            k=min(MAX_ROWS, RECALL_DEPTH * k),
            min_score=min_score,
            exclude_messages=exclude_messages,
        )
        chosen = worth_showing(hits, question=asked)[:k]
        return recalled(chosen, token_limit=token_limit, count_tokens=count_tokens)

    def stands(self, memories: Iterable[Hit | MemCube]) -> bool:
        """Tell whether memories are still as they were read: none changed, forgotten or expired."""
        read = {cube.id: cube.version for cube in map(cube_of, memories)}
        return not read or self.engine.run(by_id.versions(self._scope, list(read))) == read

    def history(self, id: UUID | str) -> list[MemCube]:
        """Return every version of a cube, the oldest first.

        Raises:
            CubeNotFound: no such cube in this view.
        """
        cube, settings = checked_id(id), self.engine.settings
        found = self.engine.run(by_id.history(self._scope, cube, log=settings.read_events))
        return found or self._missing([cube], right="read")

    def diff(self, id: UUID | str, before: int, after: int | None = None) -> Diff:
        """Tell what two versions of a cube say differently; ``after`` None is the last one.

        Raises:
            CubeNotFound: no such cube in this view, or no such version of it.
        """
        versions = {cube.version: cube for cube in self.history(id)}
        last = max(versions) if after is None else after
        for version in (before, last):
            if version not in versions:
                raise CubeNotFound(
                    f"cube {id} has no version {version}; it has {min(versions)} to {max(versions)}"
                )
        return diff(versions[before], versions[last])

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
        before: Event | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Event]:
        """Return the audit log of this view, the latest first.

        ``caller`` is a user's name. Deep pages are read fastest from the last event of the page
        ``before`` them. A caller sees what he did, and with ``cube`` all that was done with one of
        his own. Changes are written in the transaction they describe; a read
        of the last fraction of a second may be missing after a crash of the server.
        """
        return self.engine.run(
            events.events(
                self._scope,
                kind=checked_label(kind, what="kind"),
                cube=None if cube is None else checked_id(cube),
                by=checked_label(caller, what="caller"),
                since=checked_time(since, what="since"),
                until=checked_time(until, what="until"),
                before=before,
                limit=checked_count(limit, what="limit"),
                offset=checked_count(offset, what="offset", most=10**9),
            )
        )

    def export_events(
        self,
        path: Path | str,
        *,
        since: date | str | None = None,
        until: date | str | None = None,
        overwrite: bool = False,
    ) -> int:
        """Write the audit log to a file, a JSON object a line, the oldest first; return how many.

        That it was exported is an event, too, of which the next export tells.

        Raises:
            InvalidInput: the file is there already, or cannot be written; none is left half done.
        """
        start, end = checked_time(since, what="since"), checked_time(until, what="until")
        count, last = 0, None
        with written_lines(Path(path), overwrite=overwrite) as write:
            while page := self.engine.run(
                events.events(
                    self._scope,
                    kind=None,
                    cube=None,
                    by=None,
                    since=start,
                    until=end,
                    after=last,
                    oldest_first=True,
                    limit=EXPORTED,
                    offset=0,
                )
            ):
                write(as_record(event) for event in page)
                count, last = count + len(page), page[-1]
            self.engine.run(events.logged(self._scope, "exported", {"events": count}))
        return count

    def stats(self) -> Stats:
        """Count what this view holds."""
        return self.engine.run(events.stats(self._scope))

    def _index_for(
        self, mode: Mode, terms: Terms | None, filters: Filters, *, last: int
    ) -> int | None:
        """Return the index by which to search, None where every memory is to be looked at.

        An index knows what is there now, some hundred candidates of it, and words but no phrases.
        """
        phrases_alone = mode == "lexical" and terms is not None and terms.patterns
        if filters.as_of is not None or last > candidates.DEEPEST or phrases_alone:
            return None
        return self.engine.index_of(self._scope)
