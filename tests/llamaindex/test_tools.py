"""The tools: what a model does with its memory, and what it is told."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import ToolMetadata
from pydantic import BaseModel, Field

from memos_core import MemOS, Rules, View, short_ids
from memos_llamaindex import MemOSToolSpec
from memos_llamaindex import tools as tools_module
from tests.llamaindex.scripted import Script, prompt

Ask = Callable[..., str]


@pytest.fixture(params=["call", "acall"])
def ask(request: pytest.FixtureRequest, ann: View) -> Ask:
    """Both faces of the tools, as one function of a name and arguments."""
    tools = {tool.metadata.name: tool for tool in MemOSToolSpec(ann).to_tool_list()}

    def call(name: str, **arguments: object) -> str:
        if request.param == "call":
            return str(tools[str(name)].call(**arguments).content)
        return str(asyncio.run(tools[str(name)].acall(**arguments)).content)

    return call


def shown_id(text: str) -> str:
    found = re.search(r"\[([0-9a-f]{8})\]", text)
    assert found, text
    return found[1]


def test_what_is_remembered_is_recalled_and_forgotten_by_its_short_id(ann: View, ask: Ask):
    assert ask("remember", content="Ann is allergic to peanuts.").startswith("Remembered: [")
    found = ask("recall", query="peanuts")
    assert "Ann is allergic to peanuts." in found

    assert ask("forget", id=f"[{shown_id(found)}]") == f"Forgotten: {shown_id(found)}"

    assert ask("recall", query="peanuts") == "No memories were found."
    assert ann.search("peanuts") == []


def test_a_memory_says_that_a_tool_made_it(ann: View, ask: Ask):
    ask("remember", content="figs")
    assert ann.search("figs")[0].cube.provenance.source == "tool"


def test_recall_pages_and_filters(ann: View, ask: Ask):
    for year in (2019, 2024):
        ann.add(f"figs of {year}", metadata={"year": year})
    assert "2024" in (newer := ask("recall", query="figs", filter={"year": {"$gte": 2020}}))
    assert "2019" not in newer
    first = ask("recall", query="figs", limit=1)
    assert ask("recall", query="figs", limit=1, offset=1) not in (first, "No memories were found.")


def test_a_memory_goes_by_its_words(ann: View, ask: Ask):
    ann.add("Ann is allergic to peanuts.")
    assert ask("forget", id='"ann is allergic to peanuts"').startswith("Forgotten")
    assert ann.search("peanuts") == []


@pytest.mark.parametrize(
    "name", ["deadbeef", "peanuts", "", "00000000-0000-0000-0000-000000000000"]
)
def test_what_goes_by_no_name_is_refused(ann: View, ask: Ask, name: str):
    ann.add("Ann is allergic to peanuts.")
    assert "nothing was changed" in ask("forget", id=name)
    assert len(ann.search("peanuts")) == 1


@pytest.mark.parametrize("id", [None, 12345678, ["figs"]])
def test_what_is_no_text_names_no_memory(ask: Ask, id: object):
    assert "nothing was changed" in ask("forget", id=id)


def test_an_id_of_digits_may_be_a_number(ann: View, ask: Ask):
    ann.add("figs", id=UUID(f"{str(uuid4())[:-8]}12345678"))
    ask("recall", query="figs")
    assert ask("forget", id=12345678) == "Forgotten: 12345678"
    assert ann.search("figs") == []


def test_a_name_of_several_memories_is_refused(ann: View, ask: Ask):
    ids = [str(ann.add("figs").id) for _ in range(2)]
    told = ask("forget", id="figs")
    assert all(id in told for id in ids)
    assert ask("forget", id=ids[0]).startswith("Forgotten")
    assert [str(hit.cube.id) for hit in ann.search("figs")] == ids[1:]


def test_ids_that_others_were_shown_name_nothing_here(memos: MemOS, ask: Ask):
    bob = MemOSToolSpec(memos.at("acme", "bob"))
    id = shown_id(bob.remember("Bob likes figs."))
    assert "nothing was changed" in ask("forget", id=id)
    assert "Bob likes figs." in bob.recall("figs")


def test_tools_made_anew_know_what_was_shown(ann: View, ask: Ask):
    id = shown_id(MemOSToolSpec(ann).remember("figs"))
    assert ask("forget", id=id) == f"Forgotten: {id}"


def test_only_the_latest_ids_are_kept_in_mind(ask: Ask, monkeypatch):
    monkeypatch.setattr(short_ids, "_MOST", 1)
    first, second = (shown_id(ask("remember", content=text)) for text in ("figs", "dates"))
    assert "nothing was changed" in ask("forget", id=first)
    assert ask("forget", id=second) == f"Forgotten: {second}"


def test_refusals_are_answers(ann: View, ask: Ask):
    assert "empty" in ask("remember", content="  ")
    assert "$near" in ask("recall", query="figs", filter={"year": {"$near": 2020}})
    ann.set_rules(Rules(max_cubes=1))
    ask("remember", content="figs")
    assert "max_cubes" in ask("remember", content="dates")


def test_a_memory_that_is_down_is_an_answer_and_is_logged(memos: MemOS, ann: View, caplog):
    spec = MemOSToolSpec(ann)
    memos.close()
    for told in (spec.remember("figs"), spec.recall("figs"), spec.forget("figs")):
        assert told == "The memory cannot be reached now, and nothing was changed."
    assert len(caplog.records) == 3
    assert "this MemOS is closed" in caplog.text


def test_models_are_told_when_and_with_what(ann: View):
    remember, recall, forget = (
        tool.metadata.to_openai_tool()["function"] for tool in MemOSToolSpec(ann).to_tool_list()
    )
    assert [one["name"] for one in (remember, recall, forget)] == ["remember", "recall", "forget"]
    assert "worth remembering" in remember["description"]
    assert set(recall["parameters"]["properties"]) == {"query", "limit", "offset", "filter"}
    assert recall["parameters"]["required"] == ["query"]
    assert "exact words" in str(forget["parameters"]["properties"]["id"])


@pytest.mark.parametrize("named", ["forget", "aforget"])
def test_a_program_can_tell_them_otherwise(ann: View, named: str):
    ann.add("figs")
    mine = ToolMetadata(name="erase", description="Only when told twice.", return_direct=True)

    tools = MemOSToolSpec(ann).to_tool_list(func_to_metadata_mapping={named: mine})

    assert [tool.metadata.name for tool in tools] == ["remember", "recall", "erase"]
    told = tools[-1].metadata.to_openai_tool()["function"]
    assert told["description"] == "Only when told twice."
    assert list(told["parameters"]["properties"]) == ["id"]
    assert tools[-1].metadata.return_direct
    assert str(tools[-1].call(id="figs").content).startswith("Forgotten")


def test_a_program_can_have_other_arguments_told(ann: View):
    class Wish(BaseModel):
        id: str = Field(description="What the user names twice.")

    mine = ToolMetadata(name="erase", description="Erases.", fn_schema=Wish)
    tools = MemOSToolSpec(ann).to_tool_list(func_to_metadata_mapping={"forget": mine})
    assert "names twice" in str(tools[-1].metadata.to_openai_tool())


@pytest.mark.parametrize("names", [["recall"], ["arecall"], [("recall", "arecall")]])
async def test_one_of_them_alone_blocks_and_is_awaited(ann: View, names: Any):
    ann.add("figs")
    (tool,) = MemOSToolSpec(ann).to_tool_list(names)
    assert tool.metadata.name == "recall"
    assert "before you forget" in tool.metadata.description
    threads = watched(ann)
    assert "figs" in str(tool.call(query="figs").content)
    assert "figs" in str((await tool.acall(query="figs")).content)
    assert threads == [threading.current_thread().name, mock.ANY]
    assert threads[1].startswith("memos")


async def test_a_program_can_add_tools_of_its_own(ann: View):
    class More(MemOSToolSpec):
        def count(self) -> str:
            """Count what is remembered."""
            return str(self.memos.stats().cubes)

    ann.add("figs")
    tools = await More(ann).to_tool_list_async(["recall", "count"])
    assert [str(tool.metadata.name) for tool in tools] == ["recall", "count"]
    assert str(tools[1].call().content) == "1"


def test_what_is_changed_in_one_tool_is_not_in_others(ann: View):
    MemOSToolSpec(ann).to_tool_list()[0].metadata.name = "mine"
    assert MemOSToolSpec(ann).to_tool_list()[0].metadata.name == "remember"


def watched(view: View) -> list[str]:
    """Return the threads that search from now on."""
    threads: list[str] = []
    search = View.search

    def noted(one: View, *args: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return search(one, *args, **options)

    object.__setattr__(view, "search", functools.partial(noted, view))
    return threads


def called(name: str, **arguments: object) -> ChatMessage:
    call = ToolCallBlock(tool_call_id=f"c-{name}", tool_name=name, tool_kwargs=arguments)
    return ChatMessage(role="assistant", blocks=[call])


WARNINGS = (  # of LlamaIndex's own agents
    "ignore:The `__fields:pydantic.warnings.PydanticDeprecatedSince20:inspect",
    "ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211:inspect",
    "ignore:is_running called:DeprecationWarning:llama_index.core.agent.workflow.react_agent",
)


@pytest.mark.filterwarnings(*WARNINGS)
async def test_an_agent_remembers_recalls_and_forgets(ann: View):
    ann.add("The sea is cold in May.")
    kari = "Ann's sister Kari visits in May."

    class Forgetful(Script):
        def _answer(self, messages: list[ChatMessage], **_: Any) -> ChatMessage:
            answer = super()._answer(messages)
            if answer.content != "Forget it.":
                return answer
            return called("forget", id=shown_id(prompt(messages[-1:])))

    script = Forgetful(
        called("remember", content=kari),
        called("recall", query="Kari's visit", limit=1),
        "Forget it.",
        "Forgotten.",
    )
    agent = FunctionAgent(llm=script.llm, tools=MemOSToolSpec(ann).to_tool_list())

    answer = await agent.run("Note that Kari visits in May. No, forget it again.")

    assert str(answer) == "Forgotten."
    told = [str(one.tool_output.content) for one in answer.tool_calls]
    assert [line.split(" ")[0] for line in told] == ["Remembered:", mock.ANY, "Forgotten:"]
    assert kari in told[1]
    assert [hit.text for hit in ann.search("Kari May")] == ["The sea is cold in May."]


@pytest.mark.filterwarnings(*WARNINGS)
async def test_an_agent_may_be_given_blocking_functions(ann: View):
    spec = MemOSToolSpec(ann)
    script = Script(called("remember", content="figs"), called("recall", query="figs"), "Done.")
    agent = FunctionAgent(llm=script.llm, tools=[spec.remember, spec.recall])
    await agent.run("Remember figs.")
    assert "figs" in prompt(script.prompts[2][-1:])


@pytest.mark.filterwarnings(*WARNINGS)
async def test_an_agent_that_thinks_aloud_uses_them(ann: View):
    act = 'Thought: I note it.\nAction: remember\nAction Input: {"content": "figs"}'
    script = Script(act, "Thought: I can answer.\nAnswer: Done.")
    agent = ReActAgent(llm=script.llm, tools=MemOSToolSpec(ann).to_tool_list())
    assert str(await agent.run("Remember figs.")) == "Done."
    assert [hit.text for hit in ann.search("figs")] == ["figs"]


@pytest.mark.parametrize("tool", ["arecall", "aforget"])
async def test_an_awaited_tool_waits_once_and_not_on_the_memory_s_threads(
    ann: View, monkeypatch: pytest.MonkeyPatch, tool: str
):
    blocked: list[Any] = []
    monkeypatch.setattr(tools_module, "wait_a_little", blocked.append)
    await getattr(MemOSToolSpec(memos=ann), tool)("peanuts")
    assert not blocked


@pytest.mark.parametrize("tool", ["remember", "recall", "forget"])
async def test_a_tool_of_a_closed_memory_answers(memos: MemOS, ann: View, tool: str):
    spec = MemOSToolSpec(memos=ann)
    memos.close()
    blocking = getattr(spec, tool)("peanuts")
    assert "cannot be reached" in blocking
    assert await getattr(spec, f"a{tool}")("peanuts") == blocking
