"""LangChain's messages as chat templates take them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from memos_core import InvalidInput

Turn = dict[str, Any]

_ROLES = ("system", "user", "assistant")
_NAMES = {"human": "user", "ai": "assistant", "model": "assistant", "developer": "system"}
_NINE = re.compile(r"[A-Za-z0-9]{9}")  # what Mistral's templates want of a call's id
# What other models thought or called stands in fields of its own, or is for them alone.
_ELSEWHERE = {
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "server_tool_call",
    "server_tool_call_chunk",
    "server_tool_result",
    "tool_use",
    "thinking",
    "redacted_thinking",
    "function_call",
}


def turns_of(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Return messages as turns, ``{"role": …, "content": …}``; neighbours of one role are one.

    Tool calls and reasoning stand in the fields that templates look for.

    Raises:
        InvalidInput: a message holds more than text, or is of a kind that no template knows.
    """
    names = {call["id"]: call["name"] for call in _calls(messages) if call["id"]}
    turns: list[Turn] = []
    for place, message in enumerate(messages):
        turn = _turn(message, place, names)
        if turns and _goes_on(turns[-1], turn):
            texts = (turns[-1]["content"], turn["content"])
            turns[-1] = {**turns[-1], **turn, "content": "\n\n".join(filter(None, texts))}
        else:
            turns.append(turn)
    return turns


def _calls(messages: Iterable[BaseMessage]) -> Iterable[ToolCall]:
    for message in messages:
        if isinstance(message, AIMessage):
            yield from message.tool_calls


def _goes_on(last: Turn, turn: Turn) -> bool:
    """Say whether a turn goes on where the last one ended: templates want roles to alternate."""
    return last["role"] == turn["role"] != "tool" and "tool_calls" not in last


def _turn(message: BaseMessage, place: int, names: Mapping[str, str]) -> Turn:
    said = _text(message, place)
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": said}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": said}
    if isinstance(message, AIMessage):
        return _answer(message, said)
    if isinstance(message, ToolMessage):
        name = message.name or names.get(message.tool_call_id)
        result = {"role": "tool", "content": said, "tool_call_id": _nine(message.tool_call_id)}
        return {**result, "name": name} if name else result
    if isinstance(message, FunctionMessage):
        return {"role": "tool", "content": said, "name": message.name}
    if isinstance(message, ChatMessage):
        role = _NAMES.get(message.role, message.role)
        if role in _ROLES:
            return {"role": role, "content": said}
        raise InvalidInput(
            f"message {place} has the role {message.role!r}; known: {', '.join(_ROLES)}"
        )
    raise InvalidInput(f"message {place} is a {type(message).__name__}, which a model cannot read")


def _answer(message: AIMessage, said: str) -> Turn:
    # A call that could not be read is shown as it was written, so that the model can mend it.
    broken = [call["args"] for call in message.invalid_tool_calls if call["args"]]
    turn: Turn = {"role": "assistant", "content": "\n".join(filter(None, [said, *broken]))}
    thoughts = [
        block.get("reasoning") or ""
        for block in message.content_blocks
        if block["type"] == "reasoning"
    ]
    if any(thoughts):
        turn["reasoning_content"] = "\n".join(thoughts)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": _nine(call["id"] or call["name"]),
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in message.tool_calls
        ]
    return turn


def _text(message: BaseMessage, place: int) -> str:
    """Return what a message says; what else it holds is refused, or is not text by its nature."""
    texts: list[str] = []
    for block in cast("Sequence[Mapping[str, Any]]", message.content_blocks):
        kind = cast("str", block["type"])
        value = cast("object", block.get("value"))
        if kind == "non_standard" and isinstance(value, Mapping):
            kind = str(cast("Mapping[str, object]", value).get("type"))
        if kind in {"text", "text-plain"} and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind == "json" and isinstance(value, Mapping):
            texts.append(json.dumps(cast("Mapping[str, object]", value).get("json")))
        elif not (isinstance(message, AIMessage) and kind in {"reasoning", *_ELSEWHERE}):
            raise InvalidInput(
                f"message {place} holds {_a(kind)}, and this model reads text alone: leave it out, "
                "or say in text what it shows"
            )
    return "".join(texts)


def _a(kind: str) -> str:
    known = kind.replace("_", " ")
    return f"{'an' if known[:1] in 'aeiou' else 'a'} {known}"


def _nine(id: str) -> str:
    """Return an id as it is, or one of nine letters and digits that stands for it."""
    return id if _NINE.fullmatch(id) else hashlib.blake2b(id.encode()).hexdigest()[:9]
