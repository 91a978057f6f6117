"""Between LlamaIndex's chat messages and the core's message log."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import SEEK_CUR, IOBase
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from llama_index.core.base.llms.types import (
    BaseRecursiveContentBlock,
    ChatMessage,
    ContentBlock,
    MessageRole,
    TextBlock,
)
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from memos_core import InvalidInput, Message
from memos_llamaindex.recall import without_recall
from memos_llamaindex.said import said_key

_WHOLE = "llamaindex"  # of a message: the chat message, where role and text do not say it all
_ORDER = "llamaindex_history"  # of a pointer: the ids that were the history at that point
_AFTER = "llamaindex_after"  # of a pointer: the id of the last message that it knew of
NO_TURN = "history"  # the role of what tells of the history, which no reader makes memories of
_SPOKEN = {MessageRole.CHATBOT: "assistant", MessageRole.MODEL: "assistant"}
_BLOCK: TypeAdapter[ContentBlock] = TypeAdapter(ContentBlock)
_ROLES = frozenset(role.value for role in MessageRole)
# What agents keep beside what they say: a ReAct agent its thoughts and observations before the
# answer, a CodeAct agent its code, and what came of it as a message of the user.
_THOUGHTS = re.compile(r"\s*Thought:.*?^\s*Answer:\s*", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"<execute>.*?(</execute>|\Z)", re.DOTALL)
_CODE_RESULT = "Result of executing the code given:"


def turns_from(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return chat messages as the core takes them, each with an id of its own.

    Raises:
        InvalidInput: one is no chat message, or holds a value that is no JSON.
    """
    now = datetime.now(UTC)
    for message in messages:
        if not isinstance(cast("object", message), ChatMessage):
            kind = type(message).__name__
            raise InvalidInput(f"a message is LlamaIndex's ChatMessage, not {kind}")
    return [_turn(message, now) for message in map(without_recall, messages) if message]


def chat_message(message: Message) -> ChatMessage:
    """Return a new chat message, whole: blocks, tool calls and additional arguments."""
    whole = message.extra.get(_WHOLE)
    if whole is None:
        role = message.role if message.role in _ROLES else MessageRole.USER.value
        return ChatMessage(role=MessageRole(role), content=message.content)
    fields = cast("dict[str, Any]", whole)
    return ChatMessage.model_validate({**fields, "blocks": _blocks_left(fields["blocks"])})


def _blocks_left(blocks: Sequence[dict[str, Any]]) -> list[ContentBlock]:
    """Return the blocks of a message, but those of files that are gone."""
    left: list[ContentBlock] = []
    for block in blocks:
        gone = block.get("path") and not Path(block["path"]).exists()
        with contextlib.suppress(ValidationError):  # of a type that another version has
            left += [] if gone else [_BLOCK.validate_python(block)]
    return left


def history_of(logged: Sequence[Message]) -> list[Message]:
    """Return the history that a session's log stands for: what its last pointer names, and after.

    A pointer is what ``set`` leaves where it changed what came before. Copies instead would be
    remembered twice, and one of them would survive ``forget``. What was put while a pointer was
    made comes after what it names.
    """
    said = {one.id: one for one in logged if one.role != NO_TURN}
    pointers = [at for at, one in enumerate(logged) if is_pointer(one) and not one.retired]
    if not pointers:
        return [one for one in said.values() if not one.retired]
    order, last = order_of(logged[pointers[-1]])
    places = {one.id: at for at, one in enumerate(logged)}
    after = places.get(last, pointers[-1])
    later = [one.id for one in logged[after + 1 :] if one.id in said and not one.retired]
    return [said[id] for id in dict.fromkeys([*order, *later]) if id in said]


def is_pointer(message: Message) -> bool:
    """Tell whether a message names the history as it was at that point."""
    return message.role == NO_TURN and _ORDER in message.extra


def order_of(pointer: Message) -> tuple[list[str], str]:
    """Return the ids that a pointer names, and that of the last message that it knew of."""
    return cast("list[str]", pointer.extra[_ORDER]), cast("str", pointer.extra[_AFTER])


def turns_to_become(
    messages: Sequence[ChatMessage], logged: Sequence[Message]
) -> list[dict[str, Any]]:
    """Return what to append to a session's log so that its history is ``messages``.

    Messages that are in the log already are not said again.
    """
    history = history_of(logged)
    new, order = turns_anew(messages, logged, history)
    if order == [*(message.id for message in history), *(turn["id"] for turn in new)]:
        return new
    return [*new, pointer_to(order, logged)]


def turns_anew(
    messages: Sequence[ChatMessage], logged: Sequence[Message], history: Sequence[Message]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what is said for the first time in a session, and the ids of all of ``messages``."""
    known = {message.id for message in history}
    others = [one for one in logged if one.id not in known and one.role != NO_TURN]
    unused = _by_what_is_said([*history, *others])
    used: set[str] = set()
    order: list[str] = []
    new: list[dict[str, Any]] = []
    for turn in turns_from(messages):
        same = unused.get(_stem(turn["id"]), deque())
        while same and same[0] in used:
            same.popleft()
        if not same:
            new.append(turn)
        order.append(same.popleft() if same else turn["id"])
        used.add(order[-1])
    return new, order


def _by_what_is_said(logged: Sequence[Message]) -> dict[str, deque[str]]:
    """Return the ids of messages by what was said, and by what was kept of it.

    Rules hide parts of a message, and what no database can hold is replaced.
    """
    ids: dict[str, deque[str]] = {}
    for one in logged:
        kept = {"role": one.role, "content": one.content, _WHOLE: one.extra.get(_WHOLE)}
        for stem in {_stem(one.id), _stem_of(kept)}:
            ids.setdefault(stem, deque()).append(one.id)
    return ids


def pointer_to(order: Sequence[str], logged: Sequence[Message]) -> dict[str, Any]:
    """Return a turn that makes messages the history, in an order; what comes later follows."""
    after = logged[-1].id if logged else ""
    return {"id": str(uuid4()), "role": NO_TURN, "content": "", _ORDER: order, _AFTER: after}


def said_in(message: ChatMessage) -> dict[str, Any]:
    """Return who said what in a message, as the core takes it, without an id."""
    role, said = _spoken(message)
    name = message.additional_kwargs.get("name")
    return {
        "role": role,
        "content": said,
        "name": name if isinstance(name, str) else None,
    }


def _turn(message: ChatMessage, now: datetime) -> dict[str, Any]:
    turn = said_in(message) | {"created_at": now}
    as_it_is = turn["role"] == message.role.value and turn["content"] == message.content
    if not as_it_is or not _is_plain(message):
        turn[_WHOLE] = _whole(message)
    return turn | {"id": f"{_stem_of(turn)}.{uuid4().hex}"}  # what is said twice was said twice


def _stem_of(turn: Mapping[str, Any]) -> str:
    """Return what the ids of all turns that say the same, down to the last block, begin with."""
    key, whole = said_key(turn), turn.get(_WHOLE)
    if whole is None:
        return key
    fields = json.dumps(whole, sort_keys=True).encode()
    return f"{key}.{hashlib.blake2b(fields, digest_size=16).hexdigest()}"


def _stem(id: str) -> str:
    return id.rpartition(".")[0]


def _spoken(message: ChatMessage) -> tuple[str, str]:
    """Return who said what, without the machinery of an agent."""
    role, text = _SPOKEN.get(message.role, message.role.value), message.content or ""
    if role == "user" and text.startswith(_CODE_RESULT):
        return "tool", text
    if role == "assistant":
        text = _CODE.sub("", _THOUGHTS.sub("", text, count=1)).strip() or text
    return role, text


def _is_plain(message: ChatMessage) -> bool:
    return not message.additional_kwargs and _is_text(message)


def _is_text(message: ChatMessage) -> bool:
    match message.blocks:
        case [TextBlock() as block]:
            return block == TextBlock(text=block.text)
        case _:
            return False


def _whole(message: ChatMessage) -> dict[str, Any]:
    blocks = [_with_bytes(block) for block in message.blocks]
    try:
        fields = message.model_copy(update={"blocks": blocks}).model_dump(mode="json")
    except PydanticSerializationError as error:
        raise InvalidInput(f"a chat message holds what JSON cannot: {error}") from error
    # Documents under this key became image blocks when the message was made, and would again.
    fields["additional_kwargs"].pop("images", None)
    return fields


def _with_bytes(block: BaseModel) -> BaseModel:
    """Return a block whose streams are bytes: LlamaIndex writes only text of them as JSON."""
    changed: dict[str, Any] = {}
    fields: dict[str, Any] = vars(block)
    for name, value in fields.items():
        if isinstance(value, IOBase):
            at = value.seek(0, SEEK_CUR)
            value.seek(0)
            changed[name] = cast("Any", value).read()
            value.seek(at)
        elif isinstance(value, list) and isinstance(block, BaseRecursiveContentBlock):
            changed[name] = [_with_bytes(one) for one in cast("list[BaseModel]", value)]
    return type(block).model_validate(fields | changed) if changed else block
