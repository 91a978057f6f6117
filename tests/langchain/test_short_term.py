"""LangGraph's PostgresSaver and the middleware on one database, across processes that die."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.types import Command, interrupt

from memos_core import MemOS, View
from memos_core.demo.frameworks import QuotingChatModel
from memos_langchain import MemOSMiddleware, MemOSStore
from tests.langchain.scripted import (
    ALLERGY,
    QUESTION,
    Run,
    ScriptedModel,
    asks,
    calls,
    contents,
    thread,
)
from tests.support import WordEmbedder, everything_in

ROOT = Path(__file__).parent.parent.parent

# A process that dies where it is told to: in a tool, or while it waits for a human.
DIE = """
import os, sys
from langchain.tools import ToolRuntime
from langchain_core.tools import tool
from langgraph.checkpoint.postgres import PostgresSaver
from tests.langchain.test_short_term import QUESTION, agent_with, asks, calls, thread
from tests.support import WordEmbedder
from memos_core import MemOS
from langgraph.types import interrupt

database, where = sys.argv[1:]

@tool
def work() -> str:
    "Work."
    if where == "in a tool":
        os._exit(9)
    return interrupt("go on?")

memos = MemOS.open(database, embedder=WordEmbedder())
with PostgresSaver.from_conn_string(database) as saver:
    agent, _ = agent_with(memos.at("acme", "ann"), saver, work, [calls("work", text="I work.")])
    agent.invoke(asks(QUESTION), thread("one"), durability="sync")
    os._exit(9)
"""


@tool
def work() -> str:
    """Work."""
    return "worked"


@tool
def ask() -> str:
    """Ask a human."""
    return str(interrupt("go on?"))


def agent_with(view: View, saver: Any, work: Any, script: list[Any]) -> tuple[Any, ScriptedModel]:
    model = ScriptedModel(script=script)
    memory = MemOSMiddleware(view, tools=True, background=False)
    return create_agent(model, [work], middleware=[memory], checkpointer=saver), model


@pytest.fixture(autouse=True)
def _checkpoint_tables(database: str) -> None:
    with PostgresSaver.from_conn_string(database) as saver:
        saver.setup()


@pytest.fixture(params=["invoke", "ainvoke"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def later(database: str, way: str) -> Run:
    """Runs an agent as a new process would: all is opened anew. Returns its model too."""

    def run(given: Any, config: Any, *, work: Any = work, script: Any = ()) -> Any:
        with MemOS.open(database, embedder=WordEmbedder()) as memos:
            ann = memos.at("acme", "ann")
            if way == "invoke":
                with PostgresSaver.from_conn_string(database) as saver:
                    agent, model = agent_with(ann, saver, work, list(script))
                    return agent.invoke(given, config), model
            return asyncio.run(awaited(ann, given, config, work, list(script)))

    async def awaited(ann: View, given: Any, config: Any, work: Any, script: list[Any]) -> Any:
        async with AsyncPostgresSaver.from_conn_string(database) as saver:
            agent, model = agent_with(ann, saver, work, script)
            return await agent.ainvoke(given, config), model

    return run


def test_a_conversation_goes_on_and_others_remember_it(later: Run, ann: View) -> None:
    later(asks(ALLERGY), thread("one"))
    _, model = later(asks(QUESTION), thread("one"))
    assert [one.text for one in model.prompts[0]] == [ALLERGY, "ok", QUESTION]
    _, model = later(asks(QUESTION), thread("two"))
    assert len(model.prompts[0]) == 1
    assert ALLERGY in model.prompts[0][0].text
    assert contents(ann) == [ALLERGY, "ok", QUESTION, "ok", QUESTION, "ok"]


@pytest.mark.parametrize("where", ["in a tool", "while it waits"])
def test_a_run_whose_process_died_goes_on_and_stores_each_message_once(
    later: Run, ann: View, database: str, where: str
) -> None:
    ann.add("Ann is allergic to peanuts.")
    died = subprocess.run(
        [sys.executable, "-c", DIE, database, where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == 9, died.stderr
    assert contents(ann) == [QUESTION, "I work."], "said before it died"
    if where == "in a tool":
        state, model = later(None, thread("one"))
    else:
        state, model = later(Command(resume="worked"), thread("one"), work=renamed(ask))
    assert [one.text for one in state["messages"]] == [QUESTION, "I work.", "worked", "ok"]
    assert contents(ann) == [QUESTION, "I work.", "worked", "ok"]
    assert len(model.prompts) == 1
    assert "allergic to peanuts" in model.prompts[0][0].text, "recalled again"
    assert [hit.text for hit in ann.search(QUESTION, k=50)].count(QUESTION) == 1


def renamed(tool: Any) -> Any:
    return tool.model_copy(update={"name": "work"})


def test_a_memory_that_was_shown_before_a_restart_is_known_after_it(
    later: Run, ann: View, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    ann.add("Ann drinks tea.")
    _, model = later(asks("Tea?"), thread("one"), script=[calls("search_memory", query="tea")])
    (line,) = [line for line in model.prompts[-1][-1].text.splitlines() if "drinks" in line]

    def forgets(_: list[BaseMessage]) -> AIMessage:
        return calls("forget_memory", "c2", id=line[1:9])

    state, _ = later(asks("Forget it."), thread("one"), script=[forgets])
    assert state["messages"][-2].text.startswith("Forgotten")
    assert "Ann drinks tea." not in str([hit.text for hit in ann.search("tea", k=50)])
    assert "unregistered" not in caplog.text, "a checkpoint keeps the artifact as it is"
    assert "drinks tea" not in everything_in(database), "the checkpoint is not ours"


def test_the_tables_of_both_stand_side_by_side(later: Run, ann: View, database: str) -> None:
    later(asks(ALLERGY), thread("one"))
    with PostgresSaver.from_conn_string(database) as saver:
        saver.setup()  # again, on a database in use
        saver.delete_thread("one")
        assert saver.get_tuple(thread("one")) is None
    assert ann.search("allergic")[0].text == ALLERGY
    assert len(ann.forget_all(session="one").message_ids) == 2
    assert ann.stats().cubes == 0


def test_the_document_runs_from_top_to_bottom(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    text = (ROOT / "docs/short-term-memory.md").read_text("utf-8")
    names: dict[str, Any] = {"model": TooledModel()}
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        exec(compile(snippet, f"short-term-memory.md snippet {number}", "exec"), names)  # noqa: S102
    assert len(names["forgotten"].message_ids) == 4


class TooledModel(QuotingChatModel):
    """What a reader has already: a model that may be given tools."""

    def bind_tools(self, tools: Any, **_options: Any) -> TooledModel:
        del tools
        return self


def said_in(model: ScriptedModel) -> str:
    return "\n".join(message.text for message in model.prompts[-1])


def test_checkpoints_store_and_middleware_share_a_database(database: str) -> None:
    @tool
    def note(runtime: ToolRuntime) -> str:
        """Keep a note in the store."""
        assert runtime.store is not None
        runtime.store.put(("ann", "notes"), "allergy", {"text": ALLERGY})
        return "noted"

    def run(given: Any, config: Any, script: list[Any]) -> ScriptedModel:
        with (
            PostgresSaver.from_conn_string(database) as saver,
            MemOS.open(database, embedder=WordEmbedder()) as memos,
        ):
            model = ScriptedModel(script=script)
            agent = create_agent(
                model,
                [note],
                middleware=[MemOSMiddleware(namespace=("{user_id}",), background=False)],
                checkpointer=saver,
                store=MemOSStore(memos.at("acme")),
            )
            agent.invoke(given, config)
            return model

    ann = {"configurable": {"thread_id": "one", "user_id": "ann"}}
    run(asks("Keep a note."), ann, [calls("note", text="I keep it."), AIMessage("Kept.")])
    same = run(asks("And then?"), ann, [AIMessage("Nothing.")])
    assert "Kept." in said_in(same)  # the checkpointer has the conversation
    other = {"configurable": {"thread_id": "two", "user_id": "ann"}}
    model = run(asks(QUESTION), other, [AIMessage("No peanuts.")])
    assert ALLERGY in said_in(model)  # the middleware recalls what the store holds
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        item = MemOSStore(memos.at("acme")).get(("ann", "notes"), "allergy")
        assert item is not None
        assert item.value == {"text": ALLERGY}
    with PostgresSaver.from_conn_string(database) as saver:
        assert len(list(saver.list(None))) > 2
