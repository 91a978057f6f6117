"""The memory of an agent or a chat engine."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Self, TypeVar
from uuid import uuid4

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.schema import QueryType
from pydantic import ConfigDict, Field
from typing_extensions import override

from memos_core import AsyncView, Caller, ChatFn, InvalidInput, Message, View
from memos_core.background import await_a_little, wait_a_little
from memos_llamaindex.behind import Flushing, begin, remember, unread
from memos_llamaindex.given import GivenResolve, GivenSession, GivenView
from memos_llamaindex.history import end_of_history, whole_history
from memos_llamaindex.recall import (
    Recalled,
    keep_recalled,
    memory_block,
    recalled_in,
    with_recall,
)
from memos_llamaindex.registry import DEFAULT_BACKEND, mark_of, reattached
from memos_llamaindex.transcript import chat_message, turns_from, turns_to_become
from memos_llamaindex.window import Tokenizer, Window, default_tokenizer

P = ParamSpec("P")
R = TypeVar("R")

TOKEN_LIMIT = 30_000  # as that of LlamaIndex's own Memory
_SAVED = frozenset(("namespace", "session_id", "token_limit", "k", "backend"))
MEMORY_SHARE = 4  # memories take at most this part of the token limit: a fourth


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prompt:
    """A prompt to be made: of what, about what, and what it waits for."""

    window: Window
    question: str = ""
    turn: Hashable = None  # None where the question is not stored yet
    known: Recalled | None = None  # from before in this turn
    unread: list[Future[None]] = field(default_factory=list[Future[None]])


class MemOSMemory(Flushing, BaseMemory):
    """A session's history, and what all sessions of a view remember, for agents and chat engines.

    Messages are stored when they are put, at once and for good. ``get`` gives the newest turns that
    fit ``token_limit`` and, before the newest user message's text, up to ``k`` memories that answer
    it: turns of other sessions, or of this one where they no longer fit.

    Memories are made of what was put behind the answer: a ``get`` waits for what other sessions
    said before, ``flush`` for all, as closing the MemOS does. What a process leaves unread is read
    by a later one. With ``background=False`` memories are made before ``put`` returns.

    Pass one to ``agent.run(..., memory=memory)`` or to a chat engine. It survives a saved context:
    what is saved names the namespace and the ``backend``, under which ``attach`` makes a MemOS
    known in another process, with the functions that are not saved: the ``tokenizer_fn`` (else
    LlamaIndex's global tokenizer counts) and a language model that resolves.

    With ``resolve``, a turn changes the memory that it repeats or contradicts, as ``View.ingest``
    tells: by its rules, or as a language model decides (``messages -> text``), for which no ``get``
    waits. The history keeps every turn.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: GivenView = Field(exclude=True)
    session_id: GivenSession = Field(default_factory=lambda: str(uuid4()))
    token_limit: int = Field(default=TOKEN_LIMIT, gt=0)
    k: int = Field(default=5, ge=0)
    tokenizer_fn: Tokenizer = Field(default_factory=default_tokenizer, exclude=True, repr=False)
    resolve: GivenResolve = Field(default=False, exclude=True, repr=False)
    background: bool = True
    backend: str = DEFAULT_BACKEND

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
        chat_history: Sequence[ChatMessage] | None = None,
        llm: LLM | None = None,
        token_limit: int | None = None,
        tokenizer_fn: Tokenizer | None = None,
        k: int = 5,
        resolve: bool | ChatFn = False,
        background: bool = True,
        backend: str = DEFAULT_BACKEND,
    ) -> Self:
        """Return the memory of a session; a new session where none is named.

        ``memos`` is the user's part of a MemOS: a view, such as ``memos.at("acme", "ann")``.
        Messages in ``chat_history`` become the session's history, as by ``set``. Without a
        ``token_limit`` it is three quarters of what the ``llm`` can read, or 30,000.
        """
        if token_limit is None:
            token_limit = llm.metadata.context_window * 3 // 4 if llm else TOKEN_LIMIT
        memory = cls(
            memos=memos,
            session_id=session_id or str(uuid4()),
            token_limit=token_limit,
            tokenizer_fn=tokenizer_fn or default_tokenizer(),
            k=k,
            resolve=resolve,
            background=background,
            backend=backend,
        )
        if chat_history:
            memory.set(chat_history)
        return memory

    def get(self, input: QueryType | ChatMessage | None = None, **kwargs: Any) -> list[ChatMessage]:
        """Return the messages of the next prompt, with what is remembered about ``input``.

        ``input`` is the question where it is not stored yet; else the newest user message is.
        ``initial_token_count`` is what the caller's own messages take of the token limit.
        """
        prompt = self._prompt(input, **kwargs)
        wait_a_little(prompt.unread)
        return self._messages(prompt)

    def get_all(self) -> list[ChatMessage]:
        """Return the whole history of the session, without memories."""
        return [chat_message(message) for message in whole_history(self.memos, self.session_id)]

    def put(self, message: ChatMessage) -> None:
        """Append a message to the session, and remember it."""
        self.put_messages([message])

    def put_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Append messages to the session, all or none, and remember them.

        Raises:
            InvalidInput: a message cannot be stored; none was.
            SensitiveText, LimitExceeded: the rules of the namespace refuse one; none was stored.
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
        self, input: QueryType | ChatMessage | None = None, **kwargs: Any
    ) -> list[ChatMessage]:
        prompt, messages = await self._to_thread(self._prompt_at_once, input, **kwargs)
        if messages is None:
            await await_a_little(prompt.unread)  # not on the threads that read
            messages = await self._to_thread(self._messages, prompt)
        return messages

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
            "background": self.background,
            "backend": self.backend,
            "mark": self._mark(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the memory that ``to_dict`` described, on the MemOS attached in this process.

        Raises:
            memos_core.InvalidInput: it is no such description, or no such MemOS is attached.
        """
        fields: dict[str, Any] = {**data, **kwargs}
        if lacking := _SAVED - fields.keys():
            raise InvalidInput(
                f"this is no saved MemOSMemory: it lacks {', '.join(sorted(lacking))}"
            )
        found = reattached(
            fields["namespace"],
            name=fields["backend"],
            mark=fields.get("mark"),
            caller=_caller_from(fields.get("caller")),
        )
        return cls(
            memos=found.memos,
            session_id=fields["session_id"],
            token_limit=fields["token_limit"],
            tokenizer_fn=found.tokenizer_fn or default_tokenizer(),
            k=fields["k"],
            # What was saved before these fields has none.
            resolve=bool(fields.get("resolve")) and (found.resolve or True),
            background=fields.get("background", True),
            backend=fields["backend"],
        )

    def model_post_init(self, context: Any, /) -> None:
        """Make the MemOS known under its name."""
        super().model_post_init(context)
        self._mark()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # Connections are shared, never copied; all else is immutable.
        return self.model_copy()

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Self], tuple[dict[str, Any]]]:
        return type(self).from_dict, (self.to_dict(),)

    def _mark(self) -> str:
        return mark_of(
            self.memos, name=self.backend, tokenizer_fn=self.tokenizer_fn, resolve=self.resolve
        )

    def _remember(self, turns: Sequence[dict[str, Any]]) -> None:
        remember(
            self.memos,
            turns,
            session=self.session_id,
            resolve=self.resolve,
            background=self.background,
        )

    def _prompt(self, input: QueryType | ChatMessage | None = None, **kwargs: Any) -> _Prompt:
        asked = _text_of(input).strip()
        window = self._window(kwargs.get("initial_token_count") or 0, asked=bool(asked))
        newest = window.question
        question = asked or (newest.content.strip() if newest else "")
        if not self.k or not question:
            return _Prompt(window=window)
        # A question that is not stored yet is asked anew each time: no message tells its turn.
        stored = newest is not None and newest.content.strip() == question
        turn = (newest.id, question) if newest and stored else None
        known = turn and recalled_in(self.memos, self._recall_key(), turn)
        shown = window.ids(self._shown(window))
        waits = [] if known else unread(self.memos, session=self.session_id, shown=shown)
        return _Prompt(window=window, question=question, turn=turn, known=known, unread=waits)

    def _prompt_at_once(
        self, input: QueryType | ChatMessage | None = None, **kwargs: Any
    ) -> tuple[_Prompt, list[ChatMessage] | None]:
        prompt = self._prompt(input, **kwargs)
        return prompt, None if prompt.unread else self._messages(prompt)

    def _window(self, initial_token_count: int, *, asked: bool) -> Window:
        budget = self.token_limit - initial_token_count
        last: list[Window] = []

        def is_enough(history: Sequence[Message]) -> bool:
            # Where the oldest turn that was read is shown, those before it might be.
            last[:] = [Window(history, self.tokenizer_fn, budget, asked=asked)]
            return 0 not in last[0].shown()

        history = end_of_history(self.memos, self.session_id, is_enough=is_enough)
        if last and last[0].history is history:
            return last[0]  # its tokens are counted
        return Window(history, self.tokenizer_fn, budget, asked=asked)

    def _messages(self, prompt: _Prompt) -> list[ChatMessage]:
        try:
            block = self._block(prompt)
        finally:
            begin(self.memos)  # while the model thinks
        window = prompt.window
        shown = self._shown(window) if block else window.shown()
        return with_recall(window.messages(shown), block)

    def _shown(self, window: Window) -> list[int]:
        """Return the positions of what is shown beside memories, however few these come to be.

        What had to make room for them can be one of them.
        """
        shown, share = window.shown(), self.token_limit // MEMORY_SHARE
        full = window.tokens(shown) + share > window.budget
        return window.shown(besides=share) if full else shown

    def _block(self, prompt: _Prompt) -> str:
        known, window = prompt.known, prompt.window
        if not prompt.question:
            return ""
        least = window.tokens(window.shown(besides=window.budget))
        room = min(self.token_limit // MEMORY_SHARE, window.budget - least)
        if room <= 0:
            return ""
        if known and window.count(known.text) <= room and self.memos.stands(known.hits):
            return known.text
        recall = self.memos.recall(
            prompt.question,
            k=self.k,
            token_limit=room,
            count_tokens=lambda text: window.count(memory_block(text)),
            exclude_messages=window.ids(self._shown(window)),
        )
        block = memory_block(recall.text)
        if prompt.turn:
            recalled = Recalled(turn=prompt.turn, hits=recall.hits, text=block)
            keep_recalled(self.memos, self._recall_key(), recalled)
        return block

    def _recall_key(self) -> Hashable:
        return self.session_id, self.k, self.token_limit

    async def _to_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        # The whole of it, counting tokens included: not on the loop.
        return await AsyncView(self.memos).to_thread(function, *args, **kwargs)


def _text_of(input: QueryType | ChatMessage | None) -> str:
    # Context engines may be asked a QueryBundle, which is its question as text.
    return str((input.content if isinstance(input, ChatMessage) else input) or "")


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
