"""The embedder of whoever names none; light until its first text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

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


def default_embedder() -> Embedder:
    """Return all-MiniLM-L6-v2 (384 dimensions), loaded when first used.

    Raises:
        EmbedderUnavailable: at the first text, where the extra ``embedded`` is not installed.
    """
    return LazyEmbedder(DEFAULT_MODEL, _load_default)


def _load_default() -> Embedder:
    try:
        from memos_core.model.embedder import SentenceTransformerEmbedder  # noqa: PLC0415 heavy
    except ImportError as error:
        raise EmbedderUnavailable(
            f"the default embedder needs {error.name}: pip install 'memos-memory[embedded]', "
            "or pass embedder= an object of your own"
        ) from error
    return SentenceTransformerEmbedder()
