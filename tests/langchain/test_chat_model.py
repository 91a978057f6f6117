"""ChatMemOS: what goes through the chat template and back, memories by id, and how it ends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError

from memos_core import (
    AsyncView,
    CacheMismatch,
    ContextTooLong,
    CubeNotFound,
    InvalidInput,
    Kind,
    MemCube,
    MemOS,
    View,
)
from memos_core.model import MemoryModel
from memos_langchain import ChatMemOS
from tests.langchain.speaking import TOOLED, asked_in, call, speaker_of, speaking_model
from tests.model.models import CHATML
from tests.support import until

FACTS = ["Ann is allergic to peanuts.", "Ann lives in Oslo with a black cat named Misha."]
ASKED = "What must she not eat?"
Make = Callable[..., ChatMemOS]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes chat models that say what a script says."""
    made: list[MemoryModel] = []

    def new(script: Any = "Peanuts.", view: View | None = None, **fields: Any) -> ChatMemOS:
        template = fields.pop("template", TOOLED)
        model = speaking_model(script, view, folder=tmp_path / "kv", template=template)
        made.append(model)
        return ChatMemOS(model=model, **fields)

    yield new
    for model in made:
        model.close()


@pytest.fixture
def facts(ann: View) -> list[MemCube]:
    return ann.add(FACTS)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def whole(chunks: list[Any]) -> AIMessageChunk:
    first, *rest = chunks
    return first + rest if rest else first


async def astreamed(chat: Any, asked: Any, **options: Any) -> list[AIMessageChunk]:
    return [chunk async for chunk in chat.astream(asked, **options)]


def prompt_of(chat: ChatMemOS, messages: list[BaseMessage], **options: Any) -> str:
    """Return the prompt that messages are for the model."""
    prompts: list[str] = []

    def listen(prompt: str) -> str:
        prompts.append(prompt)
        return "ok"

    speaker_of(chat.model).script = listen
    chat.invoke(messages, **options)
    return prompts[0]


def read_by(answer: BaseMessage) -> list[str]:
    return [memory["id"] for memory in answer.response_metadata["memories"]]


# ------------------------------------------------------------------ answers

SAID = {
    "text": "  Peanuts, and\nnuts. ",
    "call": call("add", a=1, b=2),
    "text and calls": f"I add.\n{call('add', a=1, b=2)}\n{call('multiply', a='é', b=4)}",
    "thoughts": "<think>\nShe is\n\nallergic.\n</think>\n\nPeanuts.",
    "thoughts and a call": f"<think>\nAdd.\n</think>\n\n{call('add', a=1, b=2)}",
    "broken": '<tool_call>\n{"name": "add", "arguments": {"a": \n</tool_call>',
    "ended early": '<tool_call>\n{"name": "add", "arguments": {"a": 1',
    "nothing": "",
}


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("said", SAID)
async def test_every_way_of_asking_gives_the_same_answer(
    make: Make, said: str, version: str
) -> None:
    chat = make(SAID[said], output_version=version)
    bound = chat.bind_tools([add, multiply])
    answers: list[AIMessage] = [
        bound.invoke(ASKED),
        await bound.ainvoke(ASKED),
        whole(list(bound.stream(ASKED))),
        whole(await astreamed(bound, ASKED)),
        bound.invoke(ASKED, stream=True),
    ]
    facts = [
        (
            answer.text,
            [(one["name"], one["args"]) for one in answer.tool_calls],
            [one["args"] for one in answer.invalid_tool_calls],
            [one["type"] for one in answer.content_blocks if one["type"] == "tool_call"],
            [one.get("reasoning") for one in answer.content_blocks if one["type"] == "reasoning"],
            answer.usage_metadata,
            answer.response_metadata["finish_reason"],
        )
        for answer in answers
    ]
    assert all(fact == facts[0] for fact in facts), facts


def test_an_answer_is_taken_apart(make: Make) -> None:
    answer = make(SAID["text and calls"]).bind_tools([add, multiply]).invoke(ASKED)
    assert answer.content == "I add."
    assert [(one["name"], one["args"]) for one in answer.tool_calls] == [
        ("add", {"a": 1, "b": 2}),
        ("multiply", {"a": "é", "b": 4}),
    ]
    assert len({one["id"] for one in answer.tool_calls}) == 2
    answer = make(SAID["thoughts"]).invoke(ASKED)
    assert answer.text == "Peanuts."
    assert answer.content_blocks[0] == {"type": "reasoning", "reasoning": "She is\n\nallergic."}
    answer = make(SAID["broken"]).bind_tools([add]).invoke(ASKED)
    assert (answer.text, answer.tool_calls) == ("", [])
    (broken,) = answer.invalid_tool_calls
    assert broken["args"] == SAID["broken"]
    assert broken["error"] == "what it holds is no JSON"
    assert make(SAID["call"]).invoke(ASKED).content == SAID["call"]  # no tools, no calls


def test_each_call_of_a_stream_has_its_own_place(make: Make) -> None:
    chunks = list(make(SAID["text and calls"]).bind_tools([add, multiply]).stream(ASKED))
    called = [one for chunk in chunks for one in getattr(chunk, "tool_call_chunks", [])]
    assert [one["name"] for one in called] == ["add", "multiply"]
    assert len({one["index"] for one in called}) == len({one["id"] for one in called}) == 2


def test_one_call_is_kept_where_several_are_not_wanted(make: Make) -> None:
    said = f"{SAID['broken']}{SAID['text and calls']}"
    bound = make(said).bind_tools([add, multiply], parallel_tool_calls=False)
    for answer in (bound.invoke(ASKED), whole(list(bound.stream(ASKED)))):
        assert [one["name"] for one in answer.tool_calls] == ["add"]
        assert len(answer.invalid_tool_calls) == 1


def test_usage_is_the_prompt_and_what_was_said(make: Make) -> None:
    chat = make("Peanuts, and nuts of all trees.")
    usage = chat.invoke(ASKED).usage_metadata
    said = chat.get_num_tokens("Peanuts, and nuts of all trees.")
    read = chat.get_num_tokens_from_messages([HumanMessage(ASKED)])
    assert usage == {
        "input_tokens": read,
        "output_tokens": said,
        "total_tokens": read + said,
        "input_token_details": {"cache_read": 0},
    }
    chunks = list(chat.stream(ASKED))
    assert [chunk.usage_metadata for chunk in chunks] == [None] * (len(chunks) - 1) + [usage]
    assert [chunk.chunk_position for chunk in chunks][-2:] == [None, "last"]
    assert len(chunks) > 2


class Listener(BaseCallbackHandler):
    """Keeps what LangChain tells of a run."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.started: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        del messages
        self.started.append([serialized, told["invocation_params"], told["options"]])

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **_rest: Any) -> None:
        assert chunk.message.content == token
        self.tokens.append(token)


async def test_callbacks_hear_each_token_once(make: Make) -> None:
    chat = make("Peanuts, and nuts of all trees.")
    heard = Listener()
    list(chat.stream(ASKED, {"callbacks": [heard]}))
    assert "".join(heard.tokens) == "Peanuts, and nuts of all trees."
    assert len(heard.tokens) > 3
    again = Listener()
    await astreamed(chat, ASKED, config={"callbacks": [again]})
    assert again.tokens == heard.tokens
    third = Listener()
    streaming = ChatMemOS(model=chat.model, streaming=True)
    await streaming.ainvoke(ASKED, {"callbacks": [third]})
    assert third.tokens == heard.tokens


def test_stop_ends_the_answer_before_it(make: Make) -> None:
    chat = make("Peanuts, and nuts.", stop=[" nuts"])
    assert chat.invoke(ASKED).text == "Peanuts, and"
    assert chat.invoke(ASKED, stop=[","]).text == "Peanuts"
    assert whole(list(chat.bind(stop=["ts,"]).stream(ASKED))).text == "Peanu"
    assert chat.invoke(ASKED, stop=[]).text == "Peanuts, and nuts."
    assert make("Peanuts, and nuts.", stop=",").invoke(ASKED).text == "Peanuts"


def test_max_tokens_end_the_answer(make: Make) -> None:
    chat = make("Peanuts, and nuts.", max_tokens=2)
    answer = chat.invoke(ASKED)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 2
    longer = chat.invoke(ASKED, max_tokens=100)
    assert longer.text == "Peanuts, and nuts."
    assert longer.response_metadata["finish_reason"] == "stop"
    with pytest.raises(InvalidInput, match="max_new_tokens"):
        chat.invoke(ASKED, max_tokens=0)
    with pytest.raises(ContextTooLong):
        chat.invoke(ASKED, max_tokens=9_000)


def test_temperature_and_other_options_reach_generate(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = make(temperature=0.5, options={"top_p": 0.8})
    given: list[dict[str, Any]] = []
    generate = chat.model.model.generate

    def noted(*args: Any, **options: Any) -> Any:
        given.append(options)
        return generate(*args, **options)

    monkeypatch.setattr(chat.model.model, "generate", noted)
    chat.invoke(ASKED)
    chat.bind(temperature=0, top_p=0.7).invoke(ASKED)
    ChatMemOS(model=chat.model).invoke(ASKED)
    names = ("do_sample", "temperature", "top_p")
    named = dict.fromkeys(tuple(one.get(name) for name in names) for one in given)
    assert list(named) == [(True, 0.5, 0.8), (False, None, 0.7), (None, None, None)]


def test_beams_are_told_whole(make: Make) -> None:
    chat = make(SAID["text and calls"], options={"num_beams": 2}).bind_tools([add, multiply])
    answer = chat.invoke(ASKED)
    assert len(answer.tool_calls) == 2
    assert whole(list(chat.stream(ASKED))).text == answer.text == "I add."


def test_beams_that_a_checkpoint_asks_for_are_streamed_whole(make: Make) -> None:
    chat = make()
    chat.model.model.generation_config.num_beams = 2
    assert whole(list(chat.stream(ASKED))).text == chat.invoke(ASKED).text == "Peanuts."


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top_q": 1}, "top_q is no option of a call"),
        ({"cache_implementation": "static"}, "memory="),
        ({"past_key_values": 1}, "past_key_values is no option"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"model": "gpt"}, "there is no model 'gpt' here, only"),
        ({"tools": [{"name": "add"}]}, "where tools are bound"),
        ({"tool_choice": "any"}, "there is none: give the model tools"),
        ({"tool_choice": "subtract"}, "subtract"),
        ({"memory": {"id": 1}}, "by their ids"),
    ],
)
def test_a_wrong_option_of_a_call_says_what_is_right(
    make: Make, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        make().invoke(ASKED, **options)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": "qwen"}, "model is a MemoryModel, not str"),
        ({"memory": 3}, "memory is a view, or cubes or their ids, not int"),
        ({"memory": [3]}, "a view, or cubes or their ids, not list"),
    ],
)
def test_a_wrong_field_says_what_is_right(make: Make, fields: dict[str, Any], says: str) -> None:
    model = make().model
    with pytest.raises(ValidationError, match=says):
        ChatMemOS(**{"model": model, **fields})


def test_another_model_is_chosen_by_name(make: Make) -> None:
    small = make("small").model
    chat = make("large", models={"small": small}, model_name="large")
    for name, options in {"large": {}, "small": {"model": "small"}}.items():
        answer = chat.invoke(ASKED, **options)
        assert answer.text == answer.response_metadata["model_name"] == name
    assert chat.invoke(ASKED, model="large").text == "large"
    assert make().model_name == "llama"


# ------------------------------------------------------------------ memories


def test_a_view_is_its_cache_and_what_a_search_finds(
    make: Make, ann: View, facts: list[MemCube]
) -> None:
    chat = make(view=ann, memory=ann)
    cache = chat.model.encode(facts[:1])
    answer = chat.invoke("Where does the black cat live?")
    kinds = {one["id"]: one["kind"] for one in answer.response_metadata["memories"]}
    assert kinds == {str(facts[0].id): Kind.ACTIVATION, str(facts[1].id): Kind.PLAINTEXT}
    assert answer.usage_metadata is not None
    read = answer.usage_metadata["input_token_details"].get("cache_read", 0)
    assert 0 < read < answer.usage_metadata["input_tokens"]
    assert read_by(chat.invoke("Where does the cat live?", recall=0)) == [str(facts[0].id)]
    assert read_by(chat.invoke("Where?", memory=[cache.id])) == [str(facts[0].id)]


@pytest.mark.parametrize("way", ["field", "call", "bind", "uuid", "alone"])
async def test_memories_are_chosen_by_id(
    make: Make, ann: View, facts: list[MemCube], way: str
) -> None:
    ids = [str(facts[1].id)]
    chat = make(view=ann, memory=facts[1] if way == "field" else [facts[0].id])
    asked: dict[str, Any] = {
        "field": {},
        "call": {"memory": ids},
        "bind": {"memory": ids},
        "uuid": {"memory": (facts[1].id,)},
        "alone": {"memory": ids[0]},
    }[way]
    run: Any = chat.bind(**asked) if way == "bind" else chat
    options = {} if way == "bind" else asked
    assert read_by(run.invoke(ASKED, **options)) == ids
    assert read_by(await run.ainvoke(ASKED, **options)) == ids
    assert read_by(whole(list(run.stream(ASKED, **options)))) == ids
    assert FACTS[1] in prompt_of(chat, [HumanMessage(ASKED)], **asked)


def test_a_call_may_want_no_memory(make: Make, ann: View, facts: list[MemCube]) -> None:
    for memory in (ann, facts):
        chat = make(view=ann, memory=memory)
        assert read_by(chat.invoke(ASKED))
        assert read_by(chat.invoke(ASKED, memory=[])) == []
        assert read_by(chat.invoke(ASKED, memory=None))


def test_a_cache_is_read_by_its_id(make: Make, ann: View, facts: list[MemCube]) -> None:
    chat = make(view=ann)
    cache = chat.model.encode(facts, order="given", system="Be brief.")
    messages = [SystemMessage("Be brief."), HumanMessage(ASKED)]
    answer = chat.invoke(messages, memory=[str(cache.id)])
    assert read_by(answer) == [str(fact.id) for fact in facts]
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_token_details"].get("cache_read", 0) > 0
    with pytest.raises(CacheMismatch, match="system"):
        chat.invoke(ASKED, memory=[str(cache.id)])


def test_a_call_names_memories_by_ids_alone(make: Make, ann: View, facts: list[MemCube]) -> None:
    chat = make(view=ann)
    for memory in (ann, facts, facts[0]):
        with pytest.raises(InvalidInput, match=r"memory=\[str\(cube.id\)\]"):
            chat.invoke(ASKED, memory=memory)
    with pytest.raises(ValidationError, match=r"pass \.blocking"):
        ChatMemOS(model=chat.model, memory=AsyncView(ann))  # pyright: ignore[reportArgumentType]


async def test_ids_of_others_are_not_read(make: Make, memos: MemOS) -> None:
    secret = memos.at("acme", "bob").add("Bob hides his key under the mat.")
    mine = make(view=memos.at("acme"), memory=memos.at("acme", "ann"))
    theirs = make(view=memos.at("acme"), memory=memos.at("acme", "bob"))
    assert read_by(theirs.invoke(ASKED, memory=[secret.id])) == [str(secret.id)]
    with pytest.raises(CubeNotFound):
        mine.invoke(ASKED, memory=[secret.id])
    with pytest.raises(CubeNotFound):
        await astreamed(mine, ASKED, memory=[secret.id])


def test_what_was_forgotten_is_no_answer_from_langchains_cache(
    make: Make, ann: View, facts: list[MemCube]
) -> None:
    chat = make(view=ann, memory=[facts[0].id])
    set_llm_cache(InMemoryCache())
    try:
        assert chat.invoke(ASKED).text == "Peanuts."
        ann.forget(facts[0].id)
        with pytest.raises(CubeNotFound):
            chat.invoke(ASKED)
        asked = speaker_of(chat.model).steps
        cached = ChatMemOS(model=chat.model, cache=True)
        assert cached.invoke(ASKED).text == "Peanuts."
        before = len(asked)
        assert cached.invoke(ASKED).text == "Peanuts."
        assert len(asked) == before
    finally:
        set_llm_cache(None)


def test_what_is_traced_is_json(make: Make, ann: View, facts: list[MemCube]) -> None:
    chat = make(SAID["call"], view=ann, memory=ann, stop=["x"], options={"top_p": 0.9})
    heard = Listener()
    bound = chat.bind_tools([add], tool_choice="any", memory=[str(facts[0].id)], recall=2)
    answer = bound.invoke(ASKED, {"callbacks": [heard]})
    chat.invoke(ASKED, {"callbacks": [heard]})
    told = json.dumps(heard.started)
    assert str(facts[0].id) in told
    assert '"namespace": ["acme", "ann"]' in told
    assert "tensor" not in told.lower()
    assert json.loads(json.dumps(answer.model_dump()))["tool_calls"][0]["name"] == "add"


# ------------------------------------------------------------------ messages


def test_a_conversation_goes_through_the_template(make: Make) -> None:
    chat = make().bind_tools([add])
    prompt = prompt_of(
        make(),
        [
            SystemMessage("Be brief."),
            HumanMessage(["What is 1 + 2,", {"type": "text", "text": " and why?"}]),
            AIMessage(
                [{"type": "reasoning", "reasoning": "Add them."}, {"type": "text", "text": "So:"}],
                tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "call_1"}],
            ),
            ToolMessage([{"type": "text", "text": "3"}], tool_call_id="call_1"),
            AIMessage(additional_kwargs={"reasoning_content": "Told."}, content="It is 3."),
            HumanMessage("Thanks."),
            ChatMessage(role="user", content="Bye."),
        ],
        tools=chat.kwargs["tools"],  # pyright: ignore[reportAttributeAccessIssue] of a binding
    )
    turns = prompt.split("<|im_start|>")
    assert turns[1].startswith("system\nBe brief.<tools>")
    assert '"name": "add"' in turns[1]
    assert turns[2:] == [
        "user\nWhat is 1 + 2, and why?<|im_end|>\n",
        f"assistant\n<think>\nAdd them.\n</think>\n\nSo:\n{call('add', a=1, b=2)}<|im_end|>\n",
        "user\n<tool_response>\n3\n</tool_response><|im_end|>\n",
        "assistant\n<think>\nTold.\n</think>\n\nIt is 3.<|im_end|>\n",
        "user\nThanks.\n\nBye.<|im_end|>\n",
    ]


def test_neighbours_of_one_role_are_one_turn_unless_they_call(make: Make) -> None:
    calling = AIMessage("So:", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}])
    messages = [HumanMessage("Add."), AIMessage("I"), AIMessage("do."), calling, AIMessage("No.")]
    turns = prompt_of(make(), messages).split("<|im_start|>")[2:]
    called = f"assistant\nI\n\ndo.\n\nSo:\n{call('add', a=1)}<|im_end|>\n"
    assert turns == [called, "assistant\nNo.<|im_end|>\n"]


def test_results_name_their_tool_and_ids_are_those_of_their_calls(make: Make) -> None:
    shown = CHATML.replace("{{ message.content }}", "{{ message | tojson }}").replace(
        "{{ bos_token }}", "{{ bos_token }}{{ tools | tojson if tools }}"
    )
    prompt = prompt_of(
        make(template=shown),
        [
            HumanMessage("Add."),
            AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "call_1"}]),
            ToolMessage("3", tool_call_id="call_1"),
            AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "abcdef123"}]),
            ToolMessage("Error", tool_call_id="abcdef123", status="error"),
            FunctionMessage(name="old", content="4"),
        ],
    )
    turns = [
        json.loads(turn.partition("\n")[2].removesuffix("<|im_end|>\n"))
        for turn in prompt.split("<|im_start|>")[1:]
    ]
    first, second = turns[1]["tool_calls"][0], turns[3]["tool_calls"][0]
    assert first["function"] == {"name": "add", "arguments": {"a": 1}}
    assert len(first["id"]) == 9
    assert turns[2] == {"role": "tool", "content": "3", "tool_call_id": first["id"], "name": "add"}
    assert second["id"] == turns[4]["tool_call_id"] == "abcdef123"
    assert turns[5] == {"role": "tool", "content": "4", "name": "old"}


def test_a_broken_call_goes_back_as_it_was_written(make: Make) -> None:
    answer = make(SAID["broken"]).bind_tools([add]).invoke(ASKED)
    prompt = prompt_of(make(), [HumanMessage(ASKED), answer, HumanMessage("Mend it.")])
    assert f"<|im_start|>assistant\n{SAID['broken']}<|im_end|>" in prompt


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (HumanMessage([{"type": "image", "url": "http://a/b.png"}]), "message 1 holds an image"),
        (HumanMessage([{"type": "image_url", "image_url": {"url": "http://a/b"}}]), "an image"),
        (ToolMessage([{"type": "audio", "base64": "aa"}], tool_call_id="1"), "an audio"),
        (AIMessage([{"type": "image", "url": "http://a/b.png"}]), "an image"),
        (HumanMessage([{"type": "tool_use", "id": "a"}]), "a tool use"),
        (ChatMessage(role="critic", content="Bad."), "the role 'critic'"),
        (RemoveMessage(id="1"), "RemoveMessage"),
    ],
)
async def test_what_is_no_text_is_refused(make: Make, message: BaseMessage, says: str) -> None:
    chat = make()
    for ask in (chat.invoke, lambda messages: list(chat.stream(messages))):
        with pytest.raises(InvalidInput, match=says):
            ask([HumanMessage("Look."), message])
    with pytest.raises(InvalidInput, match=says):
        await chat.ainvoke([HumanMessage("Look."), message])
    with pytest.raises(InvalidInput, match="at least one"):
        chat.invoke([])


# ------------------------------------------------------------------ tools and structure


class Sum(BaseModel):
    """Two numbers to add."""

    a: int
    b: int


def subtract(a: int, b: int) -> int:
    """Subtract a number from another."""
    return a - b


@pytest.mark.parametrize(
    "choice",
    ["any", "required", True, "multiply", {"type": "function", "function": {"name": "multiply"}}],
)
def test_a_tool_choice_makes_the_answer_begin_with_a_call(make: Make, choice: Any) -> None:
    bound = make("No, thanks.").bind_tools([add, multiply], tool_choice=choice)
    names = {"add", "multiply"} if choice in ("any", "required", True) else {"multiply"}
    for answer in (bound.invoke(ASKED), whole(list(bound.stream(ASKED)))):
        (made,) = answer.tool_calls
        assert made["name"] in names
        assert answer.text == ""


def test_without_a_choice_the_model_decides(make: Make) -> None:
    chat = make("No, thanks.")
    for choice in (None, "auto", False):
        bound = chat.bind_tools([add], tool_choice=choice)
        assert bound.invoke(ASKED).text == "No, thanks."
    assert '"name": "add"' in prompt_of(chat, [HumanMessage(ASKED)], **_kwargs(bound))
    none = _kwargs(chat.bind_tools([add], tool_choice="none"))
    assert '"name": "add"' not in prompt_of(chat, [HumanMessage(ASKED)], **none)


def test_tools_of_all_sorts_are_bound_and_options_kept(make: Make) -> None:
    schema = {"title": "Divide", "description": "Divide.", "type": "object", "properties": {}}
    bound = make().bind_tools([add, Sum, subtract, schema], temperature=0, strict=True)
    kwargs = _kwargs(bound)
    names = [one["function"]["name"] for one in kwargs["tools"]]
    assert names == ["add", "Sum", "subtract", "Divide"]
    assert kwargs["temperature"] == 0
    assert bound.invoke(ASKED).text == "Peanuts."
    with pytest.raises(InvalidInput, match="add, Sum"):
        make().bind_tools([add, Sum], tool_choice="fly")


def test_a_template_that_shows_no_tools_is_named(make: Make) -> None:
    chat = make(template=CHATML)
    assert chat.profile is not None
    assert chat.profile.get("tool_calling") is False
    with pytest.raises(InvalidInput, match="shows a model no tools"):
        chat.bind_tools([add]).invoke(ASKED)
    assert chat.bind_tools([add], tool_choice="none").invoke(ASKED).text == "Peanuts."


def test_a_template_whose_calls_are_not_read_is_named(make: Make) -> None:
    chat = make(template=TOOLED.replace("<tool_call>", "<|tool_call>call:"))
    with pytest.raises(InvalidInput, match="which is not read"):
        chat.bind_tools([add]).invoke(ASKED)


def test_structured_output_is_a_call_that_fits_the_schema(make: Make) -> None:
    chat = make(call("Sum", a=1, b=2))
    assert chat.with_structured_output(Sum).invoke(ASKED) == Sum(a=1, b=2)
    assert chat.with_structured_output(Sum.model_json_schema()).invoke(ASKED) == {"a": 1, "b": 2}
    wrong = make(call("Sum", a="one"))
    with pytest.raises(ValidationError):
        wrong.with_structured_output(Sum).invoke(ASKED)
    raw = wrong.with_structured_output(Sum, include_raw=True).invoke(ASKED)
    assert isinstance(raw, dict)
    assert raw["parsed"] is None
    assert raw["raw"].tool_calls[0]["args"] == {"a": "one"}


class Choosing(AgentMiddleware[Any, Any, Any]):
    """Chooses a memory for each call of an agent's model."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(model_settings=self.settings))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(model_settings=self.settings))


async def test_an_agent_calls_tools_and_its_settings_choose_memories(
    make: Make, ann: View, facts: list[MemCube]
) -> None:
    def script(prompt: str) -> str:
        asked = asked_in(prompt)
        return f"It is {asked.split()[1]}." if "tool_response" in asked else call("add", a=1, b=2)

    ids = [str(facts[1].id)]
    agent = create_agent(make(script, view=ann), [add], middleware=[Choosing(memory=ids)])
    question: Any = {"messages": [HumanMessage("What is 1 + 2?")]}
    for result in (agent.invoke(question), await agent.ainvoke(question)):
        asked, called, told, said = result["messages"]
        assert (asked.text, told.text, said.text) == ("What is 1 + 2?", "3", "It is 3.")
        assert read_by(called) == read_by(said) == ids
    mistyped = create_agent(make(script, view=ann), [add], middleware=[Choosing(memories=ids)])
    with pytest.raises(InvalidInput, match="memories is no option"):
        mistyped.invoke(question)


def test_an_agent_answers_in_a_structure(make: Make) -> None:
    agent = create_agent(make(call("Sum", a=1, b=2)), response_format=Sum)
    result = agent.invoke({"messages": [HumanMessage("Add one and two.")]})
    assert result["structured_response"] == Sum(a=1, b=2)


# ------------------------------------------------------------------ async, time, cancelling


async def test_an_answer_leaves_the_event_loop_free(make: Make) -> None:
    chat = make("Peanuts, and nuts.")
    free = threading.Event()
    freed: list[bool] = []

    def wait(step: int) -> None:
        if step == 2:
            freed.append(free.wait(30))

    speaker_of(chat.model).may_go_on = wait

    async def say() -> None:
        await asyncio.to_thread(speaker_of(chat.model).started.wait, 30)
        free.set()

    answer, _ = await asyncio.gather(chat.ainvoke(ASKED), say())
    assert answer.text == "Peanuts, and nuts."
    assert freed == [True]


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_a_cancelled_call_stops_the_model(make: Make, way: str) -> None:
    long = "nuts " * 300
    chat = make(long, max_tokens=2_000)
    speaker = speaker_of(chat.model)
    go_on = threading.Event()
    speaker.may_go_on = lambda step: None if step < 3 else _wait(go_on)
    others = set(threading.enumerate())
    asked: Any = chat.ainvoke(ASKED) if way == "invoke" else astreamed(chat, ASKED)
    task = asyncio.ensure_future(asked)
    await asyncio.to_thread(speaker.started.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await asyncio.to_thread(until, lambda: not _at_work(others))
    assert len(speaker.steps) < 300


def test_a_stream_that_is_left_stops_the_model(make: Make) -> None:
    chat = make("nuts " * 300, max_tokens=2_000)
    stream = chat.stream(ASKED)
    next(stream)
    stream.close()  # pyright: ignore[reportAttributeAccessIssue] a generator
    assert len(speaker_of(chat.model).steps) < 300


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
async def test_an_answer_that_takes_too_long_says_so(make: Make, options: dict[str, Any]) -> None:
    chat = make(timeout=1e-9)
    for ask in (chat.invoke, lambda asked, **given: list(chat.stream(asked, **given))):
        with pytest.raises(TimeoutError, match="timeout="):
            ask(ASKED, **options)
    with pytest.raises(TimeoutError, match="timeout="):
        await chat.ainvoke(ASKED, **options)
    assert chat.invoke(ASKED, timeout=60).text == "Peanuts."


async def test_an_error_of_the_model_is_raised_where_it_is_asked(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = make()
    monkeypatch.setattr(chat.model.model, "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        chat.invoke(ASKED)
    with pytest.raises(ZeroDivisionError):
        list(chat.stream(ASKED))
    with pytest.raises(ZeroDivisionError):
        await chat.ainvoke(ASKED)
    with pytest.raises(ZeroDivisionError):
        await astreamed(chat, ASKED)


async def test_many_answers_at_once_are_those_one_by_one(make: Make) -> None:
    chat = make(lambda prompt: f"You asked {asked_in(prompt)}")
    asked = [f"number {number}" for number in range(16)]
    answers = await chat.abatch(asked)
    assert [answer.text for answer in answers] == [f"You asked {one}" for one in asked]
    assert [one.text for one in chat.batch(asked[:8])] == [f"You asked {one}" for one in asked[:8]]


# ------------------------------------------------------------------ counting and names


def test_tokens_are_counted_by_the_models_own_tokenizer(make: Make) -> None:
    chat = make()
    text = "Ann lives in Oslo, 東京."
    assert chat.get_num_tokens(text) == len(chat.model.tokenizer.tokenize(text))
    messages: list[BaseMessage] = [HumanMessage("Add."), AIMessage("1"), HumanMessage("More.")]
    count = chat.get_num_tokens_from_messages(messages)
    assert chat.get_num_tokens_from_messages(messages, tools=[add]) > count
    answer = chat.bind_tools([add]).invoke(messages)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == chat.get_num_tokens_from_messages(
        messages, tools=[add]
    )
    kept = trim_messages(messages, max_tokens=count - 1, token_counter=chat, start_on="human")
    assert kept == messages[2:]


def test_a_part_that_the_template_refuses_is_counted_by_what_it_says(make: Make) -> None:
    strict = TOOLED.replace(
        "{{ bos_token }}",
        "{% if messages[-1].role != 'user' %}{{ raise_exception('no') }}{% endif %}{{ bos_token }}",
    )
    chat = make(template=strict)
    part = AIMessage("So:", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}])
    assert chat.get_num_tokens_from_messages([part]) > chat.get_num_tokens("So:")
    assert chat.get_num_tokens_from_messages([]) == 0


def test_what_it_is_and_can_is_told(make: Make) -> None:
    chat = make(temperature=0.5, max_tokens=7, stop="x", model_name="ann's")
    assert chat.profile is not None
    assert chat.profile.get("max_input_tokens") == 8192
    assert chat.profile.get("tool_calling") is True
    params = chat._get_ls_params()  # noqa: SLF001 LangChain's name for it
    assert params.get("ls_provider") == "memos"
    assert params.get("ls_model_name") == "ann's"
    assert params.get("ls_temperature") == 0.5
    assert params.get("ls_max_tokens") == 7
    assert params.get("ls_stop") == ["x"]
    assert chat._get_ls_params(stop=["y"]).get("ls_stop") == ["y"]  # noqa: SLF001
    heard = Listener()
    chat.invoke(ASKED, {"callbacks": [heard]})
    _, told, _ = heard.started[0]
    assert (told["_type"], told["model_name"]) == ("memos", "ann's")


def _kwargs(bound: Any) -> dict[str, Any]:
    return bound.kwargs


def _wait(event: threading.Event) -> None:
    event.wait(30)


def _at_work(others: set[threading.Thread]) -> list[threading.Thread]:
    """Return what was begun after others and goes on, without threads that wait for work."""
    return [
        thread
        for thread in set(threading.enumerate()) - others
        if not thread.name.startswith(("memos-chat", "asyncio"))
    ]
