"""Message histories and classic memories, for code that has them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from langchain_classic.chains import ConversationChain
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from pydantic import ValidationError

from memos_core import InvalidInput, Rules, View
from memos_langchain.legacy import MemOSChatMessageHistory, MemOSClassicMemory
from tests.langchain.scripted import ALLERGY, QUESTION, Run, ScriptedModel, contents, runs_by

pytestmark = pytest.mark.filterwarnings(
    "ignore:MemOS:DeprecationWarning",
    "ignore:RunnableWithMessageHistory:DeprecationWarning",
    "ignore:The class `ConversationChain`:DeprecationWarning",
)


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    return runs_by(request.param)


Twin = Callable[..., Any]


@pytest.fixture(params=["blocking", "awaited"])
def twin(request: pytest.FixtureRequest) -> Twin:
    """Calls a method, or the one of its name that is awaited."""

    def call(owner: Any, name: str, *args: Any) -> Any:
        if request.param == "blocking":
            return getattr(owner, name)(*args)
        return asyncio.run(getattr(owner, f"a{name}")(*args))

    return call


def messages_of(twin: Twin, history: MemOSChatMessageHistory) -> list[BaseMessage]:
    class Reading:
        read = staticmethod(lambda: history.messages)
        aread = staticmethod(history.aget_messages)

    return twin(Reading, "read")


# --- the history ----------------------------------------------------------------------------------

EVERY_KIND: list[BaseMessage] = [
    SystemMessage("Be kind."),
    HumanMessage(ALLERGY, name="Ann", id="h1", additional_kwargs={"a": [1, {"b": None}]}),
    HumanMessage(
        [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "x"}}]
    ),
    AIMessage(
        "Let me look.",
        tool_calls=[{"name": "look", "args": {"x": 1.5, "y": ["é"]}, "id": "c1"}],
        usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        response_metadata={"model_name": "m"},
        id="run-1",
    ),
    HumanMessage("half \ud800"),
    ToolMessage("NUL \x00", tool_call_id="c1", artifact={"n": 1}, status="error"),
    FunctionMessage("f", name="f"),
    ChatMessage(content="by the moderator", role="moderator"),
    AIMessageChunk("in parts", chunk_position="last"),
    AIMessage(""),
    HumanMessage("x" * 2_000_000),
    HumanMessage("literally \\u0000"),
]


def test_every_message_comes_back_as_it_was_and_in_order(twin: Twin, ann: View) -> None:
    history = MemOSChatMessageHistory(ann, "monday")
    twin(history, "add_messages", EVERY_KIND[:3])
    twin(history, "add_messages", EVERY_KIND[3:])
    found = messages_of(twin, history)
    assert found == EVERY_KIND
    assert [type(one) for one in found] == [type(one) for one in EVERY_KIND]
    assert messages_of(twin, MemOSChatMessageHistory(ann, "tuesday")) == []
    assert ann.search("allergic")[0].text == ALLERGY


def test_what_is_said_twice_was_said_twice(twin: Twin, ann: View) -> None:
    history = MemOSChatMessageHistory(ann, "monday")
    yes = HumanMessage("Yes.", id="same")
    for _ in range(2):
        twin(history, "add_messages", [yes, yes])
    assert messages_of(twin, history) == [yes] * 4
    history.add_user_message("And?")
    history.add_ai_message("No.")
    assert [one.text for one in history.messages[4:]] == ["And?", "No."]


def test_clearing_ends_the_history_and_not_the_memory(twin: Twin, ann: View) -> None:
    history = MemOSChatMessageHistory(ann, "monday")
    other = MemOSChatMessageHistory(ann, "tuesday")
    for one in (history, other):
        one.add_user_message(ALLERGY)
    twin(history, "clear")
    assert messages_of(twin, history) == []
    assert len(messages_of(twin, other)) == 1
    assert len([hit for hit in ann.search("allergic") if hit.text == ALLERGY]) == 2
    history.add_user_message("Again.")
    assert [one.text for one in history.messages] == ["Again."]


def test_what_the_rules_hide_is_hidden_in_the_history(ann: View) -> None:
    ann.set_rules(Rules(sensitive={"email": "redact"}))
    history = MemOSChatMessageHistory(ann, "monday")
    asked = AIMessage(
        "I write to ann@example.org.",
        tool_calls=[{"name": "mail", "args": {"to": "ann@example.org"}, "id": "c1"}],
    )
    history.add_messages([asked])
    (found,) = history.messages
    assert "ann@example.org" not in str(found)
    assert isinstance(found, AIMessage)
    assert found.tool_calls[0]["name"] == "mail"


def test_what_others_logged_is_read_by_role_and_text(ann: View) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("system", "c"), ("tool", "d"), ("critic", "e")]
    ann.ingest([{"role": role, "content": text} for role, text in turns], session="monday")
    found = MemOSChatMessageHistory(ann, "monday").messages
    assert [(one.type, one.text) for one in found] == [
        ("human", "a"),
        ("ai", "b"),
        ("system", "c"),
        ("tool", "d"),
        ("chat", "e"),
    ]


def test_refuses_what_is_no_json_and_stores_nothing(twin: Twin, ann: View) -> None:
    history = MemOSChatMessageHistory(ann, "monday")
    bad = HumanMessage("x", additional_kwargs={"nan": float("nan"), "day": date, "o": object()})
    with pytest.raises(InvalidInput, match="human message holds"):
        twin(history, "add_messages", [HumanMessage("good"), bad])
    assert history.messages == []


def test_refuses_what_names_no_session_or_view(ann: View) -> None:
    wrong: Any
    for wrong in ((ann, ""), (ann, 7), ("ann", "monday")):
        with pytest.raises(InvalidInput):
            MemOSChatMessageHistory(*wrong)


@pytest.mark.parametrize("shape", ["messages", "keys"])
def test_a_chain_with_history_loses_and_adds_nothing(run: Run, ann: View, shape: str) -> None:
    ann.ingest([f"I am allergic to {what}." for what in ("figs", "nuts", "eggs")], session="old")
    model = ScriptedModel(script=[AIMessage(f"answer {n}") for n in range(3)])
    options: dict[str, Any] = {}
    chain: Any = model
    if shape == "keys":
        prompt = [("system", "Be kind."), MessagesPlaceholder("past"), ("human", "{question}")]
        chain = ChatPromptTemplate.from_messages(prompt) | model
        options = {"input_messages_key": "question", "history_messages_key": "past"}
    chain = RunnableWithMessageHistory(
        chain, lambda session: MemOSChatMessageHistory(ann, session), **options
    )
    said: list[str] = []
    for number, text in enumerate([ALLERGY, "Yes.", "Yes."]):
        asked: Any = {"question": text} if options else [HumanMessage(text)]
        run(chain, asked, {"configurable": {"session_id": "new"}})
        said += [text, f"answer {number}"]
        history = MemOSChatMessageHistory(ann, "new")
        assert [one.text for one in history.messages] == said
        past = [one.text for one in model.prompts[-1] if one.type != "system"]
        assert past == said[:-1]


# --- classic memory -------------------------------------------------------------------------------


def test_a_conversation_chain_remembers_within_and_across_sessions(run: Run, ann: View) -> None:
    model = ScriptedModel()
    for session, texts in (("monday", [ALLERGY, "I have a cat."]), ("tuesday", [QUESTION])):
        memory = MemOSClassicMemory(memos=ann, session_id=session)
        chain = ConversationChain(llm=model, memory=memory)
        for text in texts:
            assert run(chain, {"input": text})["response"] == "ok"
    first, second, third = (prompt[0].text for prompt in model.prompts)
    assert "Memories" not in first
    assert f"Human: {ALLERGY}\nAI: ok" in second
    assert second.count(ALLERGY) == 1, "what is in view is not recalled"
    assert "Memories of earlier" in third
    assert ALLERGY in third
    assert contents(ann) == [ALLERGY, "ok", "I have a cat.", "ok", QUESTION, "ok"]


def test_messages_and_memories_may_be_variables_of_their_own(twin: Twin, ann: View) -> None:
    ann.add(ALLERGY)
    memory = MemOSClassicMemory(
        memos=ann, session_id="s", return_messages=True, memories_key="known", window=2
    )
    assert memory.memory_variables == ["history", "known"]
    for text in ("one", "two"):
        twin(memory, "save_context", {"input": text, "stop": ["x"]}, {"output": f"{text}!"})
    loaded = twin(memory, "load_memory_variables", {"input": QUESTION})
    assert loaded["history"] == [HumanMessage("two"), AIMessage("two!")]
    assert ALLERGY in loaded["known"]
    assert twin(memory, "load_memory_variables", {})["known"] == ""
    twin(memory, "clear")
    assert twin(memory, "load_memory_variables", {"input": "?"})["history"] == []

    memory = MemOSClassicMemory(memos=ann, session_id="s", return_messages=True)
    memory.save_context({"input": "three"}, {"output": "four"})
    head, *rest = twin(memory, "load_memory_variables", {"input": QUESTION})["history"]
    assert isinstance(head, SystemMessage)
    assert ALLERGY in head.text
    assert [one.text for one in rest] == ["three", "four"]


def test_of_several_inputs_or_outputs_one_is_named(twin: Twin, ann: View) -> None:
    memory = MemOSClassicMemory(memos=ann, session_id="s")
    with pytest.raises(InvalidInput, match="pass input_key="):
        twin(memory, "load_memory_variables", {"a": "1", "b": "2"})
    with pytest.raises(InvalidInput, match="pass output_key="):
        twin(memory, "save_context", {"a": "1"}, {"x": "1", "y": "2"})
    twin(memory, "save_context", {"a": "1"}, {"output": "2", "y": "3"})
    named = MemOSClassicMemory(memos=ann, session_id="s", input_key="b", output_key="y")
    twin(named, "save_context", {"a": "1", "b": "4"}, {"x": "1", "y": "5"})
    assert contents(ann) == ["1", "2", "4", "5"]
    with pytest.raises(ValidationError, match="sesion"):
        MemOSClassicMemory(memos=ann, sesion="s")


def test_memories_keep_to_the_token_limit(ann: View) -> None:
    ann.add([f"I am allergic to peanuts, case {number}." for number in range(50)])
    memory = MemOSClassicMemory(memos=ann, session_id="s", k=50, token_limit=60)
    shown = memory.load_memory_variables({"input": QUESTION})["history"]
    assert 1 <= shown.count("case") <= 5


# --- what they say of themselves ------------------------------------------------------------------


def test_each_says_once_that_it_is_old_and_what_replaces_it(ann: View) -> None:
    for make in (
        lambda: MemOSChatMessageHistory(ann, "s"),
        lambda: MemOSClassicMemory(memos=ann, session_id="s"),
    ):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            made = make()
            if isinstance(made, MemOSClassicMemory):
                made.save_context({"input": "a"}, {"output": "b"})
        (warning,) = said
        assert issubclass(warning.category, DeprecationWarning)
        assert type(made).__name__ in str(warning.message)
        assert "create_agent with a checkpointer" in str(warning.message)
        assert "MemOSMiddleware" in str(warning.message)
        assert warning.filename == __file__


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_it_is_loaded_on_request_alone() -> None:
    done = python("import memos_langchain, sys; print([*sys.modules])")
    assert "memos_langchain.tools" in done.stdout
    assert "langchain_classic" not in done.stdout
    assert "memos_langchain.legacy" not in done.stdout


def test_without_its_extra_it_says_which() -> None:
    done = python(
        "import sys; sys.modules['langchain_classic'] = None; import memos_langchain.legacy"
    )
    assert done.returncode == 1
    assert "ImportError: memos_langchain.legacy needs langchain-classic" in done.stderr
    assert "pip install 'memos-memory[legacy]'" in done.stderr
