"""Tools by which a model keeps and searches its memory itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec

from llama_index.core.tools import ToolMetadata
from llama_index.core.tools.function_tool import FunctionTool
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec
from llama_index.core.tools.types import DefaultToolFnSchema
from pydantic import BaseModel, Field
from typing_extensions import override

from memos_core import AsyncView, Closed, InvalidInput, MemOSError, View
from memos_core.background import await_a_little, wait_a_little
from memos_core.errors import REFUSALS
from memos_core.short_ids import line_of, named, note_shown, short_id
from memos_core.view.given import checked_view
from memos_llamaindex.behind import unread

P = ParamSpec("P")

_log = logging.getLogger("memos_llamaindex")
_REMEMBER = (
    "Keep something in your long-term memory. Call this when the user tells something worth "
    "remembering or asks you to remember it. Write each memory as a sentence that will be "
    "understood by itself."
)
_RECALL = (
    "Search your long-term memory of this user and of earlier conversations. Search before you "
    "say that you do not know something about the user, and before you forget a memory: each "
    "result begins with the id to name it by."
)
_FORGET = (
    "Erase a memory for good: every version of it, and the message it came from. Call this when "
    "the user asks you to forget something."
)


class _Remember(BaseModel):
    content: str = Field(description="What to remember.")


class _Recall(BaseModel):
    query: str = Field(description="What to look for: a question or a few words.")
    limit: int = Field(default=10, ge=1, le=100, description="How many memories at the most.")
    offset: int = Field(default=0, ge=0, description="How many of the best to leave out.")
    filter: dict[str, Any] | None = Field(
        default=None,
        description="Conditions on metadata, such as {'year': {'$gte': 2020}, 'city': 'Oslo'}.",
    )


class _Forget(BaseModel):
    id: str = Field(
        description="The id at the beginning of a result of recall, or the memory's exact words."
    )


_TOOLS = {
    "remember": ToolMetadata(name="remember", description=_REMEMBER, fn_schema=_Remember),
    "recall": ToolMetadata(name="recall", description=_RECALL, fn_schema=_Recall),
    "forget": ToolMetadata(name="forget", description=_FORGET, fn_schema=_Forget),
}

_PAIRS: dict[str, tuple[str, str]] = {
    either: (name, f"a{name}") for name in _TOOLS for either in (name, f"a{name}")
}


class MemOSToolSpec(BaseToolSpec):
    """Three tools over a view, ``remember``, ``recall`` and ``forget``, each also awaited.

    ``FunctionAgent(tools=MemOSToolSpec(memos=ann).to_tool_list(), llm=llm)``

    A model names memories by short ids, which their lines begin with. What is refused, and that the
    memory cannot be reached, is an answer to the model; no call raises, and the latter is logged.
    """

    spec_functions = [*_TOOLS]  # noqa: RUF012 the base class has a list there

    def __init__(self, memos: View) -> None:
        self.memos = checked_view(memos)

    def remember(self, content: str) -> str:
        """Store a memory; return its line, with its short id."""
        return self._answer(_remembered, content)

    def recall(
        self,
        query: str,
        limit: int = 10,
        offset: int = 0,
        filter: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a line for each memory found, with a short id, the day and who said it."""
        wait_a_little(unread(self.memos))
        return self._answer(_recalled, query, limit, offset, filter)

    def forget(self, id: str) -> str:
        """Erase a memory as ``View.forget`` does, by a short id that was shown, or its words."""
        wait_a_little(unread(self.memos))
        return self._answer(_forgotten, id)

    async def aremember(self, content: str) -> str:
        """As ``remember``."""
        return await self._awaited(_remembered, content)

    async def arecall(
        self,
        query: str,
        limit: int = 10,
        offset: int = 0,
        filter: Mapping[str, Any] | None = None,
    ) -> str:
        """As ``recall``."""
        await await_a_little(unread(self.memos))
        return await self._awaited(_recalled, query, limit, offset, filter)

    async def aforget(self, id: str) -> str:
        """As ``forget``."""
        await await_a_little(unread(self.memos))
        return await self._awaited(_forgotten, id)

    @override
    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """Return the tools, or those that are named, each for blocking and awaited calls.

        Other names and descriptions can be given by the functions' names.
        """
        given = func_to_metadata_mapping or {}
        pairs = [
            _PAIRS.get(one, one) if isinstance(one, str) else one
            for one in spec_functions or self.spec_functions
        ]
        if unknown := {one for one in pairs if isinstance(one, str) and not hasattr(self, one)}:
            raise InvalidInput(
                f"there is no tool {', '.join(sorted(unknown))}, but: {', '.join(_TOOLS)}"
            )
        told = {name: _told(name, given.get(name) or given.get(f"a{name}")) for name in _TOOLS}
        return super().to_tool_list(pairs, {**given, **told})

    def _answer(
        self, work: Callable[Concatenate[View, P], str], *args: P.args, **kwargs: P.kwargs
    ) -> str:
        try:
            return work(self.memos, *args, **kwargs)
        except REFUSALS as refused:
            return str(refused)
        except MemOSError:
            return _unreachable()

    async def _awaited(
        self, work: Callable[Concatenate[View, P], str], *args: P.args, **kwargs: P.kwargs
    ) -> str:
        try:
            return await AsyncView(self.memos).to_thread(self._answer, work, *args, **kwargs)
        except Closed:  # it has no threads then
            return _unreachable()


def _unreachable() -> str:
    _log.exception("a model's call of its memory failed")
    return "The memory cannot be reached now, and nothing was changed."


def _told(name: str, given: ToolMetadata | None) -> ToolMetadata:
    """Return what a model is told of a tool: as given, with the tool's own arguments."""
    ours = _TOOLS[name]
    if given is None:
        return replace(ours)  # a tool's can be changed
    # Who names another tool names no arguments, for which LlamaIndex has a single "input".
    unnamed = given.fn_schema in (None, DefaultToolFnSchema)
    return replace(given, fn_schema=ours.fn_schema) if unnamed else given


def _remembered(view: View, content: str) -> str:
    made = view.add(content, source="tool")
    note_shown(view, [made.id])
    return f"Remembered: {line_of(made)}"


def _recalled(
    view: View, query: str, limit: int, offset: int, filter: Mapping[str, Any] | None
) -> str:
    hits = view.search(query, k=limit, offset=offset, filter=filter)
    note_shown(view, [hit.cube.id for hit in hits])
    return "\n".join(line_of(hit.cube) for hit in hits) or "No memories were found."


def _forgotten(view: View, id: str) -> str:
    known = named(view, str(id))  # models write ids of digits alone as numbers
    view.forget(known.id)
    return f"Forgotten: {short_id(known.id)}"
