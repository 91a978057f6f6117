"""A tool's call: whose memory it is about, and how what it refuses is told.

There is no ``from __future__ import annotations`` here: langchain-core 1.2 looks for ``runtime``
among annotations that are types, and would leave a run's context out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import NAMESPACE_OID, UUID, uuid5

from langchain.tools import ToolRuntime
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel

from memos_core import AsyncView, View
from memos_core.errors import REFUSALS
from memos_langchain.whose import Whose

Answer = tuple[str, dict[str, Any]]  # what the model is told, and the artifact


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
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


def memory_tool(
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

    def call_of(config: RunnableConfig, runtime: ToolRuntime[Any, Any] | None) -> Call:
        context, store = (runtime.context, runtime.store) if runtime else (None, None)
        view = whose.view(context, config, store)
        return Call(view=view, config=config, runtime=runtime)

    def answer(call: Call, arguments: Mapping[str, Any]) -> Answer:
        try:
            return work(call, **arguments)
        except REFUSALS as refused:
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
