"""A chat model that says what a test tells it to, and what tests of agents share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from memos_core import View

ALLERGY = "I am allergic to peanuts."
QUESTION = "What am I allergic to?"

Run = Callable[..., Any]


class ScriptedModel(BaseChatModel):
    """Says what it is told to, then what ``react`` says of a prompt, or "ok".

    It keeps the prompts it was given, and the names of the tools.
    """

    script: list[Any] = Field(default_factory=list)  # messages, or functions from prompts to them
    prompts: list[list[BaseMessage]] = Field(default_factory=list)
    tools: list[str] = Field(default_factory=list)
    react: Callable[[list[BaseMessage]], AIMessage] | None = None

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **_options: Any) -> ScriptedModel:
        self.tools = [tool.name for tool in tools]
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_rest: Any
    ) -> ChatResult:
        del stop, run_manager
        self.prompts.append(list(messages))
        said = self.script.pop(0) if self.script else self.react or AIMessage("ok")
        if callable(said):
            said = said(messages)
        return ChatResult(generations=[ChatGeneration(message=said)])


def calls(name: str, call_id: str = "call-1", text: str = "", **args: Any) -> AIMessage:
    return AIMessage(text, tool_calls=[{"name": name, "args": args, "id": call_id}])


def asks(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def thread(name: Any, **configurable: Any) -> Any:
    return {"configurable": {"thread_id": name, **configurable}}


def contents(view: View) -> list[str]:
    return [message.content for message in view.messages()]


def runs_by(way: str) -> Run:
    """Return a function that runs an agent, or a tool: by ``invoke`` or by ``ainvoke``."""

    def run(runnable: Any, *args: Any, **options: Any) -> Any:
        if way == "invoke":
            return runnable.invoke(*args, **options)
        return asyncio.run(runnable.ainvoke(*args, **options))

    return run
