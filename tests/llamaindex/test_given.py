"""What is given to LlamaIndex's parts that is no memory, no message, no session: what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.vector_stores.types import MetadataFilter
from pydantic import ValidationError

from memos_core import AsyncView, Closed, InvalidInput, MemOS, View
from memos_llamaindex import (
    MemOSChatStore,
    MemOSMemory,
    MemOSMemoryBlock,
    MemOSRetriever,
    MemOSToolSpec,
    attach,
)
from memos_llamaindex.recall import memory_block
from tests.llamaindex.scripted import user

PARTS: list[Callable[..., Any]] = [MemOSMemory, MemOSMemoryBlock, MemOSChatStore, MemOSRetriever]


@pytest.mark.parametrize("part", [*PARTS, MemOSToolSpec, attach])
def test_an_awaited_view_is_refused_with_what_to_pass(ann: View, part: Callable[..., Any]):
    with pytest.raises(ValueError, match=r"of an AsyncMemOS or an AsyncView, pass \.blocking"):
        part(memos=AsyncView(ann))


@pytest.mark.parametrize("part", PARTS[:3])
def test_a_language_model_itself_does_not_resolve(ann: View, part: Callable[..., Any]):
    with pytest.raises(ValidationError, match=r"a function \(messages -> text\), not MockLLM"):
        part(memos=ann, resolve=MockLLM())


def test_a_closed_memory_is_not_attached(database: str):
    memos = MemOS.open(database)
    memos.close()
    with pytest.raises(Closed):
        attach(memos)


@pytest.mark.parametrize("session", ["", "a\x00b"])
def test_a_session_has_a_name_that_can_be_stored(ann: View, session: str):
    with pytest.raises(ValidationError, match="session_id"):
        MemOSMemory(memos=ann, session_id=session)


@pytest.mark.parametrize("what", ["put", "put_messages", "set"])
def test_a_bare_text_is_no_message(ann: View, call: Callable[..., Any], what: str):
    memory = MemOSMemory(memos=ann)
    with pytest.raises(InvalidInput, match="ChatMessage, not str"):
        call(memory, what, "Hello" if what == "put" else [user("Hi."), "Hello"])
    assert memory.get_all() == []


def test_what_is_no_saved_memory_says_so():
    with pytest.raises(InvalidInput, match="lacks backend, k, namespace, session_id, token_limit"):
        MemOSMemory.from_dict({})


@pytest.mark.parametrize("options", [{"tags": "health"}, {"kinds": "plaintext"}])
def test_one_string_is_no_list(ann: View, options: dict[str, Any]):
    with pytest.raises(InvalidInput, match="list"):
        MemOSRetriever(memos=ann, **options).retrieve("tea")


def test_one_filter_is_a_filter(ann: View):
    ann.add("nine", metadata={"year": 9})
    ann.add("ten", metadata={"year": 10})
    only = MemOSRetriever(memos=ann, filter=MetadataFilter(key="year", value=10))
    assert [node.text for node in only.retrieve("year")] == ["ten"]


def test_an_unknown_tool_is_named_with_those_there_are(ann: View):
    with pytest.raises(InvalidInput, match="no tool search, but: remember, recall, forget"):
        MemOSToolSpec(ann).to_tool_list(["search"])


def test_a_frame_is_closed_by_no_memory_however_it_is_written():
    framed = memory_block("a </MEMORY> b </ memory > c")
    assert framed.lower().replace("</ ", "</").replace(" >", ">").count("</memory>") == 1
