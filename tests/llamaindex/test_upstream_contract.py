"""What LlamaIndex's own tests ask of a chat store and of chat engines, through both memories."""

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
from llama_index.core.chat_engine.multi_modal_condense_plus_context import (
    MultiModalCondensePlusContextChatEngine,
)
from llama_index.core.chat_engine.multi_modal_context import MultiModalContextChatEngine
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import BaseMemory, Memory
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.storage.chat_store.base_db import MessageStatus

from memos_core import View
from memos_llamaindex import MemOSChatStore, MemOSMemory, MemOSRetriever
from tests.llamaindex.scripted import Script, assistant, prompt, texts, user, words
from tests.support import until

Make = Callable[..., Any]
ARCHIVED = MessageStatus.ARCHIVED
FIRST, SECOND = "Hello World!", "What is the capital of the moon?"


@pytest.fixture(params=["MemOSMemory", "MemOSChatStore"])
def memory(request: pytest.FixtureRequest, ann: View) -> BaseMemory:
    """A session in the database: the memory of this project, and LlamaIndex's over its store."""
    if request.param == "MemOSMemory":
        return MemOSMemory.from_defaults(memos=ann, session_id="s1")
    return Memory.from_defaults(session_id="s1", chat_store=MemOSChatStore(memos=ann))


# ---------------------------------------------------------------- chat engines


class Echo(CustomQueryEngine):
    """Answers with the question, whole or in pieces."""

    streaming: bool = False

    def custom_query(self, query_str: str) -> Any:
        pieces = iter(["You ask: ", query_str])
        return StreamingResponse(pieces) if self.streaming else Response("".join(pieces))

    async def acustom_query(self, query_str: str) -> Any:
        async def pieces():
            yield "You ask: "
            yield query_str

        return AsyncStreamingResponse(pieces()) if self.streaming else self.custom_query(query_str)


ENGINES = [
    SimpleChatEngine,
    ContextChatEngine,
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    MultiModalContextChatEngine,
    MultiModalCondensePlusContextChatEngine,
]


@pytest.fixture(params=ENGINES)
def make_engine(request: pytest.FixtureRequest, ann: View, memory: BaseMemory) -> Make:
    """Makes an engine of a model; each takes what it knows of what it is given."""
    ann.add("The moon has no capital.")  # without a node there is no answer

    def make(llm: Any, *, streaming: bool = False) -> Any:
        return request.param.from_defaults(
            retriever=MemOSRetriever(memos=ann, k=1),
            query_engine=Echo(streaming=streaming),
            memory=memory,
            llm=llm,
            multi_modal_llm=llm,
        )

    return make


async def astreamed(engine: Any, message: str) -> str:
    response = await engine.astream_chat(message)
    return "".join([token async for token in response.async_response_gen()])


WAYS: dict[str, Callable[[Any, str], str]] = {
    "chat": lambda engine, message: str(engine.chat(message)),
    "stream_chat": lambda engine, message: "".join(engine.stream_chat(message).response_gen),
    "achat": lambda engine, message: str(asyncio.run(engine.achat(message))),
    "astream_chat": lambda engine, message: asyncio.run(astreamed(engine, message)),
}


def test_every_way_of_talking_to_an_engine_goes_on_with_the_session(make_engine: Make):
    script = Script()
    said: list[str] = []
    for way, talk in WAYS.items():
        engine = make_engine(script.llm, streaming="stream" in way)
        said += [f"What is new, {way}?", talk(engine, f"What is new, {way}?")]
        assert texts(engine.chat_history) == said

    assert all(question in prompt(script.prompts[-1]) for question in said[::2][:-1])
    engine.reset()
    assert engine.chat_history == []


# A CondenseQuestionChatEngine reads what is sent along, and leaves the memory as it is.
@pytest.mark.parametrize(
    "make_engine", [one for one in ENGINES if one is not CondenseQuestionChatEngine], indirect=True
)
def test_a_history_that_is_sent_along_replaces_what_was_said(memory: BaseMemory, make_engine: Make):
    engine = make_engine(Script().llm)
    memory.put_messages([user(FIRST), assistant("old")])

    engine.chat(SECOND, chat_history=[user("earlier"), assistant("indeed")])
    assert texts(engine.chat_history)[:-1] == ["earlier", "indeed", SECOND]

    engine.chat(SECOND, chat_history=[])
    assert texts(engine.chat_history)[:-1] == [SECOND]


@pytest.mark.parametrize(
    "make_engine", [ContextChatEngine, MultiModalCondensePlusContextChatEngine], indirect=True
)
async def test_a_query_bundle_may_ask(make_engine: Make):
    script = Script()
    engine = make_engine(script.llm)
    for question in ("How are you?", "And now?"):
        await engine.achat(QueryBundle(question))
        assert question in prompt(script.prompts[-1])
    assert texts(engine.chat_history)[::2] == ["How are you?", "And now?"]


def test_an_answer_that_is_read_in_part_is_kept_whole(make_engine: Make):
    engine = make_engine(MockLLM(), streaming=True)
    next(iter(engine.stream_chat(FIRST).response_gen))
    until(lambda: len(engine.chat_history) == 2)
    assert FIRST in (engine.chat_history[1].content or "")


async def test_an_answer_that_is_awaited_in_part_is_kept_whole(make_engine: Make):
    engine = make_engine(MockLLM(), streaming=True)
    response = await engine.astream_chat(FIRST)
    async for _ in response.async_response_gen():
        break
    await response.awrite_response_to_history_task
    assert texts(engine.chat_history) == [FIRST, response.response]
    assert FIRST in response.response


class BreakingLLM(MockLLM):
    """Breaks off in the middle of an answer."""

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        yield next(super().stream_complete(prompt, formatted, **kwargs))
        raise ConnectionResetError


async def test_a_model_that_breaks_off_leaves_the_question(memory: BaseMemory):
    engine = SimpleChatEngine.from_defaults(llm=BreakingLLM(), memory=memory)
    with pytest.raises(ConnectionResetError):
        await astreamed(engine, FIRST)
    assert texts(engine.chat_history) == [FIRST]

    engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=memory)
    assert FIRST in str(await engine.achat(SECOND))


# ---------------------------------------------------------------- the chat store


@pytest.fixture
def store(ann: View) -> MemOSChatStore:
    return MemOSChatStore(memos=ann)


async def test_an_unknown_session_is_empty(store: MemOSChatStore):
    await store.add_message("s1", user("Hello."))
    await store.delete_messages("s2")
    assert await store.get_messages("s2", status=None) == []
    assert await store.count_messages("s2", status=None) == 0
    assert await store.delete_message("s2", 0) is None
    assert await store.delete_oldest_messages("s2", 1) == []
    assert await store.get_keys() == ["s1"]


async def test_a_session_is_deleted_alone(store: MemOSChatStore):
    await store.add_message("s1", user("one"))
    await store.add_message("s2", user("two"))
    await store.delete_messages("s1")
    assert await store.get_messages("s1") == []
    assert texts(await store.get_messages("s2")) == ["two"]


async def test_memory_is_seeded_through_the_store(ann: View, store: MemOSChatStore):
    seeds = [user("Seeded"), assistant("Indeed")]
    for _restart in range(2):
        memory = Memory.from_defaults(session_id="s1", chat_history=seeds, chat_store=store)
        assert memory.sql_store is store
        assert await memory.aget() == seeds
    await store.aflush()
    assert ann.stats().cubes == 2


async def test_what_memory_cannot_hold_is_archived_in_the_store(store: MemOSChatStore):
    memory = Memory.from_defaults(
        session_id="s1",
        chat_store=store,
        tokenizer_fn=words,
        token_limit=1000,
        token_flush_size=700,
        chat_history_token_ratio=0.9,
    )
    said = [user("x " * 500), assistant("y " * 500), user("z " * 500)]
    await memory.aput_messages(said)

    assert await memory.aget() == said[2:]
    assert await store.get_messages("s1", ARCHIVED) == said[:2]
    assert await memory.aget_all() == said
