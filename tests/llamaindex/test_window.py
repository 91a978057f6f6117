"""What a prompt shows of a history, by a limit of tokens."""

from __future__ import annotations

import llama_index.core
import pytest
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.llms import ChatMessage

from memos_core import View
from memos_llamaindex import MemOSMemory, window
from tests.llamaindex.scripted import (
    PEANUTS,
    assistant,
    prompt,
    texts,
    tool_turn,
    user,
    words,
)


class TestTokenLimit:
    def memory(self, ann: View, limit: int, *messages: ChatMessage) -> MemOSMemory:
        memory = MemOSMemory.from_defaults(
            memos=ann, session_id="s1", token_limit=limit, tokenizer_fn=words, k=0
        )
        memory.put_messages(list(messages))
        return memory

    def test_whole_turns_go_the_oldest_first(self, ann: View, call):
        turns = [user("a a"), assistant("b b"), user("c c"), assistant("d d"), user("e e")]
        assert texts(call(self.memory(ann, 10, *turns), "get")) == texts(turns)
        memory = self.memory(ann, 9)
        assert texts(call(memory, "get")) == ["c c", "d d", "e e"]
        assert texts(call(memory, "get", initial_token_count=3)) == ["c c", "d d", "e e"]
        assert texts(call(memory, "get", initial_token_count=4)) == ["e e"]
        assert texts(call(memory, "get", initial_token_count=99)) == ["e e"]
        assert texts(call(memory, "get_all")) == texts(turns)

    def test_the_opening_system_message_stays(self, ann: View):
        system = ChatMessage(role="system", content="Be kind.")
        memory = self.memory(ann, 4, system, user("a a"), assistant("b b"), user("c c"))
        assert texts(memory.get()) == ["Be kind.", "c c"]

    def test_calls_and_results_stay_together_and_count(self, ann: View):
        memory = self.memory(ann, 10, user("old"), user("a"), *tool_turn(1), *tool_turn(2))
        cost = [window.tokens_of(message, words) for message in memory.get_all()]
        assert cost == [1, 1, 1, 4, 1, 4]
        got = memory.get()
        assert got == [user("a"), *tool_turn(2)]
        assert sum(window.tokens_of(message, words) for message in got) <= 10

    def test_a_question_over_the_limit_is_shown_alone(self, ann: View):
        memory = self.memory(ann, 3, user("old"), user("a b c d e"), assistant("f"))
        assert texts(memory.get()) == ["a b c d e"]

    def test_without_a_question_the_end_is_shown(self, ann: View):
        memory = self.memory(ann, 2, assistant("a a"), assistant("b b"))
        assert texts(memory.get()) == ["b b"]

    def test_a_picture_has_a_price(self, ann: View):
        picture = ChatMessage(role="user", blocks=[ImageBlock(image=b"\x89PNG")])
        assert len(self.memory(ann, 100, picture, user("a")).get()) == 1

    @pytest.mark.parametrize("limit", [40, 60, 80, 120, 200])
    def test_memories_count(self, ann: View, limit: int):
        MemOSMemory.from_defaults(memos=ann).put_messages(
            [user(f"peanut fact {n} about peanuts") for n in range(30)]
        )
        memory = MemOSMemory.from_defaults(
            memos=ann, session_id="s1", token_limit=limit, tokenizer_fn=words, k=20
        )
        memory.put_messages([user(f"we talk of peanuts {n}") for n in range(40)])

        got = memory.get()

        assert sum(window.tokens_of(message, words) for message in got) <= limit
        assert got[-1].blocks[-1].text == "we talk of peanuts 39"
        assert len(got) > 3
        if limit >= 80:
            assert "<memory>" in prompt(got)

    def test_what_no_longer_fits_is_recalled(self, ann: View):
        memory = MemOSMemory.from_defaults(
            memos=ann, session_id="s1", token_limit=100, tokenizer_fn=words
        )
        memory.put(user(PEANUTS))
        memory.put_messages([user(f"the weather is fine on day {n}") for n in range(30)])
        memory.put(user("May I eat peanuts?"))
        assert prompt(memory.get()).count(PEANUTS) == 1

    def test_memories_never_push_the_question_out(self, ann: View):
        MemOSMemory.from_defaults(memos=ann).put(user(PEANUTS))
        memory = self.memory(ann, 5, user("May I eat peanuts now?"))
        memory.k = 5
        assert memory.get() == [user("May I eat peanuts now?")]


class TestTokenizer:
    @pytest.fixture(autouse=True)
    def forget_loaded(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(llama_index.core, "global_tokenizer", None)
        window.loaded_tokenizer.cache_clear()
        yield
        window.loaded_tokenizer.cache_clear()

    def test_the_default_needs_no_network(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
        assert window.default_tokenizer()("peanuts") != window.quarters("peanuts")

    def test_without_a_vocabulary_four_characters_are_a_token(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        def offline():
            raise ConnectionError

        monkeypatch.setattr(llama_index.core.utils, "get_tokenizer", offline)
        assert len(window.default_tokenizer()("123456789")) == 3

    def test_the_global_one_is_taken(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(llama_index.core, "global_tokenizer", words)
        assert window.default_tokenizer() is words
