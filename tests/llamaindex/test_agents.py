"""Agents with a memory."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.workflow import Context

from memos_core import MemOS, View
from memos_llamaindex import MemOSMemory, attach
from tests.llamaindex.scripted import (
    PEANUTS,
    Script,
    prompt,
    texts,
    user,
    weather,
    weather_call,
)
from tests.support import WordEmbedder


@pytest.mark.filterwarnings(
    "ignore:The `__fields:pydantic.warnings.PydanticDeprecatedSince20:inspect",
    "ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211:inspect",
    "ignore:is_running called:DeprecationWarning:llama_index.core.agent.workflow.react_agent",
)
class TestAgents:
    async def test_two_runs_on_one_context(self, memos: MemOS):
        ann = memos.at("acme", "ann")
        MemOSMemory.from_defaults(memos=ann).put(user(PEANUTS))
        script = Script(weather_call(), "It rains.", "You asked about rain.")
        agent = FunctionAgent(llm=script.llm, tools=[weather], streaming=False)
        ctx = Context(agent)
        memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann"), session_id="s1")

        await agent.run("Do peanuts like the weather in Oslo?", ctx=ctx, memory=memory)
        gc.collect()
        await agent.run("What did I ask?", ctx=ctx)

        first, after_tool, second = script.prompts
        assert PEANUTS in prompt(first)
        assert prompt(after_tool).startswith(prompt(first))
        assert "rain in Oslo" in prompt(after_tool)
        assert "Do peanuts like the weather in Oslo?" in prompt(second)
        assert [message.role.value for message in memory.get_all()] == [
            "user",
            "assistant",
            "tool",
            "assistant",
            "user",
            "assistant",
        ]

    async def test_a_context_restored_in_another_process(self, memos: MemOS, database: str):
        script = Script("Hi Ann.")
        agent = FunctionAgent(llm=script.llm, streaming=False)
        ctx = Context(agent)
        memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann"))
        await agent.run("I am Ann.", ctx=ctx, memory=memory)
        saved = json.dumps(ctx.to_dict())
        memos.close()

        again = MemOS.open(database, embedder=WordEmbedder())
        attach(again)
        script = Script("You are Ann.")
        agent = FunctionAgent(llm=script.llm, streaming=False)
        ctx = Context.from_dict(agent, json.loads(saved))
        await agent.run("Who am I?", ctx=ctx)

        assert texts(script.prompts[0])[:2] == ["I am Ann.", "Hi Ann."]
        await asyncio.to_thread(again.close)

    async def test_a_react_agent_is_told(self, ann: View):
        MemOSMemory.from_defaults(memos=ann).put(user(PEANUTS))
        script = Script("Thought: I can answer.\nAnswer: No.")
        agent = ReActAgent(llm=script.llm, tools=[weather], streaming=False)
        memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")

        response = await agent.run("May I eat peanuts?", memory=memory)

        assert str(response) == "No."
        assert PEANUTS in prompt(script.prompts[0])

    async def test_a_state_written_into_the_prompt_is_not_stored(self, ann: View):
        script = Script("Fine.")
        agent = FunctionAgent(llm=script.llm, initial_state={"mood": "good"}, streaming=False)
        memory = MemOSMemory.from_defaults(memos=ann)

        await agent.run("Hello", memory=memory)

        assert "mood" in prompt(script.prompts[0])
        assert texts(memory.get_all()) == ["Hello", "Fine."]
