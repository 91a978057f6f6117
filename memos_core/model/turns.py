"""Messages and memories as a prompt takes them, and what is wrong with those that it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from transformers.utils import chat_template_utils

from memos_core.errors import InvalidInput

Message: TypeAlias = Mapping[str, Any]
Tool: TypeAlias = Mapping[str, Any] | Callable[..., Any]
ROLES = ("system", "user", "assistant", "tool")


def checked_line(value: object, what: str) -> str:
    """Return a text that is not blank.

    Raises:
        InvalidInput: it is, or no text.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"a {what} must be a text that is not blank, not {value!r}")
    return _decoded(value, f"a {what}")


def _decoded(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} holds a lone surrogate at character {error.start}: decode the text properly"
        ) from error
    return text


def lines_of(texts: object, what: str) -> list[str]:
    """Return memories as lines; further lines of one are indented, so that none begins another."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InvalidInput(f"a {what} is one of a list of texts, not {texts!r}")
    lines: list[str] = []
    for text in cast("Iterable[object]", texts):
        parts = checked_line(text, what).strip().splitlines()
        lines.append("- " + "\n".join(f"  {part}".rstrip() for part in parts)[2:] + "\n")
    return lines


def checked_messages(messages: object, *, continue_final: bool = False) -> list[dict[str, Any]]:
    """Return messages, their contents texts; ``continue_final`` wants an answer as the last.

    Raises:
        InvalidInput: none, one of an unknown role, or one that is no text.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        raise InvalidInput('messages are a list of {"role": …, "content": …}')
    turns = [
        _checked_message(message, place)
        for place, message in enumerate(cast("Iterable[object]", messages))
    ]
    if not turns:
        raise InvalidInput("there are no messages: pass at least one")
    last = turns[-1]
    if continue_final and (last["role"] != "assistant" or "content" not in last):
        raise InvalidInput("only an answer can be continued: let the last message be one")
    return turns


def _checked_message(message: object, place: int) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidInput(f'message {place} is no {{"role": …, "content": …}}: {message!r}')
    turn = dict(cast("Mapping[str, Any]", message))
    if turn.get("role") not in ROLES:
        known = ", ".join(ROLES)
        raise InvalidInput(f"message {place} has the role {turn.get('role')!r}; known: {known}")
    content = turn.pop("content", None)
    if content is None and turn["role"] == "assistant" and turn.get("tool_calls"):
        return turn
    if isinstance(content, list | tuple):
        content = _joined(cast("Sequence[object]", content), place)
    if not isinstance(content, str):
        raise InvalidInput(f"message {place} has no text: its content is {content!r}")
    return {**turn, "content": _decoded(content, f"message {place}")}


def _joined(parts: Sequence[object], place: int) -> str:
    texts: list[str] = []
    for part in parts:
        given = cast("Mapping[str, object]", part) if isinstance(part, Mapping) else {"text": part}
        text = given.get("text")
        if given.get("type", "text") != "text" or not isinstance(text, str):
            raise InvalidInput(f"message {place} has a part that is no text: {part!r}")
        texts.append(text)
    return "\n".join(texts)


def system_of(turns: Sequence[Message]) -> str | None:
    """Return the system text that messages begin with."""
    return turns[0]["content"] if turns[0]["role"] == "system" else None


def schemas_of(tools: Sequence[Tool] | None) -> str | None:
    """Return tools as JSON, which can be a key."""
    if tools is None:
        return None
    schema = cast("Any", chat_template_utils).get_json_schema
    return json.dumps([tool if isinstance(tool, Mapping) else schema(tool) for tool in tools])
