"""Documents in a memory: LangChain's vector store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, cast
from uuid import uuid4

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from typing_extensions import override

from memos_core import AsyncView, GetItem, InvalidInput, Item, PutItem, SearchItems, View
from memos_core.view.given import checked_view
from memos_langchain.embeddings import LangChainEmbedder

_PAGE = 1_000  # documents that are deleted at once where all are


class MemOSVectorStore(VectorStore):
    """LangChain's ``VectorStore`` on a memory: ``MemOSVectorStore(memos.at("acme", "handbook"))``.

    A document is an item under its id, and so a memory: every other verb finds it, adding it again
    makes a version of it, and to delete it is to forget it. A view for documents alone is best:
    what else is in it is no document, and ``delete()`` leaves it.

    ``filter`` compares metadata as ``View.search`` does: ``{"year": {"$gte": 2020}}``. Scores are
    cosine similarities, 1 for the same direction; ``…_with_relevance_scores`` has them with what is
    below 0 as 0. Vectors are those of the memory's embedder (``embeddings``).
    """

    def __init__(self, memos: View) -> None:
        self.memos = checked_view(memos)

    @property
    @override
    def embeddings(self) -> Embeddings:
        return _OfMemory(self.memos)

    @classmethod
    @override
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        memos: View | None = None,
        **kwargs: Any,
    ) -> Self:
        """Add texts to the view ``memos``, whose embedder is ``embedding``.

        Raises:
            InvalidInput: no view is given, or the embedder of its memory is another.
        """
        if memos is None:
            raise InvalidInput(
                "say where the documents go: from_texts(texts, embedding, memos=memos.at(…)), of "
                "MemOS.open(embedder=LangChainEmbedder(embedding))"
            )
        store = cls(memos)
        wanted = LangChainEmbedder(embedding).name
        if not isinstance(embedding, _OfMemory) and wanted != memos.engine.model:
            raise InvalidInput(
                f"the vectors of this memory are those of {memos.engine.model!r}, not of "
                f"{wanted!r}: open it with MemOS.open(embedder=LangChainEmbedder(embedding))"
            )
        store.add_texts(texts, metadatas, ids=ids, **kwargs)
        return store

    # --- adding, getting, deleting --------------------------------------------------------------

    @override
    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts in one transaction, in place of those under their ids; return the ids.

        A blank text is kept, and found by no query.

        Raises:
            InvalidInput: not as many metadata or ids as texts; what is no text; metadata that are
                no JSON. Nothing was added.
        """
        said = list(texts)
        facts: list[dict[Any, Any]] = [{} for _ in said] if metadatas is None else metadatas
        names = [None for _ in said] if ids is None else list(ids)
        if not len(said) == len(facts) == len(names):
            raise InvalidInput(
                f"{len(said)} texts need as many metadata and ids, not {len(facts)} and "
                f"{len(names)}"
            )
        if wrong := [text for text in said if not isinstance(cast("object", text), str)]:
            raise InvalidInput(f"a document's content is a text, not {wrong[0]!r}")
        keys = [str(uuid4()) if name is None else name for name in names]
        self.memos.batch_items(
            [_put(key, text, one) for key, text, one in zip(keys, said, facts, strict=True)]
        )
        return keys

    @override
    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        return await self._to_thread(self.add_texts, list(texts), metadatas, ids=ids)

    @override
    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Forget documents, those that are there; all of them without ``ids``."""
        if ids is not None:
            self._forget(ids)
            return True
        while found := self._found(SearchItems(limit=_PAGE)):
            self._forget([item.key for item in found])
        return True

    @override
    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        return await self._to_thread(self.delete, ids)

    @override
    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        found = self.memos.batch_items([GetItem(namespace=(), key=id) for id in ids])
        return [_document(item) for item in found if isinstance(item, Item)]

    @override
    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return await self._to_thread(self.get_by_ids, ids)

    # --- searching ------------------------------------------------------------------------------

    @override
    def similarity_search(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        found = self.similarity_search_with_score(query, k, filter=filter)
        return [document for document, _ in found]

    @override
    async def asimilarity_search(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        return await self._to_thread(self.similarity_search, query, k, filter=filter)

    @override
    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the nearest ``k`` documents with their cosine similarities."""
        found = self._found(SearchItems(query=query, limit=k, filter=_conditions(filter)))
        return [(_document(item), item.score or 0.0) for item in found]

    @override
    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await self._to_thread(self.similarity_search_with_score, query, k, filter=filter)

    @override
    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        found = self._found(SearchItems(vector=embedding, limit=k, filter=_conditions(filter)))
        return [_document(item) for item in found]

    @override
    async def asimilarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        return await self._to_thread(self.similarity_search_by_vector, embedding, k, filter=filter)

    @override
    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return ``k`` of the nearest ``fetch_k`` documents, near the query and unlike each other.

        ``lambda_mult`` is how much being near counts, from 0 to 1, as in Carbonell and Goldstein,
        "The Use of MMR" (1998).
        """
        vector = self.embeddings.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter=filter
        )

    @override
    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        return await self._to_thread(
            self.max_marginal_relevance_search, query, k, fetch_k, lambda_mult, filter=filter
        )

    @override
    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        found = self._found(
            SearchItems(
                vector=embedding,
                limit=max(k, fetch_k),
                filter=_conditions(filter),
                vectors=True,
            )
        )
        vectors = [cast("list[float]", item.vector) for item in found]
        chosen = maximal_marginal_relevance(
            np.asarray(embedding, np.float32), vectors, lambda_mult=lambda_mult, k=k
        )
        return [_document(found[place]) for place in chosen]

    @override
    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        return await self._to_thread(
            self.max_marginal_relevance_search_by_vector,
            embedding,
            k,
            fetch_k,
            lambda_mult,
            filter=filter,
        )

    @override
    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return _relevance

    # ------------------------------------------------------------------------------------------

    def _found(self, asked: SearchItems) -> list[Item]:
        (found,) = self.memos.batch_items([asked])
        return cast("list[Item]", found)

    def _forget(self, ids: Sequence[str]) -> None:
        self.memos.batch_items([PutItem(namespace=(), key=id, value=None) for id in ids])

    async def _to_thread(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await AsyncView(self.memos).to_thread(function, *args, **options)


class _OfMemory(Embeddings):
    """A memory's embedder, as LangChain's embeddings."""

    def __init__(self, memos: View) -> None:
        self._memos = memos

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._memos.engine.vectors(texts).tolist() if texts else []

    @override
    def embed_query(self, text: str) -> list[float]:
        return self._memos.engine.question(text)[0].tolist()


def _put(key: str, text: str, metadata: Mapping[Any, Any]) -> PutItem:
    return PutItem(
        namespace=(),
        key=key,
        value={"page_content": text, "metadata": dict(metadata)},
        texts=_content,
    )


def _content(value: Mapping[str, object]) -> list[str]:
    return [str(value["page_content"])]


def _document(item: Item) -> Document:
    value = item.value
    text, metadata = value.get("page_content", value.get("text", "")), value.get("metadata")
    return Document(
        id=item.key,
        page_content=str(text),
        metadata=cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {},
    )


def _conditions(
    filter: Mapping[str, Any] | None,
) -> dict[tuple[str, ...], object] | None:
    """Return a filter of metadata as one of items."""
    if filter is None:
        return None
    return {("metadata", *key.split(".")): wanted for key, wanted in filter.items()}


def _relevance(similarity: float) -> float:
    return min(1.0, max(0.0, similarity))
