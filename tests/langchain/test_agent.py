"""Whole agents: many users, broken and interrupted runs, many runs at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, before_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from memos_core import MemOS, View
from memos_langchain import MemOSMiddleware
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

USERS = ("acme", "{user_id}")
MANY = 50


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    return runs_by(request.param)


def quotes_or_remembers(prompt: list[BaseMessage]) -> AIMessage:
    """Remember by a tool what it is asked to; answer all else with what it was asked."""
    last = prompt[-1]
    if isinstance(last, ToolMessage):
        return AIMessage("It is done.")
    if last.text.endswith("Remember it."):
        said = last.text.splitlines()[-1]
        return calls("manage_memory", f"call {said}", content=said.removesuffix(" Remember it."))
    return AIMessage(f"You ask: {last.text}")


def agent_for(memos: View, **options: Any) -> tuple[Any, MemOSMiddleware]:
    memory = MemOSMiddleware(memos, tools=True, **options)
    model = ScriptedModel(react=quotes_or_remembers)
    return create_agent(model, middleware=[memory], checkpointer=InMemorySaver()), memory


def test_two_users_take_turns_and_each_has_his_own_memory(run: Run, memos: MemOS) -> None:
    agent, memory = agent_for(memos, namespace=USERS)
    drinks = {"ann": "tea", "bob": "gin"}
    for step in ("I like {}. Remember it.", "I live by the {} shop.", "What do I like?"):
        for user, drink in drinks.items():
            run(agent, asks(step.format(drink)), thread(user, user_id=user))
    for user, other in (("ann", "gin"), ("bob", "tea")):
        state = run(agent, asks("Which shop, and what do I like?"), thread("new", user_id=user))
        answer = state["messages"][-1].text
        assert f"I like {drinks[user]}." in answer
        assert f"I live by the {drinks[user]} shop." in answer
        assert other not in answer
        memory.flush()
        view = memos.at("acme", user)
        assert other not in str(contents(view))
        assert other not in str([hit.text for hit in view.search("shop like", k=50)])
        agent.checkpointer.delete_thread("new")


def test_after_an_exception_in_a_tool_the_conversation_goes_on(run: Run, ann: View) -> None:
    broken = [True]

    def pay() -> str:
        """Pay."""
        if broken.pop():
            raise RuntimeError("no money")
        return "paid"

    model = ScriptedModel(script=[calls("pay", text="I pay.")])
    memory = MemOSMiddleware(ann)
    agent = create_agent(model, [pay], middleware=[memory], checkpointer=InMemorySaver())
    with pytest.raises(RuntimeError, match="no money"):
        run(agent, asks(ALLERGY), thread("one"))
    memory.flush()
    assert contents(ann) == [ALLERGY, "I pay."]
    assert ann.search("allergic")[0].text == ALLERGY
    broken.append(False)
    run(agent, None, thread("one"))  # where it broke off
    assert contents(ann) == [ALLERGY, "I pay.", "paid", "ok"]


@pytest.mark.parametrize("first", ["memory", "review"])
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_run_that_waits_for_review_stores_each_message_once(
    run: Run, ann: View, first: str, decision: str
) -> None:
    ann.add("Ann is allergic to peanuts.")
    memory = MemOSMiddleware(ann, tools=True)
    review: Any = HumanInTheLoopMiddleware(interrupt_on={"manage_memory": True})
    asked = calls("manage_memory", content="Ann is allergic to figs.", text="Shall I?")
    model = ScriptedModel(script=[asked])
    agent = create_agent(
        model,
        middleware=[memory, review] if first == "memory" else [review, memory],
        checkpointer=InMemorySaver(),
    )
    state = run(agent, asks(QUESTION), thread("one"))
    assert state["__interrupt__"]
    assert contents(ann)[0] == QUESTION
    run(agent, Command(resume={"decisions": [{"type": decision}]}), thread("one"))
    memory.flush()
    said = contents(ann)
    assert said[:2] == [QUESTION, "Shall I?"]
    assert said[-1] == "ok"
    assert len(said) == (3 if decision == "approve" else 4), "a refusal is what a human said"
    made = [hit.text for hit in ann.search("figs") if "figs" in hit.text]
    assert made == (["Ann is allergic to figs."] if decision == "approve" else [])
    first_prompt, second_prompt = (prompt[0].text for prompt in model.prompts)
    assert first_prompt == second_prompt != QUESTION, "a resumed run is shown the same"


def test_a_run_that_is_given_up_stores_what_was_said(run: Run, ann: View) -> None:
    memory = MemOSMiddleware(ann)
    review: Any = HumanInTheLoopMiddleware(interrupt_on={"pay": True})

    def pay() -> str:
        """Pay."""
        return "paid"

    model = ScriptedModel(script=[calls("pay", text="Shall I?")])
    agent = create_agent(model, [pay], middleware=[memory, review], checkpointer=InMemorySaver())
    run(agent, asks(QUESTION), thread("one"))
    run(agent, asks("Never mind."), thread("one"))
    assert contents(ann) == [QUESTION, "Shall I?", "Never mind.", "ok"]


@pytest.mark.parametrize("first", ["memory", "guard"])
def test_what_a_guard_answers_in_place_of_the_model_is_stored(
    run: Run, ann: View, first: str
) -> None:
    @before_agent(can_jump_to=["end"])
    def guard(state: Any, runtime: Any) -> dict[str, Any]:
        del state, runtime
        return {"messages": [AIMessage("I must not.")], "jump_to": "end"}

    memory: Any = MemOSMiddleware(ann)
    model = ScriptedModel()
    agent = create_agent(
        model, middleware=[memory, guard] if first == "memory" else [guard, memory]
    )
    run(agent, asks(QUESTION))
    assert contents(ann) == [QUESTION, "I must not."]
    assert model.prompts == []


def config_of(number: int) -> Any:
    return thread(f"thread {number}", user_id=f"user {number}")


def test_many_runs_at_once_in_threads(memos: MemOS) -> None:
    agent, memory = agent_for(memos, namespace=USERS)

    def talk(number: int) -> str:
        agent.invoke(asks(f"My number is N{number}N. Remember it."), config_of(number))
        other = thread(f"other {number}", user_id=f"user {number}")
        return agent.invoke(asks("What is my number?"), other)["messages"][-1].text

    with ThreadPoolExecutor(MANY) as threads:
        answers = list(threads.map(talk, range(MANY)))
    memory.flush()
    check_each_has_his_own(memos, answers)


async def test_many_runs_at_once_awaited(memos: MemOS) -> None:
    agent, memory = agent_for(memos, namespace=USERS)

    async def talk(number: int) -> str:
        await agent.ainvoke(asks(f"My number is N{number}N. Remember it."), config_of(number))
        other = thread(f"other {number}", user_id=f"user {number}")
        state = await agent.ainvoke(asks("What is my number?"), other)
        return state["messages"][-1].text

    answers = await asyncio.gather(*map(talk, range(MANY)))
    await memory.aflush()
    check_each_has_his_own(memos, answers)


def check_each_has_his_own(memos: MemOS, answers: list[str]) -> None:
    for number, answer in enumerate(answers):
        assert f"My number is N{number}N." in answer
        assert answer.count("N.") == answer.count(f"N{number}N.")
        view = memos.at("acme", f"user {number}")
        told = f"My number is N{number}N. Remember it."
        assert contents(view) == [told, "", "It is done.", "What is my number?", answer]
        found = [hit.text for hit in view.search("number")]
        assert found.count(f"My number is N{number}N.") == 1


@pytest.mark.parametrize("way", ["threads", "awaited"])
def test_many_runs_at_once_of_one_user_lose_nothing(ann: View, way: str) -> None:
    memory = MemOSMiddleware(ann)
    agent = create_agent(ScriptedModel(), middleware=[memory], checkpointer=InMemorySaver())
    lines = [f"I know number {number}." for number in range(MANY)]

    def told(line: str) -> tuple[Any, Any]:
        return {"messages": [HumanMessage(line)]}, thread(line)

    if way == "threads":
        with ThreadPoolExecutor(MANY) as threads:
            list(threads.map(lambda line: agent.invoke(*told(line)), lines))
    else:

        async def all_at_once() -> None:
            await asyncio.gather(*(agent.ainvoke(*told(line)) for line in lines))

        asyncio.run(all_at_once())
    memory.flush()
    assert sorted(contents(ann)) == sorted([*lines, *["ok"] * MANY])
    found = [hit.text for hit in ann.search("I know number", k=1_000)]
    assert sorted(text for text in found if text != "ok") == sorted(lines)
