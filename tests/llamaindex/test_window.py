"""What a prompt shows of a history, by a limit of tokens."""

from __future__ import annotations

import random

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

    def test_no_prompt_begins_with_an_answer(self, ann: View, call):
        greeting = assistant("Hello, I am Bo.")
        memory = self.memory(ann, 100, greeting, *tool_turn(), user("Hi."), assistant("So."))
        assert texts(call(memory, "get")) == ["Hi.", "So."]
        system = ChatMessage(role="system", content="Be kind.")
        memory.set([system, greeting, user("Hi.")])
        assert texts(call(memory, "get")) == ["Be kind.", "Hi."]

    def test_before_a_question_that_is_not_stored_yet_no_answer_stands_alone(self, ann: View, call):
        memory = self.memory(ann, 100, assistant("Hello, I am Bo."))
        assert call(memory, "get", input="Hi.") == []
        assert texts(call(memory, "get")) == ["Hello, I am Bo."]

    def test_parallel_calls_stay_with_all_their_results(self, ann: View):
        calls = [tool_turn(number) for number in (1, 2)]
        both = ChatMessage(role="assistant", blocks=[turn[0].blocks[0] for turn in calls])
        results = [turn[1] for turn in calls]
        turn = [user("a"), *tool_turn(3), both, *results]
        assert self.memory(ann, 100, *turn).get() == turn
        cost = sum(window.tokens_of(message, words) for message in [user("a"), both, *results])
        assert self.memory(ann, cost).get() == [user("a"), both, *results]
        assert self.memory(ann, cost - 1).get() == [user("a")]

    def test_a_window_is_whole_turns_within_its_limit(self, ann: View):
        dice = random.Random(3)
        said: list[ChatMessage] = []
        for number in range(40):
            said += [user("word " * dice.randrange(1, 9))]
            said += [one for n in range(dice.randrange(3)) for one in tool_turn(10 * number + n)]
            said += [assistant("word " * dice.randrange(1, 9))] * dice.randrange(2)
        memory = self.memory(ann, 1, *said)
        newest = max(at for at, message in enumerate(said) if message.role == "user")
        for limit in range(1, 300, 7):
            memory.token_limit = limit
            got = memory.get()
            assert got[0].role == "user"
            cost = sum(window.tokens_of(message, words) for message in got)
            assert cost <= limit or got == [said[newest]]
            calls = [b.tool_call_id for m in got for b in m.blocks if b.block_type == "tool_call"]
            results = [m.additional_kwargs["tool_call_id"] for m in got if m.role == "tool"]
            assert calls == results

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

    @pytest.mark.parametrize("limit", range(20, 200, 15))
    def test_nothing_is_shown_twice(self, ann: View, limit: int):
        MemOSMemory.from_defaults(memos=ann).put(user("Peanuts grow in the ground."))
        memory = MemOSMemory.from_defaults(
            memos=ann, session_id="s1", token_limit=limit, tokenizer_fn=words, k=20
        )
        said = [user(f"peanut number{n} of peanuts") for n in range(30)]
        memory.put_messages([*said, user("Which peanuts?")])
        for _ in range(2):  # searched, and kept
            got = memory.get()
            shown = prompt(got)
            assert max(shown.count(f"number{n} ") for n in range(30)) == 1
            assert sum(window.tokens_of(message, words) for message in got) <= limit
            assert got[-1].blocks[-1].text == "Which peanuts?"

    def test_the_caller_s_own_tokens_leave_less_to_both(self, ann: View):
        MemOSMemory.from_defaults(memos=ann).put_messages(
            [user(f"peanut fact {n} about peanuts") for n in range(30)]
        )
        memory = self.memory(ann, 120, *(user(f"we talk of peanuts {n}") for n in range(40)))
        memory.k = 20
        for initial in range(0, 130, 10):
            got = memory.get(initial_token_count=initial)
            cost = sum(window.tokens_of(message, words) for message in got)
            assert cost <= 120 - initial or texts(got) == ["we talk of peanuts 39"]

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
