"""LlamaIndex's messages as chat templates take them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from memos_core import InvalidInput

Turn = dict[str, Any]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
_NINE = re.compile(r"[A-Za-z0-9]{9}")  # what Mistral's templates want of a call's id


def turns_of(messages: Sequence[ChatMessage]) -> list[Turn]:
    """Return messages as turns, ``{"role": …, "content": …}``; neighbours of one role are one.

    Tool calls and thoughts stand in the fields that templates look for.

    Raises:
        InvalidInput: a message holds more than text.
    """
    names: dict[str, str] = {}
    turns: list[Turn] = []
    for place, message in enumerate(messages):
        turn = _turn(message, place, names)
        if turns and _goes_on(turns[-1], turn):
            texts = (turns[-1]["content"], turn["content"])
            turns[-1] = {**turns[-1], **turn, "content": "\n\n".join(filter(None, texts))}
        else:
            turns.append(turn)
    return turns


def _goes_on(last: Turn, turn: Turn) -> bool:
    """Say whether a turn goes on where the last one ended: templates want roles to alternate."""
    return last["role"] == turn["role"] != "tool" and "tool_calls" not in last


def _turn(message: ChatMessage, place: int, names: dict[str, str]) -> Turn:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Turn] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.content or "")
        elif isinstance(block, ToolCallBlock):
            names[block.tool_call_id or block.tool_name] = block.tool_name
            calls.append(_call(block))
        elif not isinstance(block, CachePoint):
            raise InvalidInput(
                f"message {place} holds more than text ({block.block_type}), and this model reads "
                "text alone: leave it out, or say in text what it shows"
            )
    turn: Turn = {"role": _ROLES[message.role.value], "content": "\n".join(texts)}
    if turn["role"] == "tool":
        id = str(message.additional_kwargs.get("tool_call_id") or "")
        name = message.additional_kwargs.get("name") or names.get(id)
        return turn | {"tool_call_id": _nine(id)} | ({"name": name} if name else {})
    if turn["role"] == "assistant":
        turn |= {"reasoning_content": "\n".join(thoughts)} if any(thoughts) else {}
        turn |= {"tool_calls": calls} if calls else {}
    return turn


def _call(block: ToolCallBlock) -> Turn:
    return {
        "type": "function",
        "id": _nine(block.tool_call_id or block.tool_name),
        "function": {"name": block.tool_name, "arguments": _arguments(block.tool_kwargs)},
    }


def _arguments(given: Mapping[str, Any] | str) -> Any:
    if not isinstance(given, str):
        return given
    try:  # some models' calls come as they wrote them
        return json.loads(given)
    except json.JSONDecodeError:
        return given


def _nine(id: str) -> str:
    """Return an id as it is, or one of nine letters and digits that stands for it."""
    return id if _NINE.fullmatch(id) else hashlib.blake2b(id.encode()).hexdigest()[:9]
