"""What a model wrote, taken apart: thoughts, text and tool calls; whole, or as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

_THINK, _THOUGHT = "<think>", "</think>"
_HERMES, _HERMES_END = "<tool_call>", "</tool_call>"
_MISTRAL = "[TOOL_CALLS]"
_LLAMA = "<|python_tag|>"
_MARKS = (_HERMES, _MISTRAL, _LLAMA)
_ARGUMENTS = ("arguments", "parameters", "args")
_KEYS = {"name", "type", "function", "id", *_ARGUMENTS}
# As much of a call as its first key shows, and the name that it may begin with.
_HEAD = re.compile(r'(?:\[\s*)?(?:\{\s*(?:"(?P<key>\w*)(?P<shut>"\s*)?)?)?')
_NAMED = re.compile(r'(?:\[\s*)?\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"')
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)(?:</function>\s*)?\Z", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_NAME = re.compile(r"(?P<name>[\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")
_BETWEEN = " \t\r\n;,"  # calls
_ENDED = "the answer ended within the call"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A tool that a model calls, and with what."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenToolCall:
    """What was begun as a tool call and is none: as it was written, and ``why``."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of what a model thinks before it answers."""

    text: str


Said: TypeAlias = str | Thought | ToolCall | BrokenToolCall
_Calls: TypeAlias = list[ToolCall | BrokenToolCall]
_Tools: TypeAlias = Mapping[str, Mapping[str, Any]]  # the schema of each tool's arguments


def said_in(
    text: str, tools: Iterable[str | Mapping[str, Any]] = (), *, thinking: bool = False
) -> list[Said]:
    """Return the parts of a whole answer; else as ``AnswerReader``."""
    reader = AnswerReader(tools, thinking=thinking)
    parts: list[Said] = []
    for part in [*reader.read(text), *reader.end()]:
        last = parts[-1] if parts else None
        if isinstance(last, str) and isinstance(part, str):
            parts[-1] = last + part
        elif isinstance(last, Thought) and isinstance(part, Thought):
            parts[-1] = Thought(last.text + part.text)
        else:
            parts.append(part)
    return parts


class AnswerReader:
    """Takes an answer apart while it comes; nothing that begins a call is given out as text.

    Calls are read as Hermes and Qwen (``<tool_call>{…}</tool_call>``, and with
    ``<function=…><parameter=…>`` inside), Mistral (``[TOOL_CALLS][…]``) and Llama 3 (``{"name": …,
    "parameters": …}``) write them. Without a mark, as where decoding left the special tokens out, a
    call stands first and names one of ``tools``: names, or tools in OpenAI's format, which say what
    is a text where the model does not. Without ``tools`` there are no calls. ``thinking`` is
    whether the prompt opened the thought.
    """

    def __init__(
        self, tools: Iterable[str | Mapping[str, Any]] = (), *, thinking: bool = False
    ) -> None:
        self._schemas = dict(map(_schema, tools))
        self._tools = sorted(self._schemas, key=len, reverse=True)
        self._held = ""
        self._mark = ""
        self._between: str | None = None  # white space
        self._parts: list[Said] = []
        # A state looks at what is held; it returns whether there is more to do.
        self._state: Callable[[bool], bool] = self._thought_starts if thinking else self._starts

    def read(self, text: str) -> list[Said]:
        """Return the parts that are certain, now that a model said a text."""
        self._held += text
        return self._run(last=False)

    def end(self) -> list[Said]:
        """Return what was held back: the answer is over."""
        return self._run(last=True)

    def _run(self, *, last: bool) -> list[Said]:
        while self._state(last):
            pass
        parts, self._parts = self._parts, []
        return parts

    def _give(self, part: Said) -> None:
        if part not in ("", Thought("")):
            self._parts.append(part)

    # ---------------------------------------------------------------- thoughts

    def _starts(self, last: bool) -> bool:  # noqa: FBT001 the states are called alike
        text = self._held.lstrip()
        if _THINK.startswith(text) and not (last and self._held):
            return False
        if text.startswith(_THINK):
            self._held = text[len(_THINK) :]
            self._state = self._thought_starts
        else:
            self._state = self._first
        return True

    def _thought_starts(self, last: bool) -> bool:  # noqa: FBT001
        del last
        self._held = self._held.lstrip()
        self._state = self._thought if self._held else self._state
        return bool(self._held)

    def _thought(self, last: bool) -> bool:  # noqa: FBT001
        before, found, after = self._held.partition(_THOUGHT)
        if found:
            self._give(Thought(before.rstrip()))
            self._held = after
            self._state = self._next
            return True
        certain = len(self._held) if last else _certain(self._held, [_THOUGHT])
        self._give(Thought(self._held[:certain]))
        self._held = self._held[certain:]
        return False

    # ---------------------------------------------------------------- text and calls

    def _next(self, last: bool) -> bool:  # noqa: FBT001
        """Pass over what stands between calls, or between the thought and the answer."""
        del last
        self._held = self._held.lstrip(self._between)
        if self._held:
            self._state = self._first
        return bool(self._held)

    def _first(self, last: bool) -> bool:  # noqa: FBT001
        """Look for a call without a mark."""
        text = self._held.lstrip()
        if self._tools and not text and not last:
            return False
        found = _bare(text, self._tools) if self._tools and text else _none(text)
        if found is None and not last:
            return False
        calls, rest = found or _none(text)
        if calls:
            self._held = rest
        return self._called(calls)

    def _text(self, last: bool) -> bool:  # noqa: FBT001
        marks = _MARKS if self._tools else ()
        place, mark = min(
            ((at, mark) for mark in marks if (at := self._held.find(mark)) >= 0), default=(-1, "")
        )
        if mark:
            self._give(self._held[:place].rstrip())
            self._held = self._held[place + len(mark) :]
            self._mark, self._state = mark, self._marked
            return True
        certain = len(self._held) if last or not marks else _certain(self._held, marks)
        self._give(self._held[:certain])
        self._held = self._held[certain:]
        return False

    def _marked(self, last: bool) -> bool:  # noqa: FBT001
        found = _FORMS[self._mark](self._held, last, self._schemas)
        if found is None and not last:
            return False
        broken = BrokenToolCall(text=self._mark + self._held, why=_ENDED)
        calls, self._held = found or ([broken], "")
        return self._called(calls)

    def _called(self, calls: _Calls) -> bool:
        self._parts += calls
        self._between = _BETWEEN
        self._state = self._next if calls else self._text
        return True


def _none(text: str) -> tuple[_Calls, str]:
    return [], text


def _certain(text: str, marks: Sequence[str]) -> int:
    """Return how much of a text can begin no mark, nor be the space before one."""
    longest = max(map(len, marks))
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            text = text[:-length]
            break
    return len(text.rstrip())


# ---------------------------------------------------------------- how calls are written
# Each returns the calls that a text begins with and what is left of it; None: more must come.


def _hermes(text: str, last: bool, tools: _Tools) -> tuple[_Calls, str] | None:  # noqa: FBT001
    found = _decoded(text.lstrip())
    if found is None:
        inside, closed, rest = text.partition(_HERMES_END)
        if not closed or _in_string(inside):
            return None
        raw = f"{_HERMES}{inside}{_HERMES_END}"
        if (function := _FUNCTION.match(inside)) is not None:
            schema = tools.get(function[1], {})
            given = {
                key: _typed(said, schema.get(key)) for key, said in _PARAMETER.findall(function[2])
            }
            return [ToolCall(name=function[1], arguments=given)], rest
        return [BrokenToolCall(text=raw, why="what it holds is no JSON")], rest
    value, rest = found
    after = rest.lstrip()
    if not last and len(after) < len(_HERMES_END) and _HERMES_END.startswith(after):
        return None
    after = after.removeprefix(_HERMES_END)
    return _calls(value, _HERMES + text[: len(text) - len(after)]), after


def _mistral(text: str, last: bool, tools: _Tools) -> tuple[_Calls, str] | None:  # noqa: FBT001
    del last, tools
    body = text.lstrip()
    named = _NAME.match(body)
    found = _decoded(body[named.end() :] if named else body)
    if found is None:
        return None
    value, rest = found
    raw = _MISTRAL + text[: len(text) - len(rest)]
    return _calls({"name": named["name"], "arguments": value} if named else value, raw), rest


def _llama(text: str, last: bool, tools: _Tools) -> tuple[_Calls, str] | None:  # noqa: FBT001
    del last, tools
    body = text.lstrip()
    if body and body[0] not in "{[":
        return [], text  # code for an interpreter, which is no call of a tool
    found = _decoded(body)
    if found is None:
        return None
    value, rest = found
    return _calls(value, _LLAMA + text[: len(text) - len(rest)]), rest


_FORMS: dict[str, Callable[[str, bool, _Tools], tuple[_Calls, str] | None]] = {
    _HERMES: _hermes,
    _MISTRAL: _mistral,
    _LLAMA: _llama,
}


def _bare(text: str, tools: Sequence[str]) -> tuple[_Calls, str] | None:
    """Return calls that stand at the beginning without a mark; no calls where it is a text."""
    if text[0] in "{[":
        if not _may_call(text, tools):
            return [], text
        found = _decoded(text)
        if found is None:
            return None
        value, rest = found
        calls = _calls(value, text)
        known = [one for one in calls if isinstance(one, ToolCall) and one.name in tools]
        return (calls, rest) if known == calls else ([], text)
    if any(name.startswith(text) for name in tools):
        return None
    for name in tools:
        after = text.removeprefix(name).lstrip()
        if len(after) < len(text) and after[:1] in ("", "{"):
            found = _decoded(after)
            return found and (_calls({"name": name, "arguments": found[0]}, text), found[1])
    return [], text


def _may_call(text: str, tools: Sequence[str]) -> bool:
    """Say whether what a JSON text begins with can become a call of one of the tools."""
    head = _HEAD.match(text)
    if head is None or head.end() == len(text):
        return True
    if not head["shut"] or head["key"] not in _KEYS:
        return False
    named = _NAMED.match(text)
    return named is None or named["name"] in tools


def _decoded(text: str) -> tuple[object, str] | None:
    """Return the JSON value that a text begins with, and the rest."""
    try:  # models write line breaks into strings as they are
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return value, text[end:]


def _schema(tool: str | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a tool, and the schemas of its arguments as far as they are known."""
    if isinstance(tool, str):
        return tool, {}
    function = cast("Mapping[str, Any]", tool["function"])
    schema = cast("Mapping[str, Any]", function.get("parameters") or {})
    return function["name"], schema.get("properties") or {}


def _typed(said: str, schema: Mapping[str, Any] | None) -> object:
    """Return what an argument that was written as it is stands for."""
    parts = [schema, *schema.get("anyOf", ())] if schema else []
    types = {kind for part in parts for kind in _listed(part.get("type"))}
    if "string" in types and not ("null" in types and said == "null"):
        return said
    found = _decoded(said.strip())
    return said if found is None or found[1] else found[0]


def _listed(types: object) -> list[object]:
    return cast("list[object]", types) if isinstance(types, list) else [types]


def _in_string(text: str) -> bool:
    """Say whether a JSON text ends within a string: what closes a call there is a part of it."""
    try:
        json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string")
    return False


def _calls(value: object, raw: str) -> _Calls:
    several = cast("list[object]", value) if isinstance(value, list) else [value]
    return [_call(one, raw) for one in several]


def _call(value: object, raw: str) -> ToolCall | BrokenToolCall:
    if not isinstance(value, dict):
        return BrokenToolCall(text=raw, why="it is no JSON object")
    fields = cast("dict[str, object]", value)
    inner = fields.get("function")
    if isinstance(inner, dict):
        fields = cast("dict[str, object]", inner)
    name = fields.get("name", cast("object", inner))
    if not isinstance(name, str) or not name:
        return BrokenToolCall(text=raw, why="it names no tool")
    found = [fields[key] for key in _ARGUMENTS if key in fields and fields[key] is not None]
    given: object = found[0] if found else "{}"
    if isinstance(given, str):
        given = (_decoded(given.strip() or "{}") or (None,))[0]
    if not isinstance(given, dict):
        return BrokenToolCall(text=raw, why="its arguments are no JSON object")
    return ToolCall(name=name, arguments=cast("dict[str, Any]", given))
