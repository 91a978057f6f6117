"""What was said, and what was kept of it: rules hide parts, and no database holds every text."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import TextBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory

from memos_core import Action, Rules, Sensitive, View
from memos_llamaindex import MemOSChatStore, MemOSMemory, MemOSMemoryBlock
from tests.llamaindex.scripted import assistant, tool_turn, user

CHANGED = {
    "hidden": "Write to ann@example.org.",
    "replaced": "A NUL byte: \x00, and half a character: \ud800.",
    "cut": "long " * 250_000,
}


def said_in(view: View) -> list[str]:
    return [one.content for one in view.messages(session="s1", retired=True) if one.content]


@pytest.fixture(params=CHANGED)
def changed(request: pytest.FixtureRequest, ann: View) -> str:
    """A text that is not kept as it was said."""
    ann.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REDACT}))
    return CHANGED[request.param]


def test_a_history_sent_along_again_is_not_remembered_twice(ann: View, changed: str, call):
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1", chat_history=[])
    blocks = [TextBlock(text=changed), TextBlock(text="Again.")]
    history = [
        user(changed),
        assistant("Noted.", note=changed),
        *tool_turn(),
        ChatMessage(role="user", blocks=blocks),
    ]
    call(memory, "put_messages", history)
    kept = call(memory, "get_all")

    for _ in range(2):
        call(memory, "set", history)
        assert call(memory, "get_all") == kept
        call(memory, "set", kept)
    assert len(ann.messages(session="s1", retired=True)) == len(history)


async def test_a_chat_store_is_set_again_and_remembers_nothing_twice(ann: View, changed: str):
    store = MemOSChatStore(memos=ann)
    await store.add_messages("s1", [user(changed), assistant("Noted.")])
    for _ in range(2):
        await store.set_messages("s1", [user(changed), assistant("Noted.")])
    assert len(said_in(ann)) == 2


async def test_a_block_over_a_history_that_was_changed_adds_nothing_to_it(ann: View, changed: str):
    memory = Memory.from_defaults(
        session_id="s1",
        chat_store=MemOSChatStore(memos=ann),
        memory_blocks=[MemOSMemoryBlock(memos=ann)],
        insert_method="user",
        token_limit=10_000_000,
    )
    await memory.aput_messages([user(changed), assistant("Noted.")])
    for _ in range(2):
        await memory.aget()
    assert len(said_in(ann)) == 2


def test_two_calls_of_one_tool_are_two_though_they_say_nothing(ann: View, call):
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1")
    history = [user("Weather?"), *tool_turn(1), *tool_turn(2)]
    call(memory, "put_messages", history)
    call(memory, "set", [history[0], *history[3:]])
    assert call(memory, "get_all") == [history[0], *history[3:]]
