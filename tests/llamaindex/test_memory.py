"""A session's history: what is put, set and reset."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage

from memos_core import InvalidInput, View
from memos_llamaindex import MemOSMemory
from tests.llamaindex.scripted import (
    PEANUTS,
    assistant,
    prompt,
    texts,
    tool_turn,
    user,
)


class TestHistory:
    def test_what_is_put_comes_back_in_order(self, memory: MemOSMemory, call):
        call(memory, "put", user("Hello"))
        call(memory, "put_messages", [assistant("Hi!"), user("Hello")])

        assert call(memory, "get_all") == [user("Hello"), assistant("Hi!"), user("Hello")]
        assert call(memory, "get") == [user("Hello"), assistant("Hi!"), user("Hello")]

    def test_put_messages_is_one_call(self, memory: MemOSMemory, ann: View, call):
        call(memory, "put_messages", [user("one"), assistant("two"), *tool_turn()])
        memory.flush()
        assert [event.kind for event in ann.events()] == ["ingested"]

    @pytest.mark.parametrize(
        "message",
        [
            ChatMessage(role="user", content=""),
            ChatMessage(role="user", blocks=[]),
            ChatMessage(role="model", content="Gemini says hello"),
            ChatMessage(role="user", blocks=[TextBlock(text="a"), TextBlock(text="b")]),
            ChatMessage(role="user", blocks=[ImageBlock(image=b"\x89PNG\r\n", detail="low")]),
            assistant("", tool_calls=[{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]),
            *tool_turn(),
        ],
        ids=["empty", "bare", "model", "two-blocks", "image", "openai-call", "call", "result"],
    )
    def test_a_message_comes_back_whole(self, memory: MemOSMemory, call, message: ChatMessage):
        call(memory, "put", message)
        assert call(memory, "get_all") == [message]
        assert call(memory, "get_all")[0] is not message

    def test_a_picture_whose_file_is_gone_leaves_its_text(self, memory: MemOSMemory, tmp_path):
        picture = tmp_path / "cat.png"
        picture.write_bytes(b"\x89PNG")
        memory.put(
            ChatMessage(role="user", blocks=[TextBlock(text="Look!"), ImageBlock(path=picture)])
        )
        picture.unlink()
        assert texts(memory.get_all()) == ["Look!"]

    @pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
    def test_what_no_database_keeps_is_replaced(self, memory: MemOSMemory, call, text: str):
        block = ToolCallBlock(tool_call_id="c", tool_name="t", tool_kwargs={"x": text})
        result = ChatMessage(role="tool", content=text, additional_kwargs={"tool_call_id": "c"})
        call(memory, "put_messages", [ChatMessage(role="assistant", blocks=[block]), result])
        asked, answered = memory.get_all()
        assert asked.blocks[0].tool_kwargs == {"x": "a\ufffdb"}
        assert answered.content == "a\ufffdb"
        assert answered.additional_kwargs == {"tool_call_id": "c"}

    def test_what_is_too_long_is_cut(self, memory: MemOSMemory):
        memory.put(assistant("x" * 1_000_001))
        (kept,) = texts(memory.get_all())
        assert kept is not None
        assert len(kept) <= 1_000_000
        assert kept.endswith("[1,000,001 characters, cut]")

    def test_what_agents_keep_beside_their_answers_is_no_memory(
        self, memory: MemOSMemory, ann: View
    ):
        said = [
            assistant("Thought: I need a tool.\nAction: f\nObservation: 7\nAnswer: It is seven."),
            assistant("Let me count.\n<execute>\nprint(7)\n</execute>"),
            user("Result of executing the code given:\n\n7"),
            assistant("<execute>pass</execute>"),
            user("Answer: my own"),
        ]
        memory.put_messages(said)
        assert memory.get_all() == said
        memory.flush()
        kept = [hit.text for hit in ann.search("seven count executing answer", k=9)]
        assert sorted(kept) == [
            "<execute>pass</execute>",
            "Answer: my own",
            "It is seven.",
            "Let me count.",
        ]

    def test_what_is_no_json_is_refused(self, memory: MemOSMemory):
        with pytest.raises(InvalidInput, match="JSON"):
            memory.put(assistant("hm", handle=object()))

    def test_sessions_have_their_own_history(self, memory: MemOSMemory, ann: View):
        memory.put(user("Hello"))
        assert MemOSMemory.from_defaults(memos=ann).get_all() == []
        assert MemOSMemory.from_defaults(memos=ann, session_id="s1").get_all() == [user("Hello")]

    def test_it_is_true_while_empty_and_gives_fresh_objects(self, memory: MemOSMemory):
        assert memory
        memory.put(user("Hello"))
        memory.get()[0].blocks[0].text = "changed"
        memory.get_all().clear()
        assert memory.get() == memory.get_all() == [user("Hello")]

    def test_reset_clears_the_history_and_keeps_the_memory(self, memory: MemOSMemory, call):
        call(memory, "put", user(PEANUTS))
        call(memory, "reset")
        assert call(memory, "get_all") == []
        assert PEANUTS in prompt(call(memory, "get", input="What about peanuts?"))

    async def test_concurrent_puts_all_arrive(self, memory: MemOSMemory):
        await asyncio.gather(*(memory.aput(user(f"fact {n}")) for n in range(40)))
        assert sorted(texts(await memory.aget_all())) == sorted(f"fact {n}" for n in range(40))

    async def test_concurrent_tool_turns_do_not_interleave(self, memory: MemOSMemory):
        await asyncio.gather(*(memory.aput_messages(tool_turn(n)) for n in range(10)))
        history = await memory.aget_all()
        calls = [message.blocks[0].tool_call_id for message in history[::2]]
        results = [message.additional_kwargs["tool_call_id"] for message in history[1::2]]
        assert calls == results

    async def test_nothing_runs_on_the_loop_or_in_asyncios_pool(self, ann: View):
        threads = set()

        def count(text: str) -> list[str]:
            threads.add(threading.current_thread().name)
            return text.split()

        memory = MemOSMemory.from_defaults(memos=ann, tokenizer_fn=count)
        await memory.aput(user("Hello"))
        await memory.aget()
        assert threads
        assert all(name.startswith("memos") for name in threads)


class TestSet:
    def cubes(self, memory: MemOSMemory) -> int:
        memory.flush()
        return memory.memos.stats().cubes

    def test_it_fills_an_empty_history(self, memory: MemOSMemory, call):
        call(memory, "set", [user("a"), assistant("b")])
        assert texts(memory.get_all()) == ["a", "b"]
        assert self.cubes(memory) == 2

    @pytest.mark.parametrize("source", ["get_all", "get"])
    def test_what_was_got_can_be_set(self, memory: MemOSMemory, ann: View, call, source: str):
        MemOSMemory.from_defaults(memos=ann, session_id="s0").put(user(PEANUTS))
        said = [user("May I eat peanuts?"), *tool_turn(), assistant("No.", refusal=None)]
        memory.put_messages(said)
        memory.flush()
        before = ann.stats()

        call(memory, "set", getattr(memory, source)())
        memory.flush()

        assert memory.get_all() == said
        assert (ann.stats().cubes, ann.stats().messages) == (before.cubes, before.messages)

    def test_only_what_is_new_is_stored(self, memory: MemOSMemory, call):
        memory.put_messages([user("yes"), assistant("ok"), user("yes")])
        call(memory, "set", [*memory.get_all(), user("yes"), assistant("done")])
        assert texts(memory.get_all()) == ["yes", "ok", "yes", "yes", "done"]
        assert self.cubes(memory) == 5

    def test_a_rewritten_history_is_not_remembered_twice(self, memory: MemOSMemory, call):
        memory.put_messages([user("a"), assistant("b"), user("c"), assistant("d")])
        system = ChatMessage(role="system", content="Be kind.")

        call(memory, "set", [system, user("c"), user("new"), assistant("b")])
        assert texts(memory.get_all()) == ["Be kind.", "c", "new", "b"]
        memory.put(user("next"))
        assert texts(memory.get_all()) == ["Be kind.", "c", "new", "b", "next"]
        call(memory, "set", [user("a"), assistant("b")])
        assert texts(memory.get_all()) == ["a", "b"]
        call(memory, "set", [])
        assert memory.get_all() == []
        call(memory, "set", [user("a"), assistant("b")])
        assert texts(memory.get_all()) == ["a", "b"]

        assert self.cubes(memory) == 6  # a b c d new next
        assert PEANUTS not in prompt(memory.get())

    def test_what_left_the_history_can_be_recalled(self, memory: MemOSMemory, call):
        call(memory, "put_messages", [user(PEANUTS), assistant("Noted.")])
        call(memory, "set", [user("May I eat peanuts?")])
        assert PEANUTS in prompt(memory.get())

    def test_a_history_taken_up_again_after_a_reset_is_not_remembered_twice(
        self, memory: MemOSMemory, call
    ):
        memory.put_messages([user("a"), assistant("b")])
        history = memory.get_all()
        call(memory, "reset")
        assert memory.get_all() == []
        call(memory, "set", history)
        assert texts(memory.get_all()) == ["a", "b"]
        assert self.cubes(memory) == 2
        call(memory, "reset")
        memory.put(user("c"))
        assert texts(memory.get_all()) == ["c"]

    def test_what_is_put_while_a_history_is_set_stays_in_it(
        self, memory: MemOSMemory, monkeypatch: pytest.MonkeyPatch
    ):
        memory.put_messages([user("a"), assistant("b"), user("c")])
        read = View.messages

        def read_then_lose_the_race(view: View, **options: Any) -> Any:
            logged = read(view, **options)
            monkeypatch.undo()
            memory.put(user("meanwhile"))
            return logged

        monkeypatch.setattr(View, "messages", read_then_lose_the_race)
        memory.set([assistant("b"), user("new")])
        assert texts(memory.get_all()) == ["b", "new", "meanwhile"]

    def test_what_is_forgotten_leaves_a_rewritten_history(self, memory: MemOSMemory, ann: View):
        memory.put_messages([user("a"), user(PEANUTS), user("b")])
        memory.set([user(PEANUTS), user("b")])
        memory.flush()
        ann.forget(next(hit.cube.id for hit in ann.search(PEANUTS) if hit.text == PEANUTS))
        assert texts(memory.get_all()) == ["b"]

    def test_reset_ends_a_rewritten_history(self, memory: MemOSMemory, call):
        memory.put_messages([user("a"), user("b")])
        call(memory, "set", [user("b")])
        call(memory, "reset")
        memory.put(user("c"))
        assert texts(memory.get_all()) == ["c"]
