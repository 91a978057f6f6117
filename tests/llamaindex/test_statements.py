"""How often a memory goes to the database: reading is what every prompt waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from memos_core import View
from memos_core.engine import Engine
from memos_llamaindex import MemOSMemory
from tests.llamaindex.scripted import PEANUTS, assistant, tool_turn, user


@pytest.fixture
def trips(ann: View, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], int]:
    """Counts the transactions that a call makes before it returns."""
    ann.ingest([PEANUTS], session="s0")
    ann.search("warm")  # rules and speakers are asked for once a minute
    made: list[int] = []
    run = Engine.run

    def counting(self: Engine, *statements: Any) -> Any:
        made.append(threading.get_ident())
        return run(self, *statements)

    monkeypatch.setattr(Engine, "run", counting)

    def count(call: Callable[[], Any]) -> int:
        made.clear()
        call()
        return made.count(threading.get_ident())  # not what is read behind it

    return count


def memory_of(view: View, k: int = 5) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=view, session_id="s1", k=k)


def test_putting_is_one_transaction(ann: View, trips):
    memory = memory_of(ann)
    assert trips(lambda: memory.put(user("Hello"))) == 1
    assert trips(lambda: memory.put_messages([user("Hello"), *tool_turn(), assistant("Hi")])) == 1
    assert trips(lambda: memory.put_messages(tool_turn())) == 1


def test_reading_without_memories_is_one(ann: View, trips):
    memory = memory_of(ann, k=0)
    memory.put(user("Hello"))
    assert trips(memory.get) == 1
    assert trips(memory.get_all) == 1
    assert trips(lambda: memory.get(input="What?")) == 1


def test_reading_with_memories_is_one_more(ann: View, trips):
    memory = memory_of(ann)
    memory.put(user("May I eat peanuts?"))
    assert trips(memory.get) == 2
    assert trips(memory.get) == 2  # are they still as they were?
    assert trips(lambda: memory.get(input="And nuts?")) == 2


def test_a_turn_without_memories_is_not_searched_again(memos: Any, trips):
    memory = memory_of(memos.at("acme", "bob"))
    memory.put(user("May I eat peanuts?"))
    memory.get()
    assert trips(memory.get) == 1


def test_a_history_that_stays_as_it_is_is_read_and_not_written(ann: View, trips):
    memory = memory_of(ann)
    memory.put_messages([user("Hello"), assistant("Hi")])
    assert trips(lambda: memory.set(memory.get_all())) == 2
    assert trips(memory.reset) == 1
