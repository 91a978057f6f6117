"""What is told in one process, through one framework, is known in another, through any."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

TELL = """
import asyncio, sys
from langchain.agents import create_agent
from llama_index.core.chat_engine import SimpleChatEngine
from memos_core import MemOS
from memos_core.demo.frameworks import QuotingChatModel, QuotingLLM
from memos_langchain import MemOSMiddleware
from memos_llamaindex import MemOSMemory
from tests.support import WordEmbedder

database, framework, face, session, text = sys.argv[1:]
with MemOS.open(database, embedder=WordEmbedder()) as memos:
    view = memos.at("acme", "ann")
    if framework == "langchain":
        agent = create_agent(QuotingChatModel(), middleware=[MemOSMiddleware(view)])
        asked = {"messages": [("user", text)]}, {"configurable": {"thread_id": session}}
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
