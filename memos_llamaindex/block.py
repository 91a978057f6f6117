"""A block of long-term memory for LlamaIndex's own ``Memory``."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import Any, Self, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.memory import BaseMemoryBlock
from pydantic import ConfigDict, Field, PrivateAttr
from typing_extensions import override

from memos_core import (
    AsyncView,
    Closed,
    EmbedderUnavailable,
    LimitExceeded,
    SensitiveText,
    StoreError,
)
from memos_core.background import await_a_little
from memos_llamaindex.behind import Flushing, begin, is_said, remember, unread
from memos_llamaindex.given import GivenResolve, GivenView
from memos_llamaindex.recall import (
    NOTES,
    Recalled,
    keep_recalled,
    recalled_in,
    unclosing,
    without_recall,
)
from memos_llamaindex.said import ids_of
from memos_llamaindex.transcript import said_in
from memos_llamaindex.window import Tokenizer, default_tokenizer

_log = logging.getLogger("memos_llamaindex")
_DOWN = (StoreError, EmbedderUnavailable, Closed)  # a chat goes on without its memories
_REFUSED = (SensitiveText, LimitExceeded)  # by the rules of the namespace
_NO_SESSION = "llamaindex"  # of messages that are passed without one, which Memory never does

_Turn: TypeAlias = dict[str, Any]


class MemOSMemoryBlock(Flushing, BaseMemoryBlock[str]):
    """What all sessions of a view remember, up to ``k`` memories that answer the newest question.

    ``Memory.from_defaults(memory_blocks=[MemOSMemoryBlock(memos=ann)], insert_method="user")``: by
    default ``Memory`` puts blocks into a system message, which two of LlamaIndex's agents drop.

    What users and assistants say is stored when the block is read, and when ``Memory`` hands it on,
    each message once. Memories are made of it behind the answer: a block that is read waits for
    what other sessions said before, ``flush`` for all, as closing the MemOS does; with
    ``background=False`` they are made at once. Memories of what the history shows already are left
    out. Where the prompt is too long ``Memory`` takes the worst of them away; with ``priority=0``
    none.

    A chat outlives its memory: while the database cannot be reached the block is empty, a warning
    is logged, and what ``Memory`` handed on is kept and remembered later. So is a warning where the
    rules of the namespace refuse a message. With ``resolve``, a turn changes the memory that it
    repeats or contradicts, as ``View.ingest`` tells.

    Raises:
        pydantic.ValidationError: ``name`` cannot be a tag, in which the prompt shows the block.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: GivenView = Field(exclude=True)
    name: str = Field(default="memories", pattern=r"^[A-Za-z_][\w.-]*$")
    description: str | None = "What is remembered from earlier conversations."
    priority: int = Field(default=1, ge=0)
    k: int = Field(default=5, ge=0)
    resolve: GivenResolve = Field(default=False, exclude=True, repr=False)
    background: bool = True
    tokenizer_fn: Tokenizer = Field(default_factory=default_tokenizer, exclude=True, repr=False)

    _unsaved: dict[str, list[ChatMessage]] = PrivateAttr(
        default_factory=dict[str, list[ChatMessage]]
    )
    _refused: set[tuple[str, str]] = PrivateAttr(default_factory=set[tuple[str, str]])

    @override
    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        window = _without_question_twice(messages or [])
        asked_again = len(window) < len(messages or ()) and window[-1].role != MessageRole.USER
        session = block_kwargs.get("session_id") or _NO_SESSION
        threads = AsyncView(self.memos)
        try:
            turns = await threads.to_thread(self._read, window, session)
            turn = _turn_of(turns, asked_again=asked_again)
            if not self._known(turn, session):
                shown = [turn["id"] for turn in turns]
                await await_a_little(unread(self.memos, session=session, shown=shown))
            return await threads.to_thread(self._recall, turns, turn, session)
        except (*_DOWN, LimitExceeded) as error:
            _log.warning("this prompt gets no memories: %s", error)
            return ""

    @override
    async def aput(
        self,
        messages: list[ChatMessage],
        from_short_term_memory: bool = False,
        session_id: str | None = None,
    ) -> None:
        """Remember messages that were not remembered when they were read."""
        # The inherited one writes the session into the caller's messages, where it costs tokens.
        if not from_short_term_memory or self.accept_short_term_memory:
            await self._keep(messages, session_id or _NO_SESSION)

    @override
    async def _aput(self, messages: list[ChatMessage]) -> None:
        await self._keep(messages, _NO_SESSION)

    @override
    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """Return a block that is shorter by some tokens, of its best memories; None without any."""
        if not content:
            return None
        room = len(self.tokenizer_fn(content)) - tokens_to_truncate
        lines = content.splitlines()
        while len(lines) > 1:  # the first says what the others are
            if len(self.tokenizer_fn(shorter := "\n".join(lines))) <= room:
                return shorter
            lines.pop()
        return None

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # Connections are shared, never copied, and so is what is still to be remembered.
        return self.model_copy()

    async def _keep(self, messages: Sequence[ChatMessage], session: str) -> None:
        waiting = [*self._unsaved.pop(session, []), *messages]
        try:
            await AsyncView(self.memos).to_thread(self._remember, waiting, session)
        except _DOWN as error:
            self._unsaved[session] = [*waiting, *self._unsaved.get(session, [])]
            _log.warning(
                "%d messages are remembered when the memory is back: %s", len(waiting), error
            )

    def _read(self, window: Sequence[ChatMessage], session: str) -> list[_Turn]:
        waiting = self._unsaved.pop(session, [])
        try:
            return self._remember([*waiting, *window], session)
        except _DOWN:
            if waiting:
                self._unsaved[session] = [*waiting, *self._unsaved.get(session, [])]
            raise

    def _remember(self, messages: Sequence[ChatMessage], session: str) -> list[_Turn]:
        """Return messages as turns under the ids that they have in the log, now that they do."""
        now = datetime.now(UTC)
        said = [said_in(message) for message in map(without_recall, messages) if message]
        said = [turn for turn in said if is_said(turn)]
        logged = self.memos.messages(session=session, retired=True)
        ids = ids_of(said, logged, by=self.memos.caller)
        turns: list[_Turn] = [
            turn | {"id": id, "created_at": now} for turn, id in zip(said, ids, strict=True)
        ]
        known = {message.id for message in logged}
        new = [
            turn
            for turn in turns
            if turn["id"] not in known and (session, turn["id"]) not in self._refused
        ]
        if new:
            self._ingest(new, session)
        return turns

    def _ingest(self, turns: Sequence[_Turn], session: str) -> None:
        try:
            remember(
                self.memos,
                turns,
                session=session,
                resolve=self.resolve,
                background=self.background,
            )
        except _REFUSED as refused:
            if len(turns) > 1:
                for turn in turns:  # one that is refused keeps out no other
                    self._ingest([turn], session)
                return
            if isinstance(refused, SensitiveText):  # and always will be
                self._refused.add((session, turns[0]["id"]))
            _log.warning("a message is not remembered: %s", refused)

    def _recall(self, turns: Sequence[_Turn], turn: Hashable, session: str) -> str:
        try:
            newest = _newest_question(turns)
            if newest is None or not self.k:
                return ""
            known = self._known(turn, session)
            if known and self.memos.stands(known.hits):
                return known.text
            recall = self.memos.recall(
                newest["content"], k=self.k, exclude_messages=[turn["id"] for turn in turns]
            )
            text = f"{NOTES}\n{unclosing(recall.text, self.name)}" if recall.text else ""
            recalled = Recalled(turn=turn, hits=recall.hits, text=text)
            keep_recalled(self.memos, self._recall_key(session), recalled)
            return text
        finally:
            begin(self.memos)  # while the model thinks

    def _known(self, turn: Hashable, session: str) -> Recalled | None:
        return recalled_in(self.memos, self._recall_key(session), turn) if turn else None

    def _recall_key(self, session: str) -> Hashable:
        return session, self.k, self.name


def _newest_question(turns: Sequence[_Turn]) -> _Turn | None:
    return next((turn for turn in reversed(turns) if turn["role"] == "user"), None)


def _turn_of(turns: Sequence[_Turn], *, asked_again: bool) -> Hashable:
    """Return what is the same as long as a prompt is for the same question; None without one.

    What is asked again after an answer may be for what an agent did meanwhile, or a new turn.
    """
    newest = _newest_question(turns)
    return (newest["id"], asked_again) if newest else None


def _without_question_twice(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Return messages without a question that follows the history it is in.

    After a round of tool calls agents ask again with the user's message, which is stored already.
    """
    if not messages or messages[-1].role != MessageRole.USER:
        return messages
    *before, last = messages
    earlier = (one for one in reversed(before) if one.role == MessageRole.USER)
    same = next(earlier, None)
    return before if same is not None and same.content == last.content else messages
