"""Agents of every kind, each told what to do, with one round of tools if asked for."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from llama_index.core.agent.workflow import (
    AgentWorkflow,
    BaseWorkflowAgent,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
)
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage

from tests.llamaindex.scripted import Script, weather, weather_call

Agent = BaseWorkflowAgent | AgentWorkflow
KINDS = ("function", "react", "codeact", "workflow")


def agent_of(kind: str, script: Script, **options: Any) -> Agent:
    """Return an agent that answers by a script."""
    options = {"llm": script.llm, "tools": [weather], "streaming": False, **options}
    match kind:
        case "function":
            return FunctionAgent(**options)
        case "react":
            return ReActAgent(**options)
        case "codeact":
            return CodeActAgent(run_code, **options)
        case _:
            state = options.pop("initial_state", None)
            front = FunctionAgent(name="front", description="Asks others.", **options)
            back = FunctionAgent(name="back", description="Knows the weather.", **options)
            return AgentWorkflow(agents=[front, back], root_agent="front", initial_state=state)


def run_code(code: str) -> str:
    """Run code."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {"weather": weather})  # noqa: S102 the script's own
    return printed.getvalue()


def answer(kind: str, text: str) -> ChatMessage | str:
    """Return how an agent answers."""
    return f"Thought: I know.\nAnswer: {text}" if kind == "react" else text


def asks_for_weather(kind: str) -> list[ChatMessage | str]:
    """Return how an agent asks for the weather in Oslo, before it answers."""
    match kind:
        case "function":
            return [weather_call()]
        case "react":
            place = json.dumps({"place": "Oslo"})
            return [f"Thought: I look.\nAction: weather\nAction Input: {place}"]
        case "codeact":
            return ["I look.\n<execute>\nprint(weather('Oslo'))\n</execute>"]
        case _:
            return [hands_off(), weather_call()]


def hands_off() -> ChatMessage:
    """Return how one agent hands on to another."""
    kwargs = {"to_agent": "back", "reason": "It knows."}
    call = ToolCallBlock(tool_call_id="h1", tool_name="handoff", tool_kwargs=kwargs)
    return ChatMessage(role="assistant", blocks=[call])
