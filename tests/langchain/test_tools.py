"""The memory tools, by LangChain's own suites, alone, and in agents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from memos_core import Caller, InvalidInput, MemOS, Rules, StoreError, View, short_ids
from memos_langchain import (
    MemOSStore,
    create_forget_memory_tool,
    create_manage_memory_tool,
    create_search_memory_tool,
)
from tests.langchain.scripted import Run, ScriptedModel, asks, calls, runs_by, thread

FACTORIES = (create_search_memory_tool, create_manage_memory_tool, create_forget_memory_tool)


# --- LangChain's own suites -----------------------------------------------------------------------


class Standard:
    """What the suites are given; each memory can be searched, made, and forgotten."""

    factory: ClassVar[Any]
    example: ClassVar[dict[str, Any]]

    @pytest.fixture(autouse=True)
    def _memories(self, ann: View) -> None:
        ann.add("Ann drinks tea.")
        self._made = type(self).factory(ann)

    @property
    def tool_constructor(self) -> BaseTool:
        return self._made

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.example


class OfSearch(Standard):
    factory = staticmethod(create_search_memory_tool)
    example: ClassVar = {"query": "tea", "limit": 3, "offset": 0, "filter": None}


class OfManage(Standard):
    factory = staticmethod(create_manage_memory_tool)
    example: ClassVar = {"content": "Ann lives in Oslo.", "action": "create"}


class OfForget(Standard):
    factory = staticmethod(create_forget_memory_tool)
    example: ClassVar = {"id": "Ann drinks tea."}


class TestSearchUnit(OfSearch, ToolsUnitTests):
    pass


class TestSearchIntegration(OfSearch, ToolsIntegrationTests):
    pass


class TestManageUnit(OfManage, ToolsUnitTests):
    pass


class TestManageIntegration(OfManage, ToolsIntegrationTests):
    pass


class TestForgetUnit(OfForget, ToolsUnitTests):
    pass


class TestForgetIntegration(OfForget, ToolsIntegrationTests):
    pass


# --- alone ----------------------------------------------------------------------------------------


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    return runs_by(request.param)


def called(tool: BaseTool, **args: Any) -> dict[str, Any]:
    """Return a call of a tool as a model makes it."""
    return {"name": tool.name, "args": args, "id": uuid4().hex, "type": "tool_call"}


def texts(view: View) -> set[str]:
    return {hit.text for hit in view.search("Ann Bob")}


def test_schemas_hold_what_langmem_s_users_know_and_nothing_else(ann: View) -> None:
    parameters = {}
    for factory in FACTORIES:
        schema = convert_to_openai_tool(factory(ann))["function"]
        json.dumps(schema)
        parameters[schema["name"]] = list(schema["parameters"]["properties"])
    assert parameters == {
        "search_memory": ["query", "limit", "offset", "filter"],
        "manage_memory": ["content", "action", "id"],
        "forget_memory": ["id"],
    }


def test_what_a_search_shows_can_be_updated_and_forgotten(run: Run, ann: View) -> None:
    tea, cat = ann.add(["Ann drinks tea.", "Ann has a cat."])
    search, manage, forget = (factory(ann) for factory in FACTORIES)
    found = run(search, {"query": "What does Ann drink?", "limit": 1})
    shown, rest = found[1:9], found[9:]
    assert found[0] + rest[0] == "[]"
    assert rest.endswith("Ann drinks tea.")
    assert len(shown) < len(str(tea.id)) / 4

    said = run(manage, {"action": "update", "id": shown, "content": "Ann drinks coffee."})
    assert shown in said
    assert "coffee" in said
    assert ann.get(tea.id).text == "Ann drinks coffee."
    run(search, {"query": "cat"})
    run(forget, {"id": f"`[{cat.id.hex[-8:].upper()}]` "})
    assert texts(ann) == {"Ann drinks coffee."}
    run(manage, {"action": "delete", "id": shown})
    assert texts(ann) == set()


def test_a_memory_may_be_named_by_its_words_or_whole_id(run: Run, ann: View) -> None:
    _, cat = ann.add(["Ann drinks tea.", "Ann has a cat."])
    forget = create_forget_memory_tool(ann)
    run(forget, {"id": "ann drinks TEA"})
    assert texts(ann) == {cat.text}
    run(forget, {"id": str(cat.id)})
    assert texts(ann) == set()


@pytest.mark.parametrize(
    "name", ["0badcafe", "71905361-3051-4789-b644-9e3224d5e153", "Ann drinks", "?!", ""]
)
def test_what_nobody_knows_is_refused_and_never_made(run: Run, ann: View, name: str) -> None:
    ann.add("Ann drinks tea.")
    manage, forget = create_manage_memory_tool(ann), create_forget_memory_tool(ann)
    for tool, args in (
        (manage, {"action": "update", "id": name, "content": "Ann drinks gin."}),
        (manage, {"action": "delete", "id": name}),
        (forget, {"id": name}),
    ):
        answer = run(tool, called(tool, **args))
        assert answer.status == "error"
        assert "name" in answer.content or "Search for it first" in answer.content
    assert texts(ann) == {"Ann drinks tea."}


def test_ids_of_another_s_memories_are_unknown(run: Run, ann: View, memos: MemOS) -> None:
    bob = memos.at("acme", "bob")
    tea = ann.add("Ann drinks tea.")
    run(create_search_memory_tool(ann), {"query": "tea"})
    run(create_search_memory_tool(bob), {"query": "tea"})
    forget = create_forget_memory_tool(bob)
    for name in (tea.id.hex[-8:], str(tea.id), tea.text):
        assert run(forget, called(forget, id=name)).status == "error"
    assert texts(ann) == {"Ann drinks tea."}


def test_a_name_that_fits_several_is_refused_until_it_is_plain(run: Run, ann: View) -> None:
    first, second = ann.add(["Ann drinks tea.", "Ann drinks tea!"])
    forget = create_forget_memory_tool(ann)
    answer = run(forget, called(forget, id="Ann drinks tea."))
    assert answer.status == "error"
    assert str(first.id) in answer.content
    assert str(second.id) in answer.content
    run(forget, {"id": str(first.id)})
    assert texts(ann) == {second.text}


def test_short_ids_that_fall_together_are_refused(run: Run, ann: View) -> None:
    ids = [f"{n}0000000-0000-7000-8000-00000badcafe" for n in (1, 2)]
    ann.add(["Ann drinks tea.", "Ann has a cat."], id=ids)
    run(create_search_memory_tool(ann), {"query": "Ann"})
    forget = create_forget_memory_tool(ann)
    answer = run(forget, called(forget, id="0badcafe"))
    assert answer.status == "error"
    assert all(id in answer.content for id in ids)
    assert len(texts(ann)) == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"action": "create", "content": "x", "id": "0badcafe"}, "leave id away"),
        ({"action": "create"}, "pass its content"),
        ({"action": "update", "content": "x"}, "pass its id"),
        ({"action": "update", "id": "Ann drinks tea."}, "pass its new content"),
        ({"action": "delete"}, "pass its id"),
        ({"action": "create", "content": "a\x00b"}, "NUL"),
    ],
)
def test_a_model_is_told_how_to_ask(run: Run, ann: View, args: dict[str, Any], told: str) -> None:
    ann.add("Ann drinks tea.")
    manage = create_manage_memory_tool(ann)
    answer = run(manage, called(manage, **args))
    assert answer.status == "error"
    assert told in answer.content
    assert texts(ann) == {"Ann drinks tea."}


def test_a_model_is_told_what_the_rules_refuse(run: Run, ann: View) -> None:
    ann.set_rules(Rules(sensitive={"email": "refuse"}))
    manage = create_manage_memory_tool(ann)
    answer = run(manage, called(manage, content="Write to ann@example.org."))
    assert answer.status == "error"
    assert "email" in answer.content


def test_a_broken_database_is_not_the_model_s_business(
    run: Run, ann: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise StoreError("down")

    monkeypatch.setattr(View, "search", broken)
    tool = create_search_memory_tool(ann)
    with pytest.raises(StoreError):
        run(tool, called(tool, query="tea"))


def test_pages_and_filters(run: Run, ann: View) -> None:
    for year in (9, 10, 100):
        ann.add(f"Ann moved in year {year}.", metadata={"year": year})
    search = create_search_memory_tool(ann)
    found = run(search, {"query": "Ann moved", "filter": {"year": {"$gt": 9}}})
    assert sorted(line.split()[-1] for line in found.splitlines()) == ["10.", "100."]
    pages = [run(search, {"query": "Ann moved", "limit": 1, "offset": n}) for n in range(4)]
    assert len(set(pages)) == 4
    assert pages[3] == "No memories were found."
    answer = run(search, called(search, query="x", filter={"year": {"$near": 9}}))
    assert "$near" in answer.content
    assert answer.status == "error"


def test_the_artifact_holds_the_memories_whole(run: Run, ann: View) -> None:
    made = ann.add("Ann drinks tea.\nBlack.", metadata={"year": 9})
    search = create_search_memory_tool(ann)
    answer = run(search, called(search, query="tea"))
    (memory,) = json.loads(json.dumps(answer.artifact))["memos_memories"]
    assert (memory["id"], memory["page_content"]) == (str(made.id), made.text)
    assert memory["metadata"]["year"] == 9
    assert memory["metadata"]["score"] > 0
    assert len(answer.content.splitlines()) == 1


def test_only_permitted_actions_are_offered(run: Run, ann: View) -> None:
    tool = create_manage_memory_tool(ann, actions_permitted=["update"])
    schema = convert_to_openai_tool(tool)["function"]["parameters"]["properties"]["action"]
    assert "delete" not in json.dumps(schema)
    with pytest.raises(ValueError, match="update"):
        run(tool, {"action": "delete", "id": "Ann drinks tea."})
    wrong: Any
    for wrong in ([], ["drop"]):
        with pytest.raises(InvalidInput, match="actions_permitted"):
            create_manage_memory_tool(ann, actions_permitted=wrong)


# --- in agents ------------------------------------------------------------------------------------


@dataclass
class Context:
    user_id: str


def test_the_run_s_context_says_whose_memory_it_is_then_its_config(run: Run, memos: MemOS) -> None:
    for_user = ("acme", "{user_id}")
    tools = [factory(memos, namespace=for_user) for factory in FACTORIES]
    model = ScriptedModel(script=[])
    agent = create_agent(model, tools, context_schema=Context)
    for context, config, user in (
        (Context("ann@x.org"), {"configurable": {"user_id": "bob"}}, "ann@x.org"),
        (None, {"configurable": {"user_id": 7}}, "7"),
    ):
        model.script.append(calls("manage_memory", content=f"I am {user}."))
        run(agent, asks("I am."), config, context=context)
        assert {hit.text for hit in memos.at("acme", user).search("I am")} == {f"I am {user}."}
    assert memos.at("acme", "bob").stats().cubes == 0
    model.script.append(calls("manage_memory", content="I am nobody."))
    with pytest.raises(InvalidInput, match="names no user_id"):
        run(agent, asks("I am."))
    # The same outside of agents.
    found = run(tools[0], {"query": "I am"}, {"configurable": {"user_id": "7"}})
    assert found.endswith("I am 7.")
    with pytest.raises(InvalidInput, match="names no user_id"):
        run(tools[0], {"query": "I am"})


def test_without_a_memory_it_is_that_of_the_agent_s_store(run: Run, memos: MemOS) -> None:
    tools = [factory(namespace=("users", "{user_id}")) for factory in FACTORIES]
    model = ScriptedModel(script=[calls("manage_memory", content="Ann drinks tea.")])
    store = MemOSStore(memos.at("acme"))
    ann = {"configurable": {"user_id": "ann"}}
    run(create_agent(model, tools, store=store), asks("Tea."), ann)
    assert texts(memos.at("acme", "users", "ann")) == {"Ann drinks tea."}
    for other in (None, InMemoryStore()):
        model.script.append(calls("search_memory", query="tea"))
        with pytest.raises(InvalidInput, match="store=MemOSStore"):
            run(create_agent(model, tools, store=other), asks("Tea?"), ann)
    with pytest.raises(InvalidInput, match="store=MemOSStore"):
        run(tools[0], {"query": "tea"}, ann)


def test_a_user_acts_by_his_own_rights(run: Run, memos: MemOS) -> None:
    tools = [factory(memos, namespace=("acme", "team"), user="{user_id}") for factory in FACTORIES]
    search, manage, _ = tools
    ann, bob = ({"configurable": {"user_id": name}} for name in ("ann", "bob"))
    run(manage, {"content": "Ann drinks tea."}, ann)
    assert "tea" in run(search, {"query": "tea"}, ann)
    assert run(search, {"query": "tea"}, bob) == "No memories were found."
    with pytest.raises(InvalidInput, match="acts for ann already"):
        create_search_memory_tool(memos.at("acme", caller=Caller(user="ann")), user="{user_id}")


def rewrites_what_it_found(prompt: list[BaseMessage]) -> AIMessage:
    shown = prompt[-1].text[1:9]
    return calls("manage_memory", action="update", id=shown, content="Ann drinks coffee.")


@pytest.mark.parametrize("known_to", ["the process", "the conversation"])
def test_an_agent_names_what_it_was_shown(
    run: Run, ann: View, known_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ann.add("Ann drinks tea.")
    saver = InMemorySaver()
    tools = [factory(ann) for factory in FACTORIES]
    model = ScriptedModel(script=[calls("search_memory", query="tea")])
    agent = create_agent(model, tools, checkpointer=saver)
    run(agent, asks("What do I drink?"), thread("one"))
    prompt = model.prompts[-1]
    if known_to == "the conversation":  # as in another process
        monkeypatch.setattr(short_ids, "_shown", {})
    model.script.append(lambda _: rewrites_what_it_found(prompt))
    state = run(agent, asks("Coffee."), thread("one" if known_to == "the conversation" else "two"))
    assert ann.get(made.id).text == "Ann drinks coffee."
    assert isinstance(state["messages"][-2], ToolMessage)
    assert made.id.hex[-8:] in state["messages"][-2].text


def test_a_refusal_is_told_to_the_model_and_the_run_goes_on(run: Run, ann: View) -> None:
    model = ScriptedModel(script=[calls("forget_memory", id="0badcafe")])
    tools = [factory(ann) for factory in FACTORIES]
    state = run(create_agent(model, tools), asks("Forget it."))
    refused, answer = state["messages"][-2:]
    assert refused.status == "error"
    assert "0badcafe" in refused.text
    assert answer.text == "ok"
    assert model.tools == ["search_memory", "manage_memory", "forget_memory"]


def test_a_call_that_is_repeated_makes_one_memory(run: Run, ann: View) -> None:
    manage = create_manage_memory_tool(ann)
    agent = create_agent(
        model := ScriptedModel(), [manage], checkpointer=InMemorySaver(), middleware=[]
    )
    for content in ("Ann drinks tea.", "Ann drinks tea.", "Ann has a cat."):
        model.script.append(calls("manage_memory", content=content))
        run(agent, asks("Remember."), thread("one"))
    found = ann.search("Ann")
    assert sorted(hit.text for hit in found) == ["Ann drinks tea.", "Ann has a cat."]
    # It was rewritten since: then the same words are a new memory.
    (tea,) = [hit.cube.id for hit in found if "tea" in hit.text]
    ann.update(tea, "Ann drinks coffee.")
    model.script.append(calls("manage_memory", content="Ann drinks tea."))
    run(agent, asks("Remember."), thread("one"))
    assert len(texts(ann)) == 3
