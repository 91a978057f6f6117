"""A memory in a workflow's context: written down, copied, edited, and never lost in silence."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import pytest
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.workflow import (
    Context,
    JsonPickleSerializer,
    JsonSerializer,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from pydantic import BaseModel, ConfigDict
from workflows.context.serializers import PickleSerializer
from workflows.context.state_store import DictState, InMemoryStateStore

from memos_core import Caller, MemOS, View
from memos_llamaindex import MemOSMemory, attach, registry
from tests.llamaindex.agents import agent_of
from tests.llamaindex.scripted import PEANUTS, Script, prompt, texts, user, words
from tests.support import WordEmbedder

pytestmark = pytest.mark.filterwarnings(
    "ignore:The `__fields:pydantic.warnings.PydanticDeprecatedSince20:inspect",
    "ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211:inspect",
)
SERIALIZERS = [
    JsonSerializer(),
    JsonSerializer(allowed_types=[MemOSMemory]),
    PickleSerializer(),
    JsonPickleSerializer(),
]
IDS = ["json", "json-allowed", "pickle", "json-pickle"]


@pytest.fixture
def memory(ann: View) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=ann, session_id="s1", tokenizer_fn=words)


@pytest.mark.parametrize("serializer", SERIALIZERS, ids=IDS)
def test_every_serializer_finds_it_again(memory: MemOSMemory, serializer: JsonSerializer):
    memory.put(user("Hello"))
    written = serializer.serialize({"memory": memory, "others": [memory]})
    read = serializer.deserialize(written)
    for found in (read["memory"], *read["others"]):
        assert type(found) is MemOSMemory
        assert texts(found.get_all()) == ["Hello"]
        assert found.tokenizer_fn is words
        assert found.memos.engine is memory.memos.engine


def test_what_is_written_is_small_and_holds_no_secret(memos: MemOS, database: str):
    caller = Caller(user="ann", roles=("nurse", "night"), context={"ward": "7"})
    memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann", caller=caller))
    memory.put_messages([user(PEANUTS)] * 50)
    written = JsonSerializer().serialize(memory)
    assert len(written) < 1_000
    assert PEANUTS not in written
    assert database not in written
    assert "postgres" not in written


async def test_a_state_is_edited_on_a_copy(memory: MemOSMemory):
    store = InMemoryStateStore(DictState())
    await store.set("memory", memory)
    async with store.edit_state() as state:
        state["memory"].token_limit = 7
        await state["memory"].aput(user("Hello"))
        assert (await store.get("memory")).token_limit == memory.token_limit
    edited = await store.get("memory")
    assert (edited.token_limit, memory.token_limit) == (7, 30_000)
    assert texts(await edited.aget_all()) == ["Hello"]


class Held(BaseModel):
    """A workflow's own type of state."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memories: list[MemOSMemory] = []


async def test_a_memory_inside_other_things_is_copied_with_them(memory: MemOSMemory):
    store = InMemoryStateStore(Held(memories=[memory]))
    async with store.edit_state() as state:
        state.memories[0].put(user("Hello"))
    (held,) = (await store.get_state()).memories
    assert texts(held.get_all()) == ["Hello"]
    everything = copy.deepcopy({"one": memory, "two": [memory]})
    assert everything["one"] is not memory
    assert everything["one"].memos is memory.memos


async def test_a_workflow_of_one_s_own_goes_on_with_its_memory(memory: MemOSMemory):
    class Remembering(Workflow):
        @step
        async def answer(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if given := ev.get("memory"):
                await ctx.store.set("memory", given)
            kept = await ctx.store.get("memory")
            await kept.aput(user(ev.text))
            return StopEvent(result=texts(await kept.aget_all()))

    Remembering.answer.__annotations__.update(ctx=Context, ev=StartEvent)
    workflow = Remembering()
    ctx = Context(workflow)
    await workflow.run(ctx=ctx, text="one", memory=memory)
    saved = json.loads(json.dumps(ctx.to_dict()))
    assert await workflow.run(ctx=ctx, text="two") == ["one", "two"]
    assert await workflow.run(ctx=Context.from_dict(workflow, saved), text="three") == [
        "one",
        "two",
        "three",
    ]


async def saved_by_a_run(memory: MemOSMemory) -> dict[str, Any]:
    agent = agent_of("function", Script("Hi Ann."))
    ctx = Context(agent)
    await agent.run("I am Ann.", ctx=ctx, memory=memory)
    return json.loads(json.dumps(ctx.to_dict()))


async def run_again(saved: dict[str, Any]) -> tuple[Script, Any]:
    script = Script("You are Ann.")
    agent = agent_of("function", script)
    ctx = Context.from_dict(agent, saved)
    await agent.run("Who am I?", ctx=ctx)
    return script, ctx


async def test_with_nothing_attached_a_run_fails_and_asks_no_model(
    memos: MemOS, memory: MemOSMemory
):
    saved = await saved_by_a_run(memory)
    memos.close()
    script = Script("Who are you?")
    agent = agent_of("function", script)
    with pytest.raises(ValueError, match=r"attach\(memos") as why:
        await agent.run("Who am I?", ctx=Context.from_dict(agent, saved))
    assert "no MemOS is attached as 'default'" in str(why.value)
    assert script.prompts == []


async def test_what_is_attached_later_is_found(memos: MemOS, memory: MemOSMemory, database: str):
    saved = await saved_by_a_run(memory)
    memos.close()
    agent = agent_of("function", Script())
    ctx = Context.from_dict(agent, saved)  # read when it runs
    with MemOS.open(database, embedder=WordEmbedder()) as again:
        attach(again)
        await agent.run("Who am I?", ctx=ctx)
        kept = await ctx.store.get("memory")
        assert texts(kept.get_all())[:3] == ["I am Ann.", "Hi Ann.", "Who am I?"]


async def test_a_memory_of_a_closed_memos_is_saved_and_not_forgotten(
    memos: MemOS, memory: MemOSMemory, database: str
):
    agent = agent_of("function", Script("Hi Ann."))
    ctx = Context(agent)
    await agent.run("I am Ann.", ctx=ctx, memory=memory)
    memos.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # workflows drops what cannot be saved, and warns once
        saved = ctx.to_dict()
    registry.in_use.clear()
    with MemOS.open(database, embedder=WordEmbedder()) as again:
        attach(again)
        script, restored = await run_again(saved)
        assert "I am Ann." in prompt(script.prompts[0])
        assert not isinstance(await restored.store.get("memory"), ChatMemoryBuffer)


async def test_saved_and_restored_again_and_again(memory: MemOSMemory):
    saved = await saved_by_a_run(memory)
    sizes = set()
    for _ in range(3):
        script, ctx = await run_again(saved)
        saved = json.loads(json.dumps(ctx.to_dict()))
        sizes.add(len(json.dumps(saved["state"]["state_data"]["_data"]["memory"])))
    assert len(sizes) == 1
    assert prompt(script.prompts[0]).count("Who am I?") == 3


async def test_a_memory_made_anew_for_each_read_recalls_once_in_a_turn(ann: View):
    # As stores of state that outlive the process do, which decode what they are asked for.
    ann.ingest([PEANUTS], session="s0")
    saved = MemOSMemory.from_defaults(memos=ann, session_id="s1").to_dict()
    await MemOSMemory.from_dict(saved).aput(user("May I eat peanuts?"))
    shown = [prompt(await MemOSMemory.from_dict(saved).aget()) for _ in range(3)]
    assert PEANUTS in shown[0]
    assert len(set(shown)) == 1
    assert len(ann.events(kind="searched")) == 1
