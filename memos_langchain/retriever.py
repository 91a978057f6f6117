"""Memories as documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import BeforeValidator, ConfigDict, Field
from typing_extensions import override

from memos_core import AsyncView, Kind, View
from memos_core.view.given import checked_view
from memos_langchain.documents import document


class MemOSRetriever(BaseRetriever):
    """Finds memories: ``MemOSRetriever(memos=memos.at("acme", "ann"), k=5).invoke("question")``.

    ``k``, ``filter`` and ``as_of`` may also be given to ``invoke``, in place of the retriever's. A
    document's id is the cube's; its metadata is the cube's with ``score``, ``reasons``,
    ``version``, ``speaker``, ``message_ids`` and the like beside it. The other fields are those of
    ``View.search``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: Annotated[View, BeforeValidator(checked_view)] = Field(exclude=True)
    k: int = 5
    filter: Mapping[Any, object] | None = None
    kinds: Sequence[Kind] | None = None
    semantic_type: str | None = None
    with_tags: Sequence[str] | None = None
    """Tags that cubes must have; ``tags`` are LangChain's own, for tracing."""
    as_of: datetime | str | None = None
    valid_at: datetime | str | None = None
    min_score: float | None = None
    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"

    @override
    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[Any, object] | None = None,
        as_of: datetime | str | None = None,
    ) -> list[Document]:
        hits = self.memos.search(query, **self._options(k, filter, as_of))
        return [document(hit) for hit in hits]

    @override
    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[Any, object] | None = None,
        as_of: datetime | str | None = None,
    ) -> list[Document]:
        hits = await AsyncView(self.memos).search(query, **self._options(k, filter, as_of))
        return [document(hit) for hit in hits]

    def _options(
        self, k: int | None, filter: Mapping[Any, object] | None, as_of: datetime | str | None
    ) -> dict[str, Any]:
        return {
            "k": self.k if k is None else k,
            "filter": self.filter if filter is None else filter,
            "kinds": self.kinds,
            "semantic_type": self.semantic_type,
            "tags": self.with_tags,
            "as_of": self.as_of if as_of is None else as_of,
            "valid_at": self.valid_at,
            "min_score": self.min_score,
            "mode": self.mode,
        }

    @override
    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        return LangSmithRetrieverParams(
            ls_retriever_name="memos",
            ls_vector_store_provider="postgresql",
            ls_embedding_model=self.memos.engine.model,
        )
