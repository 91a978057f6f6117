"""Tools by which a model searches and keeps its memory itself.

Each runs for the memory that is passed, or with ``namespace=("acme", "{user_id}")`` for the one
that the run names: in its context, else in its config's ``configurable``. Without a memory it is
that of the agent's ``MemOSStore``, in which ``namespace`` then is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, Field, create_model

from memos_core import CubeExists, InvalidInput, MemCube, View
from memos_core.short_ids import line_of, named, note_shown, short_id
from memos_langchain.artifacts import artifact_of, ids_in
from memos_langchain.calls import Answer, Call, memory_tool
from memos_langchain.whose import Whose

Action = Literal["create", "update", "delete"]
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
        call: Call, *, query: str, limit: int, offset: int, filter: Mapping[str, Any] | None
    ) -> Answer:
        hits = call.view.search(query, k=limit, offset=offset, filter=filter)
        note_shown(call.view, [hit.cube.id for hit in hits])
        lines = [line_of(hit.cube) for hit in hits]
        return "\n".join(lines) or "No memories were found.", artifact_of(hits)

    return memory_tool(Whose.of(memos, namespace, user), search, _Search, name, instructions)


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

    def manage(call: Call, *, content: str | None, action: Action, id: str | None) -> Answer:
        if action == "create":
            return _create(call, content, id)
        if not id:
            raise ToolException(f"To {action} a memory, name it: pass its id.")
        known = named(call.view, id, ids_in(call.messages))
        if action == "delete":
            return _forget(call, known)
        if not content:
            raise ToolException("To update a memory, pass its new content.")
        changed = known if known.text == content else call.view.update(known.id, content)
        return f"Updated: {line_of(changed)}", artifact_of([changed])

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
    return memory_tool(Whose.of(memos, namespace, user), manage, schema, name, instructions)


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

    def forget(call: Call, *, id: str) -> Answer:
        return _forget(call, named(call.view, id, ids_in(call.messages)))

    return memory_tool(Whose.of(memos, namespace, user), forget, _Forget, name, instructions)


def _create(call: Call, content: str | None, id: str | None) -> Answer:
    if id:
        raise ToolException("A new memory gets its id by itself: leave id away, or update.")
    if not content:
        raise ToolException("To create a memory, pass its content.")
    made = _added(call, content)
    note_shown(call.view, [made.id])
    return f"Remembered: {line_of(made)}", artifact_of([made])


def _added(call: Call, content: str) -> MemCube:
    id = call.id_for(content)
    try:
        return call.view.add(content, id=id, source="tool")
    except CubeExists:
        known = None if id is None else call.view.get(id)
        if known is not None and known.version == 1:
            return known
        return call.view.add(content, source="tool")


def _forget(call: Call, known: MemCube) -> Answer:
    call.view.forget(known.id)
    return f"Forgotten: {short_id(known.id)}", artifact_of([])
