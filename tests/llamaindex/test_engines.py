"""Chat engines with a memory: each way of talking to each, outside a running loop and inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.response.schema import (
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.query_engine import CustomQueryEngine

from memos_core import View
from memos_llamaindex import MemOSMemory, MemOSRetriever
from tests.llamaindex.scripted import PEANUTS, Script, prompt, texts, user, words
from tests.support import until

KINDS = ("simple", "context", "condense-plus-context", "condense-question")
WAYS = ("chat", "stream_chat", "achat", "astream_chat")
Talk = Callable[[Any, str], str]


class Quoting(CustomQueryEngine):
    """A query engine that answers by a script."""

    script: Any
    streaming: bool = False

    def custom_query(self, query_str: str) -> Any:
        text = self._answer(query_str)
        return StreamingResponse(iter(text.split(" "))) if self.streaming else Response(text)

    async def acustom_query(self, query_str: str) -> Any:
        text = self._answer(query_str)

        async def pieces() -> Any:
            for piece in text.split(" "):
                yield piece

        return AsyncStreamingResponse(pieces()) if self.streaming else Response(text)

    def _answer(self, question: str) -> str:
        return str(self.script.llm.chat([user(question)]).message.content)


def engine_of(kind: str, view: View, script: Script, memory: MemOSMemory, way: str) -> Any:
    given: dict[str, Any] = {"llm": script.llm, "memory": memory}
    retriever = MemOSRetriever(memos=view, k=2)
    match kind:
        case "simple":
            return SimpleChatEngine.from_defaults(**given, system_prompt="Be kind.")
        case "context":
            return ContextChatEngine.from_defaults(
                **given, retriever=retriever, system_prompt="Be kind."
            )
        case "condense-plus-context":
            return CondensePlusContextChatEngine.from_defaults(
                **given, retriever=retriever, skip_condense=True
            )
        case _:
            query_engine = Quoting(script=script, streaming="stream" in way)
            return CondenseQuestionChatEngine.from_defaults(query_engine, **given)


async def talk_inside(engine: Any, way: str, message: str) -> str:
    """Talk to an engine in a running loop, and wait until the answer is stored."""
    match way:
        case "chat":
            return str(engine.chat(message))
        case "stream_chat":
            response = engine.stream_chat(message)
            pieces = list(response.response_gen)
            if thread := response.write_response_to_history_thread:  # none, once it is done
                thread.join()
            return "".join(pieces)
        case "achat":
            return str(await engine.achat(message))
        case _:
            response = await engine.astream_chat(message)
            pieces = [token async for token in response.async_response_gen()]
            if task := response.awrite_response_to_history_task:
                await task
            return "".join(pieces)


def talk_outside(engine: Any, way: str, message: str) -> str:
    """Talk to an engine without a running loop."""
    match way:
        case "chat":
            return str(engine.chat(message))
        case "stream_chat":
            return "".join(engine.stream_chat(message).response_gen)
        case _:
            return asyncio.run(talk_inside(engine, way, message))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def known(ann: View) -> None:
    ann.ingest([PEANUTS], session="s0")


@pytest.fixture
def memory(ann: View) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=ann, session_id="s1")


def without_spaces(text: str | None) -> str:
    return (text or "").replace(" ", "")


def check(kind: str, script: Script, engine: Any) -> None:
    history = [without_spaces(text) for text in texts(engine.chat_history)]
    said = ("May I eat peanuts?", "No, they hurt you.", "Are you sure?", "As I said.")
    assert history == [without_spaces(text) for text in said]
    if kind == "condense-question":
        # It asks a language model what is meant, with what it is shown of the conversation.
        condensing = prompt(script.prompts[1])
        assert "May I eat peanuts?" in condensing
        assert without_spaces("No, they hurt you.") in without_spaces(condensing)
        assert PEANUTS in condensing
    else:
        assert len(script.prompts) == 2
        assert all(PEANUTS in prompt(asked) for asked in script.prompts)
        assert "No, they hurt you." in prompt(script.prompts[1])
        for asked in script.prompts:
            # What a retriever found stands in a system message.
            history = [message for message in asked if message.role != "system"]
            assert prompt(history).count("May I eat peanuts?") == 1
            assert prompt(history).count(PEANUTS) == 1
            assert history[0].role == "user"
    engine.reset()
    assert engine.chat_history == []


def answers(kind: str) -> list[str]:
    first, second = "No, they hurt you.", "As I said."
    # The question in other words stands between.
    return [first, "Are peanuts bad?", second] if kind == "condense-question" else [first, second]


def ask_first(kind: str, script: Script) -> None:
    # CondenseQuestionChatEngine shows no model the first question with what is recalled for it: a
    # message made only of memories would have to be condensed.
    if kind == "condense-question":
        script.answers.insert(0, "May I eat peanuts?")


@pytest.mark.usefixtures("known")
def test_an_engine_remembers(ann: View, memory: MemOSMemory, kind: str, way: str):
    script = Script(*answers(kind))
    ask_first(kind, script)
    engine = engine_of(kind, ann, script, memory, way)
    first = talk_outside(engine, way, "May I eat peanuts?")
    assert without_spaces(first) == without_spaces("No, they hurt you.")
    talk_outside(engine, way, "Are you sure?")
    if kind == "condense-question":
        del script.prompts[0]
    check(kind, script, engine)


@pytest.mark.usefixtures("known")
async def test_an_engine_remembers_in_a_running_loop(
    ann: View, memory: MemOSMemory, kind: str, way: str
):
    script = Script(*answers(kind))
    ask_first(kind, script)
    engine = engine_of(kind, ann, script, memory, way)
    await talk_inside(engine, way, "May I eat peanuts?")
    await talk_inside(engine, way, "Are you sure?")
    if kind == "condense-question":
        del script.prompts[0]
    check(kind, script, engine)


@pytest.mark.usefixtures("known")
async def test_ways_of_talking_can_be_mixed(ann: View, memory: MemOSMemory, kind: str):
    for number, way in enumerate(WAYS):
        engine = engine_of(kind, ann, Script(*["Fine."] * 3), memory, way)
        await talk_inside(engine, way, f"question {number}")
    history = texts(memory.get_all())
    assert history == [text for n in range(4) for text in (f"question {n}", "Fine.")]


@pytest.mark.usefixtures("known")
def test_an_answer_that_nobody_reads_is_stored(ann: View, memory: MemOSMemory, kind: str):
    engine = engine_of(kind, ann, Script(*["So be it."] * 2), memory, "stream_chat")
    engine.stream_chat("Hello")
    until(lambda: len(memory.get_all()) == 2)
    assert without_spaces(texts(memory.get_all())[1]) == "Sobeit."


def test_a_history_sent_along_is_not_stored_again(ann: View, memory: MemOSMemory, kind: str):
    engine = engine_of(kind, ann, Script(*["one", "two"] * 2), memory, "chat")
    engine.chat("first")
    engine.chat("second", chat_history=engine.chat_history)
    assert texts(engine.chat_history)[::2] == ["first", "second"]
    memory.flush()
    assert ann.stats().cubes == 4


@pytest.mark.usefixtures("known")
def test_another_engine_goes_on_with_the_session(ann: View, kind: str):
    for text in ("first", "second"):
        memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
        script = Script(*["Fine."] * 3)
        engine = engine_of(kind, ann, script, memory, "chat")
        engine.chat(text)
    assert "first" in prompt(script.prompts[0])
    assert texts(memory.get_all())[::2] == ["first", "second"]


def test_the_system_prompt_is_part_of_the_limit(ann: View):
    memory = MemOSMemory.from_defaults(
        memos=ann, session_id="s1", token_limit=12, tokenizer_fn=words, k=0
    )
    memory.put_messages([user("one two three"), ChatMessage(role="assistant", content="four")])
    script = Script("Fine.", "Fine.")
    SimpleChatEngine.from_defaults(llm=script.llm, memory=memory).chat("five six seven eight nine")
    memory.set(memory.get_all()[:2])
    long = "Be as kind as you can be today."
    engine = SimpleChatEngine.from_defaults(llm=script.llm, memory=memory, system_prompt=long)
    engine.chat("five six seven eight nine")
    assert [len(asked) for asked in script.prompts] == [3, 2]
