"""Long sessions: no more is read of them than a prompt shows, and never another history."""

from __future__ import annotations

import random
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage

from memos_core import Caller, MemOS, View
from memos_llamaindex import MemOSMemory, history
from memos_llamaindex.window import Window
from tests.llamaindex.scripted import assistant, texts, tool_turn, user, words


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LATEST", (8, 16))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How many messages were asked for, in each statement."""
    asked: list[int | None] = []
    messages = View.messages

    def asking(self: View, **options: Any) -> Any:
        asked.append(options.get("limit"))
        return messages(self, **options)

    monkeypatch.setattr(View, "messages", asking)
    return asked


def memory_of(view: View, limit: int, **options: Any) -> MemOSMemory:
    return MemOSMemory.from_defaults(
        memos=view, session_id="s1", token_limit=limit, tokenizer_fn=words, k=0, **options
    )


def turns(number: int) -> list[ChatMessage]:
    return [one for n in range(number) for one in (user(f"question {n}"), assistant(f"answer {n}"))]


def shown_of(memory: MemOSMemory) -> list[ChatMessage]:
    """Return what the whole history shows."""
    everything = history.whole_history(memory.memos, memory.session_id)
    window = Window(everything, words, memory.token_limit)
    return window.messages(window.shown())


def test_a_short_history_is_one_statement(ann: View, read: list[int | None]):
    memory = memory_of(ann, 100)
    memory.put_messages(turns(3))
    assert memory.get() == turns(3)
    assert read == [8]


def test_of_a_long_history_the_end_is_read(ann: View, read: list[int | None]):
    memory = memory_of(ann, 8)
    memory.put_messages(turns(50))
    assert memory.get() == turns(50)[-4:]
    assert read == [8, None]  # once: how it opens
    for number in range(50, 60):
        read.clear()
        memory.put_messages(turns(60)[2 * number : 2 * number + 2])
        assert memory.get() == turns(number + 1)[-4:]
        assert read == [8]


def test_where_more_fits_more_is_read(ann: View, read: list[int | None]):
    memory_of(ann, 8).put_messages(turns(50))
    memory_of(ann, 8).get()
    # How much was enough is remembered, and tried first.
    for limit, statements in ((20, [8, 16]), (20, [16]), (60, [16, None]), (8, [16])):
        read.clear()
        assert memory_of(ann, limit).get() == turns(50)[-(limit // 4) * 2 :]
        assert read == statements


def test_system_messages_that_open_a_long_history_stay(ann: View):
    system = ChatMessage(role="system", content="Be kind.")
    memory = memory_of(ann, 10)
    memory.put_messages([system, *turns(50)])
    for _ in range(2):
        assert memory.get() == [system, *turns(50)[-4:]]


def test_a_history_that_was_set_meanwhile_is_shown(ann: View):
    memory, other = memory_of(ann, 12), memory_of(ann, 12)
    memory.put_messages(turns(50))
    memory.get()
    system = ChatMessage(role="system", content="Be kind.")
    other.set([system, user("anew")])
    assert memory.get() == [system, user("anew")]
    other.put_messages(turns(50))
    assert memory.get() == [system, *turns(50)[-4:]]


def test_a_history_that_was_reset_meanwhile_is_shown(ann: View, read: list[int | None]):
    memory, other = memory_of(ann, 100), memory_of(ann, 100)
    memory.put_messages(turns(50))
    memory.get()
    other.reset()
    assert memory.get() == []
    other.put_messages(turns(2))
    read.clear()
    assert memory.get() == turns(2)
    assert read == [8]
    other.put_messages(turns(50))
    assert memory.get() == shown_of(memory)


def test_what_was_forgotten_is_not_shown(ann: View):
    memory = memory_of(ann, 1_000)
    memory.put_messages(turns(50))
    memory.flush()
    memory.get()
    (cube,) = (hit.cube.id for hit in ann.search("question 3", k=100) if hit.text == "question 3")
    ann.forget(cube)
    assert "question 3" not in texts(memory.get())


def test_a_history_that_was_replaced_out_of_sight_is_shown(ann: View):
    memory, other = memory_of(ann, 12), memory_of(ann, 12)
    memory.put_messages(turns(50))
    memory.get()
    other.reset()
    system = ChatMessage(role="system", content="Be kind.")
    other.put_messages([system, *turns(50)])
    assert memory.get() == [system, *turns(50)[-4:]]


def test_of_a_shared_history_the_part_of_others_stays(memos: MemOS):
    ann, bob = (memos.at("acme", caller=Caller(user=name)) for name in ("ann", "bob"))
    memory_of(ann, 1_000).put_messages(turns(6))
    memory_of(bob, 1_000).put_messages(turns(3))
    memory_of(bob, 1_000).reset()
    for view in (ann, memos.at("acme")):
        assert memory_of(view, 1_000).get() == turns(6)


def test_an_end_shows_what_the_whole_would(ann: View):
    dice = random.Random(7)
    writer = memory_of(ann, 1_000)
    readers = [memory_of(ann, limit) for limit in (1, 5, 12, 30, 80)]
    for step in range(60):
        match dice.choice(["turn", "turn", "turn", "tools", "answer", "set", "reset", "system"]):
            case "turn":
                writer.put_messages([user(f"q {step}"), assistant("word " * dice.randrange(6))])
            case "tools":
                writer.put_messages([user(f"q {step}"), *tool_turn(), *tool_turn(2)])
            case "answer":
                writer.put(assistant(f"a {step}"))
            case "set" if dice.random() < 0.3:
                writer.set(writer.get_all()[dice.randrange(5) :])
            case "reset" if dice.random() < 0.2:
                writer.reset()
            case "system":
                writer.put(ChatMessage(role="system", content=f"s {step}"))
            case _:
                pass
        reader = dice.choice(readers)
        assert reader.get() == shown_of(reader), step
