"""What models write is taken apart alike, whole or character by character."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from memos_core.model import (
    AnswerReader,
    BrokenToolCall,
    Said,
    Thought,
    ToolCall,
    said_in,
)

TOOLS = ["get_weather", "get", "add"]
OSLO = ToolCall(name="get_weather", arguments={"city": "Oslo"})
SUM = ToolCall(name="add", arguments={"a": 1, "b": [2, {"c": None}]})
W, A = '{"city": "Oslo"}', '{"a": 1, "b": [2, {"c": null}]}'

CALLS: dict[str, tuple[str, list[Said]]] = {
    "hermes": (
        f'<tool_call>\n{{"name": "get_weather", "arguments": {W}}}\n</tool_call>',
        [OSLO],
    ),
    "hermes, text before, two": (
        (
            f'I look.\n\n<tool_call>\n{{"name": "get_weather", "arguments": {W}}}\n</tool_call>\n'
            f'<tool_call>{{"name": "add", "arguments": {A}}}</tool_call>'
        ),
        ["I look.", OSLO, SUM],
    ),
    "hermes, text after": (
        f'<tool_call>{{"name": "add", "arguments": {A}}}</tool_call>\nDone, I think. ',
        [SUM, "Done, I think. "],
    ),
    "hermes, its end in a string": (
        '<tool_call>{"name": "add", "arguments": {"a": "</tool_call>"}}</tool_call>',
        [ToolCall(name="add", arguments={"a": "</tool_call>"})],
    ),
    "hermes, never closed": (f'<tool_call>{{"name": "add", "arguments": {A}}}', [SUM]),
    "hermes, a tool that is not there": (
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        [ToolCall(name="fly", arguments={})],
    ),
    "hermes, arguments in a string": (
        f'<tool_call>{{"name": "add", "arguments": {json.dumps(A)}}}</tool_call>',
        [SUM],
    ),
    "hermes, no arguments, a line break in a string": (
        (
            '<tool_call>{"name": "add"}</tool_call>'
            '<tool_call>{"name": "add", "arguments": {"a": "1\n2"}}</tool_call>'
        ),
        [ToolCall(name="add", arguments={}), ToolCall(name="add", arguments={"a": "1\n2"})],
    ),
    "llama": (f'{{"name": "get_weather", "parameters": {W}}}', [OSLO]),
    "llama, two": (
        f'{{"name": "get_weather", "parameters": {W}}}; {{"name": "add", "parameters": {A}}}',
        [OSLO, SUM],
    ),
    "llama, marked": (f'<|python_tag|>{{"name": "get_weather", "parameters": {W}}}', [OSLO]),
    "llama, typed": (
        f'{{"type": "function", "function": "get_weather", "parameters": {W}}}',
        [OSLO],
    ),
    "openai": (
        f'{{"type": "function", "function": {{"name": "get_weather", "arguments": {W}}}}}',
        [OSLO],
    ),
    "mistral": (
        (
            f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {W}, "id": "abcdef123"}}, '
            f'{{"name": "add", "arguments": {A}}}]'
        ),
        [OSLO, SUM],
    ),
    "mistral, text before": (
        f'I look.[TOOL_CALLS][{{"name": "add", "arguments": {A}}}]',
        ["I look.", SUM],
    ),
    "mistral, its mark left out": (f' [{{"name": "add", "arguments": {A}}}]', [SUM]),
    "mistral, later": (
        f"[TOOL_CALLS]get_weather[ARGS]{W}[TOOL_CALLS]add[CALL_ID]abcdef123[ARGS]{A}",
        [OSLO, SUM],
    ),
    "mistral, later, marks left out": (f"get_weather{W}add{A}", [OSLO, SUM]),
    "qwen 3.5": (
        (
            "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n"
            '[2, {"c": null}]\n</parameter>\n</function>\n</tool_call>'
        ),
        [SUM],
    ),
    "qwen 3.5, texts": (
        "<tool_call>\n<function=fly>\n<parameter=to>\nOslo,\nthen 7\n</parameter>\n</tool_call>",
        [ToolCall(name="fly", arguments={"to": "Oslo,\nthen 7"})],
    ),
    "thoughts before a call": (
        f'<think>\nWhich?\nOslo.\n</think>\n\n{{"name": "get_weather", "parameters": {W}}}',
        [Thought("Which?\nOslo."), OSLO],
    ),
    "no thoughts": ("<think>\n\n</think>\n\nIt rains.", ["It rains."]),
}
TEXTS = [
    "It rains.\n",
    "",
    " \n",
    "[1] says so, and {2} too",
    '{"setup": "A cat", "punchline": "sat"}',
    '{"name": "Ann", "age": 4}',
    '[{"name": "add", "arguments": {}}, 3]',
    "get a coat, add sugar",
    "add",
    "<|python_tag|>print(1)",
    '{"name": "add", "parameters": {"a',
    "a < b <tool and [TOOL",
    "Later <think>no</think>",
    "<thin ice",
]
BROKEN = {
    '<tool_call>{"name": "add", "arguments": {"a': "ended",
    "[TOOL_CALLS][{": "ended",
    "<tool_call>add(1, 2)</tool_call>": "no JSON",
    '<tool_call>{"arguments": {}}</tool_call>': "names no tool",
    '<tool_call>{"name": "add", "arguments": [1]}</tool_call>': "arguments",
    "<tool_call>3</tool_call>": "no JSON object",
}


def by_character(text: str, tools: list[str], *, thinking: bool = False) -> list[Said]:
    reader = AnswerReader(tools, thinking=thinking)
    parts = [part for character in text for part in reader.read(character)]
    return joined([*parts, *reader.end()])


def joined(parts: list[Said]) -> list[Said]:
    """Return parts with those that belong together put together."""
    out: list[Said] = []
    for part in parts:
        if out and isinstance(out[-1], str) and isinstance(part, str):
            out[-1] += part
        elif out and isinstance(out[-1], Thought) and isinstance(part, Thought):
            out[-1] = Thought(out[-1].text + part.text)
        else:
            out.append(part)
    return out


@pytest.mark.parametrize("how", CALLS)
def test_calls_are_read_as_models_write_them(how: str) -> None:
    text, parts = CALLS[how]
    assert said_in(text, TOOLS) == parts
    assert by_character(text, TOOLS) == parts


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_stays_as_it_is(text: str) -> None:
    expected = [text] if text else []
    if text.startswith("<|python_tag|>"):
        expected = ["print(1)"]
    assert said_in(text, TOOLS) == expected
    assert by_character(text, TOOLS) == expected


@pytest.mark.parametrize("how", CALLS)
def test_without_tools_there_are_no_calls(how: str) -> None:
    text, _ = CALLS[how]
    assert not [one for one in said_in(text) if not isinstance(one, str | Thought)]
    assert said_in(text) == by_character(text, [])


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_call_is_kept_and_says_why(text: str) -> None:
    (part,) = said_in(text, TOOLS)
    assert isinstance(part, BrokenToolCall)
    assert part.text == text
    assert BROKEN[text] in part.why
    assert by_character(text, TOOLS) == [part]


def test_a_schema_says_what_is_a_text() -> None:
    types = {
        "text": {"type": "string"},
        "number": {"type": "integer"},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "none": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "list": {"type": ["array", "null"]},
    }
    schema = {"name": "add", "parameters": {"type": "object", "properties": types}}
    tool = {"type": "function", "function": schema}
    given = {"text": "7", "number": "7", "either": "7", "none": "null", "list": "[7]", "new": "7 a"}
    said = "".join(f"<parameter={key}>\n{one}\n</parameter>\n" for key, one in given.items())
    (call,) = said_in(f"<tool_call>\n<function=add>\n{said}</function>\n</tool_call>", [tool])
    assert isinstance(call, ToolCall)
    assert call.arguments == {
        "text": "7",
        "number": 7,
        "either": "7",
        "none": None,
        "list": [7],
        "new": "7 a",
    }


def test_what_follows_a_broken_call_is_read() -> None:
    text = (
        f'<tool_call>add(</tool_call>\n<tool_call>{{"name": "add", "arguments": {A}}}</tool_call>'
    )
    broken, call = said_in(text, TOOLS)
    assert isinstance(broken, BrokenToolCall)
    assert call == SUM


def test_a_thought_that_the_prompt_opened_is_one() -> None:
    text = "\nWhich?\n\nOslo.\n</think>\n\nIt rains."
    parts = [Thought("Which?\n\nOslo."), "It rains."]
    assert said_in(text, thinking=True) == parts
    assert by_character(text, [], thinking=True) == parts
    assert said_in("never ended </thi", thinking=True) == [Thought("never ended </thi")]
    assert said_in("", thinking=True) == []


def test_text_comes_as_soon_as_it_is_certain() -> None:
    reader = AnswerReader(TOOLS)
    came = [reader.read(piece) for piece in ("I", " look", " here. <", "b> or <tool_", "call>{")]
    assert came == [["I"], [" look"], [" here."], [" <b> or"], []]
    assert [isinstance(part, BrokenToolCall) for part in reader.end()] == [True]


def test_json_that_can_be_no_call_is_not_held_back() -> None:
    reader = AnswerReader(TOOLS)
    pieces = ['{"se', 'tup": ', '"A cat']
    assert [reader.read(piece) for piece in pieces] == [[], ['{"setup":'], [' "A cat']]
    reader = AnswerReader(TOOLS)
    assert reader.read('{"name": "Ann", ') == ['{"name": "Ann",']


def test_a_call_comes_before_the_answer_ends() -> None:
    reader = AnswerReader(TOOLS)
    text = f'<tool_call>{{"name": "add", "arguments": {A}}}</tool_call>'
    for place, _ in pairwise(range(len(text))):
        assert reader.read(text[place]) == []
    assert reader.read(text[-1]) == [SUM]
    assert reader.read(" more") == ["more"]
