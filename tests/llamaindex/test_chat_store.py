"""The chat store: the contract of LlamaIndex's, and one log for history and memory."""

from __future__ import annotations

import asyncio
import copy

import pytest
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import Memory
from llama_index.core.storage.chat_store.base_db import MessageStatus

from memos_core import InvalidInput, MemOS, View
from memos_llamaindex import MemOSChatStore, MemOSMemory, MemOSMemoryBlock
from tests.llamaindex.scripted import (
    PEANUTS,
    Script,
    assistant,
    prompt,
    texts,
    tool_turn,
    user,
    words,
)

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


@pytest.fixture
def store(ann: View) -> MemOSChatStore:
    return MemOSChatStore(memos=ann)


async def filled(store: MemOSChatStore, count: int = 5, key: str = "s1") -> list[str]:
    said = [user(str(n)) for n in range(count)]
    await store.add_messages(key, said)
    return [str(n) for n in range(count)]


async def shown(
    store: MemOSChatStore, status: MessageStatus | None = ACTIVE, key: str = "s1"
) -> list[str | None]:
    return texts(await store.get_messages(key, status=status))


async def test_messages_come_back_whole_and_in_order(store: MemOSChatStore):
    said = [user("Rain?"), *tool_turn(), assistant("Yes.", mood="sad")]
    await store.add_message("s1", said[0])
    await store.add_messages("s1", said[1:])
    assert await store.get_messages("s1") == said
    assert any(isinstance(block, ToolCallBlock) for block in said[1].blocks)


async def test_what_is_said_twice_is_there_twice(store: MemOSChatStore):
    await store.add_messages("s1", [user("Yes."), user("Yes.")])
    await store.add_message("s1", user("Yes."))
    assert await shown(store) == ["Yes."] * 3


async def test_no_messages_are_nothing(store: MemOSChatStore):
    await store.add_messages("s1", [])
    assert await store.get_messages("s1") == []
    assert await store.get_keys() == []


async def test_pages_and_counts(store: MemOSChatStore):
    await filled(store)
    await store.add_message("s1", user("old"), status=ARCHIVED)

    assert texts(await store.get_messages("s1", limit=2, offset=1)) == ["1", "2"]
    assert texts(await store.get_messages("s1", offset=4)) == ["4"]
    assert await store.get_messages("s1", limit=0) == []
    counts = [await store.count_messages("s1", status) for status in (ACTIVE, ARCHIVED, None)]
    assert counts == [5, 1, 6]


async def test_the_oldest_are_archived(store: MemOSChatStore):
    await filled(store)
    assert texts(await store.archive_oldest_messages("s1", 2)) == ["0", "1"]
    assert texts(await store.archive_oldest_messages("s1", 1)) == ["2"]
    assert await shown(store) == ["3", "4"]
    assert await shown(store, ARCHIVED) == ["0", "1", "2"]
    assert await shown(store, None) == ["0", "1", "2", "3", "4"]
    assert texts(await store.archive_oldest_messages("s1", 9)) == ["3", "4"]
    assert await store.archive_oldest_messages("s1", 9) == []


async def test_the_oldest_are_deleted(store: MemOSChatStore):
    await filled(store)
    await store.archive_oldest_messages("s1", 1)
    assert texts(await store.delete_oldest_messages("s1", 2)) == ["1", "2"]
    assert await shown(store, None) == ["0", "3", "4"]


async def test_those_of_a_status_are_deleted(store: MemOSChatStore):
    await filled(store)
    await store.archive_oldest_messages("s1", 2)
    await store.delete_messages("s1", status=ACTIVE)
    assert await shown(store, None) == ["0", "1"]
    await store.delete_messages("s1", status=ARCHIVED)
    assert await store.get_keys() == []


async def test_one_is_deleted_by_its_place(store: MemOSChatStore):
    await filled(store, 3)
    await store.archive_oldest_messages("s1", 1)
    deleted = await store.delete_message("s1", 1)
    assert deleted == user("2")
    assert await store.delete_message("s1", 1) is None
    assert await store.delete_message("s1", -1) is None
    assert await shown(store) == ["1"]


async def test_setting_replaces_all_and_remembers_nothing_twice(ann: View, store: MemOSChatStore):
    await filled(store)
    await store.archive_oldest_messages("s1", 2)

    await store.set_messages("s1", [user("new"), user("4"), user("0")])

    assert await shown(store, None) == ["new", "4", "0"]
    assert await shown(store, ARCHIVED) == []
    await store.add_message("s1", user("next"))
    await store.set_messages("s1", [user("next"), user("4")], status=ARCHIVED)
    assert await shown(store, ARCHIVED) == ["next", "4"]
    await store.aflush()
    assert ann.stats().cubes == 7


async def test_what_was_deleted_is_remembered_and_can_be_set_again(
    ann: View, store: MemOSChatStore
):
    await store.add_message("s1", user(PEANUTS))
    await store.delete_messages("s1")
    assert await shown(store, None) == []
    await store.aflush()
    assert ann.search("peanuts", k=1)[0].text == PEANUTS

    await store.set_messages("s1", [user(PEANUTS)])

    assert await shown(store) == [PEANUTS]
    await store.aflush()
    assert ann.stats().cubes == 1


async def test_what_was_forgotten_leaves_the_history(ann: View, store: MemOSChatStore):
    await store.add_messages("s1", [user(PEANUTS), assistant("Noted.")])
    await store.aflush()
    cubes = {hit.text: hit.cube.id for hit in ann.search("peanuts noted")}
    ann.forget(cubes[PEANUTS])
    assert await shown(store) == ["Noted."]


async def test_keys_are_sessions_of_a_view(memos: MemOS, store: MemOSChatStore):
    await filled(store, 1, key="s2")
    await filled(store, 1, key="s1")
    assert await store.get_keys() == ["s1", "s2"]
    assert await MemOSChatStore(memos=memos.at("acme", "bob")).get_keys() == []


async def test_an_empty_key_is_refused(store: MemOSChatStore):
    with pytest.raises(InvalidInput, match="session"):
        await store.delete_messages("")


async def test_messages_are_fresh(store: MemOSChatStore):
    message = assistant("Hi.", mood="good")
    await store.add_message("s1", message)
    (first,) = await store.get_messages("s1")
    first.blocks.clear()
    assert await store.get_messages("s1") == [message]


async def test_two_that_archive_what_both_read_archive_it_once(store: MemOSChatStore):
    await filled(store)
    barrier = asyncio.Barrier(2)

    async def flush() -> None:
        await store.get_messages("s1")
        await barrier.wait()
        await store.archive_oldest_messages("s1", 2)

    await asyncio.gather(flush(), flush())

    assert await shown(store) == ["2", "3", "4"]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch):
    """Lets something happen right before the next write of a store."""
    ingest = MemOSChatStore._ingest  # noqa: SLF001

    def happens(work):
        async def interrupted(self, key, turns):
            monkeypatch.undo()
            await work()
            await ingest(self, key, turns)

        monkeypatch.setattr(MemOSChatStore, "_ingest", interrupted)

    return happens


async def test_what_is_put_while_all_is_set_stays(store: MemOSChatStore, meanwhile):
    await filled(store, 1)
    meanwhile(lambda: store.add_message("s1", user("meanwhile")))
    await store.set_messages("s1", [user("new")])
    assert await shown(store) == ["new", "meanwhile"]


async def test_what_is_deleted_while_it_is_archived_is_gone(store: MemOSChatStore, meanwhile):
    await filled(store, 3)
    meanwhile(lambda: store.delete_message("s1", 0))
    await store.archive_oldest_messages("s1", 2)
    assert await shown(store, None) == ["1", "2"]
    assert await shown(store, ARCHIVED) == ["1"]


# ---------------------------------------------------------------- in LlamaIndex's Memory


def memory_of(store: MemOSChatStore, session: str = "s1", **options) -> Memory:
    return Memory.from_defaults(
        session_id=session,
        chat_store=store,
        tokenizer_fn=words,
        insert_method="user",
        memory_blocks=[MemOSMemoryBlock(memos=store.memos, tokenizer_fn=words)],
        **options,
    )


async def test_memories_are_made_at_once_where_that_is_wanted(ann: View):
    store = MemOSChatStore(memos=ann, background=False)
    await store.add_message("s1", user(PEANUTS))
    assert ann.stats().cubes == 1


async def test_history_and_block_share_one_log(ann: View, store: MemOSChatStore):
    said = [user("Hello."), assistant("Hi."), user(PEANUTS), assistant("Noted.")]
    memory = memory_of(store)
    for message in said:
        await memory.aput(message)
        await memory.aget()

    assert texts(ann.messages()) == texts(said)
    assert PEANUTS in prompt(await memory_of(store, "s2").aget("Which peanuts?"))


async def test_concurrent_puts_do_not_archive_too_much(store: MemOSChatStore):
    options = {"token_limit": 40, "chat_history_token_ratio": 0.5, "token_flush_size": 4}
    memory = memory_of(store, **options)
    await memory.aput_messages([user(f"{n} two") for n in range(9)])

    await asyncio.gather(*(memory.aput(user(f"{n} more words")) for n in range(4)))

    left = sum(len(words(message.content or "")) for message in await memory.aget_all(ACTIVE))
    assert 12 <= left <= 20
    assert len(await memory.aget_all()) == 13


def test_a_chat_engine_keeps_its_history_over_a_restart(store: MemOSChatStore):
    SimpleChatEngine.from_defaults(llm=Script().llm, memory=memory_of(store)).chat("Hello.")
    script = Script()
    SimpleChatEngine.from_defaults(llm=script.llm, memory=memory_of(store)).chat("Again.")
    assert [message.content for message in script.prompts[0]] == ["Hello.", "Fine.", "Again."]


async def test_a_session_can_be_taken_over_by_the_other_memory(ann: View, store: MemOSChatStore):
    await filled(store, 3)
    await store.archive_oldest_messages("s1", 1)
    memory = MemOSMemory.from_defaults(memos=ann, session_id="s1", tokenizer_fn=words)
    assert texts(memory.get_all()) == ["0", "1", "2"]
    memory.set([user("2"), user("1")])
    assert await shown(store) == ["2", "1"]


def test_a_copy_shares_its_connections(store: MemOSChatStore):
    assert copy.deepcopy(store).memos is store.memos
    assert store.model_dump() == {"background": True}


@pytest.mark.parametrize("change", ["set", "deleted", "emptied"])
async def test_the_oldest_are_those_after_one_s_own_change(store: MemOSChatStore, change: str):
    await store.add_messages("s1", [user("one"), user("two"), user("three")])
    await store.get_messages("s1")
    match change:
        case "set":
            await store.set_messages("s1", [user("two"), user("four")])
        case "deleted":
            await store.delete_message("s1", 0)
        case _:
            await store.delete_messages("s1")
            await store.add_messages("s1", [user("two"), user("five")])
    assert texts(await store.archive_oldest_messages("s1", 1)) == ["two"]
