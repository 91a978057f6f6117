"""Chat engines with a memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)

from memos_core import View
from memos_llamaindex import MemOSMemory, MemOSRetriever
from tests.llamaindex.scripted import (
    PEANUTS,
    Script,
    prompt,
    texts,
    user,
)


@pytest.fixture(params=["chat", "stream_chat", "achat", "astream_chat"])
def chat(request):
    """Four ways to talk to an engine, as one."""

    async def streamed(engine: Any, message: str) -> str:
        response = await engine.astream_chat(message)
        return "".join([token async for token in response.async_response_gen()])

    def talk(engine: Any, message: str) -> str:
        match request.param:
            case "chat":
                return str(engine.chat(message))
            case "stream_chat":
                response = engine.stream_chat(message)
                return "".join(response.response_gen)  # ends once the answer is stored
            case "achat":
                return str(asyncio.run(engine.achat(message)))
            case _:
                return asyncio.run(streamed(engine, message))

    return talk


class TestChatEngines:
    def engines(self, ann: View, script: Script) -> list[Any]:
        retriever = MemOSRetriever(memos=ann, k=2)

        def memory(session: str) -> MemOSMemory:
            return MemOSMemory.from_defaults(memos=ann, session_id=session)

        llm = script.llm
        return [
            SimpleChatEngine.from_defaults(llm=llm, memory=memory("simple")),
            ContextChatEngine.from_defaults(
                retriever=retriever, llm=llm, memory=memory("context"), system_prompt="Be kind."
            ),
            CondensePlusContextChatEngine.from_defaults(
                retriever=retriever, llm=llm, memory=memory("condense")
            ),
        ]

    @pytest.mark.parametrize("number", [0, 1, 2], ids=["simple", "context", "condense"])
    def test_an_engine_remembers(self, ann: View, chat, number: int):
        MemOSMemory.from_defaults(memos=ann, background=False).put(user(PEANUTS))
        script = Script("No, they hurt you.", "As I said.")
        engine = self.engines(ann, script)[number]

        assert chat(engine, "May I eat peanuts?") == "No, they hurt you."
        assert chat(engine, "Are you sure?") == "As I said."

        assert all(PEANUTS in prompt(asked) for asked in script.prompts)
        assert "No, they hurt you." in prompt(script.prompts[-1])
        assert texts(engine.chat_history) == [
            "May I eat peanuts?",
            "No, they hurt you.",
            "Are you sure?",
            "As I said.",
        ]
        engine.reset()
        assert engine.chat_history == []

    def test_a_history_sent_along_is_not_stored_again(self, ann: View):
        engine, *_ = self.engines(ann, Script("one", "two"))
        engine.chat("first")
        engine.chat("second", chat_history=engine.chat_history)
        assert texts(engine.chat_history) == ["first", "one", "second", "two"]
        MemOSMemory.from_defaults(memos=ann).flush()
        assert ann.stats().cubes == 4
