"""Tools by which a model searches and keeps its memory itself.

Each runs for the memory that is passed, or with ``namespace=("acme", "{user_id}")`` for the one
that the run names: in its context, else in its config's ``configurable``. Without a memory it is
that of the agent's ``MemOSStore``, in which ``namespace`` then is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast
from uuid import NAMESPACE_OID, UUID, uuid5

from langchain.tools import ToolRuntime
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, Field, create_model

from memos_core import (
    AsyncView,
    CubeExists,
    CubeFrozen,
    CubeNotFound,
    IllegalTransition,
    InvalidInput,
    LimitExceeded,
    MemCube,
    NotPermitted,
    VersionConflict,
    View,
    render_memories,
)
from memos_langchain.short_ids import artifact_of, named, note_shown, short_id
from memos_langchain.whose import Whose

Action = Literal["create", "update", "delete"]
Answer = tuple[str, dict[str, Any]]  # what the model is told, and the artifact

ACTIONS: tuple[Action, ...] = ("create", "update", "delete")
_SEARCH = (
    "Search your long-term memory of this user and of earlier conversations. Search before you "
    "say that you do not know something about the user, and before you change a memory: each "
    "result begins with the id to name it by."
)
_MANAGE = (
    "Keep your long-term memory. Call this when the user tells something worth remembering or "
    "asks you to remember it, and when a memory is wrong or out of date. Write each memory as a "
    "sentence that will be understood by itself."
)
_FORGET = (
    "Erase a memory for good: every version of it, and the message it came from. Call this when "
    "the user asks you to forget something."
)
_ID = "The id that a memory search shows at the beginning of a result, or the memory's exact words."
# What a model can mend itself by asking otherwise; all else is the application's to know.
_REFUSALS = (
    CubeFrozen,
    CubeNotFound,
    IllegalTransition,
    InvalidInput,
    LimitExceeded,
    NotPermitted,
    VersionConflict,
)


class _Search(BaseModel):
    query: str = Field(description="What to look for: a question or a few words.")
    limit: int = Field(default=10, ge=1, le=100, description="How many memories at the most.")
    offset: int = Field(default=0, ge=0, description="How many of the best to leave out.")
    filter: dict[str, Any] | None = Field(
        default=None,
        description="Conditions on metadata, such as {'year': {'$gte': 2020}, 'city': 'Oslo'}.",
    )


class _Forget(BaseModel):
    id: str = Field(description=_ID)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A call of a tool: whose memory it is about, and what there is of the agent's run."""

    view: View
    config: Mapping[str, Any]
    runtime: ToolRuntime[Any, Any] | None

    @property
    def messages(self) -> Sequence[object]:
        """The conversation so far, with what earlier calls showed."""
        state: object = self.runtime.state if self.runtime else None
        if not isinstance(state, Mapping):
            return ()
        return cast("Mapping[str, Sequence[object]]", state).get("messages", ())

    def id_for(self, content: str) -> UUID | None:
        """Return the id of what this call makes: the same if a run that broke off repeats it."""
        call = self.runtime.tool_call_id if self.runtime else None
        if not call:
            return None
        thread = str(self.config.get("configurable", {}).get("thread_id", ""))
        name = "\x1f".join((*self.view.namespace, thread, call, content))
        return uuid5(NAMESPACE_OID, name.encode(errors="surrogatepass").hex())


def create_search_memory_tool(
    memos: View | None = None,
    *,
    namespace: Sequence[str] | None = None,
    user: str | None = None,
    instructions: str = _SEARCH,
    name: str = "search_memory",
) -> StructuredTool:
    """Return a tool that searches: ``query``, ``limit``, ``offset``, ``filter``.

    The model gets a line for each memory, with a short id, the day and who said it; the message's
    artifact holds the memories whole. ``namespace`` and ``user`` are templates, as for
    ``MemOSMiddleware``; ``instructions`` tell the model when to call it.

    Raises:
        InvalidInput: no templates; in a run, it does not provide a name of them.
    """

    def search(
        call: _Call, *, query: str, limit: int, offset: int, filter: Mapping[str, Any] | None
    ) -> Answer:
        hits = call.view.search(query, k=limit, offset=offset, filter=filter)
        note_shown(call.view, [hit.cube.id for hit in hits])
        lines = [_line(hit.cube) for hit in hits]
        return "\n".join(lines) or "No memories were found.", artifact_of(hits)

    return _tool(Whose.of(memos, namespace, user), search, _Search, name, instructions)


def create_manage_memory_tool(
    memos: View | None = None,
    *,
    namespace: Sequence[str] | None = None,
    user: str | None = None,
    instructions: str = _MANAGE,
    actions_permitted: Sequence[Action] = ACTIONS,
    name: str = "manage_memory",
) -> StructuredTool:
    """Return a tool that makes, rewrites and erases memories: ``content``, ``action``, ``id``.

    ``id`` is a short one that a search showed, or the words of the memory: what is neither is
    refused, and the model is told so. Deleting is ``View.forget``. A call that is repeated since
    its run broke off makes no second memory.

    Raises:
        InvalidInput: no actions or unknown ones, no templates; in a run, it does not provide a
            name of them.
    """
    actions = tuple(dict.fromkeys(actions_permitted))
    if not actions or not set(actions) <= set(ACTIONS):
        raise InvalidInput(
            f"actions_permitted are some of {', '.join(ACTIONS)}, not {actions_permitted!r}"
        )

    def manage(call: _Call, *, content: str | None, action: Action, id: str | None) -> Answer:
        if action == "create":
            return _create(call, content, id)
        if not id:
            raise ToolException(f"To {action} a memory, name it: pass its id.")
        known = named(call.view, id, call.messages)
        if action == "delete":
            return _forget(call, known)
        if not content:
            raise ToolException("To update a memory, pass its new content.")
        changed = known if known.text == content else call.view.update(known.id, content)
        return f"Updated: {_line(changed)}", artifact_of([changed])

    schema = create_model(
        "ManageMemory",
        content=(
            str | None,
            Field(default=None, description="What to remember, for create and update."),
        ),
        action=(
            cast("Any", Literal)[actions],
            Field(default=actions[0], description="What to do."),
        ),
        id=(str | None, Field(default=None, description=f"For update and delete. {_ID}")),
    )
    return _tool(Whose.of(memos, namespace, user), manage, schema, name, instructions)


def create_forget_memory_tool(
    memos: View | None = None,
    *,
    namespace: Sequence[str] | None = None,
    user: str | None = None,
    instructions: str = _FORGET,
    name: str = "forget_memory",
) -> StructuredTool:
    """Return a tool that erases a memory by ``id``: a short one, or the words of the memory.

    It erases as ``View.forget`` does. What is not known is refused, and the model is told so.

    Raises:
        InvalidInput: no templates; in a run, it does not provide a name of them.
    """

    def forget(call: _Call, *, id: str) -> Answer:
        return _forget(call, named(call.view, id, call.messages))

    return _tool(Whose.of(memos, namespace, user), forget, _Forget, name, instructions)


def _create(call: _Call, content: str | None, id: str | None) -> Answer:
    if id:
        raise ToolException("A new memory gets its id by itself: leave id away, or update.")
    if not content:
        raise ToolException("To create a memory, pass its content.")
    made = _added(call, content)
    note_shown(call.view, [made.id])
    return f"Remembered: {_line(made)}", artifact_of([made])


def _added(call: _Call, content: str) -> MemCube:
    id = call.id_for(content)
    try:
        return call.view.add(content, id=id, source="tool")
    except CubeExists:
        known = None if id is None else call.view.get(id)
        if known is not None and known.version == 1:
            return known
        return call.view.add(content, source="tool")


def _forget(call: _Call, known: MemCube) -> Answer:
    call.view.forget(known.id)
    return f"Forgotten: {short_id(known.id)}", artifact_of([])


def _line(cube: MemCube) -> str:
    return f"[{short_id(cube.id)}] {render_memories([cube]).removeprefix('- ')}"


def _tool(
    whose: Whose,
    work: Callable[..., Answer],
    schema: type[BaseModel],
    name: str,
    instructions: str,
) -> StructuredTool:
    """Return a tool that calls ``work`` with whose memory it is; awaited, on the memory's threads.

    A refusal is an answer to the model. ``runtime`` has a default, since there is none outside of
    agents, and its type is no union: such a schema has no JSON.
    """

    def call_of(config: RunnableConfig, runtime: ToolRuntime[Any, Any] | None) -> _Call:
        context, store = (runtime.context, runtime.store) if runtime else (None, None)
        view = whose.view(context, config, store)
        return _Call(view=view, config=config, runtime=runtime)

    def answer(call: _Call, arguments: Mapping[str, Any]) -> Answer:
        try:
            return work(call, **arguments)
        except _REFUSALS as refused:
            raise ToolException(str(refused)) from refused

    def run(
        config: RunnableConfig,
        runtime: ToolRuntime[Any, Any] = None,  # pyright: ignore[reportArgumentType] see above
        **arguments: Any,
    ) -> Answer:
        return answer(call_of(config, runtime), arguments)

    async def arun(
        config: RunnableConfig,
        runtime: ToolRuntime[Any, Any] = None,  # pyright: ignore[reportArgumentType] see above
        **arguments: Any,
    ) -> Answer:
        call = call_of(config, runtime)
        return await AsyncView(call.view).to_thread(answer, call, arguments)

    return StructuredTool.from_function(
        run,
        arun,
        name=name,
        description=instructions,
        args_schema=schema,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )
