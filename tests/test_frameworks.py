"""What is told in one process, through one framework, is known in another, through any."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from llama_index.core.chat_engine import ContextChatEngine

from memos_core import MemOS, View
from memos_core.demo.frameworks import QuotingChatModel, QuotingLLM
from memos_langchain import MemOSMiddleware
from memos_langchain import MemOSRetriever as DocumentRetriever
from memos_llamaindex import MemOSMemory, MemOSRetriever

TELL = """
import asyncio, sys
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from llama_index.core.chat_engine import SimpleChatEngine
from memos_core import MemOS, View
from memos_core.demo.frameworks import QuotingChatModel, QuotingLLM
from memos_langchain import MemOSMiddleware
from memos_llamaindex import MemOSMemory
from tests.support import WordEmbedder

database, framework, face, session, text = sys.argv[1:]
with MemOS.open(database, embedder=WordEmbedder()) as memos:
    view = memos.at("acme", "ann")
    if framework == "langchain":
        agent = create_agent(QuotingChatModel(), middleware=[MemOSMiddleware(view)])
        message = HumanMessage(text, name="Ann")
        asked = {"messages": [message]}, {"configurable": {"thread_id": session}}
        blocking = face == "sync"
        state = agent.invoke(*asked) if blocking else asyncio.run(agent.ainvoke(*asked))
        print(state["messages"][-1].text)
    else:
        memory = MemOSMemory.from_defaults(memos=view, session_id=session)
        engine = SimpleChatEngine.from_defaults(llm=QuotingLLM(), memory=memory)
        print(engine.chat(text) if face == "sync" else asyncio.run(engine.achat(text)))
"""
DOORS = list(itertools.product(["langchain", "llamaindex"], ["sync", "async"]))


@pytest.fixture
def tell(database: str):
    """Tells an assistant something in a process of its own, and returns its answer."""

    def run(framework: str, face: str, session: str, text: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", TELL, database, framework, face, session, text],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(("framework", "face"), DOORS)
def test_memory_outlives_a_process_and_crosses_frameworks(tell, framework: str, face: str) -> None:
    assert "remember that" in tell(framework, face, "monday", "I am allergic to peanuts.")
    for number, (other, twin) in enumerate(DOORS):
        if (other == framework) != (twin == face):
            answer = tell(other, twin, f"day {number}", "What am I allergic to?")
            assert "I am allergic to peanuts." in answer


@pytest.mark.parametrize("face", ["sync", "async"])
def test_what_a_langchain_agent_was_told_a_llamaindex_engine_recalls_with_its_origin(
    tell, memos: MemOS, face: str
) -> None:
    before = datetime.now(UTC)
    tell("langchain", face, "monday", "I am allergic to peanuts.")
    ann = memos.at("acme", "ann")
    engine: Any = ContextChatEngine.from_defaults(
        retriever=MemOSRetriever(memos=ann, k=1),
        memory=MemOSMemory.from_defaults(memos=ann, session_id="friday"),
        llm=QuotingLLM(),
    )
    question = "What am I allergic to?"

    answer = engine.chat(question) if face == "sync" else asyncio.run(engine.achat(question))

    assert "Ann: I am allergic to peanuts." in str(answer)
    (source,) = answer.source_nodes
    assert_origin(ann, source.text, source.metadata, speaker="Ann", since=before)
    assert ann.provenance(source.node_id).messages[0].content == "I am allergic to peanuts."


@pytest.mark.parametrize("face", ["sync", "async"])
def test_what_a_llamaindex_engine_was_told_a_langchain_agent_recalls_with_its_origin(
    tell, memos: MemOS, face: str
) -> None:
    before = datetime.now(UTC)
    tell("llamaindex", face, "monday", "I am allergic to peanuts.")
    ann = memos.at("acme", "ann")
    memory = MemOSMiddleware(ann)
    agent: Any = create_agent(QuotingChatModel(), middleware=[memory])
    asked = {"messages": [("user", "What am I allergic to?")]}

    state = agent.invoke(asked) if face == "sync" else asyncio.run(agent.ainvoke(asked))

    memory.flush()
    assert "I am allergic to peanuts." in state["messages"][-1].text
    (document,) = DocumentRetriever(memos=ann, k=1).invoke("I am allergic to peanuts.")
    # An engine's chat has no names.
    assert_origin(ann, document.page_content, document.metadata, speaker=None, since=before)


def assert_origin(
    ann: View, text: str, metadata: dict[str, Any], *, speaker: str | None, since: datetime
) -> None:
    said = ann.messages(session="monday")[0]
    assert text == said.content == "I am allergic to peanuts."
    assert metadata["session"] == "monday"
    assert (metadata.get("speaker"), metadata["role"]) == (speaker, "user")
    assert metadata["message_ids"] == [said.id]
    assert datetime.fromisoformat(metadata["said_at"]) == said.created_at
    assert since <= datetime.fromisoformat(metadata["said_at"]) <= datetime.now(UTC)
