"""Between LlamaIndex's chat messages and the core's message log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from memos_core import InvalidInput, Message
from memos_llamaindex.recall import without_recall

_WHOLE = "llamaindex"  # metadata of a message: the chat message where its text does not say it all
_ORDER = "llamaindex_history"  # metadata of a pointer: the ids that were the history at that point
_POINTER = "history"  # the role of a pointer, which no reader makes memories of
_SPOKEN = {MessageRole.CHATBOT: "assistant", MessageRole.MODEL: "assistant"}
_ROLES = frozenset(role.value for role in MessageRole)


def turns_from(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return chat messages as the core takes them, each with an id of its own.

    Raises:
        InvalidInput: a message holds a value that is no JSON.
    """
    now = datetime.now(UTC)
    return [_turn(message, now) for message in map(without_recall, messages) if message]


def chat_message(message: Message) -> ChatMessage:
    """Return a new chat message, whole: blocks, tool calls and additional arguments."""
    whole = message.metadata.get(_WHOLE)
    if whole is None:
        role = message.role if message.role in _ROLES else MessageRole.USER.value
        return ChatMessage(role=MessageRole(role), content=message.content)
    fields = cast("dict[str, Any]", whole)
    try:
        return ChatMessage.model_validate(fields)
    except ValidationError:
        # A block names a file that is gone: its text stays, and its ties to tool calls.
        return ChatMessage(
            role=fields["role"],
            content=message.content,
            additional_kwargs=fields["additional_kwargs"],
        )


def history_of(logged: Sequence[Message]) -> list[Message]:
    """Return the history that a session's log stands for: what its last pointer names, and after.

    A pointer is what ``set`` leaves where it changed what came before. Copies instead would be
    remembered twice, and one of them would survive ``forget``.
    """
    for position in range(len(logged) - 1, -1, -1):
        if (order := _pointed(logged[position])) is not None:
            known = {message.id: message for message in logged}
            named = [known[id] for id in order if id in known]
            return [*named, *logged[position + 1 :]]
    return list(logged)


def turns_to_become(
    messages: Sequence[ChatMessage], logged: Sequence[Message]
) -> list[dict[str, Any]]:
    """Return what to append to a session's log so that its history is ``messages``.

    Messages that are in the log already are not said again.
    """
    history = history_of(logged)
    known = {message.id for message in history}
    others = [one for one in logged if one.id not in known and _pointed(one) is None]
    unused = [*history, *others]
    order: list[str] = []
    new: list[dict[str, Any]] = []
    for turn in turns_from(messages):
        same = next((at for at, one in enumerate(unused) if _says(one, turn)), None)
        if same is None:
            new.append(turn)
            order.append(turn["id"])
        else:
            order.append(unused.pop(same).id)
    if order == [*(message.id for message in history), *(turn["id"] for turn in new)]:
        return new
    pointer = {"id": str(uuid4()), "role": _POINTER, "content": "", "metadata": {_ORDER: order}}
    return [*new, pointer]


def _turn(message: ChatMessage, now: datetime) -> dict[str, Any]:
    role, content = _SPOKEN.get(message.role, message.role.value), message.content or ""
    name = message.additional_kwargs.get("name")
    return {
        "id": str(uuid4()),  # what is said twice was said twice
        "role": role,
        "content": content,
        "name": name if isinstance(name, str) else None,
        "created_at": now,
        "metadata": {} if _is_plain(message, role) else {_WHOLE: _whole(message)},
    }


def _is_plain(message: ChatMessage, role: str) -> bool:
    return message.role.value == role and not message.additional_kwargs and _is_text(message)


def _is_text(message: ChatMessage) -> bool:
    match message.blocks:
        case [TextBlock() as block]:
            return block == TextBlock(text=block.text)
        case _:
            return False


def _whole(message: ChatMessage) -> dict[str, Any]:
    try:
        fields = message.model_dump(mode="json")
    except PydanticSerializationError as error:
        raise InvalidInput(f"a chat message holds what JSON cannot: {error}") from error
    # Documents under this key became image blocks when the message was made, and would again.
    fields["additional_kwargs"].pop("images", None)
    return fields


def _says(message: Message, turn: Mapping[str, Any]) -> bool:
    return (
        message.role == turn["role"]
        and message.content == turn["content"]
        and message.metadata.get(_WHOLE) == turn["metadata"].get(_WHOLE)
    )


def _pointed(message: Message) -> list[str] | None:
    if message.role != _POINTER:
        return None
    return cast("list[str] | None", message.metadata.get(_ORDER))
