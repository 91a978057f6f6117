"""The tools: what a model does with its memory, and what it is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import ToolMetadata

from memos_core import MemOS, Rules, View, short_ids
from memos_llamaindex import MemOSToolSpec
from tests.llamaindex.test_memory import Script, prompt

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


def test_a_program_can_tell_them_otherwise(ann: View):
    mine = ToolMetadata(name="erase", description="Only when you are told twice.")
    tools = MemOSToolSpec(ann).to_tool_list(func_to_metadata_mapping={"forget": mine})
    assert [tool.metadata.name for tool in tools] == ["remember", "recall", "erase"]


@pytest.mark.filterwarnings(
    "ignore:The `__fields:pydantic.warnings.PydanticDeprecatedSince20:inspect",
    "ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211:inspect",
)
async def test_an_agent_uses_them(ann: View):
    call = ToolCallBlock(tool_call_id="c1", tool_name="remember", tool_kwargs={"content": "figs"})
    script = Script(ChatMessage(role="assistant", blocks=[call]), "Done.")

    agent = FunctionAgent(llm=script.llm, tools=MemOSToolSpec(ann).to_tool_list())
    await agent.run("Remember figs.")

    assert "Remembered: [" in prompt(script.prompts[1])
    assert [hit.text for hit in ann.search("figs")] == ["figs"]
