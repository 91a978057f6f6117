"""What is read behind an answer: when it begins, who waits for it, and what becomes of failures."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage

from memos_core import EmbedderUnavailable, MemOS, Rules, SensitiveText, View, background
from memos_core.background import Background, background_of
from memos_core.embedder import Vectors
from memos_core.sensitivity import Action, Sensitive
from memos_llamaindex import (
    MemOSMemory,
    MemOSMemoryBlock,
    MemOSRetriever,
    MemOSToolSpec,
    behind,
)
from tests.llamaindex.scripted import PEANUTS, assistant, prompt, texts, tool_turn, user, words
from tests.support import WordEmbedder, until


class Gate:
    """Lets texts be embedded once it is open; keeps which were."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.passed: list[str] = []


class GatedEmbedder(WordEmbedder):
    """Waits before it embeds a text with a word, or refuses one with another."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.waits_for = self.fails_for = "nothing of the kind"

    def embed(self, texts: Sequence[str]) -> Vectors:
        if any(self.waits_for in text for text in texts):
            assert self.gate.open.wait(60)
        if any(self.fails_for in text for text in texts):
            raise EmbedderUnavailable("no model")
        self.gate.passed += texts
        return super().embed(texts)


@pytest.fixture
def embedder() -> Iterator[GatedEmbedder]:
    embedder = GatedEmbedder()
    yield embedder
    embedder.gate.open.set()  # else a failed test waits for it


@pytest.fixture
def memos(database: str, embedder: GatedEmbedder) -> Iterator[MemOS]:
    with MemOS.open(database, embedder=embedder) as memos:
        yield memos
        embedder.gate.open.set()


def memory_of(view: View, session: str = "s1", **options: Any) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=view, session_id=session, tokenizer_fn=words, **options)


def test_put_returns_once_it_is_stored(ann: View, embedder: GatedEmbedder, call):
    embedder.waits_for = "peanuts"
    memory = memory_of(ann)

    call(memory, "put", user(PEANUTS))

    assert texts(call(memory, "get_all")) == [PEANUTS]
    assert ann.stats().cubes == 0
    with pytest.raises(TimeoutError):
        call(memory, "flush", 0.01)
    embedder.gate.open.set()
    call(memory, "flush")
    assert [hit.text for hit in ann.search("peanuts")] == [PEANUTS]


def test_a_question_of_its_own_session_waits_for_nothing(ann: View, embedder: GatedEmbedder, call):
    embedder.waits_for = "peanuts"
    memory = memory_of(ann)
    call(memory, "put", assistant(PEANUTS))
    call(memory, "put", user("Which?"))
    assert texts(call(memory, "get")) == ["Which?"]  # an answer without a question opens no prompt
    assert texts(call(memory, "get_all")) == [PEANUTS, "Which?"]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, embedder: GatedEmbedder) -> list[int]:
    """How many jobs were waited for, each time; the gate opens when somebody waits."""
    found: list[int] = []
    wait_for, await_for = background.wait_for, background.await_for

    def opening(pending: list[Any], *timeout: float | None) -> None:
        if pending:
            found.append(len(pending))
            embedder.gate.open.set()
        wait_for(pending, *timeout)

    async def aopening(pending: list[Any], *timeout: float | None) -> None:
        if pending:
            found.append(len(pending))
            embedder.gate.open.set()
        await await_for(pending, *timeout)

    monkeypatch.setattr(background, "wait_for", opening)
    monkeypatch.setattr(background, "await_for", aopening)
    return found


def test_a_prompt_waits_for_what_other_sessions_said_before(
    ann: View, embedder: GatedEmbedder, call, waits: list[int]
):
    embedder.waits_for = "I am allergic"
    call(memory_of(ann, "s0"), "put", user(PEANUTS))
    memory = memory_of(ann)
    call(memory, "put", user("May I eat peanuts?"))

    assert PEANUTS in prompt(call(memory, "get"))
    assert waits == [1]


async def test_a_block_waits_for_what_other_sessions_said_before(
    ann: View, embedder: GatedEmbedder, waits: list[int]
):
    embedder.waits_for = "I am allergic"
    block = MemOSMemoryBlock(memos=ann)
    await block.aput([user(PEANUTS)], session_id="s0")

    assert PEANUTS in await block.aget([user("May I eat peanuts?")], session_id="s1")
    assert waits == [1]


SEARCHES: list[Callable[[View], Any]] = [
    lambda ann: MemOSRetriever(memos=ann).retrieve("peanuts"),
    lambda ann: MemOSRetriever(memos=ann).aretrieve("peanuts"),
    lambda ann: MemOSToolSpec(ann).recall("peanuts"),
    lambda ann: MemOSToolSpec(ann).arecall("peanuts"),
    lambda ann: MemOSToolSpec(ann).forget(PEANUTS),
    lambda ann: MemOSToolSpec(ann).aforget(PEANUTS),
]


@pytest.mark.parametrize("search", SEARCHES)
async def test_who_searches_waits_for_what_was_said_before(
    ann: View, embedder: GatedEmbedder, waits: list[int], search: Callable[[View], Any]
):
    embedder.waits_for = "I am allergic"
    memory_of(ann).put(user(PEANUTS))
    found = search(ann)
    if inspect.isawaitable(found):
        found = await found
    assert waits == [1]
    assert PEANUTS in str(found) or (ann.stats().cubes == 0 and "Forgotten" in found)


def test_a_prompt_waits_for_what_its_own_session_no_longer_shows(
    ann: View, embedder: GatedEmbedder, call, waits: list[int]
):
    embedder.waits_for = "I am allergic"
    memory = memory_of(ann, token_limit=100)
    said = [user(PEANUTS), *(user(f"the weather is fine on day {n}") for n in range(30))]
    call(memory, "put_messages", [*said, user("May I eat peanuts?")])
    assert prompt(call(memory, "get")).count(PEANUTS) == 1
    assert waits == [1]


def test_a_view_of_all_waits_for_those_inside_it(memos: MemOS, embedder: GatedEmbedder, ann: View):
    embedder.waits_for = "peanuts"
    memory_of(ann).put(user(PEANUTS))
    assert len(behind.unread(memos.at("acme"))) == 1
    assert behind.unread(memos.at("acme", "bob")) == []
    assert behind.unread(memos.at("acme", "ann", "work")) == []


def test_no_prompt_waits_for_a_long_import_to_end(
    ann: View, embedder: GatedEmbedder, call, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(background, "PATIENCE", 0.01)
    embedder.waits_for = "I am allergic"
    call(memory_of(ann, "s0"), "put", user(PEANUTS))
    call(memory := memory_of(ann), "put", user("May I eat peanuts?"))
    assert texts(call(memory, "get")) == ["May I eat peanuts?"]


def test_no_prompt_waits_for_a_language_model(ann: View, call, waits: list[int]):
    may_answer, asked = threading.Event(), threading.Event()

    def think(_messages: object) -> str:
        asked.set()
        assert may_answer.wait(60)
        return '{"outcome": "update", "other": 1, "text": null}'

    ann.add("I have two dogs.")
    call(memory_of(ann, "s0", resolve=think), "put", user("I have three dogs."))
    call(memory_of(ann, "s2"), "put", user("I have a cat."))  # is read after it
    call(memory := memory_of(ann), "put", user("How many dogs have I?"))

    assert "I have two dogs." in prompt(call(memory, "get"))
    assert waits == []
    assert asked.wait(60)
    may_answer.set()
    call(memory, "flush")
    assert "I have three dogs." in {hit.text for hit in ann.search("dogs")}


def test_a_question_is_read_once_its_prompt_is_made(
    ann: View, embedder: GatedEmbedder, call, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(background, "SOON", 120.0)  # longer than `until` waits
    memory = memory_of(ann)
    call(memory, "put", user("May I eat peanuts?"))
    assert embedder.gate.passed == []
    call(memory, "get")
    until(lambda: ann.stats().cubes == 1)
    assert len(embedder.gate.passed) == 2
    assert embedder.gate.passed[-1] == "May I eat peanuts?"


def test_what_is_never_asked_about_is_read_too(ann: View, call):
    call(memory_of(ann), "put", user(PEANUTS))
    until(lambda: ann.stats().cubes == 1)


@pytest.mark.parametrize("last", [user(PEANUTS), assistant(PEANUTS)])
def test_closing_waits_until_all_is_read(database: str, call, last: ChatMessage):
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        call(memory_of(memos.at("acme", "ann")), "put", last)
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        assert [hit.text for hit in memos.at("acme", "ann").search("peanuts")] == [PEANUTS]


def test_a_memory_that_is_gone_leaves_its_work(ann: View, call):
    call(memory_of(ann), "put", user(PEANUTS))
    gc.collect()
    restored = MemOSMemory.from_dict(memory_of(ann, "s2").to_dict())
    call(restored, "flush")
    assert ann.stats().cubes == 1


@pytest.fixture
def make_older(age: Callable[[str], None], database: str) -> Callable[[], None]:
    return lambda: age(database)


def test_what_cannot_be_read_is_told_to_its_user_and_read_later(
    memos: MemOS, embedder: GatedEmbedder, call, caplog: pytest.LogCaptureFixture, make_older
):
    embedder.fails_for = "peanuts"
    ann = memos.at("acme", "ann")
    memory, bob = memory_of(ann), memory_of(memos.at("acme", "bob"))
    call(memory, "put", user(PEANUTS))
    call(bob, "put", user("Hello."))
    call(bob, "flush")
    with pytest.raises(EmbedderUnavailable):
        call(memory, "flush")
    call(memory, "flush")
    assert "acme/ann is not yet read" in caplog.text
    assert texts(call(memory, "get_all")) == [PEANUTS]

    embedder.fails_for = "nothing"
    make_older()
    call(memory, "put", assistant("Noted."))
    call(memory, "flush")
    assert PEANUTS in {hit.text for hit in ann.search("peanuts")}


def test_on_request_memories_are_made_at_once(ann: View, call):
    call(memory_of(ann, background=False), "put", user(PEANUTS))
    assert ann.stats().cubes == 1


async def test_on_request_a_block_makes_memories_at_once(ann: View):
    block = MemOSMemoryBlock(memos=ann, background=False)
    await block.aput([user(PEANUTS)], session_id="s1")
    assert ann.stats().cubes == 1


def test_in_a_pipeline_all_is_one_transaction(memos: MemOS, ann: View):
    with memos.pipeline(dry_run=True) as pipeline:
        here = pipeline.at("acme", "ann")
        memory_of(here).put(user(PEANUTS))
        assert here.search("peanuts")[0].text == PEANUTS
    assert ann.messages() == []


def test_what_no_memory_is_made_of_is_not_waited_for(ann: View, call):
    call(memory_of(ann), "put_messages", tool_turn())
    assert background_of(ann).pending() == []


def test_what_the_rules_refuse_is_refused_before_it_is_stored(ann: View, call):
    ann.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REFUSE}))
    memory = memory_of(ann)
    with pytest.raises(SensitiveText):
        call(memory, "put_messages", [user("Hello."), user("I am ann@example.org.")])
    assert call(memory, "get_all") == []
    assert background_of(ann).pending() == []


def test_what_is_said_while_it_is_closed_is_stored(
    memos: MemOS, ann: View, database: str, monkeypatch: pytest.MonkeyPatch
):
    begin = Background.begin

    def close_first(self: Background, **options: Any) -> None:
        memos.close()
        begin(self, **options)

    monkeypatch.setattr(Background, "begin", close_first)
    memory_of(ann).put(user(PEANUTS))
    with MemOS.open(database, embedder=WordEmbedder()) as again:
        assert [message.content for message in again.at("acme", "ann").messages()] == [PEANUTS]


async def test_users_wait_for_their_own(memos: MemOS, ann: View, embedder: GatedEmbedder):
    embedder.waits_for = "peanuts"
    bob = memory_of(memos.at("acme", "bob"))
    await memory_of(ann).aput(user(PEANUTS))
    await bob.aput(user("Hello."))
    await asyncio.wait_for(bob.aflush(), 60)
    assert memos.at("acme", "bob").stats().cubes == 1
    assert ann.stats().cubes == 0


LEAVE = """
import sys
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms.mock import MockLLM
from memos_core import MemOS
from memos_llamaindex import MemOSMemory
from tests.support import WordEmbedder

memos = MemOS.open(sys.argv[1], embedder=WordEmbedder())
memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann"), session_id="s1")
engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=memory)
engine.stream_chat("I am allergic to peanuts.")
"""


def test_a_program_that_just_ends_loses_nothing(ann: View, database: str):
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, database],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert [message.role for message in ann.messages()] == ["user", "assistant"]
    assert PEANUTS in [hit.text for hit in ann.search("peanuts")]


@pytest.mark.parametrize("ending", [asyncio.CancelledError, SystemExit])
def test_a_language_model_that_is_cancelled_or_exits_holds_up_nothing(
    ann: View, call, ending: type[BaseException]
):
    def decide(_messages: Any) -> str:
        raise ending

    memory_of(ann, "s0", background=False).put(user("I like red cheese."))
    memory = memory_of(ann, resolve=decide)
    call(memory, "put", user("I like blue cheese."))
    with pytest.raises(RuntimeError, match=ending.__name__):
        call(memory, "flush", 60)
    call(memory, "put", user("The sea is far."))
    call(memory, "flush", 60)  # and raises nothing


def test_language_models_leave_a_worker_to_what_takes_no_time(
    memos: MemOS, ann: View, embedder: GatedEmbedder
):
    begun, most = list[Any](), memos.engine.settings.pool_size

    def decide(messages: Any) -> str:
        begun.append(messages)
        return str(embedder.gate.open.wait(60))

    for number in range(most):
        one = memos.at("acme", f"user {number}")
        memory_of(one, "s0", background=False).put(user("I like red cheese."))
        memory_of(one, resolve=decide).put(assistant("I like blue cheese."))
    until(lambda: len(begun) == most // 2 - 1)
    memory_of(ann).put(user(PEANUTS))
    memory_of(ann).flush(60)
    embedder.gate.open.set()
    memory_of(memos.at("acme")).flush(60)
    assert len(begun) == most
