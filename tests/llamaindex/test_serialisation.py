"""Memories that are written down and found again."""

from __future__ import annotations

import copy
import gc
import json
import pickle

import pytest

from memos_core import Caller, InvalidInput, MemOS, View
from memos_llamaindex import MemOSMemory, attach, registry
from tests.llamaindex.scripted import (
    texts,
    user,
    words,
)
from tests.support import WordEmbedder


class TestSaved:
    def test_what_is_saved_is_small_and_plain(self, memos: MemOS):
        caller = Caller(user="ann", roles=("nurse",), context={"place": "ward"})
        view = memos.at("acme", "ann", caller=caller)
        memory = MemOSMemory.from_defaults(memos=view, session_id="s1", token_limit=99, k=3)

        saved = memory.to_dict()

        assert json.loads(json.dumps(saved)) == saved
        assert {key: value for key, value in saved.items() if key != "mark"} == {
            "class_name": "MemOSMemory",
            "namespace": ["acme", "ann"],
            "caller": {"user": "ann", "roles": ["nurse"], "context": {"place": "ward"}},
            "session_id": "s1",
            "token_limit": 99,
            "k": 3,
            "resolve": False,
            "background": True,
            "backend": "default",
        }
        restored = MemOSMemory.from_dict(saved)
        assert restored.to_dict() == saved
        assert restored.memos.caller == caller

    def test_what_was_saved_before_there_was_a_field_has_its_default(self, ann: View):
        saved = MemOSMemory.from_defaults(memos=ann, resolve=True, background=False).to_dict()
        del saved["resolve"], saved["background"]
        restored = MemOSMemory.from_dict(saved)
        assert restored.resolve is False
        assert restored.background is True

    def test_in_this_process_functions_are_found_again(self, ann: View):
        def resolve(_messages: object) -> str:
            return "{}"

        memory = MemOSMemory.from_defaults(memos=ann, tokenizer_fn=words, resolve=resolve)
        plain = MemOSMemory.from_defaults(memos=ann)
        saved, other = (json.loads(json.dumps(one.to_dict())) for one in (memory, plain))
        del memory, plain
        gc.collect()

        restored = MemOSMemory.from_dict(saved)

        assert (restored.tokenizer_fn, restored.resolve) == (words, resolve)
        assert MemOSMemory.from_dict(other).tokenizer_fn is not words
        assert MemOSMemory.from_dict(other).resolve is False

    def test_in_another_process_functions_are_those_attached(self, ann: View):
        def resolve(_messages: object) -> str:
            return "{}"

        for resolving, expected in ((False, False), (True, resolve), (resolve, resolve)):
            memory = MemOSMemory.from_defaults(memos=ann, resolve=resolving)
            saved = {**memory.to_dict(), "mark": "of another process"}
            attach(ann, tokenizer_fn=words, resolve=resolve)
            restored = MemOSMemory.from_dict(saved)
            assert (restored.tokenizer_fn, restored.resolve) == (words, expected)
        attach(ann)
        assert MemOSMemory.from_dict(saved).resolve is True
        assert MemOSMemory.from_dict(saved).tokenizer_fn is not words

    def test_functions_of_many_memories_are_let_go(self, ann: View):
        first = MemOSMemory.from_defaults(memos=ann, tokenizer_fn=lambda text: text.split())
        saved = first.to_dict()
        for _ in range(300):
            MemOSMemory.from_defaults(memos=ann, tokenizer_fn=lambda text: text.split())
        del first
        gc.collect()
        assert MemOSMemory.from_dict(saved).tokenizer_fn("one two") != ["one", "two"]

    def test_a_view_of_the_moment_is_found_again(self, memos: MemOS):
        memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann"))
        memory.put(user("Hello"))
        saved = memory.to_dict()
        del memory
        gc.collect()
        assert MemOSMemory.from_dict(saved).get_all() == [user("Hello")]

    def test_two_databases_under_one_name_are_not_mixed_up(
        self, memos: MemOS, new_database, template: str
    ):
        with MemOS.open(new_database(template), embedder=WordEmbedder()) as other:
            one = MemOSMemory.from_defaults(memos=memos, session_id="s")
            two = MemOSMemory.from_defaults(memos=other, session_id="s")
            one.put(user("one"))
            two.put(user("two"))
            assert texts(MemOSMemory.from_dict(one.to_dict()).get_all()) == ["one"]
            assert texts(MemOSMemory.from_dict(two.to_dict()).get_all()) == ["two"]

    def test_a_saved_memory_goes_on_where_it_was(self, memos: MemOS, new_database, template: str):
        with MemOS.open(new_database(template), embedder=WordEmbedder()) as other:
            attach(other)
            memory = MemOSMemory.from_defaults(memos=memos, session_id="s")
            MemOSMemory.from_dict(memory.to_dict()).put(user("Hello"))
            assert texts(memory.get_all()) == ["Hello"]
            assert other.messages() == []

    def test_one_that_was_closed_is_not_found(self, database: str):
        first = MemOS.open(database, embedder=WordEmbedder())
        saved = MemOSMemory.from_defaults(memos=first, session_id="s").to_dict()
        first.close()
        with pytest.raises(InvalidInput, match="no MemOS is attached"):
            MemOSMemory.from_dict(saved)
        with MemOS.open(database, embedder=WordEmbedder()) as second:
            MemOSMemory.from_defaults(memos=second)
            MemOSMemory.from_dict(saved).put(user("Hello"))
            assert [message.content for message in second.messages()] == ["Hello"]

    def test_another_process_attaches_its_own(self, memos: MemOS, database: str):
        memory = MemOSMemory.from_defaults(memos=memos.at("acme", "ann"), backend="main")
        memory.put(user("Hello"))
        saved = memory.to_dict()
        memos.close()
        with MemOS.open(database, embedder=WordEmbedder()) as again:
            attach(again, name="main")
            assert MemOSMemory.from_dict(saved).get_all() == [user("Hello")]

    def test_nothing_attached_says_what_to_do(self, ann: View):
        saved = {**MemOSMemory.from_defaults(memos=ann).to_dict(), "mark": "", "backend": "main"}
        with pytest.raises(InvalidInput, match=r"attach\(memos, name='main'\)"):
            MemOSMemory.from_dict(saved)

    @pytest.mark.parametrize(
        "twin",
        [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],  # noqa: S301
    )
    def test_copies_share_the_connection(self, memory: MemOSMemory, twin):
        memory.put(user("Hello"))
        other = twin(memory)
        other.put(user("again"))
        assert texts(memory.get_all()) == ["Hello", "again"]
        assert other.token_limit == memory.token_limit

    def test_it_keeps_no_memos_alive(self, database: str):
        memos = MemOS.open(database, embedder=WordEmbedder())
        MemOSMemory.from_defaults(memos=memos, backend="brief")
        memos.close()
        del memos
        gc.collect()
        assert "brief" not in registry.in_use

    def test_what_is_attached_is_kept_until_it_is_closed(self, database: str, memos: MemOS):
        attach(MemOS.open(database, embedder=WordEmbedder()), name="kept")
        gc.collect()
        registry.attached["kept"].engine.close()
        attach(memos, name="other")
        assert set(registry.attached) == {"other"}
