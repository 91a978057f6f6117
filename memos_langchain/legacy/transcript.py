"""Between LangChain's messages and the core's message log, and back without a loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
)
from pydantic_core import PydanticSerializationError

from memos_core import InvalidInput, Message, View

_WHOLE = "langchain"  # of a logged message: the whole of it, or its JSON where no column holds it
_LONGEST_NAME = 200  # in characters; a longer one stands in the whole alone


def append(view: View, session: str, messages: Sequence[BaseMessage]) -> None:
    """Append messages to a session, all or none; what is said twice was said twice.

    Raises:
        InvalidInput: a message holds a value that is no JSON.
    """
    now = datetime.now(UTC)
    view.ingest([_turn(message, now) for message in messages], session=session, repair=True)


def history(view: View, session: str, *, limit: int | None = None) -> list[BaseMessage]:
    """Return what was appended to a session, or the latest of it: nothing else, and all of it."""
    return [message_of(one) for one in view.messages(session=session, limit=limit)]


def message_of(logged: Message) -> BaseMessage:
    """Return a message as it was appended, except for what the rules hid of it."""
    whole = logged.extra.get(_WHOLE)
    if whole is not None:
        try:
            fields = json.loads(whole) if isinstance(whole, str) else whole
            return messages_from_dict([cast("dict[str, Any]", fields)])[0]
        except ValueError:  # a class of the caller's own, or something was hidden amid the JSON
            pass
    return _plain(logged)


def _plain(logged: Message) -> BaseMessage:
    """Return a message as its role and text tell it."""
    match logged.role:
        case "user":
            return HumanMessage(logged.content)
        case "assistant":
            return AIMessage(logged.content)
        case "system":
            return SystemMessage(logged.content)
        case "tool":
            return ToolMessage(logged.content, tool_call_id=logged.id)
        case role:
            return ChatMessage(content=logged.content, role=role)


def _turn(message: BaseMessage, now: datetime) -> dict[str, Any]:
    name = message.name
    return {
        "id": str(uuid4()),
        "role": _role(message),
        "content": str(message.text),
        "name": name if name and len(name) <= _LONGEST_NAME else None,
        "created_at": now,
        _WHOLE: _whole(message),
    }


def _role(message: BaseMessage) -> str:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, AIMessage):
        return "assistant"
    if isinstance(message, ToolMessage):
        return "tool"
    return (message.role if isinstance(message, ChatMessage) else message.type) or message.type


def _whole(message: BaseMessage) -> object:
    """Return a message as JSON values; as a JSON text where PostgreSQL cannot store these."""
    try:
        fields = {"type": message.type, "data": message.model_dump(mode="json")}
        text = json.dumps(fields, allow_nan=False, ensure_ascii=False)
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidInput(f"a {message.type} message holds what JSON cannot: {error}") from error
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair
        return json.dumps(fields)
    return json.dumps(fields) if "\\u0000" in text else fields
