"""What the middleware does behind a run, and the tools it brings."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from memos_core import EmbedderUnavailable, InvalidInput, MemOS, Settings, View
from memos_core.embedder import Vectors
from memos_langchain import MemOSMiddleware, MemOSStore
from tests.langchain.scripted import (
    ALLERGY,
    QUESTION,
    Run,
    ScriptedModel,
    asks,
    calls,
    contents,
    runs_by,
    thread,
)
from tests.support import WordEmbedder, everything_in

UPDATE = '{"outcome": "update", "other": 1, "text": null}'


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    return runs_by(request.param)


class Thinker:
    """A language model that answers when it is let; keeps what it was asked."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[str] = []

    def __call__(self, messages: object) -> str:
        self.asked.append(str(messages))
        assert self.may_answer.wait(60)
        return UPDATE


@pytest.fixture
def thinker() -> Iterator[Thinker]:
    thinker = Thinker()
    yield thinker
    thinker.may_answer.set()  # else a failed test waits for it


class TroubledEmbedder(WordEmbedder):
    """Takes its time for some texts, and fails for others."""

    slow = failing = "nothing"

    def embed(self, texts: Sequence[str]) -> Vectors:
        if any(self.slow in text for text in texts):
            time.sleep(0.3)
        if any(self.failing in text for text in texts):
            raise EmbedderUnavailable("no model")
        return super().embed(texts)


@pytest.fixture
def troubled(database: str) -> Iterator[tuple[TroubledEmbedder, View]]:
    embedder = TroubledEmbedder()
    with MemOS.open(database, embedder=embedder) as memos:
        yield embedder, memos.at("acme", "ann")


def flush(run: Run, memory: MemOSMiddleware, timeout: float | None = None) -> None:
    class Flushing:
        invoke = staticmethod(memory.flush)
        ainvoke = staticmethod(memory.aflush)

    run(Flushing, timeout)


# --- extraction -----------------------------------------------------------------------------------


def test_no_answer_waits_for_a_language_model_that_reads(
    run: Run, ann: View, thinker: Thinker
) -> None:
    memory = MemOSMiddleware(ann, resolve=thinker)
    agent = create_agent(ScriptedModel(), middleware=[memory])
    run(agent, asks("I have two dogs."), thread("one"))
    for name, text in (("two", "I have three dogs."), ("three", "How many dogs have I?")):
        assert run(agent, asks(text), thread(name))["messages"][-1].text == "ok"
    assert contents(ann)[2] == "I have three dogs."
    with pytest.raises(TimeoutError):
        flush(run, memory, 0.01)
    thinker.may_answer.set()
    flush(run, memory)
    (dogs,) = [hit.cube for hit in ann.search("dogs") if "have" in hit.text and "?" not in hit.text]
    assert (dogs.text, dogs.version) == ("I have three dogs.", 2)


def delay_reading(monkeypatch: pytest.MonkeyPatch, until: Callable[[], object]) -> None:
    """Have what was stored read only after something."""
    ingest_later = View.ingest_later

    def late(self: View, *args: Any, **options: Any) -> Callable[[], object]:
        read = ingest_later(self, *args, **options)
        return lambda: (until(), read())

    monkeypatch.setattr(View, "ingest_later", late)


def test_a_run_waits_for_what_others_said_before(
    run: Run, ann: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay_reading(monkeypatch, lambda: time.sleep(0.3))
    model = ScriptedModel()
    agent = create_agent(model, middleware=[MemOSMiddleware(ann)])
    run(agent, asks(ALLERGY), thread("one"))
    run(agent, asks(QUESTION), thread("two"))
    assert ALLERGY in model.prompts[-1][-1].text


def test_a_run_does_not_wait_for_its_own_message(
    run: Run, ann: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_read = threading.Event()

    def wait() -> None:
        assert may_read.wait(60)

    delay_reading(monkeypatch, wait)
    memory = MemOSMiddleware(ann)
    model = ScriptedModel(script=[lambda _: may_read.set() or AIMessage("Noted.")])
    run(create_agent(model, middleware=[memory]), asks(ALLERGY))
    memory.flush()
    assert ann.search("allergic")[0].text == ALLERGY


def test_one_conversation_is_read_in_its_order(run: Run, ann: View, thinker: Thinker) -> None:
    memory = MemOSMiddleware(ann, resolve=thinker)
    agent = create_agent(ScriptedModel(), middleware=[memory], checkpointer=InMemorySaver())
    for number in range(6):
        run(agent, asks(f"I have {number} dogs."), thread("one"))
    thinker.may_answer.set()
    flush(run, memory)
    (dogs,) = [hit.cube for hit in ann.search("dogs") if "dogs" in hit.text]
    assert [cube.text for cube in ann.history(dogs.id)] == [f"I have {n} dogs." for n in range(6)]


def test_what_cannot_be_read_is_told_and_read_later(
    run: Run,
    troubled: tuple[TroubledEmbedder, View],
    database: str,
    age: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    embedder, ann = troubled
    embedder.failing = "peanuts"
    memory = MemOSMiddleware(ann, k=0)
    agent = create_agent(ScriptedModel(), middleware=[memory])
    assert run(agent, asks("I like peanuts a lot, I do"), thread("one"))
    with pytest.raises(EmbedderUnavailable):
        flush(run, memory)
    flush(run, memory)
    assert "acme/ann is not yet read" in caplog.text
    assert contents(ann)[0] == "I like peanuts a lot, I do"
    embedder.failing = "nothing"
    age(database)
    run(agent, asks("What do I like?"), thread("two"))
    flush(run, memory)
    assert "peanuts" in {word for hit in ann.search("peanuts") for word in hit.text.split()}


def test_closing_waits_until_all_is_read(run: Run, database: str) -> None:
    embedder = TroubledEmbedder()
    embedder.slow = ALLERGY
    with MemOS.open(database, embedder=embedder) as memos:
        memory = MemOSMiddleware(memos.at("acme", "ann"))
        run(create_agent(ScriptedModel(), middleware=[memory]), asks(ALLERGY))
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        assert memos.at("acme", "ann").search("allergic")[0].text == ALLERGY


def test_a_language_model_leaves_threads_to_others(database: str, thinker: Thinker) -> None:
    with MemOS.open(database, embedder=WordEmbedder(), settings=Settings(pool_size=2)) as memos:
        memory = MemOSMiddleware(memos, namespace=("acme", "{user_id}"), resolve=thinker)
        agent = create_agent(ScriptedModel(), middleware=[memory])
        for name in "abcd":
            memos.at("acme", name).add("I have two dogs.")

        async def all_of_them() -> None:
            for name in "abcd":
                config = {"configurable": {"user_id": name}}
                await asyncio.wait_for(agent.ainvoke(asks("I have three dogs."), config), 60)

        asyncio.run(all_of_them())
        thinker.may_answer.set()
        memory.flush()
        for name in "abcd":
            assert "I have three dogs." in contents(memos.at("acme", name))


def test_on_request_memories_are_made_before_the_run_goes_on(run: Run, ann: View) -> None:
    found: list[str] = []

    def look(_: object) -> object:
        found.extend(hit.text for hit in ann.search("allergic"))
        return calls("none")

    memory = MemOSMiddleware(ann, background=False)
    run(create_agent(ScriptedModel(script=[look]), middleware=[memory]), asks(ALLERGY))
    assert found == [ALLERGY]


def test_in_a_pipeline_all_is_one_transaction(memos: MemOS, ann: View) -> None:
    with memos.pipeline(dry_run=True) as pipeline:
        here = pipeline.at("acme", "ann")
        create_agent(ScriptedModel(), middleware=[MemOSMiddleware(here)]).invoke(asks(ALLERGY))
        assert here.search("allergic")[0].text == ALLERGY
    assert contents(ann) == []


# --- tools and users ------------------------------------------------------------------------------


def test_tools_are_the_agent_s_and_of_the_run_s_user(run: Run, memos: MemOS) -> None:
    memory = MemOSMiddleware(memos, namespace=("acme", "{user_id}"), tools=True)
    model = ScriptedModel(
        script=[
            calls("manage_memory", "c1", content="Ann drinks tea."),
            calls("search_memory", "c2", query="tea"),
        ]
    )
    agent = create_agent(model, middleware=[memory])
    state = run(agent, asks("Tea, please."), {"configurable": {"user_id": "ann"}})
    assert model.tools == ["search_memory", "manage_memory", "forget_memory"]
    assert "Ann drinks tea." in state["messages"][-2].text
    memory.flush()
    found = [hit.text for hit in memos.at("acme", "ann").search("tea")]
    assert "Ann drinks tea." in found
    assert memos.at("acme").stats().cubes == memos.at("acme", "ann").stats().cubes


def test_what_a_tool_forgot_stays_nowhere(run: Run, ann: View, database: str) -> None:
    memory = MemOSMiddleware(ann, tools=True)
    told = "The code of my door is zanzibar."
    model = ScriptedModel()
    agent = create_agent(model, middleware=[memory], checkpointer=InMemorySaver())
    run(agent, asks(told), thread("one"))
    memory.flush()

    def forgets(prompt: list[BaseMessage]) -> AIMessage:
        (line,) = [line for line in prompt[-1].text.splitlines() if "zanzibar" in line]
        return calls("forget_memory", "c2", id=line[1:9])

    model.script = [calls("search_memory", "c1", query="door"), forgets]
    state = run(agent, asks("Forget how my door opens."), thread("one"))
    assert "zanzibar" in state["messages"][-4].text, "the model was shown it"
    run(agent, asks("Thank you."), thread("one"))
    memory.flush()
    assert contents(ann)[:1] == ["ok"]
    assert "zanzibar" not in everything_in(database)


def test_of_a_team_s_memory_each_recalls_what_he_may(run: Run, memos: MemOS) -> None:
    memory = MemOSMiddleware(memos, namespace=("acme", "team"), user="{user_id}")
    agent = create_agent(model := ScriptedModel(), middleware=[memory])
    ann, bob = ({"configurable": {"user_id": name}} for name in ("ann", "bob"))
    run(agent, asks(ALLERGY), ann)
    for user, shown in ((bob, False), (ann, True)):
        run(agent, {"messages": [HumanMessage(QUESTION, id="1")]}, user)
        assert (ALLERGY in model.prompts[-1][-1].text) == shown


def test_without_a_memory_it_is_that_of_the_agent_s_store(run: Run, memos: MemOS) -> None:
    memory = MemOSMiddleware(namespace=("users", "{user_id}"), tools=True)
    store = MemOSStore(memos.at("acme"))
    agent = create_agent(model := ScriptedModel(), middleware=[memory], store=store)
    for text in (ALLERGY, QUESTION):
        run(agent, asks(text), {"configurable": {"user_id": "ann"}})
    assert ALLERGY in model.prompts[-1][-1].text
    assert contents(memos.at("acme", "users", "ann")) == [ALLERGY, "ok", QUESTION, "ok"]
    with pytest.raises(InvalidInput, match="store=MemOSStore"):
        run(create_agent(model, middleware=[MemOSMiddleware()]), asks(ALLERGY))
