"""A chat store for LlamaIndex's own ``Memory``."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from itertools import groupby
from typing import Any, Literal, Self, cast
from uuid import uuid4

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from pydantic import ConfigDict, Field
from typing_extensions import override

from memos_core import AsyncView, Message, Namespace
from memos_llamaindex.behind import Flushing, remember
from memos_llamaindex.given import GivenResolve, GivenView
from memos_llamaindex.transcript import (
    NO_TURN,
    chat_message,
    is_pointer,
    order_of,
    pointer_to,
    turns_anew,
    turns_from,
)

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED
_STATUS = "llamaindex_status"  # of a message that is not active from the beginning
_CHANGE = "llamaindex_change"  # what became of the messages with the ids that stand beside it
_IDS = "llamaindex_ids"

# ``Memory`` asks for the n oldest to be archived by what it read before. Who reads and archives at
# the same time means the same messages, and not the next n.
_read: ContextVar[tuple[Namespace, str, tuple[str, ...]] | None] = ContextVar("read", default=None)

_Standing = dict[str, tuple[Message, MessageStatus]]


class MemOSChatStore(Flushing, AsyncDBChatStore):
    """The histories of sessions in a view, for ``Memory.from_defaults(chat_store=…)``.

    A key is a session. What users and assistants say is remembered when it is added, and a
    ``MemOSMemoryBlock`` of the same view, or a retriever, finds it in other sessions. What is
    deleted leaves the history; the memory of it stays until it is forgotten, and what is forgotten
    leaves the history. With ``resolve``, a turn changes the memory that it repeats or contradicts,
    as ``View.ingest`` tells.

    What is added is stored at once, and memories are made of it behind the answer, for which
    ``flush`` waits; with ``background=False``, before it is added.

    Of two that archive at the same time what both read as the oldest, one does it.

    Raises:
        memos_core.InvalidInput: a message or a key cannot be stored; nothing was.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memos: GivenView = Field(exclude=True)
    resolve: GivenResolve = Field(default=False, exclude=True, repr=False)
    background: bool = True

    @classmethod
    @override
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows this class."""
        return "MemOSChatStore"

    @override
    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return a session's messages of a status, in order; None is any."""
        standing = _with(status, await self._standing(key))
        if status == ACTIVE and limit is None and not offset:
            _read.set((self.memos.namespace, key, tuple(standing)))
        start = offset or 0
        chosen = list(standing.values())[start : None if limit is None else start + limit]
        return [chat_message(message) for message, _ in chosen]

    @override
    async def count_messages(self, key: str, status: MessageStatus | None = ACTIVE) -> int:
        return len(_with(status, await self._standing(key)))

    @override
    async def add_message(
        self, key: str, message: ChatMessage, status: MessageStatus = ACTIVE
    ) -> None:
        await self.add_messages(key, [message], status)

    @override
    async def add_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = ACTIVE
    ) -> None:
        """Append messages to a session, all or none, and remember them."""
        await self._ingest(key, [_marked(turn, status) for turn in turns_from(messages)])

    @override
    async def set_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = ACTIVE
    ) -> None:
        """Make messages all that a session has; what was said in it is not remembered twice."""
        logged = await self._logged(key)
        new, order = turns_anew(messages, logged, [one for one, _ in _standing(logged).values()])
        changes = [] if status == ACTIVE else [_change("archived", order)]
        _read.set(None)  # what was read before is no longer the oldest
        await self._ingest(key, [*new, pointer_to(order, logged), *changes])

    @override
    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the active message at a position, and return it; None where there is none."""
        active = list(_with(ACTIVE, await self._standing(key)).values())
        if not 0 <= idx < len(active):
            return None
        message, _ = active[idx]
        _read.set(None)
        await self._ingest(key, [_change("deleted", [message.id])])
        return chat_message(message)

    @override
    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete a session's messages of a status; None is any."""
        _read.set(None)
        if status is None:
            await AsyncView(self.memos).retire(key)
        elif ids := list(_with(status, await self._standing(key))):
            await self._ingest(key, [_change("deleted", ids)])

    @override
    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        return await self._end(key, n, "deleted")

    @override
    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        return await self._end(key, n, "archived")

    @override
    async def get_keys(self) -> list[str]:
        """Return the sessions that have messages; for this every message of the view is read."""
        logged = await AsyncView(self.memos).messages(retired=True)
        by_session = sorted(logged, key=lambda one: one.session or "")
        sessions = groupby(by_session, key=lambda one: one.session or "")
        return [session for session, its in sessions if session and _standing(list(its))]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()  # connections are shared, never copied

    async def _end(
        self, key: str, n: int, change: Literal["archived", "deleted"]
    ) -> list[ChatMessage]:
        """Archive or delete the oldest ``n`` active messages, and return those that it was."""
        active = _with(ACTIVE, await self._standing(key))
        read = _read.get()
        here = (self.memos.namespace, key)
        known = read[2] if read and read[:2] == here else ()
        oldest = [*known, *(id for id in active if id not in known)][: max(n, 0)]
        if ended := [id for id in oldest if id in active]:
            await self._ingest(key, [_change(change, ended)])
        if known:
            gone = set(oldest)
            _read.set((*here, tuple(id for id in known if id not in gone)))
        return [chat_message(active[id][0]) for id in ended]

    async def _standing(self, key: str) -> _Standing:
        return _standing(await self._logged(key))

    async def _logged(self, key: str) -> list[Message]:
        return await AsyncView(self.memos).messages(session=key, retired=True)

    async def _ingest(self, key: str, turns: Sequence[dict[str, Any]]) -> None:
        if turns:
            await AsyncView(self.memos).to_thread(
                remember,
                self.memos,
                turns,
                session=key,
                resolve=self.resolve,
                background=self.background,
            )


def _standing(logged: Sequence[Message]) -> _Standing:
    """Return what a session's log stands for: its messages in order, each with its status.

    Changes name messages by their ids, so that two that are made at the same time both hold.
    """
    said = {one.id: one for one in logged if one.role != NO_TURN}
    places = {one.id: at for at, one in enumerate(logged)}
    status: dict[str, MessageStatus] = {}
    for at, one in enumerate(logged):
        if one.retired:
            continue
        if is_pointer(one):
            order, last = order_of(one)
            after = places.get(last, at)
            later = {id: now for id, now in status.items() if places[id] > after}
            status = {id: ACTIVE for id in order if id in said} | {
                id: now for id, now in later.items() if id not in order
            }
        elif _CHANGE in one.extra:
            for id in cast("list[str]", one.extra[_IDS]):
                if one.extra[_CHANGE] == "deleted":
                    status.pop(id, None)
                elif id in status:
                    status[id] = ARCHIVED
        elif one.id in said:
            status[one.id] = MessageStatus(cast("str", one.extra.get(_STATUS, ACTIVE.value)))
    return {id: (said[id], now) for id, now in status.items()}


def _with(status: MessageStatus | None, standing: _Standing) -> _Standing:
    return {id: one for id, one in standing.items() if status is None or one[1] == status}


def _marked(turn: dict[str, Any], status: MessageStatus) -> dict[str, Any]:
    return turn if status == ACTIVE else turn | {_STATUS: status.value}


def _change(change: Literal["archived", "deleted"], ids: Sequence[str]) -> dict[str, Any]:
    return {"id": str(uuid4()), "role": NO_TURN, "content": "", _CHANGE: change, _IDS: list(ids)}
