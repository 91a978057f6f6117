"""Memory for agents made with ``create_agent``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired, cast

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately
from langgraph.channels import UntrackedValue  # pyright: ignore[reportMissingTypeStubs] it has none
from langgraph.config import get_config
from langgraph.runtime import Runtime
from typing_extensions import override

from memos_core import AsyncView, Hit, InvalidInput, MemOS, View, render_memories

_BLOCK = "Memories of earlier conversations that may help:\n{memories}\n\n"


class MemoryState(AgentState[Any]):
    """An agent's state with what each middleware recalled for the run, by the middleware's name.

    Never checkpointed, never shown.
    """

    memos_recalled: NotRequired[Annotated[dict[str, str], UntrackedValue, PrivateStateAttr]]


class MemOSMiddleware(AgentMiddleware[MemoryState, Any, Any]):
    """Recalls once a run, remembers every turn.

    ``MemOSMiddleware(memos.at("acme", "ann"))`` gives all runs one memory. For many users,
    ``MemOSMiddleware(memos, namespace=("acme", "{user_id}"))`` fills the labels from the run's
    context, else from its config's ``configurable``.

    What is recalled stands at the head of the newest user message, for the model's eyes only: the
    prompt up to there stays the same from call to call, and nothing is added to the conversation.
    Turns that the model sees anyway are not recalled.

    The user's message is stored before the model is asked and each answer as it comes, by message
    id: an exception or an interrupt loses nothing, and a resumed run stores nothing twice.

    Args:
        memos: a view; with ``namespace``, the MemOS to take views of.
        namespace: labels with ``{names}`` of what the run provides.
        k: how many memories to recall at the most.
        min_score: what a memory must score to be recalled.
        token_limit: what the memories may take of the prompt, as LangChain approximates tokens.
        name: must differ between two of these in one agent.

    Raises:
        InvalidInput: in a run that does not provide a name of ``namespace``.
    """

    state_schema = MemoryState

    def __init__(
        self,
        memos: View,
        *,
        namespace: Sequence[str] | None = None,
        k: int = 5,
        min_score: float | None = None,
        token_limit: int = 1_000,
        name: str = "MemOSMiddleware",
    ) -> None:
        super().__init__()
        if namespace is not None and not isinstance(memos, MemOS):
            raise InvalidInput("namespace= takes views of a MemOS: pass the MemOS, not a view")
        self._memos = memos
        self._labels = namespace
        self._options: dict[str, Any] = {"k": k, "min_score": min_score}
        self._token_limit = token_limit
        self._name = name
        self.tools = []

    @property
    @override
    def name(self) -> str:
        return self._name

    # --- the hooks, each in both twins ------------------------------------------------------------

    @override
    def before_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any]:
        view, session = self._view(runtime), _session(runtime)
        recalled = self._recall(view, state["messages"], session)
        view.ingest(_turns(state["messages"], session), session=session)
        return {"memos_recalled": {**state.get("memos_recalled", {}), self.name: recalled}}

    @override
    async def abefore_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any]:
        view, session = self._view(runtime), _session(runtime)
        recalled = await self._arecall(view, state["messages"], session)
        await AsyncView(view).ingest(_turns(state["messages"], session), session=session)
        return {"memos_recalled": {**state.get("memos_recalled", {}), self.name: recalled}}

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        recalled = self._recalled(request)
        if recalled is None:  # a resumed run begins after before_agent
            view, session = self._view(request.runtime), _session(request.runtime)
            recalled = self._recall(view, request.messages, session)
        return handler(_with_memories(request, recalled))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        recalled = self._recalled(request)
        if recalled is None:
            view, session = self._view(request.runtime), _session(request.runtime)
            recalled = await self._arecall(view, request.messages, session)
        return await handler(_with_memories(request, recalled))

    @override
    def after_model(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        session = _session(runtime)
        turns = _turns(_newest_turn(state["messages"]), session)
        self._view(runtime).ingest(turns, session=session)

    @override
    async def aafter_model(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        session = _session(runtime)
        turns = _turns(_newest_turn(state["messages"]), session)
        await AsyncView(self._view(runtime)).ingest(turns, session=session)

    # --- recalling --------------------------------------------------------------------------------

    def _recalled(self, request: ModelRequest[Any]) -> str | None:
        return cast("MemoryState", request.state).get("memos_recalled", {}).get(self.name)

    def _recall(self, view: View, messages: Sequence[AnyMessage], session: str | None) -> str:
        question, options = _question(messages), self._around(messages, session)
        return self._shown(view.search(question, **options) if question else [])

    async def _arecall(
        self, view: View, messages: Sequence[AnyMessage], session: str | None
    ) -> str:
        question, options = _question(messages), self._around(messages, session)
        return self._shown(await AsyncView(view).search(question, **options) if question else [])

    def _around(self, messages: Sequence[AnyMessage], session: str | None) -> dict[str, Any]:
        seen = [_id(message, session) for message in messages if message.id]
        return {**self._options, "exclude_messages": seen}

    def _shown(self, hits: Sequence[Hit]) -> str:
        return render_memories(hits, token_limit=self._token_limit, count_tokens=_tokens)

    # --- whose memory -----------------------------------------------------------------------------

    def _view(self, runtime: Runtime[Any]) -> View:
        if self._labels is None or not isinstance(self._memos, MemOS):
            return self._memos
        given = _Given(runtime.context)
        return self._memos.at(*(label.format_map(given) for label in self._labels))


class _Given(dict[str, object]):
    """What a run provides: its context, else its config's ``configurable``."""

    def __init__(self, context: object) -> None:
        super().__init__()
        self._context = context

    def __missing__(self, name: str) -> object:
        configurable = cast("Mapping[str, object]", get_config().get("configurable", {}))
        context: object = self._context
        if isinstance(context, Mapping):
            found = cast("Mapping[str, object]", context).get(name)
        else:
            found = getattr(context, name, None)
        if found is None:
            found = configurable.get(name)
        if found is None or found == "":
            raise InvalidInput(
                f"this run names no {name}, so it is not known whose memory it is: pass "
                f"context={{'{name}': …}} to invoke (with a context_schema on the agent), or "
                f"config={{'configurable': {{'{name}': …}}}}"
            )
        return found


def _session(runtime: Runtime[Any]) -> str | None:
    info = runtime.execution_info
    return info.thread_id if info else None


def _with_memories(request: ModelRequest[Any], memories: str) -> ModelRequest[Any]:
    messages = list(request.messages)
    newest = _newest_human(messages)
    if not memories or newest is None:
        return request
    block = _BLOCK.format(memories=memories)
    asked = messages[newest]
    content = asked.content
    longer = block + content if isinstance(content, str) else [block, *content]
    messages[newest] = asked.model_copy(update={"content": longer})
    return request.override(messages=messages)


def _newest_human(messages: Sequence[AnyMessage]) -> int | None:
    places = range(len(messages) - 1, -1, -1)
    return next((at for at in places if isinstance(messages[at], HumanMessage)), None)


def _newest_turn(messages: Sequence[AnyMessage]) -> Sequence[AnyMessage]:
    return messages[_newest_human(messages) or 0 :]


def _question(messages: Sequence[AnyMessage]) -> str:
    newest = _newest_human(messages)
    return "" if newest is None else str(messages[newest].text).strip()


def _id(message: AnyMessage, session: str | None) -> str | None:
    """Return an id for the log: those a caller made up may recur in another thread."""
    return f"{session}/{message.id}" if session and message.id else message.id


def _turns(messages: Sequence[AnyMessage], session: str | None) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    return [
        {
            "id": _id(message, session),
            "role": _role(message),
            "name": message.name,
            "content": str(message.text),
            "created_at": now,
        }
        for message in messages
        if isinstance(message, (HumanMessage, AIMessage, ToolMessage))
    ]


def _role(message: AnyMessage) -> str:
    if isinstance(message, HumanMessage):
        return "user"
    return "tool" if isinstance(message, ToolMessage) else "assistant"


def _tokens(text: str) -> int:
    return count_tokens_approximately([HumanMessage(text)])
