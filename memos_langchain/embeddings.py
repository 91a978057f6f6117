"""LangChain's embeddings as the embedder of a memory."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from langchain_core.embeddings import Embeddings
from langgraph.store.base import ensure_embeddings
from typing_extensions import override

from memos_core import InvalidVector

if TYPE_CHECKING:
    from memos_core.embedder import Vectors


class LangChainEmbedder:
    """Gives a memory the vectors of LangChain embeddings: ``MemOS.open(embedder=…)``.

    ``name`` is what the database remembers; by default the class and the model that it names.
    Embeddings of another width than ``dims`` are refused.
    """

    def __init__(
        self, embeddings: Embeddings, *, name: str | None = None, dims: int | None = None
    ) -> None:
        self.embeddings = embeddings
        self.name = name or _name_of(embeddings)
        self._dims = dims

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of documents, of shape (len(texts), width)."""
        return self._checked(self.embeddings.embed_documents(list(texts)))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of questions, of shape (len(texts), width)."""
        return self._checked([self.embeddings.embed_query(text) for text in texts])

    def _checked(self, vectors: Sequence[Sequence[float]]) -> Vectors:
        import numpy as np  # noqa: PLC0415 with the first vector, not with the package

        array = np.asarray(vectors, dtype=np.float32)
        if self._dims is not None and array.shape[-1] != self._dims:
            raise InvalidVector(
                f"{self.name} makes vectors of {array.shape[-1]} dimensions, not {self._dims}"
            )
        return array


def embedder_of(
    embed: Embeddings | Callable[[Sequence[str]], Any] | str, dims: int | None = None
) -> LangChainEmbedder:
    """Return the embedder that an ``IndexConfig`` names.

    That is LangChain embeddings, a blocking or an async function from texts to vectors, or a
    "provider:model" that LangChain knows. A function is known by its name.
    """
    if isinstance(embed, Embeddings):
        return LangChainEmbedder(embed, dims=dims)
    if isinstance(embed, str):
        return LangChainEmbedder(ensure_embeddings(embed), name=embed, dims=dims)
    name = f"{embed.__module__}.{getattr(embed, '__qualname__', type(embed).__qualname__)}"
    known = _Awaiting(embed) if inspect.iscoroutinefunction(embed) else ensure_embeddings(embed)
    return LangChainEmbedder(known, name=name, dims=dims)


class _Awaiting(Embeddings):
    """An async function for code that blocks, run on one loop of its own.

    Its client may keep connections, which belong to a loop.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Awaitable[Any]]) -> None:
        self._embed = embed

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="memos-embedder", daemon=True).start()
        return loop

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        asked = cast("Coroutine[Any, Any, list[list[float]]]", self._embed(texts))
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    @override
    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def _name_of(embeddings: Embeddings) -> str:
    name = type(embeddings).__name__
    for attribute in ("model", "model_name", "model_id"):
        model = getattr(embeddings, attribute, None)
        if isinstance(model, str):
            return f"{name}:{model}"
    return name
