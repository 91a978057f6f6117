"""KV caches as cubes: they live by the rules of what is made of memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memos_core import (
    Caller,
    CubeNotFound,
    InvalidInput,
    Kind,
    MemCube,
    MemOS,
    NotPermitted,
    Relation,
    State,
    View,
)
from memos_core.cached import CacheRecord

RECORD = CacheRecord(
    members=(),
    fingerprint={"key": "model-1", "dtype": "float32"},
    keys=("h", "a", "b"),
    tokens=(3, 5, 7),
    report={"max_difference": 1e-6},
)
FACTS = ["Ann likes tea.", "Ann lives in Oslo."]


def record(facts: Sequence[MemCube], *keys: str) -> CacheRecord:
    keys = keys or RECORD.keys
    members = tuple(fact.id for fact in facts)
    return replace(RECORD, members=members, keys=keys, tokens=RECORD.tokens[: len(keys)])


@pytest.fixture
def cached(ann: View) -> tuple[MemCube, list[MemCube]]:
    facts = ann.add(FACTS)
    return ann.keep_cache(record(facts)), facts


def test_a_cache_is_a_cube_made_of_its_memories(view: View, ann: View, cached: Any) -> None:
    cache, facts = cached
    assert (cache.kind, cache.semantic_type) == (Kind.ACTIVATION, "kv_cache")
    assert cache.text == "KV cache of 2 memories, 15 tokens"
    (one,) = view.remembered([cache.id])
    assert one.cache == record(facts)
    assert [member.id for member in one.members] == [fact.id for fact in facts]
    assert [found.cube.id for found in view.caches()] == [cache.id]
    assert view.caches("model-1")[0].cache == record(facts)
    assert view.caches("model-2") == []
    steps = {(edge.parent, edge.relation) for edge in ann.provenance(cache.id).edges}
    assert steps == {(fact.id, Relation.DERIVED) for fact in facts}
    assert ann.events(kind="promoted")[0].cube_ids == (cache.id,)


def test_memories_are_read_in_the_order_asked_and_that_is_logged(view: View, cached: Any) -> None:
    cache, (tea, oslo) = cached
    found = view.remembered([oslo.id, cache.id, str(tea.id)])
    assert [one.cube.id for one in found] == [oslo.id, cache.id, tea.id]
    assert [member.text for member in found[0].members] == [oslo.text]
    (event,) = view.events(kind="read")
    assert set(event.cube_ids) == {cache.id, tea.id, oslo.id}
    assert view.get(tea.id).state is State.ACTIVATED


def test_the_same_cache_is_kept_once(ann: View, cached: Any) -> None:
    cache, facts = cached
    assert ann.keep_cache(record(facts)).id == cache.id
    other = ann.keep_cache(record(facts, "h", "a", "c"), name="Ann")
    assert other.id != cache.id
    assert other.text == "Ann"


def test_it_is_kept_without_a_look_at_others(
    ann: View, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, facts = cached
    monkeypatch.setattr(View, "caches", None)
    assert ann.keep_cache(record(facts)).id == cache.id
    assert ann.keep_cache(record(facts, "h", "a", "c")).id != cache.id


def test_caches_are_asked_for_by_what_they_hold(view: View, ann: View, cached: Any) -> None:
    cache, facts = cached
    other = ann.keep_cache(record(facts[:1], "h", "x"))

    def holding(*keys: str) -> list[MemCube]:
        return [one.cube for one in view.caches("model-1", holding=keys)]

    assert [one.id for one in holding("h")] == [cache.id, other.id]
    assert [one.id for one in holding("x", "y")] == [other.id]
    assert holding() == []
    ann.archive(facts[1].id)
    assert [one.cube.id for one in view.caches(searchable=True)] == [other.id]
    assert [one.cube.id for one in view.caches()] == [cache.id, other.id]


def test_equal_texts_of_other_memories_are_another_cache(ann: View, cached: Any) -> None:
    cache, (tea, _) = cached
    again = ann.add(FACTS)
    other = ann.keep_cache(record(again))
    ann.forget(tea.id)
    assert [one.cube.id for one in ann.caches()] == [other.id]
    assert other.id != cache.id


ENDINGS: dict[str, Callable[[View, MemCube], object]] = {
    "update": lambda view, cube: view.update(cube.id, "Ann likes coffee."),
    "forget": lambda view, cube: view.forget(cube.id),
    "expire": lambda view, cube: view.expire(cube.id),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_it_ends_with_the_first_of_its_memories_and_whoever_listens_is_told(
    ann: View, cached: Any, how: str
) -> None:
    cache, (tea, _) = cached
    assert ann.live_keys() == {"h", "a", "b"}
    with ann.cache_news() as news:
        assert not news.wait(0.05)
        ENDINGS[how](ann, tea)
        assert news.wait(10)
    assert ann.caches() == []
    assert ann.live_keys() == frozenset()
    with pytest.raises(CubeNotFound):
        ann.remembered([cache.id])


def test_what_has_expired_lives_no_more_before_it_is_swept(
    ann: View, cached: Any, database: str
) -> None:
    cache, (tea, _) = cached
    assert ann.live_keys() == {"h", "a", "b"}
    for one in (tea, cache):
        with psycopg.connect(database) as connection:
            connection.execute(
                "UPDATE memos.cube SET expires_at = CASE id WHEN %s THEN now() END", [one.id]
            )
        assert ann.live_keys() == frozenset()


def test_what_two_caches_share_lives_as_long_as_one_of_them(ann: View, cached: Any) -> None:
    _, (tea, oslo) = cached
    ann.keep_cache(record([tea], "h", "a"))
    ann.update(oslo.id, "Ann lives in Bergen.")
    assert ann.live_keys() == {"h", "a"}


def test_it_is_for_those_who_may_read_all_its_memories(memos: MemOS) -> None:
    mine = memos.at("acme", "ann", caller=Caller(user="ann"))
    his = memos.at("acme", "ann", caller=Caller(user="bob"))
    facts = mine.add(FACTS)
    cache = mine.keep_cache(record(facts))
    assert his.caches() == []
    with pytest.raises(CubeNotFound):
        his.remembered([facts[0].id])
    mine.grant(user="bob", cube=cache.id)
    assert his.caches() == []
    for fact in facts:
        mine.grant(user="bob", cube=fact.id)
    assert [one.cube.id for one in his.caches()] == [cache.id]
    with pytest.raises(NotPermitted):
        his.keep_cache(record(facts[:1], "x", "y"))
    mine.revoke(user="bob", cube=facts[1].id)
    assert his.caches() == []


def test_each_caller_keeps_a_cache_of_his_own(memos: MemOS) -> None:
    app = memos.at("acme", "ann")
    facts = app.add(FACTS)
    cache = app.keep_cache(record(facts))
    his = memos.at("acme", "ann", caller=Caller(user="bob"))
    own = his.keep_cache(record(facts))
    assert own.id != cache.id
    assert own.governance.owner == "bob"
    assert his.keep_cache(record(facts)).id == own.id


def test_a_callers_cache_lives_whoever_asks(memos: MemOS) -> None:
    mine = memos.at("acme", "ann", caller=Caller(user="ann"))
    mine.keep_cache(record(mine.add(FACTS)))
    assert memos.at("acme", "ann", caller=Caller(user="bob")).live_keys() == {"h", "a", "b"}


def test_other_tenants_know_nothing_of_it(memos: MemOS, cached: Any) -> None:
    cache, _ = cached
    other = memos.at("globex", "ann")
    assert other.caches() == []
    assert other.live_keys() == frozenset()
    with pytest.raises(CubeNotFound):
        other.remembered([cache.id])


def test_tensors_answer_no_question_and_are_not_rewritten(ann: View, cached: Any) -> None:
    cache, facts = cached
    found = ann.search("KV cache of 2 memories", k=10)
    assert {hit.cube.id for hit in found} == {fact.id for fact in facts}
    asked = ann.search("KV cache of 2 memories", k=10, kinds=[Kind.ACTIVATION])
    assert [hit.cube.id for hit in asked] == [cache.id]
    for verb in (
        lambda: ann.update(cache.id, "something else"),
        lambda: ann.derive("a summary", [cache.id]),
        lambda: ann.compose([cache.id], "bundle"),
        lambda: ann.fuse([cache.id, facts[0].id]),
        lambda: ann.keep_cache(record([cache], "x")),
    ):
        with pytest.raises(InvalidInput, match="holds tensors"):
            verb()
    tagged = ann.update(cache.id, tags=["hot"])
    with pytest.raises(InvalidInput, match="holds tensors"):
        ann.restore(cache.id, version=cache.version)
    assert ann.caches()[0].cube.tags == tagged.tags == ("hot",)


def test_an_archived_cache_is_not_offered(ann: View, cached: Any) -> None:
    cache, _ = cached
    ann.archive(cache.id)
    assert ann.caches() == []
    ann.activate(cache.id)
    assert [one.cube.id for one in ann.caches()] == [cache.id]


def test_an_archive_file_holds_the_memories_alone(
    memos: MemOS, ann: View, cached: Any, tmp_path: Path
) -> None:
    del cached
    ann.dump(tmp_path / "ann.memos")
    there = memos.at("globex", "ann")
    there.load(tmp_path / "ann.memos")
    assert {hit.text for hit in there.search("Ann", k=10)} == set(FACTS)
    assert there.caches() == []


def test_a_refused_cache_leaves_its_numbers_in_the_log(ann: View) -> None:
    facts = ann.add(FACTS)
    ann.refuse_cache(record(facts))
    (event,) = ann.events(kind="promotion_failed")
    assert event.details["report"] == {"max_difference": 1e-6}
    assert event.cube_ids == tuple(fact.id for fact in facts)
    assert ann.caches() == []


def test_a_pipeline_that_fails_keeps_no_cache(memos: MemOS) -> None:
    with pytest.raises(ZeroDivisionError), memos.pipeline() as p:
        view = p.at("acme", "ann")
        facts = view.add(FACTS)
        view.keep_cache(record(facts))
        raise ZeroDivisionError
    assert memos.at("acme", "ann").live_keys() == frozenset()
