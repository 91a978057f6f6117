"""Items: JSON values under keys, each of which is a memory too."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from memos_core import (
    Caller,
    CubeExists,
    CubeFrozen,
    CubeNotFound,
    EmbedderMismatch,
    GetItem,
    InvalidFilter,
    InvalidInput,
    InvalidNamespace,
    InvalidVector,
    Item,
    LimitExceeded,
    ListNamespaces,
    MemOS,
    NotPermitted,
    PathMatch,
    PutItem,
    Rules,
    SearchItems,
    SensitiveText,
    View,
)
from tests.support import WordEmbedder


def texts(value: Mapping[str, object]) -> list[str]:
    return [text for text in value.values() if isinstance(text, str)]


def put(view: View, key: str, value: dict[str, Any] | None, *at: str, **options: Any) -> None:
    options.setdefault("texts", texts)
    assert view.batch_items([PutItem(namespace=at, key=key, value=value, **options)]) == [None]


def get(view: View, key: str, *at: str, refresh: bool = False) -> Item | None:
    (item,) = view.batch_items([GetItem(namespace=at, key=key, refresh=refresh)])
    assert item is None or isinstance(item, Item)
    return item


def search(view: View, *at: str, **options: Any) -> list[Item]:
    (found,) = view.batch_items([SearchItems(namespace=at, **options)])
    assert isinstance(found, list)
    return found  # type: ignore[return-value]


def keys(items: list[Item]) -> list[str]:
    return [item.key for item in items]


def test_a_value_is_got_as_it_was_put(ann: View) -> None:
    value = {"text": "tea", "count": 3, "deep": {"list": [1, None, "x"]}, "on": True}
    put(ann, "a", value, "facts")
    item = get(ann, "a", "facts")
    assert item is not None
    assert (item.value, item.key, item.namespace, item.version) == (value, "a", ("facts",), 1)
    assert item.created_at == item.updated_at
    assert item.expires_at is None
    assert get(ann, "b", "facts") is None
    assert get(ann, "a") is None


def test_labels_of_any_kind(ann: View) -> None:
    for label in ("ann@acme.org", "a.b", "langgraph", "42", "東京", "%_\\", "a/b"):
        put(ann, "k", {"text": label}, label, "x")
        item = get(ann, "k", label, "x")
        assert item is not None
        assert item.value == {"text": label}
        assert keys(search(ann, label)) == ["k"]


def test_labels_that_begin_alike_are_apart(ann: View) -> None:
    for label in ("acme", "acme-corp", "acme_", "acm"):
        put(ann, label, {"text": "x"}, label)
    assert keys(search(ann, "acme")) == ["acme"]


def test_a_put_is_a_version_of_one_cube(ann: View) -> None:
    put(ann, "a", {"text": "Ann drinks tea."})
    first = get(ann, "a")
    put(ann, "a", {"text": "Ann drinks milk."})
    second = get(ann, "a")
    assert first is not None
    assert second is not None
    assert second.cube == first.cube
    assert (first.version, second.version) == (1, 2)
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert [cube.text for cube in ann.history(first.cube)] == [
        "Ann drinks tea.",
        "Ann drinks milk.",
    ]
    assert ann.get(first.cube, as_of=first.updated_at).text == "Ann drinks tea."


def test_other_verbs_find_it_and_forget_it(ann: View) -> None:
    put(ann, "a", {"text": "Ann drinks tea."}, "facts")
    (hit,) = ann.search("tea", filter={"key": "a"})
    assert hit.cube.metadata["value"] == {"text": "Ann drinks tea."}
    assert hit.cube.namespace[-1] == "facts"
    ann.forget(hit.cube.id)
    assert get(ann, "a", "facts") is None
    put(ann, "a", {"text": "Ann drinks milk."}, "facts")
    item = get(ann, "a", "facts")
    assert item is not None
    assert item.version == 1


def test_what_another_verb_makes_of_it_is_its_value(ann: View) -> None:
    put(
        ann,
        "a",
        {"by": {"name": "ben"}, "said": ["Ann drinks tea."]},
        texts=lambda value: value["said"],
    )  # type: ignore[arg-type,return-value]
    item = get(ann, "a")
    assert item is not None
    ann.update(item.cube, tags=["drinks"])
    assert get(ann, "a").value == item.value  # type: ignore[union-attr]
    ann.update(item.cube, "Ann drinks milk.")
    changed = get(ann, "a")
    assert changed is not None
    assert changed.value == {"by": {"name": "ben"}, "said": ["Ann drinks milk."]}
    ann.restore(item.cube, version=1)
    assert get(ann, "a").value == item.value  # type: ignore[union-attr]


def test_a_text_that_stands_nowhere_by_itself_is_all_of_the_value(ann: View) -> None:
    put(ann, "a", {"one": "green tea", "two": "the sea"})
    item = get(ann, "a")
    assert item is not None
    ann.update(item.cube, "red wine")
    assert get(ann, "a").value == {"text": "red wine"}  # type: ignore[union-attr]


def test_other_metadata_leave_the_text(ann: View) -> None:
    put(ann, "a", {"text": "green tea"})
    item = get(ann, "a")
    assert item is not None
    ann.update(item.cube, metadata={"mine": 1})
    assert get(ann, "a").value == {"text": "green tea"}  # type: ignore[union-attr]
    assert [found.key for found in search(ann)] == [str(item.cube)]


def test_a_vector_finds_what_its_text_does(ann: View) -> None:
    put(ann, "tea", {"text": "green tea"})
    put(ann, "sea", {"text": "the sea"})
    vector = WordEmbedder().embed(["green tea"])[0]
    found = search(ann, vector=[float(number) * 3 for number in vector], vectors=True)
    assert keys(found) == keys(search(ann, query="green tea"))
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert found[0].vector is not None
    assert found[0].vector @ vector / (vector @ vector) ** 0.5 == pytest.approx(1, abs=1e-3)
    assert search(ann)[0].vector is None


@pytest.mark.parametrize("vector", [[], [0.0] * 64, [float("nan")] * 64, ["x"] * 64])
def test_what_is_no_vector_is_refused(ann: View, vector: Any) -> None:
    put(ann, "tea", {"text": "green tea"})
    with pytest.raises(InvalidVector):
        search(ann, vector=vector)


def test_a_vector_of_another_width_is_refused(ann: View) -> None:
    put(ann, "tea", {"text": "green tea"})
    with pytest.raises(EmbedderMismatch):
        search(ann, vector=[1.0] * 3)


def test_a_filter_may_name_a_path(ann: View) -> None:
    put(ann, "a", {"deep": {"n": 1}})
    put(ann, "b", {"deep": {"n": 2}})
    assert keys(search(ann, filter={("deep", "n"): {"$gt": 1}})) == ["b"]


def test_many_conditions(ann: View) -> None:
    put(ann, "a", {f"k{n}": n for n in range(20)})
    put(ann, "b", {f"k{n}": n for n in range(19)})
    assert keys(search(ann, filter={f"k{n}": n for n in range(20)})) == ["a"]
    assert len(search(ann, filter={f"k{n}": n for n in range(8)})) == 2


def test_old_items_are_found_behind_many_newer_ones(ann: View) -> None:
    put(ann, "old", {"kind": "rare"}, "deep", "down")
    ann.batch_items(
        [PutItem(namespace=("new",), key=str(n), value={"kind": "common"}) for n in range(400)]
    )
    assert keys(search(ann, filter={"kind": "rare"})) == ["old"]
    assert keys(search(ann, "deep")) == ["old"]
    assert keys(search(ann, "deep")) == ["old"]  # not sought among the newest again
    put(ann, "new", {"kind": "rare"}, "deep")
    assert keys(search(ann, "deep")) == ["new", "old"]
    ann.batch_items([PutItem(namespace=("deep",), key="new", value=None)])
    assert len(search(ann, limit=500)) == 401
    pages = [search(ann, limit=40, offset=offset) for offset in range(0, 401, 40)]
    assert len({item.cube for page in pages for item in page}) == 401


def test_what_was_made_of_an_item_falls_when_it_changes(ann: View) -> None:
    put(ann, "a", {"text": "Ann drinks tea."})
    item = get(ann, "a")
    assert item is not None
    note = ann.derive("Tea for Ann.", item.cube)
    put(ann, "a", {"text": "Ann drinks milk."})
    with pytest.raises(CubeNotFound):
        ann.get(note.id)


def test_a_delete_forgets(ann: View) -> None:
    put(ann, "a", {"text": "Ann drinks tea."})
    item = get(ann, "a")
    assert item is not None
    put(ann, "a", None)
    put(ann, "never", None)
    assert get(ann, "a") is None
    with pytest.raises(CubeNotFound):
        ann.history(item.cube)


def test_reads_see_what_was_before_the_batch_and_the_last_put_counts(ann: View) -> None:
    put(ann, "a", {"text": "old"})
    results = ann.batch_items(
        [
            PutItem(namespace=(), key="a", value={"text": "newer"}),
            GetItem(namespace=(), key="a"),
            PutItem(namespace=(), key="b", value=None),
            PutItem(namespace=(), key="a", value={"text": "newest"}),
            SearchItems(),
            PutItem(namespace=(), key="b", value={"text": "b"}),
            ListNamespaces(),
        ]
    )
    assert results[0] is results[2] is results[3] is results[5] is None
    assert isinstance(results[1], Item)
    assert results[1].value == {"text": "old"}
    assert [item.value for item in results[4]] == [{"text": "old"}]  # type: ignore[union-attr]
    assert results[6] == []
    item = get(ann, "a")
    assert item is not None
    assert (item.value, item.version) == ({"text": "newest"}, 2)
    assert get(ann, "b") is not None


def test_a_batch_is_whole_or_not_at_all(ann: View) -> None:
    put(ann, "a", {"text": "old"}, "one")
    frozen = get(ann, "a", "one")
    assert frozen is not None
    ann.freeze(frozen.cube)
    with pytest.raises(CubeFrozen):
        ann.batch_items(
            [
                PutItem(namespace=("two",), key="b", value={"text": "b"}),
                PutItem(namespace=("one",), key="c", value={"text": "c"}),
                PutItem(namespace=("one",), key="a", value={"text": "new"}),
            ]
        )
    assert get(ann, "b", "two") is None
    assert get(ann, "c", "one") is None
    with pytest.raises(CubeFrozen):
        put(ann, "a", {"text": "new"}, "one")
    with pytest.raises(CubeFrozen):
        put(ann, "a", None, "one")
    still = get(ann, "a", "one")
    assert still is not None
    assert still.value == {"text": "old"}


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (PutItem(namespace=(), key="", value={}), InvalidInput),
        (PutItem(namespace=(), key="a\x00", value={}), InvalidInput),
        (PutItem(namespace=("",), key="a", value={}), InvalidNamespace),
        (PutItem(namespace=(), key="a", value={"x": "\x00"}), InvalidInput),
        (PutItem(namespace=(), key="a", value={"x": "\ud800"}), InvalidInput),
        (PutItem(namespace=(), key="a", value={"x": float("nan")}), InvalidInput),
        (PutItem(namespace=(), key="a", value={"x": object()}), InvalidInput),
        (PutItem(namespace=(), key="a", value=["x"]), InvalidInput),  # type: ignore[arg-type]
        (PutItem(namespace=(), key="a", value={}, ttl=0), InvalidInput),
        (PutItem(namespace=(), key="a", value={}, ttl=-1), InvalidInput),
        (SearchItems(limit=-1), InvalidInput),
        (SearchItems(offset=-1), InvalidInput),
        (SearchItems(filter={"a": {"$near": 1}}), InvalidFilter),
        (ListNamespaces(limit=-1), InvalidInput),
        (ListNamespaces(max_depth=-1), InvalidInput),
        (ListNamespaces(max_depth=0), InvalidInput),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    ann: View, op: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ann.batch_items([PutItem(namespace=(), key="good", value={"text": "x"}), op])
    assert search(ann) == []


def test_a_query_finds_the_nearest_first(ann: View) -> None:
    put(ann, "tea", {"text": "Ann drinks green tea"})
    put(ann, "sea", {"text": "Ann swims in the sea"}, "deeper")
    put(ann, "hidden", {"text": "green tea"}, texts=None)
    found = search(ann, query="green tea")
    assert keys(found) == ["tea", "sea"]
    assert found[0].score is not None
    assert found[1].score is not None
    assert 1 > found[0].score > found[1].score
    assert found[1].namespace == ("deeper",)
    assert {item.score for item in search(ann)} == {None}
    assert set(keys(search(ann, query=" "))) == {"tea", "sea", "hidden"}


def test_the_nearest_of_several_texts_counts(ann: View) -> None:
    put(ann, "a", {"one": "green tea", "two": "the sea"})
    put(ann, "b", {"one": "black coffee", "two": "a lake", "three": "red wine"})
    put(ann, "c", {"one": "the sea by night"})
    first = search(ann, query="the sea")
    assert keys(first) == ["a", "c", "b"]
    assert first[0].score == pytest.approx(1, abs=1e-3)
    assert search(ann, query="red wine")[0].score == pytest.approx(1, abs=1e-3)
    pages = [search(ann, query="the sea", limit=1, offset=place)[0].key for place in range(3)]
    assert pages == ["a", "c", "b"]


def test_texts_of_before_are_found_no_more(ann: View) -> None:
    put(ann, "a", {"one": "green tea", "two": "the sea"})
    put(ann, "a", {"one": "black coffee"})
    assert search(ann, query="the sea")[0].score < 0.5  # type: ignore[operator]
    put(ann, "a", {"one": "green tea", "two": "the sea"})
    item = get(ann, "a")
    assert item is not None
    ann.update(item.cube, "red wine")
    assert search(ann, query="the sea")[0].score < 0.5  # type: ignore[operator]
    assert search(ann, query="red wine")[0].score == pytest.approx(1, abs=1e-3)
    put(ann, "a", {"one": "black coffee"}, texts=None)
    assert search(ann, query="black coffee") == []


def test_passages_are_embedded_anew_with_another_model(database: str) -> None:
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        put(memos, "a", {"one": "green tea", "two": "the sea"})
    other = WordEmbedder("others", 32)
    MemOS.reembed(database, embedder=other)
    with MemOS.open(database, embedder=other) as memos:
        assert search(memos, query="the sea")[0].score == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"n": {"$gt": 9}}, ["10", "100"]),
        ({"n": {"$gte": 9}}, ["9", "10", "100"]),
        ({"n": {"$lt": 10}}, ["2", "9"]),
        ({"n": {"$lte": 10}}, ["2", "9", "10"]),
        ({"n": 9}, ["9"]),
        ({"n": {"$eq": 9}}, ["9"]),
        ({"n": {"$ne": 9}}, ["2", "10", "100", "text", "none"]),
        ({"n": "9"}, []),
        ({"n": {"$gt": "a"}}, ["text"]),
        ({"n": {"$gt": 2, "$lt": 100}}, ["9", "10"]),
        ({"n": {"$in": [2, 100]}}, ["2", "100"]),
        ({"deep": {"a": 1}}, ["9"]),
        ({"deep": {"a": 1, "b": 2}}, []),
        ({"a.b": 5}, ["10"]),
        ({"n": None}, []),
        ({"empty": None}, ["none"]),
        ({}, ["2", "9", "10", "100", "text", "none"]),
    ],
)
def test_filters_compare_by_type(ann: View, wanted: dict[str, Any], found: list[str]) -> None:
    values: dict[str, dict[str, Any]] = {
        "2": {"n": 2},
        "9": {"n": 9, "deep": {"a": 1}},
        "10": {"n": 10, "a.b": 5},
        "100": {"n": 100, "a": {"b": 5}},
        "text": {"n": "five"},
        "none": {"empty": None},
    }
    for key, value in values.items():
        put(ann, key, value)
    assert sorted(keys(search(ann, filter=wanted, limit=20))) == sorted(found)
    queried = search(ann, filter=wanted, limit=20, query="five")
    assert set(keys(queried)) == {"text"} & set(found)


def test_without_a_query_the_last_put_comes_first(ann: View) -> None:
    for key in "abcd":
        put(ann, key, {"text": key})
    put(ann, "b", {"text": "again"})
    assert keys(search(ann)) == ["b", "d", "c", "a"]
    assert keys(search(ann, limit=2, offset=1)) == ["d", "c"]
    assert search(ann, offset=9) == []


def test_namespaces_are_listed_once_and_match(ann: View) -> None:
    for path in (("a", "x", "1"), ("a", "y", "1"), ("a", "y", "2"), ("b", "x"), ("b",)):
        put(ann, "k", {"text": "x"}, *path)
        put(ann, "l", {"text": "x"}, *path)

    def listed(**options: Any) -> list[tuple[str, ...]]:
        (found,) = ann.batch_items([ListNamespaces(**options)])
        return found  # type: ignore[return-value]

    every = [("a", "x", "1"), ("a", "y", "1"), ("a", "y", "2"), ("b",), ("b", "x")]
    assert listed() == every
    assert listed(max_depth=1) == [("a",), ("b",)]
    assert listed(limit=2, offset=1) == every[1:3]

    def matching(at: Any, *path: str) -> list[tuple[str, ...]]:
        return listed(matches=(PathMatch(at=at, path=path),))

    assert matching("prefix", "a", "y") == every[1:3]
    assert matching("prefix", "a", "*", "1") == every[:2]
    assert matching("suffix", "1") == every[:2]
    assert matching("suffix", "y", "*") == every[1:3]
    assert matching("suffix", "*", "x") == [("b", "x")]
    assert matching("prefix", "c") == []


def test_what_has_expired_is_never_seen_and_its_key_is_free(ann: View) -> None:
    put(ann, "a", {"text": "tea"}, "x", ttl=0.05)
    item = get(ann, "a", "x")
    assert item is not None
    assert item.expires_at is not None
    time.sleep(0.06)
    assert get(ann, "a", "x", refresh=True) is None
    assert search(ann, query="tea") == search(ann) == []
    assert ann.batch_items([ListNamespaces()]) == [[]]
    put(ann, "a", {"text": "milk"}, "x")
    again = get(ann, "a", "x")
    assert again is not None
    assert again.value == {"text": "milk"}
    assert again.created_at > item.created_at
    put(ann, "a", {"text": "wine"}, "x", ttl=0.05)
    time.sleep(0.06)
    ann.sweep()
    put(ann, "a", {"text": "water"}, "x")
    last = get(ann, "a", "x")
    assert last is not None
    assert last.value == {"text": "water"}


def test_a_read_may_give_its_time_again(ann: View) -> None:
    put(ann, "a", {"text": "tea"}, ttl=1000)
    first = get(ann, "a")
    same = get(ann, "a")
    assert first is not None
    assert same is not None
    assert first.expires_at == same.expires_at
    fresh = get(ann, "a", refresh=True)
    assert fresh is not None
    assert fresh.expires_at > first.expires_at  # type: ignore[operator]
    assert fresh.version == 1
    (found,) = search(ann, query="tea", refresh=True)
    assert found.expires_at > fresh.expires_at  # type: ignore[operator]
    (kept,) = search(ann, query="tea")
    assert kept.expires_at == found.expires_at
    put(ann, "a", {"text": "tea"})
    forever = get(ann, "a", refresh=True)
    assert forever is not None
    assert forever.expires_at is None


def test_the_rules_of_a_namespace_hold_for_its_items(memos: MemOS) -> None:
    view = memos.at("acme")
    memos.at("acme", "strict").set_rules(Rules(sensitive={"email": "refuse"}, max_cubes=2))
    memos.at("acme", "blind").set_rules(Rules(sensitive={"email": "redact"}))
    secret = {"one": "write to ann@acme.org", "two": "b"}
    put(view, "a", secret)
    put(view, "a", secret, "blind")
    hidden = get(view, "a", "blind")
    assert hidden is not None
    assert "acme.org" not in str(hidden.value)
    cube = view.get(hidden.cube)
    assert "acme.org" not in cube.text
    assert cube.governance.sensitivity == ("email",)
    with pytest.raises(SensitiveText):
        put(view, "a", secret, "strict")
    assert get(view, "a", "strict") is None
    put(view, "a", {"one": "1"}, "strict")
    put(view, "b", {"one": "2"}, "strict")
    put(view, "a", {"one": "3"}, "strict")  # takes no more room
    with pytest.raises(LimitExceeded):
        put(view, "c", {"one": "4"}, "strict")


def test_callers_see_and_change_what_they_may(memos: MemOS) -> None:
    ann = memos.at("acme", caller=Caller(user="ann"))
    ben = memos.at("acme", caller=Caller(user="ben"))
    put(ann, "a", {"text": "Ann drinks tea."}, "x", ttl=1000)
    assert get(ann, "a", "x", refresh=True) is not None
    assert get(ben, "a", "x") is None
    assert search(ben) == search(ben, query="tea") == []
    assert ben.batch_items([ListNamespaces()]) == [[]]
    with pytest.raises(CubeExists):
        put(ben, "a", {"text": "mine"}, "x")
    put(ben, "a", None, "x")
    item = get(ann, "a", "x")
    assert item is not None
    assert item.value == {"text": "Ann drinks tea."}
    ann.grant(user="ben", cube=item.cube)
    assert keys(search(ben, query="tea")) == ["a"]
    with pytest.raises(NotPermitted):
        put(ben, "a", {"text": "mine"}, "x")
    with pytest.raises(NotPermitted):
        put(ben, "a", None, "x")


def test_many_at_once_lose_nothing(ann: View) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                ann.batch_items(
                    [
                        PutItem(namespace=("x",), key=f"{key}", value={"by": number, "turn": turn})
                        for key in (range(8) if number % 2 else reversed(range(8)))
                    ]
                )
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = search(ann, limit=20)
    assert len(found) == 8
    assert {item.version for item in found} == {30}
    assert len({str(item.value) for item in found}) == 1  # each batch is whole


def test_puts_and_deletes_of_one_key_at_once(ann: View) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(40):
                put(ann, "k", None if (number + turn) % 2 else {"text": f"{number} {turn}"})
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    put(ann, "k", {"text": "last"})
    assert keys(search(ann)) == ["k"]


def test_a_large_batch(ann: View) -> None:
    ops = [PutItem(namespace=(), key=f"{n}", value={"n": n}, texts=None) for n in range(3000)]
    ann.batch_items(ops)
    assert ann.stats().cubes == 3000
    again = ann.batch_items([GetItem(namespace=(), key=f"{n}") for n in range(3000)])
    assert [item.value["n"] for item in again] == list(range(3000))  # type: ignore[union-attr]


def test_events_tell_of_items(ann: View) -> None:
    put(ann, "a", {"text": "tea"})
    put(ann, "a", {"text": "milk"})
    get(ann, "a")
    search(ann, query="milk")
    put(ann, "a", None)
    kinds = [event.kind for event in ann.events()]
    assert sorted(kinds) == ["added", "forgot", "read", "searched", "updated"]


def test_ids_are_of_the_place_and_the_key(memos: MemOS) -> None:
    def cube(view: View, key: str, *at: str) -> UUID:
        put(view, key, {"text": "x"}, *at)
        item = get(view, key, *at)
        assert item is not None
        return item.cube

    found = [
        cube(memos.at("acme"), "c", "a", "b"),
        cube(memos.at("acme"), "b", "a"),
        cube(memos.at("acme"), "a"),
        cube(memos.at("acme"), "b.c", "a"),
        cube(memos.at("other"), "c", "a", "b"),
    ]
    assert len(set(found)) == 5
    below = get(memos.at("acme", "a"), "c", "b")
    assert below is not None
    assert below.cube == found[0]
