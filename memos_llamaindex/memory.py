"""The memory of an agent or a chat engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar
from uuid import uuid4

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import BaseMemory
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation
from typing_extensions import override

from memos_core import AsyncView, Caller, ChatFn, Hit, Message, Recall, View
from memos_llamaindex.recall import memory_block, with_recall
from memos_llamaindex.registry import DEFAULT_BACKEND, mark_of, reattached
from memos_llamaindex.transcript import chat_message, history_of, turns_from, turns_to_become
from memos_llamaindex.window import Tokenizer, default_tokenizer, fitting, tokens_of

P = ParamSpec("P")
R = TypeVar("R")

MEMORY_SHARE = 4  # memories take at most this part of the token limit: a fourth


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recalled:
    """What was recalled in a turn: for which message and question, and the block made of it."""

    turn: tuple[str, str]
    hits: tuple[Hit, ...]
    block: str


class MemOSMemory(BaseMemory):
    """A session's history, and what all sessions of a view remember, for agents and chat engines.

    Messages are stored when they are put, at once and for good. ``get`` gives the newest turns that
    fit ``token_limit`` and, before the newest user message's text, up to ``k`` memories that answer
    it: turns of other sessions, or of this one where they no longer fit.

    Pass one to ``agent.run(..., memory=memory)`` or to a chat engine. It survives a saved context:
    what is saved names the namespace and the ``backend``, under which ``attach`` makes a MemOS
    known in another process. A ``tokenizer_fn`` is not saved: a restored memory counts with
    LlamaIndex's global tokenizer. With ``resolve``, a turn changes the memory that it repeats or
    contradicts, as ``View.ingest`` tells: by its rules, or as a language model decides, which is
    not saved either. The history keeps every turn.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memos: View = Field(exclude=True)
    session_id: str = Field(default_factory=lambda: str(uuid4()))
    token_limit: int = Field(default=30_000, gt=0)
    k: int = Field(default=5, ge=0)
    tokenizer_fn: Tokenizer = Field(default_factory=default_tokenizer, exclude=True, repr=False)
    resolve: SkipValidation[bool | ChatFn] = Field(default=False, exclude=True, repr=False)
    backend: str = DEFAULT_BACKEND

    # The memories of the turn under way: an agent reads once for every round of tool calls, and a
    # prompt whose beginning stays the same is cheaper.
    _recalled: _Recalled | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows this class."""
        return "MemOSMemory"

    @classmethod
    def from_defaults(  # pyright: ignore[reportIncompatibleMethodOverride] there is none without a view
        cls,
        *,
        memos: View,
        session_id: str | None = None,
        token_limit: int = 30_000,
        tokenizer_fn: Tokenizer | None = None,
        k: int = 5,
        resolve: bool | ChatFn = False,
        backend: str = DEFAULT_BACKEND,
    ) -> Self:
        """Return the memory of a session; a new session where none is named.

        ``memos`` is the user's part of a MemOS: a view, such as ``memos.at("acme", "ann")``.
        """
        return cls(
            memos=memos,
            session_id=session_id or str(uuid4()),
            token_limit=token_limit,
            tokenizer_fn=tokenizer_fn or default_tokenizer(),
            k=k,
            resolve=resolve,
            backend=backend,
        )

    def get(self, input: str | ChatMessage | None = None, **kwargs: Any) -> list[ChatMessage]:
        """Return the messages of the next prompt, with what is remembered about ``input``.

        ``input`` is the question where it is not stored yet; else the newest user message is.
        ``initial_token_count`` is what the caller's own messages take of the token limit.
        """
        history = self._history()

        @functools.cache
        def message(at: int) -> ChatMessage:
            return chat_message(history[at])

        @functools.cache
        def cost(at: int) -> int:
            return tokens_of(message(at), self.tokenizer_fn)

        budget = self.token_limit - int(kwargs.get("initial_token_count") or 0)
        window = functools.partial(fitting, [one.role for one in history], cost)
        asked = input.content if isinstance(input, ChatMessage) else input
        block = self._recall(asked, history, window, cost, budget)
        shown = window(budget - self._count(block))
        return with_recall([message(at) for at in shown], block)

    def get_all(self) -> list[ChatMessage]:
        """Return the whole history of the session, without memories."""
        return [chat_message(message) for message in self._history()]

    def put(self, message: ChatMessage) -> None:
        """Append a message to the session, and remember it."""
        self.put_messages([message])

    def put_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Append messages to the session, all or none, and remember them.

        Raises:
            memos_core.InvalidInput: a message cannot be stored; none was.
        """
        self._remember(turns_from(messages))

    def set(self, messages: Sequence[ChatMessage]) -> None:
        """Make ``messages`` the session's history.

        Those that were said in this session already are not remembered twice; those that leave the
        history stay in the long-term memory.
        """
        logged = self.memos.messages(session=self.session_id, retired=True)
        turns = turns_to_become(messages, logged)
        self._remember(turns)

    def reset(self) -> None:
        """End the session's history; the long-term memory stays."""
        self.memos.retire(self.session_id)

    @override
    async def aget(
        self, input: str | ChatMessage | None = None, **kwargs: Any
    ) -> list[ChatMessage]:
        return await self._to_thread(self.get, input, **kwargs)

    @override
    async def aget_all(self) -> list[ChatMessage]:
        return await self._to_thread(self.get_all)

    @override
    async def aput(self, message: ChatMessage) -> None:
        await self._to_thread(self.put, message)

    @override
    async def aput_messages(self, messages: Sequence[ChatMessage]) -> None:
        await self._to_thread(self.put_messages, messages)

    @override
    async def aset(self, messages: Sequence[ChatMessage]) -> None:
        await self._to_thread(self.set, messages)

    @override
    async def areset(self) -> None:
        await self._to_thread(self.reset)

    def to_dict(self, **_kwargs: Any) -> dict[str, Any]:
        """Return what ``from_dict`` needs to find this memory again: plain JSON, no secrets."""
        return {
            "class_name": self.class_name(),
            "namespace": list(self.memos.namespace),
            "caller": _caller_as_json(self.memos.caller),
            "session_id": self.session_id,
            "token_limit": self.token_limit,
            "k": self.k,
            "resolve": bool(self.resolve),
            "backend": self.backend,
            "mark": mark_of(self.memos, name=self.backend),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the memory that ``to_dict`` described, on the MemOS attached in this process.

        Raises:
            memos_core.InvalidInput: no such MemOS is attached.
        """
        fields: dict[str, Any] = {**data, **kwargs}
        view = reattached(
            fields["namespace"],
            name=fields["backend"],
            mark=fields.get("mark"),
            caller=_caller_from(fields.get("caller")),
        )
        return cls(
            memos=view,
            session_id=fields["session_id"],
            token_limit=fields["token_limit"],
            k=fields["k"],
            resolve=fields.get("resolve", False),  # what was saved before this field has none
            backend=fields["backend"],
        )

    def model_post_init(self, context: Any, /) -> None:
        """Make the MemOS known under its name."""
        super().model_post_init(context)
        mark_of(self.memos, name=self.backend)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # Connections are shared, never copied; all else is immutable.
        return self.model_copy()

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Self], tuple[dict[str, Any]]]:
        return type(self).from_dict, (self.to_dict(),)

    def _remember(self, turns: Sequence[dict[str, Any]]) -> None:
        self.memos.ingest(turns, session=self.session_id, repair=True, resolve=self.resolve)

    def _history(self) -> list[Message]:
        return history_of(self.memos.messages(session=self.session_id, retired=True))

    def _recall(
        self,
        asked: str | None,
        history: Sequence[Message],
        window: Callable[[int], list[int]],
        cost: Callable[[int], int],
        budget: int,
    ) -> str:
        newest = next((one for one in reversed(history) if one.role == "user"), None)
        question = (asked or (newest.content if newest else "")).strip()
        if not self.k or not question:
            return ""
        # A question that is not stored yet is asked anew each time: no message tells its turn.
        stored = newest is not None and newest.content.strip() == question
        turn = (newest.id, question) if newest and stored else None
        if (last := self._recalled) and last.turn == turn and self.memos.stands(last.hits):
            return last.block

        share = self.token_limit // MEMORY_SHARE
        shown = window(budget)
        tokens = min(share, budget - sum(map(cost, window(0))))
        recall = self._unseen(question, history, shown, tokens)
        if recall.hits and sum(map(cost, shown)) + share > budget:
            shown = window(budget - share)  # what makes room can be recalled too
            recall = self._unseen(question, history, shown, tokens)
        block = memory_block(recall.text)
        if turn:
            self._recalled = _Recalled(turn=turn, hits=recall.hits, block=block)
        return block

    def _unseen(
        self, question: str, history: Sequence[Message], shown: Sequence[int], tokens: int
    ) -> Recall:
        return self.memos.recall(
            question,
            k=self.k,
            token_limit=tokens,
            count_tokens=lambda text: self._count(memory_block(text)),
            exclude_messages=[history[at].id for at in shown],
        )

    def _count(self, text: str) -> int:
        return len(self.tokenizer_fn(text)) if text else 0

    async def _to_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        # The whole of it, counting tokens included: not on the loop.
        return await AsyncView(self.memos).to_thread(function, *args, **kwargs)


def _caller_as_json(caller: Caller | None) -> dict[str, Any] | None:
    if caller is None:
        return None
    return {
        "user": caller.user,
        "roles": list(caller.roles),
        "context": dict(caller.context),
    }


def _caller_from(fields: dict[str, Any] | None) -> Caller | None:
    if fields is None:
        return None
    return Caller(user=fields["user"], roles=tuple(fields["roles"]), context=fields["context"])
