"""Agents of every kind with a memory: what reaches the model, and what is kept of a run."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
from workflows.errors import WorkflowCancelledByUser

from memos_core import MemOS, View
from memos_llamaindex import MemOSMemory
from tests.llamaindex.agents import KINDS, agent_of, answer, asks_for_weather
from tests.llamaindex.scripted import (
    PEANUTS,
    Script,
    prompt,
    texts,
    user,
    weather,
    weather_call,
)

# Making an agent, workflows looks at every attribute that a pydantic model has; and ReActAgent asks
# what workflows no longer likes to be asked.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The `__fields:pydantic.warnings.PydanticDeprecatedSince20:inspect",
    "ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211:inspect",
    "ignore:is_running called:DeprecationWarning:llama_index.core.agent.workflow.react_agent",
)
QUESTION = "Do peanuts like the weather in Oslo?"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def known(ann: View) -> None:
    ann.ingest([PEANUTS], session="s0")


@pytest.fixture
def mine(ann: View) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=ann, session_id="s1")


def carriers(messages: list[ChatMessage]) -> list[str]:
    return [message.role.value for message in messages if PEANUTS in str(message)]


def pairs(messages: list[ChatMessage]) -> list[list[str]]:
    """Return the ids of each message's tool calls, and of the results right after it."""
    found: list[list[str]] = []
    for message in messages:
        calls = [b.tool_call_id or "" for b in message.blocks if isinstance(b, ToolCallBlock)]
        if calls:
            found += [calls, []]
        elif message.role == "tool":
            found[-1].append(message.additional_kwargs["tool_call_id"])
    return found


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("system_prompt", [None, "Be kind."])
@pytest.mark.parametrize("streaming", [False, True])
async def test_the_model_is_told_in_the_user_s_message_in_every_round(
    mine: MemOSMemory, kind: str, system_prompt: str | None, *, streaming: bool
):
    script = Script(*asks_for_weather(kind), answer(kind, "It rains."))
    agent = agent_of(kind, script, system_prompt=system_prompt, streaming=streaming)

    response = await agent.run(QUESTION, memory=mine)

    assert str(response).strip().endswith("It rains.")
    assert len(script.prompts) == len(asks_for_weather(kind)) + 1
    for asked in script.prompts:
        assert carriers(asked) == ["user"]
        assert prompt(asked).count(QUESTION) == 1
        assert (system_prompt or "") in prompt(asked)
    assert "rain in Oslo" in prompt(script.prompts[-1])
    first, *later = ([str(one) for one in asked if one.role == "user"] for asked in script.prompts)
    assert all(asked[0] == first[0] for asked in later)


async def test_all_of_a_run_is_kept_and_nothing_else(mine: MemOSMemory, kind: str):
    script = Script(*asks_for_weather(kind), answer(kind, "It rains."))
    await agent_of(kind, script).run(QUESTION, memory=mine)

    history = mine.get_all()
    assert history[0] == user(QUESTION)
    assert "rain in Oslo" in prompt(history)
    assert str(history[-1]).endswith("It rains.")
    assert pairs(history)[::2] == pairs(history)[1::2]
    assert len(history) == {"function": 4, "react": 2, "codeact": 4, "workflow": 6}[kind]


async def test_what_is_remembered_of_a_run_is_what_was_said(
    mine: MemOSMemory, ann: View, kind: str
):
    script = Script(*asks_for_weather(kind), answer(kind, "It rains in Oslo."))
    await agent_of(kind, script).run(QUESTION, memory=mine)
    await mine.aflush()
    kept = {hit.text for hit in ann.search("weather rain Oslo look peanuts", k=50)}
    assert {QUESTION, "It rains in Oslo."} <= kept
    assert kept - {QUESTION, "It rains in Oslo."} <= {"I look."}


async def test_several_runs_on_one_context(memos: MemOS, kind: str):
    memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann"), session_id="s1")
    answers = [answer(kind, text) for text in ("Hi Ann.", "You said so.", "Bye.")]
    script = Script(*answers)
    ctx = Context(agent_of(kind, script))
    await agent_of(kind, script).run("I am Ann.", ctx=ctx, memory=memory)
    del memory
    gc.collect()
    for text in ("Who am I?", "And now?"):
        await agent_of(kind, script).run(text, ctx=ctx)

    assert "I am Ann." in prompt(script.prompts[1])
    assert all(text in prompt(script.prompts[2]) for text in ("I am Ann.", "Hi Ann.", "Who am I?"))
    memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann"), session_id="s1")
    assert texts(memory.get_all())[::2] == ["I am Ann.", "Who am I?", "And now?"]


async def test_two_runs_without_a_context_share_a_session(ann: View, kind: str):
    script = Script(answer(kind, "Hi Ann."), answer(kind, "You said so."))
    for text in ("I am Ann.", "Who am I?"):
        memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
        await agent_of(kind, script).run(text, memory=memory)
    assert "I am Ann." in prompt(script.prompts[1])


async def test_a_history_that_is_sent_along_becomes_the_session_s(mine: MemOSMemory, kind: str):
    history = [user("I am Ann."), ChatMessage(role="assistant", content="Hi.")]
    script = Script(answer(kind, "Ann."), answer(kind, "Ann."))
    agent = agent_of(kind, script)
    await agent.run("Who am I?", chat_history=history, memory=mine)
    await agent_of(kind, script).run(chat_history=mine.get_all()[:3], memory=mine)
    assert "I am Ann." in prompt(script.prompts[0])
    assert texts(mine.get_all())[:3] == ["I am Ann.", "Hi.", "Who am I?"]


async def test_a_state_written_into_the_prompt_is_not_stored(mine: MemOSMemory, kind: str):
    script = Script(answer(kind, "Fine."), answer(kind, "Fine."))
    agent = agent_of(kind, script, **({} if kind == "codeact" else {"initial_state": {"mood": 1}}))
    ctx = Context(agent)
    await agent.run("Hello", ctx=ctx, memory=mine)
    if kind == "codeact":  # takes no state when it is made
        await ctx.store.set("state", {"mood": 1})
    await agent.run("Again", ctx=ctx)
    assert "mood" in prompt(script.prompts[1])
    assert prompt(script.prompts[1]).count("Current state") == 1
    assert texts(mine.get_all())[::2] == ["Hello", "Again"]


async def test_parallel_calls_and_a_tool_that_fails(mine: MemOSMemory):
    def breaks(place: str) -> str:
        """Tell the weather."""
        raise RuntimeError(f"no weather in {place}")

    calls = [
        ToolCallBlock(tool_call_id="c1", tool_name="weather", tool_kwargs={"place": "Oslo"}),
        ToolCallBlock(tool_call_id="c2", tool_name="breaks", tool_kwargs={"place": "Bergen"}),
        ToolCallBlock(tool_call_id="c3", tool_name="nowhere", tool_kwargs={}),
    ]
    script = Script(ChatMessage(role="assistant", blocks=calls), "It rains.", "It rained.")
    agent = agent_of("function", script, tools=[weather, breaks])
    ctx = Context(agent)
    await agent.run(QUESTION, ctx=ctx, memory=mine)
    await agent.run("And before?", ctx=ctx)

    called, answered = pairs(script.prompts[2])
    assert called == ["c1", "c2", "c3"]
    assert sorted(answered) == called
    assert "no weather in Bergen" in prompt(script.prompts[2])


async def test_a_react_agent_that_is_made_to_repeat_itself(mine: MemOSMemory):
    wrong = "Thought: Hm.\nAction: weather\nAction Input: no json"
    script = Script(wrong, "", answer("react", "It rains."))
    response = await agent_of("react", script).run(QUESTION, memory=mine)
    assert str(response) == "It rains."
    assert len(script.prompts) == 3
    assert texts(mine.get_all())[0] == QUESTION
    assert len(mine.get_all()) == 2


@pytest.mark.usefixtures("known")
async def test_a_run_that_is_stopped_early_ends_with_an_answer(mine: MemOSMemory, kind: str):
    script = Script(*asks_for_weather(kind)[:1], "Enough.")
    options: dict[str, Any] = {"max_iterations": 1, "early_stopping_method": "generate"}
    await agent_of(kind, script).run(QUESTION, memory=mine, **options)
    assert carriers(script.prompts[-1]) == ["user"]
    assert texts(mine.get_all()) == [QUESTION, "Enough."]


async def test_a_run_that_fails_leaves_the_question(mine: MemOSMemory, kind: str):
    script = Script(*asks_for_weather(kind))
    with pytest.raises(Exception, match="Max iterations"):
        await agent_of(kind, script).run(QUESTION, memory=mine, max_iterations=1)
    assert texts(mine.get_all()) == [QUESTION]
    script = Script(answer(kind, "Yes."))
    await agent_of(kind, script).run("Are you there?", memory=mine)
    assert texts(mine.get_all())[:2] == [QUESTION, "Are you there?"]


async def test_a_run_that_is_cancelled_leaves_the_question(mine: MemOSMemory):
    begun = asyncio.Event()

    async def forever() -> str:
        """Wait."""
        begun.set()
        await asyncio.sleep(3600)
        return ""

    call = ToolCallBlock(tool_call_id="c1", tool_name="forever", tool_kwargs={})
    script = Script(ChatMessage(role="assistant", blocks=[call]), "Yes.")
    handler = agent_of("function", script, tools=[forever]).run(QUESTION, memory=mine)
    await asyncio.wait_for(begun.wait(), 60)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert texts(mine.get_all()) == [QUESTION]


async def test_a_context_that_is_saved_in_the_middle_of_a_run(mine: MemOSMemory):
    async def delete(ctx: Context) -> str:
        """Delete everything."""
        event = await ctx.wait_for_event(
            HumanResponseEvent,
            waiter_id="sure",
            waiter_event=InputRequiredEvent(prefix="Are you sure?"),
        )
        return f"they said {event.response}"

    delete.__annotations__["ctx"] = Context  # FunctionTool does not read it as text

    call = ToolCallBlock(tool_call_id="c1", tool_name="delete", tool_kwargs={})
    script = Script(ChatMessage(role="assistant", blocks=[call]), "Done.")
    agent = agent_of("function", script, tools=[delete])
    handler = agent.run("Delete it all.", memory=mine)
    saved: dict[str, Any] = {}
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            saved = json.loads(json.dumps(handler.ctx.to_dict()))
            break
    await handler.cancel_run()
    assert texts(mine.get_all()) == ["Delete it all."]

    ctx = Context.from_dict(agent, saved)
    handler = agent.run(ctx=ctx)
    handler.ctx.send_event(HumanResponseEvent(response="yes"))
    assert str(await handler) == "Done."

    assert "they said yes" in prompt(script.prompts[-1])
    assert [message.role.value for message in mine.get_all()] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


RESTORE = """
import asyncio, json, sys
from llama_index.core.workflow import Context
from memos_core import MemOS
from memos_llamaindex import attach
from tests.llamaindex.agents import agent_of, answer
from tests.llamaindex.scripted import Script, prompt
from tests.support import WordEmbedder

async def run(kind, saved):
    script = Script(answer(kind, "You are Ann."))
    agent = agent_of(kind, script)
    ctx = Context.from_dict(agent, saved)
    response = await agent.run("Who am I?", ctx=ctx)
    return [prompt(asked) for asked in script.prompts]

async def all_of(saved):
    for kind, one in saved.items():
        try:
            found[kind].append(await run(kind, one))
        except Exception as error:
            found[kind].append(str(error))

saved = json.load(sys.stdin)
found = {kind: [] for kind in saved}
asyncio.run(all_of(saved))
with MemOS.open(sys.argv[1], embedder=WordEmbedder()) as memos:
    attach(memos, name="main")
    asyncio.run(all_of(saved))
print(json.dumps(found))
"""


async def test_contexts_restored_in_another_process(memos: MemOS, database: str):
    ann, saved = memos.at("acme", "ann"), {}
    ann.ingest([PEANUTS, "Ann is who I am."], session="s0")
    for kind in KINDS:
        script = Script(*asks_for_weather(kind), answer(kind, "Hi Ann."))
        agent = agent_of(kind, script)
        memory = MemOSMemory.from_defaults(memos=ann, session_id=kind, backend="main")
        ctx = Context(agent)
        await agent.run("I am Ann.", ctx=ctx, memory=memory)
        saved[kind] = ctx.to_dict()
    memos.close()

    said = subprocess.run(  # noqa: ASYNC221 nothing else runs here
        [sys.executable, "-c", RESTORE, database],
        cwd=Path(__file__).parents[2],
        input=json.dumps(saved),
        capture_output=True,
        text=True,
        check=True,
    )

    for kind, (refused, prompts) in json.loads(said.stdout).items():
        # With nothing attached a run fails, and says what to do: never is a memory lost in silence.
        assert "attach(memos, name='main')" in refused, kind
        (shown,) = prompts
        for text in ("I am Ann.", "rain in Oslo", "Hi Ann.", "Who am I?", "Ann is who I am."):
            assert text in shown, (kind, text)


async def test_a_react_agent_s_thoughts_are_part_of_the_history(mine: MemOSMemory):
    script = Script(*asks_for_weather("react"), answer("react", "It rains."))
    await agent_of("react", script).run(QUESTION, memory=mine)
    _, said = mine.get_all()
    assert all(text in said.content for text in ("Thought: I look.", "rain in Oslo", "It rains."))


async def test_an_agent_that_is_made_with_a_memory_does_not_have_it(mine: MemOSMemory):
    script = Script("Fine.")
    await FunctionAgent(llm=script.llm, memory=mine, streaming=False).run("Hello")
    assert mine.get_all() == []


async def test_two_agents_at_once_on_one_session_keep_their_pairs(ann: View):
    async def run(number: int) -> None:
        call = weather_call()
        call.blocks[0].tool_call_id = f"c{number}"
        script = Script(call, "It rains.")
        memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
        await agent_of("function", script).run(f"{number}?", memory=memory)

    await asyncio.gather(*(run(number) for number in range(5)))
    history = MemOSMemory.from_defaults(memos=ann, session_id="s1").get_all()
    assert len(history) == 20
    assert pairs(history)[::2] == pairs(history)[1::2]


async def test_another_kind_of_agent_goes_on_with_a_session(mine: MemOSMemory):
    for kind in KINDS:
        script = Script(*asks_for_weather(kind), answer(kind, f"{kind} says rain."))
        await agent_of(kind, script).run(f"What says {kind}?", memory=mine)
    script = Script(answer("react", "All of them."))
    await agent_of("react", script).run("Who says rain?", memory=mine)
    for kind in KINDS:
        assert f"{kind} says rain." in prompt(script.prompts[-1])
