"""Memory for agents made with ``create_agent``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.tools import BaseTool
from langgraph.config import get_config
from langgraph.runtime import Runtime
from typing_extensions import override

from memos_core import AsyncView, ChatFn, Recall, View
from memos_core.background import (
    Background,
    await_a_little,
    await_for,
    wait_a_little,
    wait_for,
)
from memos_core.fusion import checked_resolve
from memos_core.latest import Latest
from memos_langchain.tools import (
    create_forget_memory_tool,
    create_manage_memory_tool,
    create_search_memory_tool,
)
from memos_langchain.turns import Thread, newest_question, turn
from memos_langchain.whose import Whose

State = AgentState[Any]

_BLOCK = "Memories of earlier conversations that may help:\n{memories}\n\n"


class MemOSMiddleware(AgentMiddleware[State, Any, Any]):
    """Recalls for every message of the user, remembers every turn.

    ``MemOSMiddleware(memos.at("acme", "ann"))`` gives all runs one memory. For many users,
    ``MemOSMiddleware(memos, namespace=("acme", "{user_id}"))`` fills the labels from the run's
    context, else from its config's ``configurable``.

    What is recalled stands at the head of the newest user message, for the model's eyes only: it is
    the same in every call of a run, the prompt up to there does not change, and nothing is added to
    the conversation. Turns that the model sees anyway are not recalled, and nothing that was
    changed or forgotten meanwhile.

    The user's message is stored before the model is asked and each answer as it comes: an exception
    or an interrupt loses nothing, and a resumed run, or a history sent again, stores nothing twice.
    What middleware before this one makes of a message, such as a redaction, is what is stored. Of
    what a tool returned, NUL bytes and the like are replaced, and what is too long is cut.

    Memories are made of what was stored behind the run, so that no answer waits for it: ``flush``
    waits, as closing the MemOS does. What a process leaves unread is read by a later run.

    Args:
        memos: a view; with ``namespace``, the MemOS to take views of. None is the memory of the
            agent's ``MemOSStore``, in which ``namespace`` then is.
        namespace: labels with ``{names}`` of what the run provides.
        user: who acts, by his own rights: a template, too.
        k: how many memories to recall at the most.
        min_score: what a memory must score to be recalled.
        token_limit: what the memories may take of the prompt, as LangChain approximates tokens.
        resolve: let a turn change the memory that it repeats or contradicts, as ``View.ingest``
            does: by its rules, or as a language model decides (``messages -> text``). What it is
            still at, a run that begins does not recall; without it, a run waits for what earlier
            ones said, two seconds at most.
        background: False makes memories of a message before the run goes on.
        tools: give the agent tools to search, keep and forget memories itself.
        name: must differ between two of these in one agent.

    Raises:
        InvalidInput: ``namespace`` is no template; in a run, it does not provide a name of it.
    """

    def __init__(
        self,
        memos: View | None = None,
        *,
        namespace: Sequence[str] | None = None,
        user: str | None = None,
        k: int = 5,
        min_score: float | None = None,
        token_limit: int = 1_000,
        resolve: bool | ChatFn = False,
        background: bool = True,
        tools: bool = False,
        name: str = "MemOSMiddleware",
    ) -> None:
        super().__init__()
        self._whose = Whose.of(memos, namespace, user)
        self._options: dict[str, Any] = {
            "k": k,
            "min_score": min_score,
            "token_limit": token_limit,
            "count_tokens": _tokens,
        }
        self._resolve = checked_resolve(resolve)
        self._in_background = background
        self._name = name
        self._stored = Latest[None]()
        self._recalls = Latest[Recall]()
        self._background = Background()
        self.tools = _tools(memos, namespace, user) if tools else []

    @property
    @override
    def name(self) -> str:
        return self._name

    def flush(self, timeout: float | None = None) -> None:
        """Wait until memories are made of all that was stored by this middleware.

        Raises:
            TimeoutError: they are not within ``timeout`` seconds.
            MemOSError: the first that could not be made, since the last flush; it is stored, and
                a later run tries again.
        """
        wait_for(self._background.pending(), timeout)
        self._background.raise_failure()

    async def aflush(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 as the blocking twin
    ) -> None:
        """Wait as ``flush`` does, and let others run."""
        await await_for(self._background.pending(), timeout)
        self._background.raise_failure()

    # --- the hooks, each in both twins ------------------------------------------------------------

    @override
    def before_model(self, state: State, runtime: Runtime[Any]) -> None:
        self._store(state, runtime)

    @override
    async def abefore_model(self, state: State, runtime: Runtime[Any]) -> None:
        await self._astore(state, runtime)

    @override
    def after_model(self, state: State, runtime: Runtime[Any]) -> None:
        self._store(state, runtime)
        self._background.begin(soon=True)

    @override
    async def aafter_model(self, state: State, runtime: Runtime[Any]) -> None:
        await self._astore(state, runtime)
        self._background.begin(soon=True)

    @override
    def after_agent(self, state: State, runtime: Runtime[Any]) -> None:
        self._store(state, runtime)
        self._background.begin(soon=True)

    @override
    async def aafter_agent(self, state: State, runtime: Runtime[Any]) -> None:
        await self._astore(state, runtime)
        self._background.begin(soon=True)

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        wait_a_little(self._unread(request))
        try:
            request = self._with_memories(request)
        finally:
            self._background.begin()  # while the model thinks
        return handler(request)

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        await await_a_little(self._unread(request))  # not on the threads that read
        threads = AsyncView(self._view(request.runtime))
        try:
            request = await threads.to_thread(self._with_memories, request)
        finally:
            self._background.begin()  # while the model thinks
        return await handler(request)

    # --- remembering ------------------------------------------------------------------------------

    def _store(self, state: State, runtime: Runtime[Any]) -> None:
        view, thread = self._view(runtime), Thread.of(runtime)
        said = {
            _key(view, thread, message): turn(id, message)
            for id, message in thread.identified(state["messages"])
        }
        new = {key: one for key, one in said.items() if key not in self._stored}
        if not new:
            return
        read = view.ingest_later(
            list(new.values()), session=thread.session, repair=True, resolve=self._resolve
        )
        behind = self._in_background and not view.engine.in_pipeline  # that is one thread's
        if not behind:
            read()
        for key in new:
            self._stored[key] = None
        if behind:
            self._background.submit(view, new, read, slow=callable(self._resolve))

    async def _astore(self, state: State, runtime: Runtime[Any]) -> None:
        await AsyncView(self._view(runtime)).to_thread(self._store, state, runtime)

    # --- recalling --------------------------------------------------------------------------------

    def _unread(self, request: ModelRequest[Any]) -> list[Future[None]]:
        """Return what to wait for: other conversations, unless a language model reads them."""
        view, thread = self._view(request.runtime), Thread.of(request.runtime)
        own = {_key(view, thread, message) for _, message in _said(thread, request)}
        return self._background.pending(view.namespace, but=own, slow=False)

    def _with_memories(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        messages = list(request.messages)
        newest = newest_question(messages)
        if newest is None:
            return request
        asked = messages[newest]
        recall = self._recall(request, asked)
        if not recall.text:
            return request
        messages[newest] = _with_block(asked, _BLOCK.format(memories=recall.text))
        return request.override(messages=messages)

    def _recall(self, request: ModelRequest[Any], asked: AnyMessage) -> Recall:
        view, thread = self._view(request.runtime), Thread.of(request.runtime)
        key = _key(view, thread, asked)
        known = self._recalls.get(key)
        if known is None or not view.stands(known.hits):
            in_prompt = {message.id for message in request.messages}
            seen = [id for id, message in _said(thread, request) if message.id in in_prompt]
            known = view.recall(str(asked.text), exclude_messages=seen, **self._options)
            self._recalls[key] = known
        return known

    # --- whose memory -----------------------------------------------------------------------------

    def _view(self, runtime: Runtime[Any]) -> View:
        return self._whose.view(runtime.context, get_config(), runtime.store)


def _tools(memos: View | None, namespace: Sequence[str] | None, user: str | None) -> list[BaseTool]:
    return [
        create_search_memory_tool(memos, namespace=namespace, user=user),
        create_manage_memory_tool(
            memos, namespace=namespace, user=user, actions_permitted=("create", "update")
        ),
        create_forget_memory_tool(memos, namespace=namespace, user=user),
    ]


def _said(thread: Thread, request: ModelRequest[Any]) -> Iterator[tuple[str, AnyMessage]]:
    return thread.identified(cast("Any", request.state)["messages"])


def _key(view: View, thread: Thread, message: AnyMessage) -> tuple[object, ...]:
    # Two runs may name different messages alike, and a message may be edited.
    asker = view.caller and view.caller.user
    return view.namespace, asker, thread.session, message.id, hash(str(message.text))


def _with_block(message: AnyMessage, block: str) -> AnyMessage:
    content = message.content
    longer = (
        block + content if isinstance(content, str) else [{"type": "text", "text": block}, *content]
    )
    return message.model_copy(update={"content": longer})


def _tokens(text: str) -> int:
    return count_tokens_approximately([HumanMessage(text)])
