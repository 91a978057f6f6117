"""Threads, event loops, sessions and users at once: nothing is lost, mixed or torn."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.llms import ChatMessage

from memos_core import MemOS, Settings, View
from memos_llamaindex import MemOSMemory
from tests.llamaindex.scripted import PEANUTS, assistant, prompt, texts, tool_turn, user
from tests.support import WordEmbedder


def memory_of(view: View, session: str = "s1") -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=view, session_id=session)


def test_eight_threads_lose_nothing(ann: View):
    memory = memory_of(ann)

    def put(thread: int) -> None:
        for number in range(12):
            memory.put(user(f"fact {thread} {number}"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(8)))
    history = texts(memory.get_all())
    for thread in range(8):
        mine = [text for text in history if text and text.startswith(f"fact {thread} ")]
        assert mine == [f"fact {thread} {number}" for number in range(12)]
    memory.flush()
    assert ann.stats().cubes == 96


async def test_fifty_puts_at_once_lose_nothing(ann: View):
    memory = memory_of(ann)
    await asyncio.gather(*(memory.aput(user(f"fact {n}")) for n in range(50)))
    assert sorted(texts(await memory.aget_all())) == sorted(f"fact {n}" for n in range(50))
    await memory.aflush()
    assert ann.stats().cubes == 50


async def test_fifty_sessions_at_once_are_kept_apart(ann: View):
    async def chat(number: int) -> list[str | None]:
        memory = memory_of(ann, f"s{number}")
        for turn in range(3):
            await memory.aput(user(f"question {number} {turn}"))
            await memory.aget()
            await memory.aput(assistant(f"answer {number} {turn}"))
        return texts(await memory.aget_all())

    for number, history in enumerate(await asyncio.gather(*(chat(n) for n in range(50)))):
        assert history == [f"{a} {number} {t}" for t in range(3) for a in ("question", "answer")]


def test_a_small_pool_serves_many(database: str):
    settings = Settings(pool_size=2)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        ann = memos.at("acme", "ann")

        async def chat(number: int) -> None:
            memory = memory_of(ann, f"s{number}")
            await memory.aput(user(f"question {number}"))
            await memory.aget()

        async def all_of_them() -> None:
            await asyncio.wait_for(asyncio.gather(*(chat(n) for n in range(20))), 60)

        asyncio.run(all_of_them())
        memory_of(ann).flush()
        assert ann.stats().cubes == 20


async def test_tool_turns_of_two_runs_do_not_interleave(ann: View):
    one, two = memory_of(ann), memory_of(ann)
    await asyncio.gather(
        *(memory.aput_messages(tool_turn(n)) for n, memory in enumerate([one, two] * 10))
    )
    history = await one.aget_all()
    calls = [message.blocks[0].tool_call_id for message in history[::2]]
    results = [message.additional_kwargs["tool_call_id"] for message in history[1::2]]
    assert calls == results


def test_one_loop_after_the_other(ann: View):
    memory = memory_of(ann)

    async def say(text: str) -> list[ChatMessage]:
        await memory.aput(user(text))
        return await memory.aget()

    asyncio.run(say("one"))
    assert texts(asyncio.run(say("two"))) == ["one", "two"]
    memory.put(user("three"))
    assert texts(asyncio.run(memory.aget_all())) == ["one", "two", "three"]


def test_several_loops_at_once(ann: View):
    memory = memory_of(ann)
    together = threading.Barrier(4)

    async def say(number: int) -> None:
        together.wait(60)
        await asyncio.gather(*(memory.aput(user(f"{number} {n}")) for n in range(5)))
        await memory.aget()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: asyncio.run(say(number)), range(4)))
    assert sorted(texts(memory.get_all())) == sorted(f"{a} {b}" for a in range(4) for b in range(5))


async def test_what_was_being_put_when_a_run_was_cancelled_is_whole(ann: View):
    memory = memory_of(ann)
    for number in range(10):
        task = asyncio.create_task(memory.aput_messages(tool_turn(number)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await memory.aput(user("done"))
    history = await memory.aget_all()
    calls = [m.blocks[0].tool_call_id for m in history if m.role == "assistant"]
    results = [m.additional_kwargs["tool_call_id"] for m in history if m.role == "tool"]
    assert calls == results


async def test_a_read_that_is_cancelled_leaves_the_memory_as_it_was(ann: View):
    memory = memory_of(ann)
    await memory.aput(user("Hello"))
    for _ in range(5):
        task = asyncio.create_task(memory.aget(input="What?"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await memory.aget() == [user("Hello")]


def test_users_and_sessions_are_kept_apart(memos: MemOS, call):
    ann, bob = memory_of(memos.at("acme", "ann")), memory_of(memos.at("acme", "bob"))
    other = memory_of(memos.at("acme", "ann"), "s2")
    call(ann, "put", user(PEANUTS))
    assert call(bob, "get_all") == call(other, "get_all") == []
    assert call(bob, "get", input="peanuts?") == []
    assert PEANUTS in prompt(call(other, "get", input="peanuts?"))
    call(bob, "put", user("I like peanuts."))
    call(bob, "reset")
    assert texts(call(ann, "get_all")) == [PEANUTS]
    assert "I like" not in prompt(call(other, "get", input="And peanuts?"))
