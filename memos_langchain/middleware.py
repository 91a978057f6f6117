"""Memory for agents made with ``create_agent``."""

from __future__ import annotations

import string
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langgraph.config import get_config
from langgraph.runtime import Runtime
from typing_extensions import override

from memos_core import AsyncView, ChatFn, InvalidInput, MemOS, Recall, View
from memos_langchain.turns import Thread, newest_question, turn

V = TypeVar("V")
State = AgentState[Any]

_BLOCK = "Memories of earlier conversations that may help:\n{memories}\n\n"
_LATEST = 10_000  # messages and recalls that one middleware keeps in mind


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

    Args:
        memos: a view; with ``namespace``, the MemOS to take views of.
        namespace: labels with ``{names}`` of what the run provides.
        k: how many memories to recall at the most.
        min_score: what a memory must score to be recalled.
        token_limit: what the memories may take of the prompt, as LangChain approximates tokens.
        resolve: let a turn change the memory that it repeats or contradicts, as ``View.ingest``
            does: by its rules, or as a language model decides (``messages -> text``).
        name: must differ between two of these in one agent.

    Raises:
        InvalidInput: ``namespace`` is no template; in a run, it does not provide a name of it.
    """

    def __init__(
        self,
        memos: View,
        *,
        namespace: Sequence[str] | None = None,
        k: int = 5,
        min_score: float | None = None,
        token_limit: int = 1_000,
        resolve: bool | ChatFn = False,
        name: str = "MemOSMiddleware",
    ) -> None:
        super().__init__()
        if not isinstance(cast("object", memos), View):
            raise InvalidInput(
                f"memos is a MemOS or a view of one, not {type(memos).__name__}: of an AsyncMemOS "
                "or an AsyncView, pass .blocking"
            )
        if namespace is not None:
            _check_namespace(namespace, memos)
        self._memos = memos
        self._labels = namespace
        self._options: dict[str, Any] = {
            "k": k,
            "min_score": min_score,
            "token_limit": token_limit,
            "count_tokens": _tokens,
        }
        self._resolve: bool | ChatFn = resolve
        self._name = name
        self._stored = _Latest[None]()
        self._recalls = _Latest[Recall]()
        self.tools = []

    @property
    @override
    def name(self) -> str:
        return self._name

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

    @override
    async def aafter_model(self, state: State, runtime: Runtime[Any]) -> None:
        await self._astore(state, runtime)

    @override
    def after_agent(self, state: State, runtime: Runtime[Any]) -> None:
        self._store(state, runtime)

    @override
    async def aafter_agent(self, state: State, runtime: Runtime[Any]) -> None:
        await self._astore(state, runtime)

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        return handler(self._with_memories(request))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        return await handler(await self._to_thread(self._with_memories, request))

    # --- remembering ------------------------------------------------------------------------------

    def _store(self, state: State, runtime: Runtime[Any]) -> None:
        view, thread = self._view(runtime), Thread.of(runtime)
        said = {
            _key(view, thread, message): turn(id, message)
            for id, message in thread.identified(state["messages"])
        }
        new = {key: one for key, one in said.items() if key not in self._stored}
        if new:
            view.ingest(new.values(), session=thread.session, repair=True, resolve=self._resolve)
            for key in new:
                self._stored[key] = None

    async def _astore(self, state: State, runtime: Runtime[Any]) -> None:
        await self._to_thread(self._store, state, runtime)

    # --- recalling --------------------------------------------------------------------------------

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
            said = thread.identified(cast("Any", request.state)["messages"])
            in_prompt = {message.id for message in request.messages}
            seen = [id for id, message in said if message.id in in_prompt]
            known = view.recall(str(asked.text), exclude_messages=seen, **self._options)
            self._recalls[key] = known
        return known

    # --- whose memory -----------------------------------------------------------------------------

    def _view(self, runtime: Runtime[Any]) -> View:
        if self._labels is None or not isinstance(self._memos, MemOS):
            return self._memos
        given = _Given(runtime.context)
        return self._memos.at(*(label.format_map(given) for label in self._labels))

    async def _to_thread(self, function: Callable[..., V], *args: Any) -> V:
        return await AsyncView(self._memos).to_thread(function, *args)


class _Latest(Generic[V]):
    """A mapping that keeps its latest entries only; safe for threads."""

    def __init__(self) -> None:
        self._entries: OrderedDict[object, V] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._entries

    def get(self, key: object) -> V | None:
        with self._lock:
            return self._entries.get(key)

    def __setitem__(self, key: object, value: V) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > _LATEST:
                self._entries.popitem(last=False)


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


def _check_namespace(namespace: Sequence[str], memos: View) -> None:
    if not isinstance(memos, MemOS):
        raise InvalidInput("namespace= takes views of a MemOS: pass the MemOS, not a view")
    if isinstance(namespace, str):
        raise InvalidInput(f"namespace is a sequence of labels, not one string: ({namespace!r},)")
    for label in namespace:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(label)]
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"namespace label {label!r} is no template: {error}") from error
        if "" in names:
            raise InvalidInput(f"namespace label {label!r} does not say of what: use {{user_id}}")


def _key(view: View, thread: Thread, message: AnyMessage) -> tuple[object, ...]:
    # Two runs may name different messages alike, and a message may be edited.
    return view.namespace, thread.session, message.id, hash(str(message.text))


def _with_block(message: AnyMessage, block: str) -> AnyMessage:
    content = message.content
    longer = (
        block + content if isinstance(content, str) else [{"type": "text", "text": block}, *content]
    )
    return message.model_copy(update={"content": longer})


def _tokens(text: str) -> int:
    return count_tokens_approximately([HumanMessage(text)])
