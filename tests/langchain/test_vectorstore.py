"""MemOSVectorStore, by LangChain's own suite and by what ours adds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from memos_core import InvalidInput, MemOS, View
from memos_langchain import LangChainEmbedder, MemOSVectorStore


class TestStandard(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, database: str) -> Iterator[MemOSVectorStore]:  # type: ignore[override]
        with MemOS.open(database, embedder=LangChainEmbedder(self.get_embeddings())) as memos:
            yield MemOSVectorStore(memos.at("acme", "handbook"))


@pytest.fixture
def store(ann: View) -> MemOSVectorStore:
    return MemOSVectorStore(ann)


TEXTS = ["green tea is hot", "black coffee is hot", "the open sea is cold"]
FACTS = [{"n": 9, "on": {"shelf": "a"}}, {"n": 10, "on": {"shelf": "b"}}, {"n": 100}]


@pytest.fixture
def filled(store: MemOSVectorStore) -> MemOSVectorStore:
    assert store.add_texts(TEXTS, [*FACTS], ids=["tea", "coffee", "sea"]) == [
        "tea",
        "coffee",
        "sea",
    ]
    return store


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_scores_are_similarities_and_relevances_are_from_0_to_1(filled: MemOSVectorStore) -> None:
    found = filled.similarity_search_with_score("green tea is hot", k=3)
    assert ids([document for document, _ in found]) == ["tea", "coffee", "sea"]
    assert found[0][1] == pytest.approx(1, abs=1e-3)
    relevant = filled.similarity_search_with_relevance_scores("green tea", k=3)
    assert all(0 <= score <= 1 for _, score in relevant)
    good = filled.similarity_search_with_relevance_scores("green tea", k=3, score_threshold=0.5)
    assert ids([document for document, _ in good]) == ["tea"]


def test_what_points_the_other_way_has_no_relevance(database: str) -> None:
    class Signed(DeterministicFakeEmbedding):
        def embed_query(self, text: str) -> list[float]:
            return [-number for number in super().embed_query(text)]

    with MemOS.open(database, embedder=LangChainEmbedder(Signed(size=6))) as memos:
        store = MemOSVectorStore(memos)
        store.add_texts(["tea"])
        ((_, similarity),) = store.similarity_search_with_score("tea")
        ((_, relevance),) = store.similarity_search_with_relevance_scores("tea")
    assert similarity == pytest.approx(-1, abs=1e-3)
    assert relevance == 0


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"n": {"$gt": 9}}, {"coffee", "sea"}),
        ({"n": 9}, {"tea"}),
        ({"on.shelf": "b"}, {"coffee"}),
        ({"on": {"shelf": "b"}}, {"coffee"}),
        ({"n": {"$in": [9, 100]}}, {"tea", "sea"}),
    ],
)
def test_filters_are_of_metadata(
    filled: MemOSVectorStore, wanted: dict[str, object], found: set[str]
) -> None:
    assert set(ids(filled.similarity_search("tea", filter=wanted))) == found
    vector = filled.embeddings.embed_query("tea")
    assert set(ids(filled.similarity_search_by_vector(vector, filter=wanted))) == found
    retriever = filled.as_retriever(search_kwargs={"filter": wanted})
    assert set(ids(retriever.invoke("tea"))) == found


def test_mmr_prefers_what_differs(store: MemOSVectorStore) -> None:
    store.add_texts(
        ["tea is hot", "tea is hot too", "tea or milk"], ids=["first", "like it", "other"]
    )
    assert ids(store.similarity_search("tea is hot", k=2)) == ["first", "like it"]
    diverse = store.max_marginal_relevance_search("tea is hot", k=2, lambda_mult=0.1)
    assert ids(diverse) == ["first", "other"]
    assert ids(store.max_marginal_relevance_search("tea is hot", k=2, lambda_mult=1)) == [
        "first",
        "like it",
    ]
    narrow = store.max_marginal_relevance_search("tea is hot", k=2, fetch_k=2, lambda_mult=0)
    assert set(ids(narrow)) == {"first", "like it"}


async def test_the_async_half_is_the_same(filled: MemOSVectorStore) -> None:
    wanted = {"n": {"$lt": 100}}
    vector = filled.embeddings.embed_query("tea")
    assert ids(await filled.asimilarity_search("tea", k=1)) == ["tea"]
    assert ids(await filled.asimilarity_search_by_vector(vector, k=1)) == ["tea"]
    ((document, _),) = await filled.asimilarity_search_with_score("tea", k=1, filter=wanted)
    assert document.id == "tea"
    mmr = await filled.amax_marginal_relevance_search("tea", filter=wanted)
    assert set(ids(mmr)) == {"tea", "coffee"}
    assert ids(await filled.aget_by_ids(["sea", "none"])) == ["sea"]
    assert await filled.adelete(["sea"])
    assert await filled.aget_by_ids(["sea"]) == []


def test_a_document_is_a_memory(filled: MemOSVectorStore, ann: View) -> None:
    (hit, *_) = ann.search("green tea")
    assert hit.text == "green tea is hot"
    ann.update(hit.cube.id, "green tea is cold")
    (document,) = filled.get_by_ids(["tea"])
    assert (document.page_content, document.metadata) == ("green tea is cold", FACTS[0])
    filled.add_texts(["green tea is iced"], ids=["tea"])
    assert len(ann.history(hit.cube.id)) == 3
    filled.delete(["tea"])
    with pytest.raises(LookupError, match=str(hit.cube.id)):
        ann.get(hit.cube.id)


def test_delete_all_leaves_what_is_no_document(filled: MemOSVectorStore, ann: View) -> None:
    note = ann.add("a note")
    assert filled.delete()
    assert filled.similarity_search("tea") == []
    assert ann.get(note.id).text == "a note"


@pytest.mark.parametrize(
    "wrong",
    [
        {"texts": ["a"], "metadatas": [{}, {}]},
        {"texts": ["a", "b"], "ids": ["a"]},
        {"texts": ["a"], "metadatas": [{"x": object()}]},
        {"texts": ["a"], "ids": [""]},
        {"texts": [7]},
    ],
)
def test_what_is_no_document_is_refused(store: MemOSVectorStore, wrong: dict[str, list]) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidInput):
        store.add_texts(**wrong)
    assert store.similarity_search("a") == []


def test_a_blank_document_is_kept_and_found_by_no_query(store: MemOSVectorStore) -> None:
    store.add_texts(["", "tea"], ids=["blank", "tea"])
    assert ids(store.similarity_search("tea")) == ["tea"]
    (document,) = store.get_by_ids(["blank"])
    assert document.page_content == ""


def test_from_texts_needs_a_view_with_the_same_embedder(database: str, ann: View) -> None:
    embedding = DeterministicFakeEmbedding(size=64)
    with pytest.raises(InvalidInput, match="memos="):
        MemOSVectorStore.from_texts(["a"], embedding)
    with pytest.raises(InvalidInput, match="LangChainEmbedder"):
        MemOSVectorStore.from_texts(["a"], embedding, memos=ann)
    ours = MemOSVectorStore(ann).embeddings
    store = MemOSVectorStore.from_texts(["a"], ours, ids=["x"], memos=ann)
    assert ids(store.similarity_search("a")) == ["x"]
    assert ours.embed_documents([]) == []
    with pytest.raises(InvalidInput, match="view"):
        MemOSVectorStore(database)  # type: ignore[arg-type]


def test_langchain_can_index_into_it(store: MemOSVectorStore) -> None:
    records = InMemoryRecordManager(namespace="test")
    records.create_schema()
    documents = [Document(page_content=text, metadata={"source": text}) for text in TEXTS]
    first = index(
        documents, records, store, cleanup="full", source_id_key="source", key_encoder="sha256"
    )
    again = index(
        documents[:2], records, store, cleanup="full", source_id_key="source", key_encoder="sha256"
    )
    assert (first["num_added"], again["num_skipped"], again["num_deleted"]) == (3, 2, 1)
    assert len(store.similarity_search("tea", k=10)) == 2
