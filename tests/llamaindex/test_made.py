"""How a memory is made, and what LlamaIndex expects of one by its class."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import BaseMemory
from llama_index.core.schema import BaseComponent
from pydantic import ValidationError

from memos_core import View
from memos_llamaindex import MemOSMemory, MemOSMemoryBlock
from tests.llamaindex.scripted import assistant, texts, user, words


def test_it_takes_what_llamaindex_s_memories_take(ann: View):
    memory = MemOSMemory.from_defaults(
        memos=ann,
        session_id="s1",
        chat_history=[user("Hello"), assistant("Hi")],
        llm=MockLLM(),
        token_limit=99,
        tokenizer_fn=words,
    )
    assert (memory.session_id, memory.token_limit, memory.tokenizer_fn) == ("s1", 99, words)
    assert texts(memory.get_all()) == ["Hello", "Hi"]


def test_without_a_limit_it_is_of_the_model_or_of_memory(ann: View):
    window = MockLLM().metadata.context_window
    assert MemOSMemory.from_defaults(memos=ann, llm=MockLLM()).token_limit == window * 3 // 4
    assert MemOSMemory.from_defaults(memos=ann).token_limit == 30_000


@pytest.mark.parametrize("history", [None, []])
def test_without_a_history_the_session_goes_on(ann: View, history: list[ChatMessage] | None):
    MemOSMemory.from_defaults(memos=ann, session_id="s1").put(user("Hello"))
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1", chat_history=history)
    assert texts(memory.get_all()) == ["Hello"]


def test_a_history_may_be_given_again_and_again(ann: View):
    for _ in range(2):
        memory = MemOSMemory.from_defaults(memos=ann, session_id="s1", chat_history=[user("Hello")])
    memory.flush()
    assert texts(memory.get_all()) == ["Hello"]
    assert ann.stats().cubes == 1


def test_each_memory_without_a_session_is_a_new_one(ann: View):
    one, two = (MemOSMemory.from_defaults(memos=ann) for _ in range(2))
    assert one.session_id != two.session_id


@pytest.mark.parametrize("word", ["memory_blocks", "insert_method", "chat_store", "sesion_id"])
def test_what_it_has_no_use_for_is_refused(ann: View, word: str):
    with pytest.raises(TypeError, match=word):
        MemOSMemory.from_defaults(memos=ann, **{word: "x"})
    with pytest.raises(ValidationError, match=word):
        MemOSMemory(memos=ann, **{word: "x"})
    with pytest.raises(ValidationError, match=word):
        MemOSMemoryBlock(memos=ann, **{word: "x"})


@pytest.mark.parametrize("options", [{"token_limit": 0}, {"k": -1}, {"session_id": 7}])
def test_what_cannot_be_is_refused(ann: View, options: dict[str, Any]):
    with pytest.raises(ValidationError):
        MemOSMemory.from_defaults(memos=ann, **options)


def test_an_engine_that_makes_its_own_memory_says_what_it_lacks():
    with pytest.raises(TypeError, match="memos"):
        SimpleChatEngine.from_defaults(llm=MockLLM(), memory_cls=MemOSMemory)


def test_every_method_is_its_own_in_both_twins():
    inherited = {"flush", "aflush"}
    names = {name for name in vars(BaseMemory) if not name.startswith("_")}
    public = {name for name in names if inspect.isfunction(vars(BaseMemory)[name])}
    assert {"get", "aget", "put", "aput", "put_messages", "aset", "areset"} <= public
    for name in public:
        assert name in vars(MemOSMemory), name
        twin = name.startswith("a") and name[1:] in public
        assert inspect.iscoroutinefunction(getattr(MemOSMemory, name)) == twin
    assert all(hasattr(MemOSMemory, name) for name in inherited)


@pytest.mark.parametrize("name", ["to_dict", "from_dict", "class_name", "from_defaults"])
def test_what_saving_goes_by_is_its_own(name: str):
    assert hasattr(BaseComponent, name) or hasattr(BaseMemory, name)
    assert name in vars(MemOSMemory)


def test_the_class_is_found_again_by_its_name():
    assert MemOSMemory.__qualname__ == MemOSMemory.class_name() == "MemOSMemory"
    assert MemOSMemory.__module__ == "memos_llamaindex.memory"  # stands in saved contexts


def test_unknown_words_to_get_are_for_others(ann: View, call):
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
    call(memory, "put", user("Hello"))
    assert call(memory, "get", phase="planning", initial_token_count=None) == [user("Hello")]


@pytest.mark.parametrize("question", ["Which?", user("Which?"), ChatMessage(role="user"), "", None])
def test_what_is_asked_is_never_stored_nor_shown(ann: View, call, question: Any):
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
    call(memory, "put", user("Hello"))
    assert call(memory, "get", question) == [user("Hello")]
    assert call(memory, "get_all") == [user("Hello")]


def test_its_text_holds_no_secret(database: str, ann: View):
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
    for text in (str(memory), repr(memory), str(memory.to_dict()), memory.model_dump_json()):
        assert database not in text
        assert "postgres" not in text


async def test_a_blocking_call_in_a_running_loop(ann: View):
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
    memory.put(user("Hello"))
    await memory.aput(assistant("Hi"))
    assert memory.get() == await memory.aget()
    await asyncio.to_thread(memory.reset)
    assert memory.get_all() == []
