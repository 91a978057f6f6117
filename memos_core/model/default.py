"""The embedder of whoever names none; light until its first text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from memos_core.embedder import Embedder, Vectors, question_vectors
from memos_core.errors import EmbedderUnavailable

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class LazyEmbedder:
    """An embedder known by name whose weights are loaded at the first text."""

    def __init__(self, name: str, load: Callable[[], Embedder]) -> None:
        self.name = name
        self._load = load
        self._loaded: Embedder | None = None
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of documents."""
        return self._embedder().embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of questions."""
        return question_vectors(self._embedder(), texts)

    def _embedder(self) -> Embedder:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded


def default_embedder(name: str | None = None) -> Embedder:
    """Return the embedder for who names none, loaded when first used.

    It is the one that the database was filled with, by its ``name``; of a new one
    all-MiniLM-L6-v2 (384 dimensions).

    Raises:
        EmbedderUnavailable: at the first text, where the extra ``embedded`` is not installed or
            the database was filled with an embedder that is no sentence-transformers model here.
    """
    known = name or DEFAULT_MODEL
    return LazyEmbedder(known, lambda: load_embedder(known))


def embedder_name(model: str, *, query_prefix: str = "", document_prefix: str = "") -> str:
    """Return by what a database knows a sentence-transformers model with these prefixes."""
    prefixes = {"query_prefix": query_prefix, "document_prefix": document_prefix}
    return f"{model}?{urlencode(prefixes)}" if any(prefixes.values()) else model


def load_embedder(name: str) -> Embedder:
    """Return the sentence-transformers model that a database knows by ``name``, loaded.

    Raises:
        EmbedderUnavailable: it cannot be.
    """
    try:
        from memos_core.model.embedder import SentenceTransformerEmbedder  # noqa: PLC0415 heavy
    except ImportError as error:
        raise EmbedderUnavailable(
            f"the default embedder needs {error.name}: pip install 'memos-memory[embedded]', "
            "or pass embedder= an object of your own"
        ) from error
    return SentenceTransformerEmbedder.named(name)
