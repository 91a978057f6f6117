"""The block of memories that a prompt carries."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock

from memos_core import Hit, View
from memos_core.latest import Latest

NOTES = "Notes from earlier conversations, with their days and speakers:"
_HEAD = f"<memory>\n{NOTES}\n"
_TAIL = "\n</memory>\n"
_TURNS = 1_000  # under way in one MemOS


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalled:
    """What was recalled in a turn, and the text made of it."""

    turn: Hashable
    hits: tuple[Hit, ...]
    text: str


# An agent reads once for every round of tool calls, some of them each time with a memory made anew:
# in a turn they get the same. A prompt whose beginning stays as it is is cheaper, too.
_under_way: WeakKeyDictionary[Any, Latest[Recalled]] = WeakKeyDictionary()


def recalled_in(view: View, key: Hashable, turn: Hashable) -> Recalled | None:
    """Return what was recalled in a turn of a session, known by a key."""
    known = _recalled(view).get(_full(view, key))
    return known if known is not None and known.turn == turn else None


def keep_recalled(view: View, key: Hashable, recalled: Recalled) -> None:
    """Keep what was recalled until the next turn of the session."""
    _recalled(view)[_full(view, key)] = recalled


def _recalled(view: View) -> Latest[Recalled]:
    return _under_way.setdefault(view.engine, Latest(_TURNS))


def _full(view: View, key: Hashable) -> Hashable:
    return view.namespace, repr(view.caller), key


def memory_block(memories: str) -> str:
    """Return memories in a frame that none of them can close; "" for none."""
    return f"{_HEAD}{unclosing(memories)}{_TAIL}" if memories else ""


def unclosing(memories: str, *tags: str) -> str:
    """Return memories in which none closes the frame that it is shown in."""
    names = "|".join(map(re.escape, ("memory", *tags)))
    return re.sub(rf"</(\s*(?:{names})\s*>)", r"< /\1", memories, flags=re.IGNORECASE)


def with_recall(messages: list[ChatMessage], block: str) -> list[ChatMessage]:
    """Return messages with a block of memories before the text of the newest user message.

    Never in a system message: two of LlamaIndex's agents throw those away. Context engines ask
    before they store the question, and put it last themselves; the block then goes to the user
    message before it, so that user and assistant go on taking turns, which some chat templates
    insist on. Where there is no user message yet, the block becomes one.
    """
    if not block:
        return messages
    for position in range(len(messages) - 1, -1, -1):
        message = messages[position]
        if message.role == MessageRole.USER:
            blocks = [TextBlock(text=block), *message.blocks]
            carrier = message.model_copy(update={"blocks": blocks})
            return [*messages[:position], carrier, *messages[position + 1 :]]
    return [*messages, ChatMessage(role=MessageRole.USER, content=block)]


def without_recall(message: ChatMessage) -> ChatMessage | None:
    """Return a message as it was said; None where it was only a block of memories.

    Callers hand the window back as history; memories of memories must not be stored.
    """
    match message.blocks:
        case [TextBlock(text=text), *said] if text.startswith(_HEAD) and text.endswith(_TAIL):
            return message.model_copy(update={"blocks": said}) if said else None
        case _:
            return message
