"""MemOSStore, by LangGraph's contract and by what ours adds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC
from typing import Any, TypedDict

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
)

from memos_core import InvalidInput, InvalidVector, MemOS, View
from memos_langchain import LangChainEmbedder, MemOSStore
from tests.support import WordEmbedder, until


class Words(Embeddings):
    """Bags of words, as LangChain's embeddings; questions are marked."""

    def __init__(self, width: int = 64) -> None:
        self._embedder = WordEmbedder(width=width)
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.embed(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(text)
        return self._embedder.embed([text])[0].tolist()


class Awaited:
    """The async half of a store for code that blocks, so that one suite runs both."""

    def __init__(self, store: MemOSStore, runner: asyncio.Runner) -> None:
        self._store, self._runner = store, runner

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, f"a{name}")
        return lambda *args, **options: self._runner.run(verb(*args, **options))


@pytest.fixture(params=["blocking", "awaited"])
def store(request: pytest.FixtureRequest, ann: View) -> Iterator[Any]:
    made = MemOSStore(ann)
    if request.param == "blocking":
        yield made
    else:
        with asyncio.Runner() as runner:
            yield Awaited(made, runner)


def keys(found: list[SearchItem]) -> list[str]:
    return [item.key for item in found]


# ------------------------------------------------------------------------------- the contract


def test_an_item_is_as_it_was_put(store: Any) -> None:
    value = {"text": "tea", "n": 1, "deep": {"on": [True, None]}}
    assert store.put(("users", "ann"), "a", value) is None
    item = store.get(("users", "ann"), "a")
    assert isinstance(item, Item)
    assert (item.namespace, item.key, item.value) == (("users", "ann"), "a", value)
    assert item.created_at.tzinfo is not None
    assert item.created_at.astimezone(UTC) == item.updated_at
    assert store.get(("users",), "a") is None
    assert store.get(("users", "ann"), "b") is None


def test_created_at_survives_an_update(store: Any) -> None:
    store.put(("users",), "a", {"text": "tea"})
    first = store.get(("users",), "a")
    store.put(("users",), "a", {"text": "milk"})
    second = store.get(("users",), "a")
    assert second.value == {"text": "milk"}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


def test_a_value_is_a_copy(store: Any) -> None:
    value = {"list": [1]}
    store.put(("users",), "a", value)
    value["list"].append(2)
    store.get(("users",), "a").value["list"].append(3)
    assert store.get(("users",), "a").value == {"list": [1]}


def test_delete(store: Any) -> None:
    store.put(("users",), "a", {"text": "tea"})
    store.delete(("users",), "a")
    store.delete(("users",), "a")
    assert store.get(("users",), "a") is None
    assert store.search(("users",)) == []
    assert store.list_namespaces() == []


def test_a_batch_answers_in_order_and_reads_what_was(store: Any) -> None:
    store.put(("a",), "k", {"n": 1})
    results = store.batch(
        [
            PutOp(("a",), "k", {"n": 2}),
            GetOp(("a",), "k"),
            PutOp(("a",), "k", {"n": 3}),
            SearchOp(("a",)),
            ListNamespacesOp(),
            PutOp(("b",), "k", {"n": 4}),
            GetOp(("b",), "k"),
        ]
    )
    assert [type(result) for result in results] == [
        type(None),
        Item,
        type(None),
        list,
        list,
        type(None),
        type(None),
    ]
    assert results[1].value == {"n": 1}
    assert results[3][0].value == {"n": 1}
    assert results[4] == [("a",)]
    assert store.get(("a",), "k").value == {"n": 3}
    assert store.batch([]) == []


def test_a_failed_batch_wrote_nothing(store: Any) -> None:
    with pytest.raises(InvalidInput):
        store.batch([PutOp(("a",), "k", {"n": 2}), PutOp(("a",), "l", {"n": "\x00"})])
    assert store.search(()) == []


def test_two_items_may_say_the_same(store: Any) -> None:
    store.batch([PutOp(("a",), key, {"text": "tea"}) for key in "kl"])
    assert sorted(keys(store.search(("a",), query="tea"))) == ["k", "l"]


def test_labels_of_any_kind(store: Any) -> None:
    for label in ("ann@acme.org", "a.b", "x_y", "x%y", 42, "東京", "new\nline"):
        store.put(("users", label), "k", {"text": str(label)})
        assert store.get(("users", label), "k").value == {"text": str(label)}
        assert store.get(("users", str(label)), "k").namespace == ("users", str(label))
        assert keys(store.search(("users", label))) == ["k"]
    assert ("users", "42") in store.list_namespaces(prefix=("users",))


def test_a_prefix_ends_with_a_label(store: Any) -> None:
    for label in ("acme", "acme-corp", "acme_", "acmeX"):
        store.put((label,), label, {"text": "x"})
    assert keys(store.search(("acme",))) == ["acme"]
    assert keys(store.search(("acme_",))) == ["acme_"]
    assert store.list_namespaces(prefix=("acme",)) == [("acme",)]


@pytest.mark.parametrize("namespace", [("",), ("a", ""), (None,), (True,), ("a", 1.5), "users"])
def test_what_is_no_namespace_is_refused(store: Any, namespace: Any) -> None:
    for op in (
        GetOp(namespace, "k"),
        PutOp(namespace, "k", {}),
        PutOp(namespace, "k", None),
        SearchOp(namespace),
    ):
        with pytest.raises(InvalidNamespaceError):
            store.batch([PutOp(("fine",), "k", {}), op])
    assert store.search(()) == []


def test_a_put_needs_a_namespace(store: Any) -> None:
    with pytest.raises(InvalidNamespaceError):
        store.put((), "k", {})
    assert store.search(()) == []


@pytest.mark.parametrize(
    "value", [{"x": object()}, {"x": float("nan")}, {"x": "\x00"}, {"x": "\ud800"}, "text", [1]]
)
def test_what_is_no_json_is_refused(store: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"JSON|mapping"):
        store.put(("users",), "k", value)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"score": {"$gt": 9}}, ["10", "100"]),
        ({"score": {"$gte": 9, "$lt": 100}}, ["9", "10"]),
        ({"score": {"$ne": 9}}, ["2", "10", "100", "five"]),
        ({"score": 9}, ["9"]),
        ({"score": {"$eq": 9}, "kind": "a"}, ["9"]),
        ({"score": {"$gt": 1}, "kind": "b"}, ["10"]),
        ({"score": {"$gt": "f"}}, ["five"]),
        ({"deep": {"x": 1}}, ["2"]),
        ({"dot.ted": 1}, ["100"]),
    ],
)
def test_filters(store: Any, wanted: dict[str, Any], found: list[str]) -> None:
    values: dict[str, dict[str, Any]] = {
        "2": {"score": 2, "kind": "a", "deep": {"x": 1}},
        "9": {"score": 9, "kind": "a"},
        "10": {"score": 10, "kind": "b"},
        "100": {"score": 100, "dot.ted": 1},
        "five": {"score": "five"},
    }
    for key, value in values.items():
        store.put(("s",), key, value)
    assert sorted(keys(store.search(("s",), filter=wanted))) == sorted(found)
    asked = store.search(("s",), filter=wanted, query="score")
    assert sorted(keys(asked)) == sorted(found)


def test_an_unknown_operator_is_refused(store: Any) -> None:
    with pytest.raises(ValueError, match=r"\$near"):
        store.search(("s",), filter={"x": {"$near": 1}})


def test_pages_are_of_items(store: Any) -> None:
    for number in range(12):
        parts = [f"word{number} part{part}" for part in range(6)]
        store.put(("s",), f"{number:02}", {"parts": parts}, index=["parts[*]"])
    pages = [
        keys(store.search(("s",), query="word3", limit=5, offset=offset)) for offset in (0, 5, 10)
    ]
    assert [len(page) for page in pages] == [5, 5, 2]
    assert len({key for page in pages for key in page}) == 12
    assert pages[0][0] == "03"
    assert store.search(("s",), query="word3", limit=5, offset=12) == []
    last_first = keys(store.search(("s",), limit=3))
    assert last_first == ["11", "10", "09"]


@pytest.mark.parametrize("paging", [{"limit": -1}, {"offset": -1}, {"limit": 1.5}])
def test_what_is_no_page_is_refused(store: Any, paging: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="whole number"):
        store.search(("s",), **paging)


def test_namespaces(store: Any) -> None:
    paths = [("a", "b", "c"), ("a", "b", "d", "e"), ("a", "b", "d", "i"), ("a", "b", "f"), ("z",)]
    for path in paths:
        store.put(path, "k", {"x": 1})
    assert store.list_namespaces() == sorted(paths)
    assert store.list_namespaces(prefix=("a", "b"), max_depth=3) == [
        ("a", "b", "c"),
        ("a", "b", "d"),
        ("a", "b", "f"),
    ]
    assert store.list_namespaces(suffix=("i",)) == [("a", "b", "d", "i")]
    assert store.list_namespaces(prefix=("*", "b"), suffix=("*", "e")) == [("a", "b", "d", "e")]
    assert store.list_namespaces(limit=2, offset=1) == sorted(paths)[1:3]
    (found,) = store.batch([ListNamespacesOp((MatchCondition("prefix", ("a", "*", "d")),))])
    assert found == [("a", "b", "d", "e"), ("a", "b", "d", "i")]


# ------------------------------------------------------------------------------- what is found


def test_a_query_gives_scores_and_none_does_not(store: Any) -> None:
    store.put(("s",), "tea", {"text": "green tea"})
    store.put(("s",), "sea", {"text": "the open sea"})
    found = store.search(("s",), query="green tea")
    assert keys(found) == ["tea", "sea"]
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert found[1].score < 0.5
    assert {item.score for item in store.search(("s",))} == {None}


def test_an_index_may_name_paths(ann: View) -> None:
    store = MemOSStore(ann, index={"fields": ["title", "parts[*].body"]})
    value = {
        "title": "green tea",
        "parts": [{"body": "the open sea"}, {"body": "red wine"}],
        "hidden": "black coffee",
    }
    store.put(("s",), "k", value)
    for text in ("green tea", "the open sea", "red wine"):
        assert store.search(("s",), query=text)[0].score == pytest.approx(1, abs=1e-3)
    assert store.search(("s",), query="black coffee")[0].score < 0.5  # type: ignore[operator]
    store.put(("s",), "k", value, index=["hidden"])
    assert store.search(("s",), query="black coffee")[0].score == pytest.approx(1, abs=1e-3)
    assert store.search(("s",), query="red wine")[0].score < 0.5  # type: ignore[operator]


def test_what_is_not_indexed_is_found_by_no_query(store: Any) -> None:
    store.put(("s",), "k", {"text": "green tea"})
    store.put(("s",), "k", {"text": "green tea"}, index=False)
    store.put(("s",), "l", {"other": "green tea"}, index=["text"])
    assert store.search(("s",), query="green tea") == []
    assert len(store.search(("s",))) == 2


@pytest.mark.parametrize("index", ["text", [""], [1], {"text": 1}])
def test_what_is_no_index_is_refused(store: Any, index: Any) -> None:
    with pytest.raises(InvalidInput, match="path"):
        store.put(("s",), "k", {"text": "x"}, index=index)


def test_questions_are_embedded_as_questions(database: str) -> None:
    words = Words()
    index = {"dims": 64, "embed": words, "fields": ["text"]}
    with MemOSStore.from_conn_string(database, index=index) as store:
        store.setup()
        store.put(("s",), "k", {"text": "green tea"})
        assert words.asked == []
        assert keys(store.search(("s",), query="green tea")) == ["k"]
        assert words.asked == ["green tea"]
        assert store.index_config == index


def test_embeddings_may_be_functions(database: str) -> None:
    embedder = WordEmbedder()

    async def embed(texts: list[str]) -> list[list[float]]:
        return embedder.embed(texts).tolist()

    with MemOSStore.from_conn_string(database, index={"dims": 64, "embed": embed}) as store:
        store.put(("s",), "k", {"text": "green tea"})
        assert keys(store.search(("s",), query="tea")) == ["k"]


def test_the_embedder_is_the_memorys(ann: View, database: str) -> None:
    with pytest.raises(InvalidInput, match="from_conn_string"):
        MemOSStore(ann, index={"embed": DeterministicFakeEmbedding(size=6), "dims": 6})
    with (
        MemOSStore.from_conn_string(database, index={"embed": Words(32), "dims": 64}) as store,
        pytest.raises(InvalidVector, match="32 dimensions, not 64"),
    ):
        store.put(("s",), "k", {"text": "x"})


def test_an_embedder_is_named_by_its_model() -> None:
    class Some(Words):
        model = "some-model"

    assert LangChainEmbedder(Some()).name == "Some:some-model"
    assert LangChainEmbedder(Words()).name == "Words"
    assert LangChainEmbedder(Words(), name="mine").name == "mine"


# ------------------------------------------------------------------------------- times to live


def test_times_to_live_are_minutes_and_reads_give_them_again(ann: View) -> None:
    store = MemOSStore(ann, ttl={"default_ttl": 1.5, "refresh_on_read": True})
    store.put(("s",), "k", {"text": "tea"})
    store.put(("s",), "forever", {"text": "tea"}, ttl=None)
    store.put(("s",), "short", {"text": "tea"}, ttl=0.4)

    def left(key: str) -> float:
        (hit,) = ann.search("tea", filter={"key": key})
        end = hit.cube.governance.expires_at
        return 0 if end is None else (end - hit.cube.updated_at).total_seconds()

    assert left("k") == pytest.approx(90, abs=1)
    assert left("short") == pytest.approx(24, abs=1)
    assert left("forever") == 0
    before = left("k")
    store.get(("s",), "k", refresh_ttl=False)
    store.search(("s",), query="tea", refresh_ttl=False)
    assert left("k") == before
    store.get(("s",), "k")
    once = left("k")
    assert once > before
    store.search(("s",), query="tea")
    assert left("k") > once
    assert left("short") > 24
    assert left("forever") == 0


def test_what_has_expired_is_in_no_answer(store: Any) -> None:
    store.put(("s",), "k", {"text": "tea"}, ttl=0.001)
    time.sleep(0.07)
    assert store.get(("s",), "k") is None
    assert store.search(("s",)) == store.search(("s",), query="tea") == []
    assert store.list_namespaces() == []
    store.put(("s",), "k", {"text": "milk"})
    assert store.get(("s",), "k").value == {"text": "milk"}


@pytest.mark.parametrize("ttl", [0, -1])
def test_what_is_no_time_to_live_is_refused(store: Any, ttl: float) -> None:
    with pytest.raises(InvalidInput, match="ttl"):
        store.put(("s",), "k", {"text": "x"}, ttl=ttl)


def test_the_sweeper_ends_what_has_expired(ann: View) -> None:
    store = MemOSStore(ann)
    store.put(("s",), "k", {"text": "tea"}, ttl=0.001)
    store.put(("s",), "l", {"text": "tea"})
    time.sleep(0.07)
    assert store.sweep_ttl() == 1
    assert store.sweep_ttl() == 0
    store.put(("s",), "m", {"text": "tea"}, ttl=0.001)
    done = store.start_ttl_sweeper(0.001)
    assert store.start_ttl_sweeper(0.001) is done
    until(lambda: any(event.kind == "expired" for event in ann.events(limit=2)))
    assert store.stop_ttl_sweeper(10)
    assert done.done()
    assert store.start_ttl_sweeper() is not done
    store.close()
    assert store.stop_ttl_sweeper(0)
    with pytest.raises(InvalidInput):
        store.start_ttl_sweeper(0)


# ------------------------------------------------------------------------------- what ours adds


def test_an_item_is_a_memory(ann: View) -> None:
    store = MemOSStore(ann)
    store.put(("facts",), "drink", {"text": "Ann drinks tea."})
    store.put(("facts",), "drink", {"text": "Ann drinks milk."})
    (hit,) = ann.search("What does Ann drink?")
    assert hit.text == "Ann drinks milk."
    assert [cube.text for cube in ann.history(hit.cube.id)] == [
        "Ann drinks tea.",
        "Ann drinks milk.",
    ]
    ann.update(hit.cube.id, "Ann drinks water.")
    changed = store.get(("facts",), "drink")
    assert changed is not None
    assert changed.value == {"text": "Ann drinks water."}
    ann.forget(hit.cube.id)
    assert store.get(("facts",), "drink") is None


def test_a_whole_value_reads_well(ann: View) -> None:
    store = MemOSStore(ann)
    store.put(("s",), "k", {"kind": "Memory", "content": {"likes": ["tea", "cake"], "age": 3}})
    (hit,) = ann.search("tea")
    assert hit.text == "kind: Memory\ncontent.likes: tea\ncontent.likes: cake\ncontent.age: 3"


def test_views_do_not_see_each_other(memos: MemOS) -> None:
    ann, ben = MemOSStore(memos.at("acme", "ann")), MemOSStore(memos.at("acme", "ben"))
    ann.put(("s",), "k", {"text": "tea"})
    ben.put(("s",), "k", {"text": "milk"})
    item = ann.get(("s",), "k")
    assert item is not None
    assert item.value == {"text": "tea"}
    assert [found.value for found in ben.search((), query="tea")] == [{"text": "milk"}]
    above = MemOSStore(memos.at("acme"))
    assert above.list_namespaces() == [("ann", "s"), ("ben", "s")]


def test_a_store_is_true_and_of_a_view() -> None:
    with pytest.raises(InvalidInput, match="view"):
        MemOSStore("postgresql://…")  # type: ignore[arg-type]


def test_a_namespace_may_be_given_with_the_address(database: str) -> None:
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        embed = {"embed": Words()}
        memos.at("acme", "ann").stats()
    with MemOSStore.from_conn_string(database, index=embed, namespace=("acme", "ann")) as store:
        store.put(("s",), "k", {"text": "tea"})
        assert store.memos.namespace == ("acme", "ann")
    with pytest.raises(Exception, match="closed"):
        store.get(("s",), "k")


async def test_a_loop_may_use_it_with_both_halves(database: str) -> None:
    async with MemOSStore.from_conn_string(
        database, index={"embed": Words()}, pool_config={"max_size": 4}
    ) as store:
        await asyncio.gather(*(store.aput(("s",), f"{n}", {"n": n}) for n in range(50)))
        store.put(("s",), "sync", {"n": 50})
        results = await asyncio.gather(
            *(store.aget(("s",), f"{n}") for n in range(50)),
            store.aput(("s",), "bad", {"n": "\x00"}),
            return_exceptions=True,
        )
        assert [item.value["n"] for item in results[:50]] == list(range(50))  # type: ignore[union-attr]
        assert isinstance(results[50], InvalidInput)  # and no other of the same tick
        assert len(await store.asearch((), limit=100)) == 51


class Counted(TypedDict):
    count: int


def test_a_graph_reaches_it_by_its_runtime(ann: View) -> None:
    def node(_: Counted, runtime: Runtime[None]) -> Counted:
        assert isinstance(runtime.store, BaseStore)
        runtime.store.put(("graph",), "k", {"text": "tea"})
        return {"count": len(runtime.store.search(("graph",)))}

    graph = StateGraph(Counted)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    app = graph.compile(store=MemOSStore(ann))
    assert app.invoke({"count": 0}) == {"count": 1}
    (hit,) = ann.search("tea")
    assert hit.cube.namespace[-1] == "graph"
