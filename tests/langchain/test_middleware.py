"""MemOSMiddleware in agents made with create_agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import PIIMiddleware, SummarizationMiddleware
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from memos_core import AsyncView, InvalidInput, MemOS, View
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
from tests.support import WordEmbedder


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an agent, blocking and awaited."""
    return runs_by(request.param)


def test_a_later_run_remembers_an_earlier_one(run: Run, ann: View) -> None:
    model = ScriptedModel()
    agent = create_agent(model, tools=[], middleware=[MemOSMiddleware(ann)])
    run(agent, asks(ALLERGY))
    state = run(agent, asks(QUESTION))
    shown = model.prompts[-1][-1].text
    assert ALLERGY in shown
    assert shown.endswith(QUESTION)
    assert state["messages"][0].text == QUESTION, "what is recalled is not part of the conversation"
    assert "memos_recalled" not in state


def test_memory_outlives_the_process(run: Run, ann: View, database: str) -> None:
    told = MemOSMiddleware(ann)
    run(create_agent(ScriptedModel(), middleware=[told]), asks(ALLERGY))
    told.flush()
    with MemOS.open(database, embedder=WordEmbedder()) as reopened:
        model = ScriptedModel()
        middleware = MemOSMiddleware(reopened.at("acme", "ann"))
        run(create_agent(model, middleware=[middleware]), asks(QUESTION))
        assert ALLERGY in model.prompts[0][-1].text


@pytest.mark.parametrize("by_model", [False, True])
def test_what_is_said_otherwise_updates_what_was_said(
    run: Run, ann: View, *, by_model: bool
) -> None:
    asked: list[object] = []

    def decide(messages: object) -> str:
        asked.append(messages)
        return '{"outcome": "update", "other": 1, "text": null}'

    middleware = MemOSMiddleware(ann, resolve=decide if by_model else True)
    agent = create_agent(ScriptedModel(), middleware=[middleware], checkpointer=InMemorySaver())
    run(agent, asks("I have two dogs."), thread("one"))
    run(agent, asks("I have three dogs."), thread("two"))
    middleware.flush()
    (dogs,) = [hit.cube for hit in ann.search("dogs") if "dogs" in hit.text]
    assert (dogs.text, dogs.version) == ("I have three dogs.", 2)
    assert bool(asked) == by_model


def test_a_turn_in_view_is_not_shown_twice(run: Run, ann: View) -> None:
    model = ScriptedModel()
    agent = create_agent(model, middleware=[MemOSMiddleware(ann)], checkpointer=InMemorySaver())
    run(agent, asks(ALLERGY), thread("one"))
    run(agent, asks(QUESTION), thread("one"))
    assert [message.text for message in model.prompts[-1]] == [ALLERGY, "ok", QUESTION]
    run(agent, asks(QUESTION), thread("two"))
    assert model.prompts[-1][-1].text.count(ALLERGY) == 1


def test_the_prompt_before_the_question_stays_the_same(run: Run, ann: View) -> None:
    def look() -> str:
        """Look."""
        return "seen"

    ann.add("Ann is allergic to peanuts.")
    model = ScriptedModel(script=[calls("look")])
    agent = create_agent(
        model, tools=[look], middleware=[MemOSMiddleware(ann)], system_prompt="Be kind."
    )
    run(agent, asks(QUESTION))
    first, second = model.prompts
    assert first[0] == SystemMessage("Be kind.")
    assert second[: len(first)] == first
    searches = [event for event in ann.events() if event.kind == "searched"]
    assert len(searches) == 1, "recalled once a run"


@dataclass
class Context:
    user_id: str


def test_users_do_not_see_each_other(run: Run, memos: MemOS) -> None:
    model = ScriptedModel()
    middleware = MemOSMiddleware(memos, namespace=("acme", "{user_id}"))
    agent = create_agent(model, middleware=[middleware], context_schema=Context)
    run(agent, asks(ALLERGY), context=Context("ann@x.org"))
    run(agent, asks(QUESTION), context=Context("bob {x}"))
    assert ALLERGY not in model.prompts[-1][-1].text
    run(agent, asks(QUESTION), {"configurable": {"user_id": "ann@x.org"}})
    assert ALLERGY in model.prompts[-1][-1].text
    assert contents(memos.at("acme", "bob {x}")) == [QUESTION, "ok"]


def test_a_run_that_names_no_user_is_told_so(run: Run, memos: MemOS) -> None:
    agent = create_agent(
        ScriptedModel(), middleware=[MemOSMiddleware(memos, namespace=("acme", "{user_id}"))]
    )
    with pytest.raises(InvalidInput, match="user_id"):
        run(agent, asks(ALLERGY))
    assert memos.at("acme").stats().messages == 0


def test_namespace_needs_the_whole_memos(ann: View) -> None:
    with pytest.raises(InvalidInput, match="pass the MemOS"):
        MemOSMiddleware(ann, namespace=("{user_id}",))


def test_an_exception_in_a_tool_loses_nothing(run: Run, ann: View) -> None:
    def fail() -> str:
        """Fail."""
        raise RuntimeError("broken tool")

    model = ScriptedModel(script=[AIMessage("Let me see.", tool_calls=calls("fail").tool_calls)])
    memory = MemOSMiddleware(ann)
    agent = create_agent(model, tools=[fail], middleware=[memory])
    with pytest.raises(RuntimeError, match="broken tool"):
        run(agent, asks(ALLERGY))
    memory.flush()
    assert contents(ann) == [ALLERGY, "Let me see."]
    assert [hit.text for hit in ann.search("allergic", k=1)] == [ALLERGY]


def test_a_resumed_run_recalls_again_and_stores_once(run: Run, ann: View) -> None:
    def confirm() -> str:
        """Ask."""
        return str(interrupt("sure?"))

    ann.add("Ann is allergic to peanuts.")
    model = ScriptedModel(script=[calls("confirm")])
    agent = create_agent(
        model, tools=[confirm], middleware=[MemOSMiddleware(ann)], checkpointer=InMemorySaver()
    )
    run(agent, asks(QUESTION), thread("one"))
    run(agent, Command(resume="yes"), thread("one"))
    questions = [prompt[0].text for prompt in model.prompts]
    assert questions[0] == questions[1] != QUESTION
    assert contents(ann) == [QUESTION, "", "yes", "ok"]


def test_content_in_parts_keeps_its_parts(run: Run, ann: View) -> None:
    ann.add("Ann is allergic to peanuts.")
    model = ScriptedModel()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked = HumanMessage([{"type": "text", "text": QUESTION}, image])
    run(create_agent(model, middleware=[MemOSMiddleware(ann)]), {"messages": [asked]})
    content = model.prompts[0][-1].content
    assert isinstance(content, list)
    block, *rest = content
    assert block["type"] == "text"
    assert "allergic to peanuts" in block["text"]
    assert rest == [{"type": "text", "text": QUESTION}, image]


def test_memories_keep_to_the_token_limit(run: Run, ann: View) -> None:
    ann.add([f"Ann is allergic to peanuts, case {number}." for number in range(50)])
    model = ScriptedModel()
    middleware = MemOSMiddleware(ann, k=50, token_limit=60)
    run(create_agent(model, middleware=[middleware]), asks(QUESTION))
    assert 1 <= model.prompts[0][-1].text.count("case") <= 5


def test_two_memories_in_one_agent(run: Run, memos: MemOS) -> None:
    team, own = memos.at("acme", "team"), memos.at("acme", "ann")
    team.add("The team meets on Monday.")
    own.add("Ann is away on Monday.")
    model = ScriptedModel()
    agent = create_agent(
        model, middleware=[MemOSMiddleware(team, name="team"), MemOSMiddleware(own, name="own")]
    )
    run(agent, asks("What is on Monday?"))
    shown = model.prompts[0][-1].text
    assert "The team meets" in shown
    assert "Ann is away" in shown


# --- clients of every kind ------------------------------------------------------------------------


def test_a_history_sent_whole_each_time_is_stored_once(run: Run, ann: View) -> None:
    model = ScriptedModel()
    agent = create_agent(model, middleware=[MemOSMiddleware(ann)])
    history: list[dict[str, str]] = []
    for text in (ALLERGY, "Yes.", "Yes.", QUESTION):
        history.append({"role": "user", "content": text})
        state = run(agent, {"messages": history})
        history.append({"role": "assistant", "content": state["messages"][-1].text})
    assert contents(ann) == [ALLERGY, "ok", "Yes.", "ok", "Yes.", "ok", QUESTION, "ok"]
    assert model.prompts[-1][-1].text == QUESTION, "what the model sees anyway is not recalled"


def test_ids_that_recur_lose_nothing(run: Run, ann: View) -> None:
    agent = create_agent(ScriptedModel(), middleware=[MemOSMiddleware(ann)])
    for text in (ALLERGY, "I live in Oslo."):
        run(agent, {"messages": [HumanMessage(text, id="1")]})
    assert contents(ann) == [ALLERGY, "ok", "I live in Oslo.", "ok"]


@pytest.mark.parametrize("name", [7, "x" * 600, ""])
def test_threads_may_be_named_anything(run: Run, ann: View, name: Any) -> None:
    agent = create_agent(
        ScriptedModel(), middleware=[MemOSMiddleware(ann)], checkpointer=InMemorySaver()
    )
    for text in (ALLERGY, ALLERGY):
        run(agent, asks(text), thread(name))
    assert contents(ann) == [ALLERGY, "ok", ALLERGY, "ok"]


# --- messages of every kind -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "stored"),
    [
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("x" * 1_000_001, "x" * 10),
        ("", ""),
    ],
)
def test_whatever_a_tool_returns_the_conversation_goes_on(
    run: Run, ann: View, returned: str, stored: str
) -> None:
    def look() -> str:
        """Look."""
        return returned

    model = ScriptedModel(script=[calls("look")])
    agent = create_agent(model, tools=[look], middleware=[MemOSMiddleware(ann)])
    state = run(agent, asks(QUESTION))
    run(agent, {"messages": [*state["messages"], HumanMessage("And now?")]})
    said = contents(ann)
    assert said[2].startswith(stored)
    assert len(said[2]) <= 1_000_000
    assert [said[0], *said[3:]] == [QUESTION, "ok", "And now?", "ok"]


def test_a_very_long_question_is_stored_and_answered(run: Run, ann: View) -> None:
    ann.add("Ann is allergic to peanuts.")
    asked = f"{'blah ' * 20_000}{QUESTION}"
    model = ScriptedModel()
    run(create_agent(model, middleware=[MemOSMiddleware(ann)]), asks(asked))
    assert "allergic to peanuts" in model.prompts[0][-1].text[:1_000]
    assert contents(ann)[0] == asked


def test_an_answer_that_ends_the_run_elsewhere_is_stored(run: Run, ann: View) -> None:
    @tool(return_direct=True)
    def answer() -> str:
        """Answer."""
        return "by the tool"

    model = ScriptedModel(script=[calls("answer")])
    run(create_agent(model, tools=[answer], middleware=[MemOSMiddleware(ann)]), asks(QUESTION))
    assert contents(ann) == [QUESTION, "", "by the tool"]


def test_a_summary_is_nobody_s_words(run: Run, ann: View) -> None:
    model, summariser = ScriptedModel(), ScriptedModel(script=[AIMessage("they talked")] * 9)
    agent = create_agent(
        model,
        middleware=[
            SummarizationMiddleware(summariser, trigger=("messages", 4), keep=("messages", 1)),
            MemOSMiddleware(ann),
        ],
        checkpointer=InMemorySaver(),
    )
    lines = [ALLERGY, "I live in Oslo.", "I have a cat.", QUESTION]
    for text in lines:
        run(agent, asks(text), thread("one"))
    assert contents(ann) == [part for line in lines for part in (line, "ok")]
    assert ALLERGY in model.prompts[-1][-1].text, "what left the prompt is recalled"


def test_what_is_redacted_is_stored_redacted(run: Run, ann: View) -> None:
    model = ScriptedModel()
    agent = create_agent(
        model, middleware=[PIIMiddleware("email", strategy="redact"), MemOSMiddleware(ann)]
    )
    run(agent, asks("Write to ann@example.org."))
    assert contents(ann)[0] == "Write to [REDACTED_EMAIL]."


# --- what is recalled -----------------------------------------------------------------------------


def test_asking_again_and_again_still_finds_the_answer(run: Run, ann: View) -> None:
    model = ScriptedModel()
    agent = create_agent(model, middleware=[MemOSMiddleware(ann, k=2)])
    for session, text in enumerate([ALLERGY, *[QUESTION] * 5, "What was I allergic to?"]):
        run(agent, asks(text), thread(str(session)))
    shown = model.prompts[-1][-1].text
    assert ALLERGY in shown.splitlines()[1]


def test_a_long_memory_does_not_crowd_out_the_rest(run: Run, ann: View) -> None:
    ann.add("allergic to " * 4_000)
    ann.add("Ann is allergic to figs.")
    model = ScriptedModel()
    run(create_agent(model, middleware=[MemOSMiddleware(ann)]), asks(QUESTION))
    assert "figs" in model.prompts[0][-1].text


def test_what_is_forgotten_during_a_run_is_not_shown_again(run: Run, ann: View) -> None:
    cube = ann.add("Ann is allergic to peanuts.")

    def forget() -> str:
        """Forget."""
        ann.forget(cube.id)
        return "done"

    model = ScriptedModel(script=[calls("forget")])
    run(create_agent(model, tools=[forget], middleware=[MemOSMiddleware(ann)]), asks(QUESTION))
    before, after = model.prompts
    assert "peanuts" in before[0].text
    assert after[0].text == QUESTION


def test_memories_are_for_the_model_s_eyes_only(ann: View) -> None:
    ann.add("Ann is allergic to peanuts.")
    agent: Any = create_agent(ScriptedModel(), middleware=[MemOSMiddleware(ann)])
    for mode in ("values", "updates", "debug", "tasks", "messages"):
        shown = repr(list(agent.stream(asks(QUESTION), stream_mode=mode)))
        assert "peanuts" not in shown


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"namespace": "zz9"}, "not one string"),
        ({"namespace": ("{",)}, "no template"),
        ({"namespace": ("{}",)}, "does not say of what"),
        ({"namespace": (7,)}, "no template"),
    ],
)
def test_refuses_namespaces_that_are_no_templates(
    memos: MemOS, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidInput, match=error):
        MemOSMiddleware(memos, **options)


def test_refuses_an_async_view(ann: View) -> None:
    with pytest.raises(InvalidInput, match=r"pass \.blocking"):
        MemOSMiddleware(AsyncView(ann))  # pyright: ignore[reportArgumentType] that is the point
