"""MemOSLLM: what goes through the chat template and back, memories, tools, and how it ends."""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import (
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, ValidationError

from memos_core import AsyncView, CubeNotFound, InvalidInput, Kind, MemCube, MemOS, View
from memos_core.model import MemoryModel
from memos_llamaindex import MemOSLLM, MemOSMemory
from tests.langchain.speaking import ASSISTANT, TOOLED, asked_in, call, speaker_of, speaking_model
from tests.llamaindex.scripted import assistant, user
from tests.model.models import CHATML

FACTS = ["Ann is allergic to peanuts.", "Ann lives in Oslo with a black cat named Misha."]
ASKED = [user("What must she not eat?")]
Make = Callable[..., MemOSLLM]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes LLMs that say what a script says."""
    made: list[MemoryModel] = []

    def new(script: Any = "Peanuts.", view: View | None = None, **fields: Any) -> MemOSLLM:
        template = fields.pop("template", TOOLED)
        model = speaking_model(script, view, folder=tmp_path / "kv", template=template)
        made.append(model)
        return MemOSLLM(model=model, **fields)

    yield new
    for model in made:
        model.close()


@pytest.fixture
def facts(ann: View) -> list[MemCube]:
    return ann.add(FACTS)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = FunctionTool.from_defaults(add)
OPENAI = [ADD.metadata.to_openai_tool()]


def prompt_of(llm: MemOSLLM, messages: list[ChatMessage], **options: Any) -> str:
    """Return the prompt that messages are for the model."""
    prompts: list[str] = []

    def listen(prompt: str) -> str:
        prompts.append(prompt)
        return "ok"

    speaker_of(llm.model).script = listen
    llm.chat(messages, **options)
    return prompts[0]


def read_by(answer: ChatResponse) -> list[str]:
    assert answer.raw is not None
    return [memory["id"] for memory in answer.raw["memories"]]


async def every_way(llm: MemOSLLM, messages: list[ChatMessage], **options: Any):
    """Return the answer of each way of asking, and the deltas of each stream."""
    streamed = list(llm.stream_chat(messages, **options))
    astreamed = [one async for one in await llm.astream_chat(messages, **options)]
    answers = [llm.chat(messages, **options), await llm.achat(messages, **options)]
    return [*answers, streamed[-1], astreamed[-1]], [streamed, astreamed]


# ------------------------------------------------------------------ answers

SAID = {
    "text": "  Peanuts, and\nnuts. ",
    "call": call("add", a=1, b=2),
    "text and calls": f"I add.\n{call('add', a=1, b=2)}\n{call('add', a='é', b=4)}",
    "thoughts and a call": f"<think>\nAdd.\n</think>\n\n{call('add', a=1, b=2)}",
    "broken": '<tool_call>\n{"name": "add", "arguments": {"a": \n</tool_call>',
    "nothing": "",
}


def plain(message: ChatMessage) -> list[Any]:
    return [
        (one.tool_name, one.tool_kwargs)
        if isinstance(one, ToolCallBlock)
        else (one.block_type, getattr(one, "text", None) or getattr(one, "content", ""))
        for one in message.blocks
    ]


@pytest.mark.parametrize("said", SAID)
async def test_every_way_of_asking_gives_the_same_answer(make: Make, said: str):
    llm = make(SAID[said])

    answers, streams = await every_way(llm, ASKED, tools=OPENAI)

    first, *others = (plain(answer.message) for answer in answers)
    assert others == [first] * 3
    for stream in streams:
        assert "".join(one.delta or "" for one in stream) == "".join(
            block.text for block in stream[-1].message.blocks if isinstance(block, TextBlock)
        )
    assert all(answer.raw and answer.raw["finish_reason"] == "stop" for answer in answers)


def test_an_answer_is_taken_apart(make: Make):
    answer = make(SAID["thoughts and a call"]).chat(ASKED, tools=OPENAI)
    thought, called = answer.message.blocks
    assert isinstance(thought, ThinkingBlock)
    assert thought.content == "Add."
    assert isinstance(called, ToolCallBlock)
    assert (called.tool_name, called.tool_kwargs) == ("add", {"a": 1, "b": 2})
    assert len(called.tool_call_id or "") == 9


def test_thoughts_are_streamed_beside_the_text(make: Make):
    responses = list(make("<think>\nShe is.\n</think>\n\nPeanuts.").stream_chat(ASKED))
    thoughts = [one.additional_kwargs.get("thinking_delta", "") for one in responses]
    assert "".join(thoughts) == "She is."
    assert "".join(one.delta or "" for one in responses) == "Peanuts."


def test_each_response_holds_the_answer_so_far(make: Make):
    contents = [one.message.content or "" for one in make("One two three.").stream_chat(ASKED)]
    assert len(contents) > 2
    assert all(after.startswith(before) for before, after in itertools.pairwise(contents))
    assert contents[0] != contents[-1] == "One two three."


async def test_a_completion_asks_as_a_user(make: Make):
    llm = make(asked_in)
    streamed = [one async for one in await llm.astream_complete("Hello.")]
    texts = [llm.complete("Hello.").text, (await llm.acomplete("Hello.")).text, streamed[-1].text]
    assert texts == ["Hello."] * 3
    assert "".join(one.delta or "" for one in llm.stream_complete("Hello.")) == "Hello."


def test_tokens_are_counted(make: Make, ann: View, facts: list[MemCube]):
    llm = make("Peanuts.", ann, memory=ann)
    llm.model.encode(facts)
    counts = llm.chat(ASKED).additional_kwargs
    assert counts["prompt_tokens"] > counts["cached_tokens"] > 0
    assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]


# ------------------------------------------------------------------ prompts


def test_a_prompt_begins_with_one_bos(make: Make):
    prompt = prompt_of(make(), [ChatMessage(role="system", content="Be brief."), *ASKED])
    assert prompt.startswith("<s><|im_start|>system\nBe brief.")
    assert prompt.count("<s>") == 1


def test_a_conversation_goes_through_the_template(make: Make):
    called = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs='{"a": 1, "b": 2}')
    result = ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "c1"})
    thought = ThinkingBlock(content="I add.")
    prompt = prompt_of(
        make(),
        [user("1 + 2?"), ChatMessage(role="assistant", blocks=[thought, called]), result],
        tools=OPENAI,
    )
    assert call("add", a=1, b=2) in prompt
    assert "<think>\nI add.\n</think>" in prompt
    assert "<tool_response>\n3\n</tool_response>" in prompt
    assert prompt.endswith("<|im_end|>\n")


def test_neighbours_of_one_role_are_one(make: Make):
    roles = [
        ChatMessage(role="developer", content="A."),
        ChatMessage(role="system", content="B."),
        user("C."),
        user("D."),
    ]
    prompt = prompt_of(make(), roles)
    assert "system\nA.\n\nB." in prompt
    assert "user\nC.\n\nD." in prompt
    assert ASSISTANT not in prompt


def test_what_is_no_text_is_refused(make: Make):
    picture = ChatMessage(role="user", blocks=[ImageBlock(image=b"aGk=")])
    with pytest.raises(InvalidInput, match=r"message 1 .*image"):
        make().chat([*ASKED, picture])


# ------------------------------------------------------------------ memories


def test_a_view_is_read_as_text_and_as_a_kv_cache(make: Make, ann: View, facts: list[MemCube]):
    llm = make("Peanuts.", ann, memory=ann)
    text = llm.chat(ASKED)
    llm.model.encode(facts)

    cached = llm.chat(ASKED)

    assert str(facts[0].id) in read_by(text)
    assert {memory["kind"] for memory in text.raw["memories"]} == {Kind.PLAINTEXT}
    assert {memory["kind"] for memory in cached.raw["memories"]} == {Kind.ACTIVATION}
    assert sorted(read_by(cached)) == sorted(str(fact.id) for fact in facts)
    assert cached.additional_kwargs["cached_tokens"] > 0
    assert text.additional_kwargs["cached_tokens"] == 0


def test_a_call_chooses_its_memories(make: Make, ann: View, facts: list[MemCube]):
    llm = make("Peanuts.", ann, memory=ann)
    for memory in (facts[1], facts[1].id, [str(facts[1].id)]):
        assert read_by(llm.chat(ASKED, memory=memory)) == [str(facts[1].id)]
    assert read_by(llm.chat(ASKED, memory=[])) == []
    assert len(read_by(llm.chat(ASKED, recall=1))) == 1


def test_memories_of_others_are_not_read(make: Make, memos: MemOS, ann: View):
    theirs = memos.at("acme", "bob").add("Bob likes figs.")
    with pytest.raises(CubeNotFound):
        make("Peanuts.", ann, memory=ann).chat(ASKED, memory=theirs)


@pytest.mark.parametrize("memory", [7, {"id": 1}, [7]])
def test_what_is_no_memory_is_refused(make: Make, memory: Any):
    with pytest.raises(ValidationError, match="memory is a view"):
        make(memory=memory)


def test_an_awaited_view_is_refused(make: Make, ann: View):
    with pytest.raises(ValidationError, match=r"pass \.blocking"):
        make(memory=AsyncView(ann))


# ------------------------------------------------------------------ tools


# As in test_memory: what making an agent asks of pydantic.
@pytest.mark.filterwarnings(
    "ignore:The `__fields:pydantic.warnings.PydanticDeprecatedSince20:inspect",
    "ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211:inspect",
)
async def test_an_agent_calls_tools(make: Make, ann: View):
    def script(prompt: str) -> str:
        return "It is 3." if "<tool_response>" in prompt else call("add", a=1, b=2)

    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
    agent = FunctionAgent(llm=make(script), tools=[ADD])

    answer = await agent.run("1 + 2?", memory=memory)

    assert str(answer) == "It is 3."
    assert [message.role.value for message in memory.get_all()] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_a_required_tool_is_called(make: Make):
    llm = make("I would rather not.")
    answer = llm.chat_with_tools([ADD], user_msg="1 + 2?", tool_required=True)
    (called,) = llm.get_tool_calls_from_response(answer)
    assert called.tool_name == "add"


def test_one_call_where_there_are_not_to_be_more(make: Make):
    llm = make(SAID["text and calls"])
    one = llm.chat_with_tools([ADD], user_msg="1 + 2?")
    both = llm.chat_with_tools([ADD], user_msg="1 + 2?", allow_parallel_tool_calls=True)
    counts = [len(llm.get_tool_calls_from_response(answer)) for answer in (one, both)]
    assert counts == [1, 2]


def test_predicting_and_calling(make: Make):
    assert make(call("add", a=1, b=2)).predict_and_call([ADD], "1 + 2?").response == "3"


class Sum(BaseModel):
    """A sum."""

    total: int


def test_structured_answers(make: Make):
    llm = make(call("Sum", total=3)).as_structured_llm(Sum)
    assert llm.chat([user("1 + 2?")]).raw == Sum(total=3)


def test_no_call_is_an_error_where_one_is_wanted(make: Make):
    llm = make()
    answer = llm.chat(ASKED)
    assert llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False) == []
    with pytest.raises(InvalidInput, match="tool_required"):
        llm.get_tool_calls_from_response(answer)


def test_a_template_that_shows_no_tools_is_named(make: Make):
    llm = make(template=CHATML)
    assert not llm.metadata.is_function_calling_model
    with pytest.raises(InvalidInput, match="shows a model no tools"):
        llm.chat_with_tools([ADD], user_msg="1 + 2?")


def test_an_unknown_choice_is_refused(make: Make):
    with pytest.raises(InvalidInput, match="tool_choice is 'sub'"):
        make().chat(ASKED, tools=OPENAI, tool_choice="sub")


# ------------------------------------------------------------------ options and endings


def test_options_of_a_call_are_over_those_of_the_model(make: Make):
    llm = make("One two three.", stop="three", temperature=0)
    assert llm.chat(ASKED).message.content == "One two "
    assert llm.chat(ASKED, stop="two").message.content == "One "
    assert llm.chat(ASKED, max_tokens=1).raw["finish_reason"] == "length"
    assert llm.chat(ASKED, num_beams=2, stop=[]).message.content


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"nonsense": 1}, "nonsense is no option"), ({"temperature": -1}, "temperature")],
)
def test_options_that_there_are_not_are_refused(make: Make, options: Any, problem: str):
    with pytest.raises(InvalidInput, match=problem):
        make().chat(ASKED, **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValidationError, match="model is a MemoryModel"):
        MemOSLLM(model="gpt")


def test_an_answer_that_takes_too_long_fails(make: Make):
    llm = make("One two three.", timeout=1e-6)
    with pytest.raises(TimeoutError, match="allow more"):
        llm.chat(ASKED)


async def test_the_loop_goes_on_while_the_model_speaks(make: Make):
    llm = make("One two three.")
    go_on = threading.Event()

    def wait(_: int) -> None:
        assert go_on.wait(20), "the model holds the loop"

    speaker_of(llm.model).may_go_on = wait

    answers = asyncio.gather(llm.achat(ASKED), llm.acomplete("Hello."))
    await asyncio.to_thread(speaker_of(llm.model).started.wait, 60)
    go_on.set()

    assert [str(one) for one in await answers] == ["assistant: One two three.", "One two three."]


async def test_a_stream_that_is_left_stops_the_model(make: Make):
    llm = make("One two three four five six seven eight nine ten.")
    speaker, go_on = speaker_of(llm.model), threading.Event()

    def wait(steps: int) -> None:
        assert steps <= 3 or go_on.wait(60)

    speaker.may_go_on = wait
    answer = await llm.astream_chat(ASKED)
    (stream,) = llm.model._streams  # noqa: SLF001
    await anext(answer)

    await answer.aclose()
    assert await asyncio.to_thread(stream._stopped.wait, 20)  # noqa: SLF001
    go_on.set()

    await asyncio.to_thread(stream.close)
    assert len(speaker.steps) <= 4


def test_budgets_are_made_from_the_model(make: Make):
    metadata = make(max_tokens=99).metadata
    assert (metadata.context_window, metadata.num_output) == (8192, 99)
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    assert metadata.model_name == "llama"


def test_a_chat_engine_speaks(make: Make, ann: View):
    memory = MemOSMemory.from_defaults(memos=ann)  # the default one leaves connections open
    engine = SimpleChatEngine.from_defaults(llm=make(asked_in), memory=memory)
    assert str(engine.chat("Hello.")) == "Hello."
    assert "".join(engine.stream_chat("Again.").response_gen) == "Again."


def test_what_is_written_down_holds_no_model_and_no_memory(make: Make, ann: View):
    llm = make(memory=ann)
    written = llm.to_dict()
    assert not {"model", "memory"} & set(written)
    assert "View" not in repr(written)
    assert copy.deepcopy(llm).model is llm.model


def test_messages_are_left_as_they_are(make: Make):
    messages = [*ASKED, assistant("Nuts?"), user("Yes.")]
    before = copy.deepcopy(messages)
    make().chat(messages)
    assert messages == before
