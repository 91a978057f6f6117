"""The block of memories that a prompt carries."""

from __future__ import annotations

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock

NOTES = "Notes from earlier conversations, with their days and speakers:"
_HEAD = f"<memory>\n{NOTES}\n"
_TAIL = "\n</memory>\n"


def memory_block(memories: str) -> str:
    """Return memories in a frame that none of them can close; "" for none."""
    return f"{_HEAD}{unclosing(memories)}{_TAIL}" if memories else ""


def unclosing(memories: str, *tags: str) -> str:
    """Return memories in which none closes the frame that it is shown in."""
    for tag in ("memory", *tags):
        memories = memories.replace(f"</{tag}>", f"< /{tag}>")
    return memories


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
